"""The canonical trajectory (spec: models 3.7; data 12.1, check 2)."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moro.errors import MoroError
from moro.geometry.camera import weak_to_translation
from moro.geometry.rotation import rot6d_to_matrix
from moro.geometry.trajectory import (
    TrajectoryStats,
    canonical_trajectory,
    cumulative_product,
    integrate_trajectory,
    stats_from_clips,
)

STATS = TrajectoryStats(0.01 * torch.arange(9), 0.5 + 0.1 * torch.arange(9))


def wave(amplitude: float, frequency: float, phase: float, shape: tuple[int, ...]) -> Tensor:
    index = np.arange(int(np.prod(shape)), dtype=np.float64)
    return torch.from_numpy(amplitude * np.sin(frequency * index + phase)).float().reshape(shape)


def smooth_motion(batch: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rotation (B, F, 3, 3) and translation (B, F, 1, 3) of a smooth walk."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(batch, frames, 3, generator=generator)
    rotation = roma.rotvec_to_rotmat((0.05 * steps).cumsum(1))
    drift = torch.randn(batch, frames, 1, 3, generator=generator)
    return rotation, (0.02 * drift).cumsum(1)


def test_anchor_h_trajectory() -> None:
    rotation = rot6d_to_matrix(wave(1, 0.8, 0.4, (1, 4, 6)))
    expected = [
        [0.286526, 0.685774, 0.669042],
        [0.814984, 0.192670, -0.546516],
        [-0.503690, 0.701849, -0.503690],
    ]
    torch.testing.assert_close(rotation[0, 0], torch.tensor(expected), rtol=0, atol=1e-4)
    normalised = STATS.encode(rotation, wave(1, 0.5, 0.1, (1, 4, 1, 3)))
    first = [0.345135, 0.164594, 1.369965, -1.153316, 0.441586, 0.058756, 0.573059, 0.284045, 0.421563]
    last = [0.497442, 0.229674, 1.338902, -1.111943, 0.499116, 0.097804, 0.566313, 0.700041, 0.102961]
    torch.testing.assert_close(normalised[0, 0], torch.tensor(first), rtol=0, atol=1e-4)
    torch.testing.assert_close(normalised[0, 3], torch.tensor(last), rtol=0, atol=1e-4)
    assert torch.equal(normalised[0, 2], normalised[0, 3])


def test_anchor_h_weak_perspective() -> None:
    weak = torch.tensor([1, 0, 0, 0, 1, 0, 0.2, 0.1, -0.3])
    translation = weak_to_translation(weak, torch.tensor([0.05, -0.1, 0.4]))
    torch.testing.assert_close(
        translation, torch.tensor([[0.304683, -0.709365, 4.093654]]), rtol=0, atol=1e-4
    )


@settings(max_examples=20, deadline=None)
@given(frames=st.integers(2, 130), seed=st.integers(0, 1000))
def test_encode_then_decode(frames: int, seed: int) -> None:
    rotation, translation = smooth_motion(2, frames, seed)
    encoded = STATS.encode(rotation, translation)
    assert torch.equal(encoded[:, -1], encoded[:, -2])
    turned, moved = STATS.decode(encoded, rotation[:, :1], translation[:, :1])
    torch.testing.assert_close(turned, rotation, rtol=0, atol=1e-4)
    torch.testing.assert_close(moved, translation, rtol=0, atol=1e-4)


def test_integration_equals_the_loop() -> None:
    rotation, translation = smooth_motion(1, 50)
    trajectory = canonical_trajectory(rotation, translation)
    R, t = rotation[:, 0], translation[:, 0]
    turned, moved = integrate_trajectory(trajectory, rotation[:, :1], translation[:, :1])
    for frame in range(49):
        t = t + (R @ trajectory[:, frame, 6:, None]).mT
        R = R @ rot6d_to_matrix(trajectory[:, frame, :6])
        torch.testing.assert_close(turned[:, frame + 1], R, rtol=0, atol=1e-5)
        torch.testing.assert_close(moved[:, frame + 1], t, rtol=0, atol=1e-5)


def test_long_clips_stay_rotations() -> None:
    turns = roma.rotvec_to_rotmat(torch.randn(1, 2000, 3))
    product = cumulative_product(turns)
    torch.testing.assert_close(product @ product.mT, torch.eye(3).expand_as(product), rtol=0, atol=1e-4)


def test_single_frame_is_zero() -> None:
    rotation, translation = smooth_motion(3, 1)
    assert torch.equal(STATS.encode(rotation, translation), torch.zeros(3, 1, 9))
    turned, moved = STATS.decode(torch.zeros(3, 1, 9), rotation, translation)
    assert torch.equal(turned, rotation) and torch.equal(moved, translation)


def test_gradients_flow_through_integration() -> None:
    rotation, translation = smooth_motion(1, 10)
    trajectory = canonical_trajectory(rotation, translation).requires_grad_()
    _, moved = integrate_trajectory(trajectory, rotation[:, :1], translation[:, :1])
    moved[:, -1].sum().backward()
    assert (trajectory.grad[:, :-1].abs().sum(-1) > 0).all() and not trajectory.grad[:, -1].any()


def test_statistics() -> None:
    clips = [smooth_motion(1, 60, seed) for seed in range(4)]
    stats = stats_from_clips((rotation[0], translation[0]) for rotation, translation in clips)
    stacked = torch.cat([canonical_trajectory(*clip) for clip in clips]).flatten(
        0, 1
    )  # (N, 60, 9) -> (N*60, 9)
    torch.testing.assert_close(stats.mean, stacked.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(stats.std, stacked.std(0, correction=0), rtol=1e-4, atol=1e-7)
    flat = stats_from_clips((rotation[0], translation[0, :, 0]) for rotation, translation in clips)
    assert torch.equal(flat.std, stats.std)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "at least one"),
        ([(torch.eye(3).expand(1, 3, 3), torch.zeros(1, 3))], "60"),
        ([(torch.eye(3).expand(60, 3, 3), torch.zeros(60, 3))], "below"),
    ],
)
def test_unfit_clips_are_refused(clips: list, message: str) -> None:
    with pytest.raises(MoroError, match=message):
        stats_from_clips(clips)


def test_statistics_file(tmp_path: Path) -> None:
    path = tmp_path / "amass_cum_traj.pkl"
    STATS.save(path)
    content = pickle.loads(path.read_bytes())  # as the reference reads it
    assert content["Mean"].shape == content["Std"].shape == (1, 1, 9)
    assert content["Std"].dtype == np.float32
    loaded = TrajectoryStats.load(path)
    assert torch.equal(loaded.mean, STATS.mean) and torch.equal(loaded.std, STATS.std)
    with pytest.raises(MoroError, match="not found"):
        TrajectoryStats.load(tmp_path / "none.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Mean": np.zeros((1, 1, 9)), "Std": np.zeros((1, 1, 9))}, "below"),
        ({"Mean": np.full((1, 1, 9), np.nan), "Std": np.ones((1, 1, 9))}, "finite"),
        ({"Mean": np.zeros(8), "Std": np.ones(8)}, "8 values"),
        ({"mean": np.zeros(9)}, "Mean"),
        ([1, 2], "Mean"),
    ],
)
def test_unfit_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(MoroError, match=message):
        TrajectoryStats.load(path)
