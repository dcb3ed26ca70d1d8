"""Metrics against their formulas in plain loops (moro/metrics)."""

import numpy as np
import pytest
import roma
import torch
from _pytest.monkeypatch import MonkeyPatch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moro import metrics
from moro.metrics import errors

F, J = 7, 22


def tracks(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape or (F, J, 3)))


P, G = tracks(0), tracks(1)


def plain_distance(a: Tensor, b: Tensor) -> list[float]:
    return [np.mean([np.linalg.norm(x - y) for x, y in zip(p, g)]) for p, g in zip(a.numpy(), b.numpy())]


def test_joint_errors() -> None:
    np.testing.assert_allclose(metrics.mean_error(P, G), np.array(plain_distance(P, G)) * 1000)
    centre = (G[:, 1] + G[:, 2]) / 2
    centred = metrics.hip_centred(G)
    np.testing.assert_allclose(centred[:, 5], G[:, 5] - centre)
    vertices = tracks(3, F, 40, 3)
    np.testing.assert_allclose(metrics.hip_centred(G, vertices)[:, 9], vertices[:, 9] - centre)
    assert metrics.joint_error(P, G).shape == (F, J)


@pytest.mark.parametrize("chunk", [1, 3 * 40 * 3, 1 << 20])
def test_vertex_error_is_the_mean_error_of_hip_centred_vertices(chunk: int, monkeypatch: MonkeyPatch) -> None:
    """However many frames are read at a time (here one, three, all), and without changing the meshes."""
    monkeypatch.setattr(errors, "CHUNK", chunk)
    vertices, truth = tracks(3, F, 40, 3), tracks(4, F, 40, 3)
    before = vertices.clone()
    expected = metrics.mean_error(metrics.hip_centred(P, vertices), metrics.hip_centred(G, truth))
    torch.testing.assert_close(metrics.vertex_error(P, G, vertices, truth), expected, rtol=1e-12, atol=0)
    assert torch.equal(vertices, before)
    none = [part[:0] for part in (P, G, vertices, truth)]
    assert metrics.vertex_error(*none).shape == (0,)


def test_motion_errors() -> None:
    difference = (P - G).numpy()
    velocity = [np.linalg.norm(difference[t + 1] - difference[t], axis=-1).mean() * 30 for t in range(F - 1)]
    np.testing.assert_allclose(metrics.velocity_error(P, G), velocity)
    second = [difference[t] - 2 * difference[t + 1] + difference[t + 2] for t in range(F - 2)]
    expected = [np.linalg.norm(a, axis=-1).mean() * 900 for a in second]
    np.testing.assert_allclose(metrics.acceleration_error(P, G), expected)
    x = P.numpy()
    third = [x[t + 3] - 3 * x[t + 2] + 3 * x[t + 1] - x[t] for t in range(F - 3)]
    expected = [np.linalg.norm(a, axis=-1).mean() * 27000 / 10 for a in third]
    np.testing.assert_allclose(metrics.jitter(P), expected)
    first = np.linalg.norm(x[2] - 2 * x[1] + x[0], axis=-1).mean() * 900
    np.testing.assert_allclose(metrics.acceleration(P)[0], first)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 5), st.integers(0, 10_000))
def test_pa_error_undoes_similarities(scale: float, seed: int) -> None:
    rotation, shift = roma.random_rotmat(F, dtype=torch.float64), tracks(seed, F, 1, 3)
    assert float(metrics.pa_error(scale * G @ rotation.mT + shift, G).max()) < 1e-6


def test_pa_error_does_not_mirror() -> None:
    mirrored = G * torch.tensor([-1.0, 1.0, 1.0])
    assert float(metrics.pa_error(mirrored, G).min()) > 100


def test_foot_sliding_counts_standing_feet_only() -> None:
    target = torch.zeros(4, 2, 3)
    target[2:, 1, 0] = 1.0  # the second foot jumps between frames 1 and 2
    prediction = torch.zeros(4, 2, 3)
    prediction[:, :, 2] = torch.arange(4.0)[:, None] * 0.01
    values = metrics.foot_sliding(prediction, target)
    assert values.shape == (5,) and torch.allclose(values, torch.full((5,), 10.0))


def test_root_trajectory_error() -> None:
    target = tracks(5, F, 3)
    rotation = roma.random_rotmat(1, dtype=torch.float64)[0]
    assert float(metrics.root_trajectory_error(target @ rotation.T + 3, target).max()) < 1e-6
    length = float(target.diff(dim=0).norm(dim=-1).sum())
    scaled = metrics.root_trajectory_error(2 * target, target)  # no scale is removed
    centred = (target - target.mean(0)).norm(dim=-1)
    np.testing.assert_allclose(scaled, centred / length * 100, rtol=1e-6)
    still = torch.zeros(F, 3)
    assert metrics.root_trajectory_error(target, still).numel() == 0


@pytest.mark.parametrize("up", [1, 2])
def test_floor_metrics(up: int) -> None:
    joints = torch.zeros(3, J, 3)
    joints[..., up] = 0.05
    joints[:, 10, up] = -0.10
    along = 0 if up != 0 else 1
    joints[1:, :, along] = 0.02  # 0.6 m/s from frame 0 to 1, then still
    assert metrics.skating_ratio(joints, 0.0, up).tolist() == [1.0, 0.0]
    lifted = joints.clone()
    lifted[:, 8, up] = 0.2  # right ankle too high
    assert metrics.skating_ratio(lifted, 0.0, up).tolist() == [0.0, 0.0]
    assert torch.allclose(metrics.penetration_depth(joints, 0.0, up), torch.full((3,), 50.0))
    assert torch.allclose(metrics.penetration_ratio(joints, 0.0, up), torch.full((3,), 50.0))
    assert torch.allclose(metrics.penetration_depth(joints, -0.1, up), torch.zeros(3), atol=1e-4)


def test_accuracies() -> None:
    labels = torch.tensor([[[1, 9, 2]]])
    assert float(metrics.token_accuracy(torch.tensor([[[1, 9, 3]]]), labels, ignore=9)) == 0.5
    assert float(metrics.token_accuracy(labels, torch.full_like(labels, 9), ignore=9)) == 0.0
    logits = torch.tensor([[[1.0, -1.0], [2.0, 2.0], [5.0, 5.0]]])
    assert float(metrics.contact_accuracy(logits, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))) == 0.75
