"""The 22-joint skeleton in SMPL order, and what can be done with it without a body mesh.

Body frame: Y up, facing +Z, +X to the person's left. World frame: z up. Rotations are matrices on column
vectors.
"""

import roma
import torch
from torch import Tensor

from moro.body.skeleton import BODY_JOINT_NAMES, BODY_PARENTS, MIRROR_JOINTS

JOINT_NAMES = BODY_JOINT_NAMES
PARENTS = BODY_PARENTS
UPPER_BODY = list(range(12, 22))  # neck, collars, head, arms: they go with the legs of any other pose
JOINT_INDEX = {name: index for index, name in enumerate(JOINT_NAMES)}


def y_up_to_z_up(dtype: torch.dtype = torch.float32) -> Tensor:
    """(3, 3) rotation that maps Y up, facing +Z to z up, facing -y: (x, y, z) -> (x, -z, y)."""
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=dtype)


def joint_positions(rotations: Tensor, offsets: Tensor, root: Tensor) -> Tensor:
    """Forward kinematics.

    rotations  (*, 22, 3, 3)  global rotations
    offsets    (22, 3)        joint minus parent in the rest pose, metres (row 0 unused)
    root       (*, 3)         pelvis position
    returns    (*, 22, 3)
    """
    positions: list[Tensor] = []
    for joint, parent in enumerate(PARENTS):
        bone = root if parent < 0 else positions[parent] + rotations[..., parent, :, :] @ offsets[joint]
        positions.append(bone)
    return torch.stack(positions, dim=-2)


def rest_offsets(joints: Tensor) -> Tensor:
    """(22, 3) joint minus parent of rest joints (22, 3); row 0 is the pelvis itself."""
    parents = torch.tensor(PARENTS[1:])
    return torch.cat([joints[:1], joints[1:] - joints[parents]])


def mirror_local_rotations(local: Tensor) -> Tensor:
    """Left-right mirrored pose: joints swapped, rotations reflected at the body's x = 0 plane.

    local (*, 22, 3, 3) -> (*, 22, 3, 3). The root row is reflected at x = 0 of its own world.
    """
    sign = torch.tensor([1.0, -1.0, -1.0], dtype=local.dtype)
    return local[..., list(MIRROR_JOINTS), :, :] * (sign[:, None] * sign[None, :])


def resample_rotations(rotations: Tensor, times: Tensor) -> Tensor:
    """Rotations at fractional frame indices by spherical interpolation.

    rotations  (T, J, 3, 3);  times (N,) in [0, T-1];  returns (N, J, 3, 3)
    """
    low = times.floor().long().clamp(0, len(rotations) - 1)
    high = (low + 1).clamp(max=len(rotations) - 1)
    fraction = (times - low).to(rotations.dtype)
    start = rotations[low]
    step = roma.rotmat_to_rotvec(start.transpose(-1, -2) @ rotations[high])
    return start @ roma.rotvec_to_rotmat(step * fraction[:, None, None])


def resample_linear(values: Tensor, times: Tensor) -> Tensor:
    """Values (T, ...) at fractional frame indices (N,) by linear interpolation -> (N, ...)."""
    low = times.floor().long().clamp(0, len(values) - 1)
    high = (low + 1).clamp(max=len(values) - 1)
    fraction = (times - low).to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))  # (N, 1, ...)
    return values[low] * (1 - fraction) + values[high] * fraction
