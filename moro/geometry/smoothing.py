"""Smoothing along time with both past and future (`model.test.smooth`)."""

import math

import roma
import torch
from torch import Tensor
from torch.nn import functional

ROUNDS = 3  # of reweighting
TURN = 0.5  # radians: a rotation so far from its neighbours' mean counts for a quarter


def smooth_in_time(values: Tensor, sigma: float, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of neighbouring frames by a Gaussian of `sigma` frames; 0 changes nothing.

    values (B, F, ...), weight (B, F), returns as `values`. At the ends the frames that exist count.
    """
    if sigma <= 0 or values.shape[1] < 2:
        return values
    B, F = values.shape[:2]
    weight = values.new_ones(B, F) if weight is None else weight
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))[None, None]  # (1, 1, 2 reach + 1)
    # (B, F, ...) -> (B, F, N) -> (B*N, 1, F); the last row of each clip is the weights alone
    flat = torch.cat((values.flatten(2), values.new_ones(B, F, 1)), dim=2) * weight[..., None]
    mixed = functional.conv1d(flat.mT.reshape(-1, 1, F), kernel, padding=reach)
    mixed = mixed.view(B, -1, F).mT  # (B*N, 1, F) -> (B, N, F) -> (B, F, N)
    mean = mixed[..., :-1] / mixed[..., -1:].clamp(min=torch.finfo(values.dtype).tiny)
    return mean.reshape(values.shape)  # (B, F, N) -> (B, F, ...)


def smooth_rotations(rotation: Tensor, sigma: float) -> Tensor:
    """The same for rotations (B, F, 3, 3); those that stand alone, turned back to front, hardly count."""
    if sigma <= 0 or rotation.shape[1] < 2:
        return rotation
    weight = rotation.new_ones(rotation.shape[:2])
    for _ in range(ROUNDS):
        mean = roma.special_procrustes(smooth_in_time(rotation, sigma, weight))
        turn = roma.rotmat_geodesic_distance(rotation, mean)  # (B, F) radians
        weight = (1 + (turn / TURN) ** 2) ** -2
    return roma.special_procrustes(smooth_in_time(rotation, sigma, weight))
