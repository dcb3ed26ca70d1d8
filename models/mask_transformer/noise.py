"""Noise on true trajectories, from which the motion branch learns to recover (spec: models 3.6)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.mask_transformer.draws import Source, normal_like
from moro.errors import MoroError
from moro.geometry.rotation import euler_to_matrix, matrix_to_euler


def noise_level(schedule: Mapping[str, Any] | None, step: int, max_steps: int) -> tuple[float, float]:
    """Standard deviations (metres, degrees) at a training step; the last entry that has started holds.

    schedule  schedule: shares of max_steps, transl, rot: lists of equal length; None: no noise
    Raises MoroError if no entry has started, or the lists differ in length.
    """
    if schedule is None:
        return 0.0, 0.0
    starts, transl, rot = (list(schedule[key]) for key in ("schedule", "transl", "rot"))
    if not len(starts) == len(transl) == len(rot):
        raise MoroError("dataset.noise.train: schedule, transl and rot must have equal lengths")
    begun = [index for index, share in enumerate(starts) if int(share * max_steps) <= step]
    if not begun:
        raise MoroError("dataset.noise.train.schedule must start with a share of at most 0")
    return float(transl[begun[-1]]), float(rot[begun[-1]])


def add_noise(
    rotation: Tensor, translation: Tensor, sigma_transl: float, sigma_rot: float, generator: Source = None
) -> tuple[Tensor, Tensor]:
    """Independent Gaussian noise per frame, on ZXY Euler angles and on the translation.

    rotation (B, F, 3, 3), translation (B, F, 1, 3);  sigmas in degrees and metres
    generator  see masking.py
    """
    if sigma_rot > 0:
        angles = matrix_to_euler(rotation)
        angles = angles + normal_like(angles, generator) * torch.pi / 180 * sigma_rot
        rotation = euler_to_matrix(angles)
    if sigma_transl > 0:
        translation = translation + normal_like(translation, generator) * sigma_transl
    return rotation, translation
