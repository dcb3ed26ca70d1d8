"""Where a body of known pose stands in the camera, from its landmarks in the image."""

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from moro.geometry.banded import add_squared_steps, squared_accelerations
from moro.geometry.contact import slowness

AXES = 3  # unknowns per frame
BAND = 2 * AXES  # a frame meets the two before it
ROUNDS = 5  # of reweighting
POINT_SIGMA = 0.04  # metres: landmark against landmark of the recovered body
START_SIGMA = 10.0  # metres: the given positions decide only where there is nothing else
ACCELERATION = (1.5, 3.0, 0.5)  # m/s²: sideways, down, away from the camera
STANDING_SIGMA = 0.002  # metres per frame that a foot moves while it stands
MIN_DEPTH = 0.3  # metres


def place_by_landmarks(
    points: Tensor,
    rays: Tensor,
    weight: Tensor,
    start: Tensor,
    feet: Tensor | None = None,
    standing: Tensor | None = None,
    fps: float = 30.0,
) -> Tensor:
    """Positions of a body's root such that its landmarks lie on the observed rays, smooth in time.

    A pose says how large a person is at a distance, an image says how large they appear: together they give
    the place, and neighbouring frames bridge those in which little is seen: who walks out of the picture
    walks on. Least squares with few outliers (Cauchy weights) in metres at the person's distance, with
    accelerations as a prior and feet that stay where they stand, if the rest lets them; one banded system.

    points    (F, N, 3)  landmarks relative to the root, axes of the camera, metres
    rays      (F, N, 2)  where they were seen: x / z and y / z
    weight    (F, N)     0 where unseen, up to 1
    start     (F, 3)     positions to begin with, metres in front of the camera
    feet      (F, P, 3)  as points: what may stand on the ground
    standing  (F, P)     how surely each stays where it is until the next frame, 0 to 1
    returns   (F, 3)     as `start`
    """
    p, r, w, first = map(_array, (points, rays, weight, start))
    place = first
    own_steps = sure = None
    if feet is not None:
        own_steps, sure = np.diff(_array(feet), axis=0), _array(standing)[:-1]  # (F-1, P, 3), (F-1, P)
    prior = _acceleration_prior(len(p), fps)
    for turn in range(ROUNDS):
        smooth, pull = prior.copy(), np.zeros_like(first)
        if sure is not None and turn:  # not at first: one wrongly said to stand holds everybody back
            steps = own_steps + np.diff(place, axis=0)[:, None]  # (F-1, P, 3)
            _add_standing(smooth, pull, own_steps, sure * slowness(steps))
        depth = np.maximum(p[..., 2] + place[:, None, 2], MIN_DEPTH)  # (F, N)
        off = (p[..., :2] + place[:, None, :2]) - r * depth[..., None]  # (F, N, 2)
        outlier = 1 / (1 + (off**2).sum(-1) / POINT_SIGMA**2)
        place = _solve(p, r, w * outlier / POINT_SIGMA**2, first, smooth, pull)
    return torch.from_numpy(place).to(start)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


def _solve(
    p: np.ndarray, r: np.ndarray, w: np.ndarray, start: np.ndarray, smooth: np.ndarray, pull: np.ndarray
) -> np.ndarray:
    """(F, 3) minimum of sum w |p_xy + t_xy - r (p_z + t_z)|² + prior + what joins frames, linear in t.

    smooth, pull: matrix in lower bands and right-hand side (F, 3) of what joins frames
    """
    F = len(p)
    gap = p[..., :2] - r * p[..., 2:]  # (F, N, 2)
    normal = np.zeros((F, AXES, AXES))
    normal[:, 0, 0] = normal[:, 1, 1] = w.sum(-1)
    normal[:, :2, 2] = normal[:, 2, :2] = -(w[..., None] * r).sum(1)
    normal[:, 2, 2] = (w * (r**2).sum(-1)).sum(-1)
    right = np.concatenate(
        [-(w[..., None] * gap).sum(1), (w * (r * gap).sum(-1)).sum(-1, keepdims=True)], axis=-1
    )  # (F, 3)
    normal += np.eye(AXES) / START_SIGMA**2
    right += start / START_SIGMA**2 + pull
    bands = smooth.copy()  # (BAND + 1, 3 F), lower form
    for below in range(AXES):
        for axis in range(AXES - below):
            bands[below, axis::AXES] += normal[:, axis + below, axis]
    return solveh_banded(bands, right.reshape(-1), lower=True).reshape(F, AXES)  # (F, 3) -> (3F,) -> (F, 3)


def _acceleration_prior(frames: int, fps: float) -> np.ndarray:
    """Sum of squared accelerations in units of `ACCELERATION`, as lower bands (BAND + 1, 3 frames)."""
    bands, one_axis = np.zeros((BAND + 1, AXES * frames)), squared_accelerations(frames)
    for axis, unit in enumerate(ACCELERATION):
        bands[::AXES, axis::AXES] = one_axis * (fps**2 / unit) ** 2
    return bands


def _add_standing(bands: np.ndarray, right: np.ndarray, steps: np.ndarray, standing: np.ndarray) -> None:
    """Add |steps[f] + t[f+1] - t[f]|², feet's steps (F-1, P, 3), by how surely they stand (F-1, P)."""
    trust = standing**2 / STANDING_SIGMA**2  # (F-1, P)
    push = (trust[..., None] * steps).sum(1)  # (F-1, 3)
    total = trust.sum(-1)
    for axis in range(AXES):
        rows, column = slice(axis, None, AXES), slice(axis, axis + 1)
        add_squared_steps(bands[0, rows], bands[AXES, rows], right[:, column], total, push[:, column])
