"""Triangulation in a made-up studio, where the truth is exact."""

import numpy as np
import pytest
import torch
from torch import Tensor

from moro.geometry.multiview import refine_motion, reproject, triangulate

FPS = 60.0
BONES = [(0, 1), (1, 2), (0, 3)]


@pytest.fixture(scope="module")
def projection() -> Tensor:
    """(4, 3, 4) cameras in the corners of a room, 4 m from its middle, looking there; z is up."""
    K = np.array([[1600.0, 0, 540], [0, 1600, 960], [0, 0, 1]])
    cameras = []
    for angle in np.radians([30, 120, 200, 300]):
        centre = np.array([4 * np.cos(angle), 4 * np.sin(angle), 1.8])
        forward = (np.array([0, 0, 1.0]) - centre) / np.linalg.norm(np.array([0, 0, 1.0]) - centre)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        cameras.append(K @ np.column_stack([R, -R @ centre]))
    return torch.from_numpy(np.stack(cameras))


@pytest.fixture(scope="module")
def motion() -> Tensor:
    """(24, 4, 3) a trunk that sways and an arm that swings; bones keep their length."""
    time = torch.arange(24).double()[:, None] / FPS
    shoulder = torch.cat([0.2 * (3 * time).sin(), 0.1 * time, 1.4 + 0 * time], -1)
    upper = torch.cat([(4 * time).cos(), (4 * time).sin(), 0 * time], -1) * 0.3
    lower = torch.cat([(7 * time).sin(), 0 * time, (7 * time).cos()], -1) * 0.25
    hip = shoulder - torch.tensor([0, 0, 0.5])
    return torch.stack([shoulder, shoulder + upper, shoulder + upper + lower, hip], 1)


def error(points: Tensor, truth: Tensor) -> Tensor:
    """Millimetres, (T, N)."""
    return 1000 * (points - truth).norm(dim=-1)


def test_exact_without_noise(projection: Tensor, motion: Tensor) -> None:
    pixels = reproject(motion, projection)[0]
    found = triangulate(pixels, torch.ones(4, 24, 4), projection)
    assert error(found.points, motion).max() < 1e-3
    assert found.residual.max() < 1e-3 and found.trust.min() > 0.999
    two = torch.tensor([1.0, 0, 1, 0])[:, None, None].expand(4, 24, 4)
    assert error(triangulate(pixels, two, projection).points, motion).max() < 1e-3


def test_a_wrong_view_is_overruled(projection: Tensor, motion: Tensor) -> None:
    """One view of four says nonsense for a quarter of the points; all have two pixels of noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = reproject(motion, projection)[0]
    pixels = pixels + 2 * torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    wrong = pixels.clone()
    wrong[2, ::2, 1::2] += torch.tensor([150.0, -80])
    plain = triangulate(pixels, torch.ones(4, 24, 4), projection)
    found = triangulate(wrong, torch.ones(4, 24, 4), projection)
    assert error(plain.points, motion).mean() < 6
    assert error(found.points, motion).mean() < 8 and error(found.points, motion).max() < 30
    assert found.trust[2, ::2, 1::2].max() < 0.01


def test_unseen_points_are_nan(projection: Tensor, motion: Tensor) -> None:
    weight = torch.ones(4, 24, 4)
    weight[1:, 5, 2] = 0  # one view is not enough
    found = triangulate(reproject(motion, projection)[0], weight, projection)
    assert found.points[5, 2].isnan().all() and found.points.isnan().sum() == 3


def test_refinement_removes_noise(projection: Tensor, motion: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = reproject(motion, projection)[0]
    pixels = pixels + 6 * torch.randn(pixels.shape, generator=generator, dtype=torch.float64)
    weight = torch.ones(4, 24, 4)
    raw = triangulate(pixels, weight, projection).points
    refined = refine_motion(raw, pixels, weight, projection, BONES, FPS)
    assert error(refined, motion).mean() < 0.6 * error(raw, motion).mean()
    bone = (refined[:, 0] - refined[:, 1]).norm(dim=-1)
    assert bone.std() < 0.003 and abs(bone.mean() - 0.3) < 0.005
