"""Contact labels (spec: data 2.4, 12.1 no. 5)."""

import math

import pytest
import torch

from moro.geometry.contact import FEET, HANDS, contact_labels, still, surely_standing


def test_standing_is_contact_and_moving_is_not() -> None:
    joints = torch.zeros(5, 22, 3)
    joints[:, 10, 0] = torch.arange(5) * 0.02  # left foot: 0.6 m/s
    joints[:, 8, 2] = torch.arange(5) * 0.005  # right ankle: 0.15 m/s
    labels = contact_labels(joints, 0.3)
    assert labels.shape == (4, 4) and labels.dtype == torch.float32
    assert (labels == torch.tensor([1.0, 0.0, 1.0, 1.0])).all()


def test_hands_and_batches() -> None:
    joints = torch.randn(2, 6, 22, 3)
    labels = contact_labels(joints, 40.0, hand=True)
    assert labels.shape == (2, 5, 6)
    chosen = joints[:, :, list(FEET + HANDS)]
    speed = (chosen[:, 1:] - chosen[:, :-1]).norm(dim=-1) * 30
    assert torch.equal(labels == 1, speed < 40.0)


def sliding_walk(frames: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Paths (F, 2, 3) of two feet that step in turn and drift meanwhile, and how surely they stand."""
    time = torch.arange(frames) / 30
    standing = torch.stack((torch.sin(2 * math.pi * time) > 0, torch.sin(2 * math.pi * time) <= 0), dim=1)
    speed = torch.where(standing, 0.0, 2.0) + 0.15  # m/s, of which 0.15 is drift
    path = torch.zeros(frames, 2, 3)
    path[1:, :, 0] = speed[:-1].cumsum(0) / 30
    return path, standing.float()


def test_standing_feet_are_held_and_steps_stay_smooth() -> None:
    path, standing = sliding_walk()
    held = path + still(path, standing)
    rests = standing[:-1] > 0
    slid = path.diff(dim=0).norm(dim=-1)[rests].mean()
    assert held.diff(dim=0).norm(dim=-1)[rests].mean() < 0.1 * slid
    assert (held - path).norm(dim=-1).max() < 0.1
    assert (held - path).diff(n=2, dim=0).norm(dim=-1).max() * 30**2 < 12  # m/s²


def test_feet_of_which_nothing_is_known_are_left_alone() -> None:
    path, standing = sliding_walk()
    assert torch.equal(still(path, torch.zeros_like(standing)), torch.zeros_like(path))
    for frames in (1, 2, 3):
        assert torch.isfinite(still(path[:frames], standing[:frames])).all()


def test_a_fast_foot_is_not_nailed_down_by_a_wrong_contact() -> None:
    path, standing = sliding_walk()
    wrong = still(path, torch.ones_like(standing))
    assert wrong.norm(dim=-1).max() < 0.1  # of the 60 cm of each step


@pytest.mark.parametrize("speed", [0.003, 0.006, 0.01])
def test_no_contact_puts_a_drifting_foot_far_away(speed: float) -> None:
    """120 frames of drift said to be standing: metres apart in the end, and not one place."""
    path = torch.zeros(120, 4, 3)
    path[:, :, 0] = torch.arange(120)[:, None] * speed
    assert still(path, torch.ones(120, 4)).norm(dim=-1).max() < 0.15


def test_doubt_is_no_contact() -> None:
    logits = torch.tensor([-3.0, 0.0, math.log(3), 50.0])
    torch.testing.assert_close(surely_standing(logits - 0.5, bias=0.5), surely_standing(logits))
    torch.testing.assert_close(surely_standing(logits), torch.tensor([0.0, 0.0, 0.5, 1.0]))
