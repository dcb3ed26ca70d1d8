"""OpenPose's BODY_25 points of a body (spec: data 2.8)."""

import torch
from torch import Tensor

from moro.body.model import BodyModel
from moro.body.skeleton import VERTEX_JOINT_NAMES

BODY_25_NAMES = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel",
    "right_big_toe", "right_small_toe", "right_heel",
)  # fmt: skip


def body25_rows(body: BodyModel) -> tuple[list[int], list[int]]:
    """Rows of `BodyOutput.full_joints`, and which of the 25 points they are.

    A body without vertex-picked joints has no face and toe points; on SMPL-X the rows are those of data 2.8.
    """
    picked = () if body.vertex_joints is None else VERTEX_JOINT_NAMES
    names = (*body.joint_names, *picked)
    found = [number for number, name in enumerate(BODY_25_NAMES) if name in names]
    return [names.index(BODY_25_NAMES[number]) for number in found], found


def body25_points(body: BodyModel, full_joints: Tensor) -> Tensor:
    """Full joints (*, K, C) of `body` to the 25 points (*, 25, C); zeros where the body has no such point."""
    rows, found = body25_rows(body)
    points = torch.zeros(*full_joints.shape[:-2], len(BODY_25_NAMES), full_joints.shape[-1])
    points[..., found, :] = full_joints[..., rows, :]
    return points
