"""Poses that nobody recorded: captured motion with every joint turned by some amount that drifts slowly.

A network that has seen 40 minutes of motion damps what these do not hold: the poses of a sports video are
twice as far from the nearest of them as those of held-out recordings (docs/experiments.md).
"""

import numpy as np
import roma
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from moro.body.skeleton import global_rotations
from moro.geometry.contact import FEET
from moro.synth.skeleton import JOINT_NAMES, joint_positions

# Radians, sigma per axis, of joints that turn every way, and of those that bend one way only (+ is bending).
TURN = {
    "pelvis": 0.2, "spine1": 0.15, "spine2": 0.15, "spine3": 0.15, "hip": 0.35, "ankle": 0.15, "neck": 0.1,
    "head": 0.15, "collar": 0.1, "shoulder": 0.5, "wrist": 0.2,
}  # fmt: skip
BEND = {"knee": 0.4, "elbow": 0.5}
HINGES = {
    "left_knee": (1.0, 0.0, 0.0), "right_knee": (1.0, 0.0, 0.0),
    "left_elbow": (0.0, -1.0, 0.0), "right_elbow": (0.0, 1.0, 0.0),
}  # fmt: skip
SPINE = [JOINT_NAMES.index(f"spine{n}") for n in (1, 2, 3)]  # they turn alike
MOST_BENT = 2.5  # radians
STRENGTH = (0.0, 1.5)  # of a whole clip, times the above: some stay nearly as they were
STEADY = 0.5  # share of the variance that stays over the clip
DRIFT = 12.0  # frames in which the rest changes
SUPPORT = 0.03  # metres: a foot so much higher than another carries a third of its weight


def varied(local: Tensor, pelvis: Tensor, offsets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A clip with its joints turned at random; the feet it stands on stay where they were.

    local (F, 22, 3, 3) parent-relative, the root's in the world · pelvis (F, 3) metres, z up ·
    offsets (22, 3) as of `rest_offsets`
    """
    strength = rng.uniform(*STRENGTH)
    turned = local @ roma.rotvec_to_rotmat(strength * _drifting(len(local), TURN, rng))
    turned = _bent(turned, strength * _drifting(len(local), BEND, rng)[..., 0])
    before, after = (
        joint_positions(global_rotations(pose), offsets, pelvis)[:, list(FEET)] for pose in (local, turned)
    )
    carries = (-before[..., 2] / SUPPORT).softmax(dim=-1)  # (F, 4)
    return turned, pelvis + (carries[..., None] * (before - after)).sum(dim=1)


def _drifting(frames: int, spread: dict[str, float], rng: np.random.Generator) -> Tensor:
    """(F, 22, 3) smooth random numbers with the spread of each joint, by its name without the side."""
    kinds = [name.removeprefix("left_").removeprefix("right_") for name in JOINT_NAMES]
    sigma = np.array([spread.get(kind, 0.0) for kind in kinds])
    shape = (len(kinds), 3)
    drift = gaussian_filter1d(rng.standard_normal((frames, *shape)), DRIFT, axis=0, mode="wrap")
    drift *= np.sqrt(2 * np.sqrt(np.pi) * DRIFT)  # of unit variance again
    drift[:, SPINE] = drift[:, SPINE[:1]]
    steady = rng.standard_normal(shape)
    steady[SPINE] = steady[SPINE[:1]]
    numbers = np.sqrt(STEADY) * steady + np.sqrt(1 - STEADY) * drift
    return torch.from_numpy(numbers * sigma[:, None]).float()


def _bent(local: Tensor, angle: Tensor) -> Tensor:
    """Hinges bent further by angle (F, 22), radians; not the wrong way, unless they were before."""
    local = local.clone()
    for name, axis in HINGES.items():
        joint, direction = JOINT_NAMES.index(name), local.new_tensor(axis)
        vector = roma.rotmat_to_rotvec(local[:, joint])
        own = vector @ direction
        wanted = torch.maximum(own + angle[:, joint], own.clamp(max=0)).clamp(max=MOST_BENT)
        local[:, joint] = roma.rotvec_to_rotmat(vector + (wanted - own)[:, None] * direction)
    return local
