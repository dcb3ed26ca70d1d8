"""Smoothing along time."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.geometry.smoothing import smooth_in_time, smooth_rotations


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 12), sigma=st.floats(0.3, 6), seed=st.integers(0, 99))
def test_it_is_the_weighted_mean_written_down(frames: int, sigma: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, frames, 3, 2, generator=generator, dtype=torch.float64)
    weight = torch.rand(2, frames, generator=generator, dtype=torch.float64) + 0.1
    found = smooth_in_time(values, sigma, weight)
    time = torch.arange(frames, dtype=torch.float64)
    kernel = torch.exp(-((time[:, None] - time) ** 2) / (2 * sigma**2))
    kernel[(time[:, None] - time).abs() > -(-3 * sigma // 1)] = 0  # beyond three sigma, rounded up
    share = kernel[None] * weight[:, None]
    expected = torch.einsum("bft,btnc->bfnc", share / share.sum(-1, keepdim=True), values)
    torch.testing.assert_close(found, values if frames == 1 else expected)


def test_zero_changes_nothing() -> None:
    values = torch.randn(1, 5, 3, 3)
    assert smooth_in_time(values, 0) is values and smooth_rotations(values, 0.0) is values


def turning(frames: int = 60) -> torch.Tensor:
    """(1, F, 3, 3) a turn of half a radian per second."""
    vectors = torch.zeros(1, frames, 3)
    vectors[..., 1] = torch.arange(frames) / 60
    return roma.rotvec_to_rotmat(vectors)


def test_headings_lose_their_trembling_and_single_mistakes() -> None:
    truth = turning()
    noise = roma.rotvec_to_rotmat(0.1 * torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(0)))
    seen = truth @ noise
    seen[:, 30:32] = seen[:, 30:32] @ torch.diag(torch.tensor([-1.0, 1, -1]))  # back to front for two frames
    found = smooth_rotations(seen, 2.0)
    off = roma.rotmat_geodesic_distance(found, truth)
    assert off.max() < 0.2 and off.mean() < 0.06
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand(1, 60, 3, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips(frames: int) -> None:
    truth = turning(frames)
    torch.testing.assert_close(smooth_rotations(truth, 3.0), truth, atol=0.03, rtol=0)
