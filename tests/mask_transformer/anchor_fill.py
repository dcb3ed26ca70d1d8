"""The parameter and input rule of the numeric anchors (spec: models 9)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.mask_transformer.network import MotionImageTransformer
from moro.geometry.trajectory import TrajectoryStats

STATS = TrajectoryStats(0.01 * torch.arange(9), 0.5 + 0.1 * torch.arange(9))


def wave(amplitude: float, frequency: float, phase: float, shape: Sequence[int]) -> Tensor:
    """S(a, w, p): element i is a * sin(w * i + p), in float64, then float32."""
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    return torch.from_numpy(amplitude * np.sin(frequency * index + phase)).float().reshape(tuple(shape))


@torch.no_grad()
def fill(module: nn.Module) -> nn.Module:
    """Set the parameters by the rule E-G, in the order of their names; eval mode."""
    for rank, (name, parameter) in enumerate(sorted(module.named_parameters())):
        if "norm" in name and name.endswith("weight"):
            parameter.copy_(1 + wave(0.1, 0.5, rank + 0.5, parameter.shape))
        else:
            parameter.copy_(wave(0.3, 2.3, rank + 0.5, parameter.shape))
    return module.eval()


SMALL = {
    "num_tokens": 5,
    "dim_in": 3,
    "dim_out": 7,
    "dim_feat": 16,
    "dim_backbone_feat": 6,
    "backbone_HW": (2, 2),
    "mdepth": 1,
    "idepth": 1,
    "ddepth": 1,
    "num_heads": 2,
    "attn_len": 2,
}


def small_network(task: str, **changes: object) -> MotionImageTransformer:
    """The network of anchor F."""
    network = MotionImageTransformer(task, **{**SMALL, **changes})
    network.set_trajectory_stats(STATS)
    return fill(network)


def small_inputs(frames: int = 4, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, image tokens and boxes of anchor F."""
    tokens = wave(1, 0.9, 0, (batch, frames, 5, 3))
    cond = wave(1, 0.8, 0.3, (batch, frames, 4, 6))
    bbox = wave(0.1, 0.6, 0.2, (batch, frames, 3))
    bbox[..., 2] += 0.5
    return tokens, cond, bbox
