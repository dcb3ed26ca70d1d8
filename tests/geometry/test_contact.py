"""Contact labels (spec: data 2.4, 12.1 no. 5)."""

import torch

from moro.geometry.contact import FEET, HANDS, contact_labels


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
