"""Motion of one skeleton on the rest pose of another (both in SMPL joint order)."""

from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from moro.body.skeleton import global_rotations, local_rotations
from moro.errors import MoroError
from moro.synth.skeleton import JOINT_INDEX, PARENTS, joint_positions

# joint whose rest direction is corrected -> the child that gives the direction
_SWING_CHILD = {
    f"{side}_{joint}": f"{side}_{child}"
    for side in ("left", "right")
    for joint, child in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
}
_LEGS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ("knee", "ankle"))


@dataclass(frozen=True)
class Retargeted:
    """Motion on the target skeleton, same world axes as the source.

    local_pose (F, 22, 3, 3) · pelvis (F, 3) metres · scale target / source leg length ·
    source_error metres, mean forward-kinematics error of the source's rotations against its joints
    """

    local_pose: Tensor
    pelvis: Tensor
    scale: float
    source_error: float


def source_offsets(rotations: Tensor, joints: Tensor) -> tuple[Tensor, float]:
    """Bone offsets that explain `joints` (F, 22, 3) with global `rotations` (F, 22, 3, 3).

    Returns offsets (22, 3) (row 0 zero) and the mean joint error (metres) of forward kinematics with them.
    """
    parents = torch.tensor(PARENTS[1:])
    bones = joints[:, 1:] - joints[:, parents]  # (F, 21, 3)
    in_parent = torch.einsum("fjba,fjb->fja", rotations[:, parents], bones)  # (F, 21, 3)
    offsets = torch.cat([torch.zeros(1, 3, dtype=joints.dtype), in_parent.mean(dim=0)])
    rebuilt = joint_positions(rotations, offsets, joints[:, 0])
    return offsets, float((rebuilt - joints).norm(dim=-1).mean())


def retarget(local_pose: Tensor, joints: Tensor, target_offsets: Tensor) -> Retargeted:
    """Move a captured motion to another skeleton.

    local_pose      (F, 22, 3, 3)  parent-relative rotations from the source's T-pose (root row: world)
    joints          (F, 22, 3)     source joints, metres
    target_offsets  (22, 3)        joint minus parent of the target's rest pose

    Limbs keep their *direction*: where the two rest poses differ (CMU's T-pose arms hang 8 degrees), the
    shortest rotation from the target's rest bone to the source's is put in between. Hands follow the
    forearm's correction; feet, trunk and head keep their rotation. The path of the mid-hip is scaled by leg
    length, so that steps of the shorter or longer legs still meet the ground.
    """
    rotations = global_rotations(local_pose)
    offsets, error = source_offsets(rotations, joints)
    corrected = rotations.clone()
    for name, child in _SWING_CHILD.items():
        swing = _shortest_rotation(target_offsets[JOINT_INDEX[child]], offsets[JOINT_INDEX[child]])
        corrected[:, JOINT_INDEX[name]] = rotations[:, JOINT_INDEX[name]] @ swing
        if child.endswith("wrist"):
            corrected[:, JOINT_INDEX[child]] = rotations[:, JOINT_INDEX[child]] @ swing
    scale = _leg_length(target_offsets) / _leg_length(offsets)
    hips = [JOINT_INDEX["left_hip"], JOINT_INDEX["right_hip"]]
    mid_hip = joints[:, hips].mean(dim=1)  # (F, 3)
    pelvis = mid_hip * scale - rotations[:, 0] @ target_offsets[hips].mean(dim=0)
    return Retargeted(local_rotations(corrected), pelvis, scale, error)


def _leg_length(offsets: Tensor) -> float:
    length = float(offsets[[JOINT_INDEX[name] for name in _LEGS]].norm(dim=-1).sum()) / 2
    if length < 1e-3:
        raise MoroError(
            "The skeleton's legs have no length; its joints are not in SMPL order or not in metres."
        )
    return length


def _shortest_rotation(source: Tensor, target: Tensor) -> Tensor:
    """(3, 3) smallest rotation that turns direction `source` (3,) to direction `target` (3,)."""
    a, b = source / source.norm(), target / target.norm()
    axis = torch.linalg.cross(a, b)
    angle = torch.atan2(axis.norm(), (a * b).sum())
    return roma.rotvec_to_rotmat(axis / axis.norm().clamp(min=1e-12) * angle)
