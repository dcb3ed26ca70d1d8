"""Motions turned at random: what stays as it was, and what may not happen."""

import numpy as np
import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st

from moro.body.skeleton import global_rotations
from moro.geometry.contact import FEET
from moro.synth import variety
from moro.synth.skeleton import JOINT_INDEX, joint_positions
from moro.synth.variety import HINGES, MOST_BENT, varied

FRAMES = 60
OFFSETS = 0.2 * torch.randn(22, 3, generator=torch.Generator().manual_seed(0))


def _still(bend: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Somebody who stands still with bent limbs: rotations (F, 22, 3, 3), pelvis (F, 3)."""
    vectors = torch.zeros(FRAMES, 22, 3)
    for name, axis in HINGES.items():
        vectors[:, JOINT_INDEX[name]] = bend * torch.tensor(axis)
    return roma.rotvec_to_rotmat(vectors), torch.tensor([0.3, -0.2, 0.9]).expand(FRAMES, 3)


@given(seed=st.integers(0, 2**32 - 1))
def test_joints_turn_smoothly_and_hinges_bend_one_way(seed: int) -> None:
    local, pelvis = _still()
    turned, path = varied(local, pelvis, OFFSETS, np.random.default_rng(seed))
    torch.testing.assert_close(turned.mT @ turned, torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)
    steps = roma.rotmat_geodesic_distance(turned[1:].flatten(0, 1), turned[:-1].flatten(0, 1))
    assert steps.max() < 0.35  # radians from frame to frame
    for name, axis in HINGES.items():
        bent = roma.rotmat_to_rotvec(turned[:, JOINT_INDEX[name]]) @ torch.tensor(axis)
        assert bent.min() > -1e-4 and bent.max() < MOST_BENT + 1e-4
    assert path.isfinite().all()


def test_the_foot_that_is_stood_on_stays_where_it_was() -> None:
    local, pelvis = _still()
    lower = OFFSETS.clone()
    lower[JOINT_INDEX["left_foot"]] = torch.tensor([0.0, 0.0, -2.0])  # far below everything else
    turned, path = varied(local, pelvis, lower, np.random.default_rng(3))
    before, after = (
        joint_positions(global_rotations(pose), lower, root)[:, list(FEET)]
        for pose, root in ((local, pelvis), (turned, path))
    )
    lowest = before[0, :, 2].argmin()
    torch.testing.assert_close(after[:, lowest], before[:, lowest], atol=1e-4, rtol=0)
    assert (turned - local).abs().max() > 0.05


def test_without_strength_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variety, "STRENGTH", (0.0, 0.0))
    local, pelvis = _still()
    turned, path = varied(local, pelvis, OFFSETS, np.random.default_rng(0))
    torch.testing.assert_close(turned, local, atol=1e-5, rtol=0)
    torch.testing.assert_close(path, pelvis, atol=1e-5, rtol=0)
