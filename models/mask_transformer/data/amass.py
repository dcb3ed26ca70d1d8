"""AMASS at 30 frames per second: motion in the world, watched by nobody (spec: data 4.1)."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.items import (
    BodyParameters,
    body_entries,
    local_body,
    parameters_from_arrays,
)
from models.mask_transformer.data.windows import windows_of
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.frames import canonicalise
from moro.geometry.trajectory import STATISTICS_CLIP_LENGTH
from moro.io.amass_files import MADE_BY, find_recordings, open_parameters, split_parameters

_log = logging.getLogger(__name__)

TRAIN = (
    "HumanEva", "HDM05", "MoSh", "Transitions", "ACCAD", "BMLhandball", "BMLmovi", "BMLrub", "CMU", "DFaust",
    "Eyes_Japan_Dataset", "PosePrior", "SSM", "GRAB", "SOMA",
)  # fmt: skip
HELD_OUT = ("TCDHands", "TotalCapture", "SFU")
SUBSETS = {"train": TRAIN, "val": HELD_OUT, "test": HELD_OUT}
DEBUG = {"train": ("HumanEva",), "val": ("TotalCapture",), "test": ("TotalCapture",)}
VALIDATION_SPACING = 2


class AmassDataset(ClipDataset):
    """Clips side by side of recordings at least a clip long; what is left of a recording is not used.

    recordings    files of the (T, 178) arrays (spec: data 4.1)
    body          neutral body model
    spacing       every n-th clip of all
    canonical     turned and moved so that the first frame stands over the origin, faces +y, and the lowest
                  joint is on z = 0 (test); otherwise clips stay where they are in the world

    Nothing is random. The arrays are read as they are needed; the files of joints are not, since they hold
    what the body model says of the parameters. `offset` is one zero per frame (see `items.body_entries`).
    """

    def __init__(
        self,
        recordings: Sequence[Path],
        body: BodyModel,
        *,
        clip_len: int,
        spacing: int = 1,
        canonical: bool = False,
        contact_threshold: float = 0.3,
        contact_hand: bool = False,
    ) -> None:
        super().__init__()
        if spacing < 1 or clip_len < 1:
            raise MoroError(f"dataset.spacing={spacing} and dataset.clip_len={clip_len} must be 1 or more.")
        self.recordings, self.body = list(recordings), body
        self.clip_len, self.spacing, self.canonical = clip_len, spacing, canonical
        self.contact_threshold, self.contact_hand = contact_threshold, contact_hand
        self.lengths = [len(open_parameters(path)) for path in self.recordings]
        counts = [length // clip_len for length in self.lengths]
        self._first = np.cumsum([0, *counts])  # number of each recording's first clip, then of all clips
        if not self._first[-1]:
            raise MoroError(f"no AMASS recording has dataset.clip_len={clip_len} frames; use shorter clips.")

    def __len__(self) -> int:
        return -(-int(self._first[-1]) // self.spacing)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        clip = index * self.spacing
        recording = int(np.searchsorted(self._first, clip, side="right")) - 1
        start = int(clip - self._first[recording]) * self.clip_len
        person = local_body(self.body, self._parameters(recording, start, start + self.clip_len))
        if self.canonical:
            person = person.moved(canonicalise(person.joints()))
        return body_entries(person, person.joints(), self.contact_threshold, self.contact_hand)

    def trajectory_clips(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rotation (60, 3, 3), translation (60, 1, 3) of the clips side by side, whatever `clip_len` is."""
        for recording in tqdm(range(len(self.recordings)), desc="trajectories", disable=None):
            windows = windows_of(self.lengths[recording], STATISTICS_CLIP_LENGTH, 0, partial=False)
            if not windows:
                continue
            parameters = self._parameters(recording, 0, windows[-1][1])
            betas = parameters.betas[:, : self.body.num_betas]
            pelvis = parameters.transl + self.body.rest_joints(betas)[:, 0]  # (T, 3)
            for start, stop in windows:
                yield parameters.global_orient[start:stop], pelvis[start:stop, None]

    def _parameters(self, recording: int, start: int, stop: int) -> BodyParameters:
        path = self.recordings[recording]
        arrays = split_parameters(open_parameters(path)[start:stop])
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise MoroError(f"{path} holds numbers that are not finite; make it again (python -m {MADE_BY}).")
        return parameters_from_arrays(arrays)


def build(cfg: DictConfig, split: str) -> AmassDataset:
    """The data set of one split from the whole configuration.

    split  train: every clip; val: every second; test: every dataset.spacing-th, canonical
    Which subsets are there and which are not is logged: not all of them survive the conversion to 30 frames
    per second.
    Raises MoroError if there are none at all.
    """
    dataset = cfg.dataset
    root = Path(dataset.dataset_root or dataset.roots.amass)
    subsets = (DEBUG if cfg.debug else SUBSETS)[split]
    recordings = find_recordings(root, subsets)
    if not recordings:
        raise MoroError(
            f"AMASS not found: {root} has no recordings of {', '.join(subsets)}; make them with "
            f"python -m {MADE_BY}, or set dataset.dataset_root."
        )
    used = {path.parts[-3] for path in recordings}
    _log.info("AMASS at %s, split %s: %s", root, split, ", ".join(sorted(used)))
    if absent := sorted(set(subsets) - used):
        _log.warning("AMASS at %s, split %s: without %s", root, split, ", ".join(absent))
    return AmassDataset(
        recordings,
        load_body_model(dataset.bm_path, dataset.model_type),
        clip_len=dataset.clip_len,
        spacing={"train": 1, "val": VALIDATION_SPACING, "test": dataset.spacing}[split],
        canonical=split == "test",
        contact_threshold=dataset.contact_vel_thres,
        contact_hand=dataset.contact_hand,
    )
