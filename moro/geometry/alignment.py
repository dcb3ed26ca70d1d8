"""Least-squares alignment of point sets, the only Procrustes of the house (spec: models 5.3, data 8.2)."""

from typing import NamedTuple

import roma
import torch
from torch import Tensor

from moro.geometry.precision import full_precision


class Similarity(NamedTuple):
    """target ≈ scale * source @ rotation^T + translation."""

    scale: Tensor  # (*,)
    rotation: Tensor  # (*, 3, 3), determinant +1
    translation: Tensor  # (*, 1, 3)

    def apply(self, points: Tensor) -> Tensor:
        """(*, N, 3) of the source frame to (*, N, 3) of the target frame."""
        return self.scale[..., None, None] * (points @ self.rotation.mT) + self.translation


@full_precision
def similarity_transform(source: Tensor, target: Tensor, rigid: bool = False) -> Similarity:
    """The similarity that brings `source` closest to `target` in the least-squares sense, never a reflection.

    source, target  (*, N, 3)
    rigid           keep the scale at 1 (root trajectory error)
    A source whose points coincide has no scale; its scale is 0, so that it lands on the target's mean.
    """
    result = roma.rigid_points_registration(source, target, compute_scaling=not rigid)
    rotation = result[0]
    scale = torch.ones_like(rotation[..., 0, 0]) if rigid else torch.nan_to_num(result[2], 0.0, 0.0, 0.0)
    centre = source.mean(-2, keepdim=True) @ rotation.mT
    translation = target.mean(-2, keepdim=True) - scale[..., None, None] * centre
    return Similarity(scale, rotation, translation)


@full_precision
def similarity_align(source: Tensor, target: Tensor) -> Tensor:
    """`source` (*, N, 3) scaled, rotated and moved onto `target` (*, N, 3) (spec: models 5.3)."""
    return similarity_transform(source, target).apply(source)


@full_precision
def rigid_align(source: Tensor, target: Tensor) -> Tensor:
    """`source` (*, N, 3) rotated and moved, not scaled, onto `target` (*, N, 3) (spec: data 8.2, rte)."""
    return similarity_transform(source, target, rigid=True).apply(source)
