"""Projection, box condition and weak perspective."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.errors import MoroError
from moro.geometry.camera import bbox_condition, project, weak_to_translation

K = torch.tensor([[900.0, 0, 640], [0, 880, 360], [0, 0, 1]])


@pytest.mark.parametrize("count", [0, 5, 8])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_projection_equals_opencv(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    points = generator.uniform([-1, -1, 2], [1, 1, 6], (20, 3))
    coefficients = generator.normal(0, 0.05, count)
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K.double().numpy(), coefficients)[0][:, 0]
    distortion = torch.from_numpy(coefficients) if count else None
    pixels = project(torch.from_numpy(points), K.double(), distortion)
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-6)


def test_projection_batches() -> None:
    points = torch.rand(2, 3, 5, 3) + torch.tensor([0.0, 0, 2])
    cameras = K.expand(2, 3, 3, 3) * torch.tensor([1.0, 1, 1])
    lens = torch.rand(2, 3, 8) * 0.1
    pixels = project(points, cameras, lens)
    assert pixels.shape == (2, 3, 5, 2)
    torch.testing.assert_close(pixels[1, 2], project(points[1, 2], K, lens[1, 2]))
    with pytest.raises(MoroError, match="coefficients"):
        project(points, K, torch.zeros(4))


def test_depth_offset_keeps_the_loss_finite() -> None:
    assert torch.isfinite(project(torch.zeros(1, 3), K, eps=1e-6)).all()


def test_box_condition() -> None:
    center, scale = torch.tensor([[740.0, 300.0]]), torch.tensor([1.5])
    focal = 890.0
    expected = torch.tensor([[100.0, -60.0, 300.0]]) / focal
    torch.testing.assert_close(bbox_condition(center, scale, K), expected)
    middle = bbox_condition(center, scale, K, origin=torch.tensor([640.0, 300.0]))
    torch.testing.assert_close(middle, torch.tensor([[100.0, 0.0, 300.0]]) / focal)


def test_weak_perspective_puts_the_body_in_its_box() -> None:
    """With tx = ty = 0 the pelvis projects to the centre of the box, whatever its size."""
    square = torch.tensor([[900.0, 0, 640], [0, 900, 360], [0, 0, 1]])
    center, scale = torch.tensor([[700.0, 200.0], [100.0, 650.0]]), torch.tensor([1.0, 2.5])
    weak = torch.zeros(2, 9)
    weak[:, 6] = torch.tensor([0.3, -0.2])
    translation = weak_to_translation(weak, bbox_condition(center, scale, square))
    assert translation.shape == (2, 1, 3) and (translation[..., 2] > 0).all()
    torch.testing.assert_close(project(translation, square)[:, 0], center, rtol=1e-4, atol=1e-2)
    # a body of height 2 / s metres fills the box
    height = 2 / weak[:, 6].exp()
    torch.testing.assert_close(900 * height / translation[:, 0, 2], 200 * scale, rtol=1e-4, atol=1e-2)
