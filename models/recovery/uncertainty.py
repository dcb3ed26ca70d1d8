"""What the network's doubt says of its error: predicted spread of joints against their actual error.

The probabilities of the tokens are turned into millimetres by drawing meshes from them: where the codes a
token may be mean the same, its doubt moves nothing. The mean confidence of a frame's tokens stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Generator, Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from models.mask_transformer.data.module import collate
from models.mask_transformer.decoding import multinomial
from models.mask_transformer.system import MoRoSystem
from models.recovery.heldout import Table, observed
from moro.geometry.alignment import similarity_align
from moro.metrics.errors import MILLIMETRES, joint_error

SAMPLES = 8
BINS = 8


class Doubts(NamedTuple):
    """Of the joints of a sequence, each (F, 22)."""

    error: Tensor  # mm, after a similarity for each frame
    spread: Tensor  # mm, standard deviation over drawn meshes
    confidence: Tensor  # mean probability of the frame's tokens
    visible: Tensor  # bool


@dataclass(frozen=True)
class Calibration:
    """Of many joints: errors by predicted spread, and what predicts them."""

    bins: Table  # {"1": {spread, error, occluded}} in order of the spread, equally many joints in each
    line: tuple[float, float]  # error = a + b * spread, mm
    spearman: dict[str, float]  # rank correlation with the error


def joint_spread(
    system: MoRoSystem, logits: Tensor, samples: int = SAMPLES, generator: Generator | None = None
) -> Tensor:
    """Standard deviation (B, F, 22), metres, of joints in the body's frame over meshes drawn from the logits.

    logits  (B, K, F, J) of a pass, see TransformerOutput
    """
    probabilities = logits.permute(0, 2, 3, 1).float().softmax(-1)  # (B, F, J, K)
    drawn = []
    for _ in range(samples):
        ids = multinomial(probabilities, generator).squeeze(-1)
        mesh = system.decode_tokens(system.mask_transformer.embed(ids), slice(None))
        drawn.append(system.loss.joint_regressor @ mesh)
    return torch.stack(drawn).std(dim=0).norm(dim=-1)


def doubts_of(system: MoRoSystem, sample: Mapping, generator: Generator | None = None) -> Doubts:
    """What the network, as it leaves the last pass, thinks and does on one sequence."""
    recovered = system.recover(observed(collate([sample])))
    joints, truth = system.loss.joint_regressor @ recovered.local_mesh[0], sample["local_joints"]
    error = joint_error(similarity_align(joints, truth), truth)
    spread = joint_spread(system, recovered.output.logits, generator=generator)[0] * MILLIMETRES
    confidence = recovered.confidence[0].mean(-1, keepdim=True).expand_as(spread)
    return Doubts(*(value.cpu() for value in (error, spread, confidence, sample["joint_visible"])))


def calibrate(system: MoRoSystem, dataset: Dataset, items: Sequence[int], seed: int = 0) -> Calibration:
    """Predicted against actual errors in some sequences of a data set."""
    generator = torch.Generator().manual_seed(seed)
    shown = tqdm(items, desc="calibrate", unit="clip", disable=None)
    parts = [doubts_of(system, dataset[number], generator) for number in shown]
    error, spread, confidence, visible = (torch.cat(column).flatten() for column in zip(*parts, strict=True))
    bins = {
        str(number): {
            "spread [mm]": float(spread[rows].mean()),
            "error [mm]": float(error[rows].mean()),
            "occluded [%]": 100 * float((~visible[rows]).float().mean()),
        }
        for number, rows in enumerate(spread.argsort().chunk(BINS), start=1)
    }
    slope, start = np.polyfit(spread.numpy(), error.numpy(), 1)
    ranks = {"spread": spearmanr(spread, error)[0], "doubt of the frame": spearmanr(-confidence, error)[0]}
    return Calibration(bins, (float(start), float(slope)), {k: float(v) for k, v in ranks.items()})
