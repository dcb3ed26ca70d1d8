"""Moving body parameters between coordinate frames (spec: data 2.3, 4.1)."""

import torch
from torch import Tensor

from moro.geometry.rotation import matrix_to_rotvec, rotvec_to_matrix

_LEFT_HIP, _RIGHT_HIP, _LEFT_SHOULDER, _RIGHT_SHOULDER = 1, 2, 16, 17


def transform_parameters(
    global_orient: Tensor, transl: Tensor, delta: Tensor, transform: Tensor
) -> tuple[Tensor, Tensor]:
    """SMPL-family parameters of the same body seen from another frame (spec: data 2.3).

    global_orient  (F, 3)  axis-angle
    transl         (F, 3)  metres
    delta          (F, 3)  pelvis at zero translation: joints[:, 0] - transl
    transform      (4, 4) or (F, 4, 4)  old frame → new frame
    returns        global_orient (F, 3), transl (F, 3)
    """
    rotation, shift = transform[..., :3, :3], transform[..., :3, 3]
    pelvis = ((transl + delta)[..., None, :] @ rotation.mT)[..., 0, :] + shift
    return matrix_to_rotvec(rotation @ rotvec_to_matrix(global_orient)), pelvis - delta


def transform_root(rotation: Tensor, translation: Tensor, transform: Tensor) -> tuple[Tensor, Tensor]:
    """The same for the networks' root: rotation (F, 3, 3) and pelvis position (F, 1, 3)."""
    turn, shift = transform[..., :3, :3], transform[..., None, :3, 3]
    return turn @ rotation, translation @ turn.mT + shift


def world2cano(up: str) -> Tensor:
    """(4, 4) turn from a world whose up axis is `up` ("z", "y" or "-y") to z-up axes (no heading alignment).

    y-up: (x, y, z) → (x, -z, y);  -y-up (OpenCV cameras that are level): (x, y, z) → (x, z, -y)
    """
    rows = {
        "z": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "y": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        "-y": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    }[up]
    matrix = torch.eye(4)
    matrix[:3, :3] = torch.tensor(rows, dtype=torch.float32)
    return matrix


def canonicalise(joints: Tensor, floor: float | None = None) -> Tensor:
    """Transform that puts a clip over the origin, on the floor, facing +y at frame 0 (spec: data 4.1).

    joints   (F, >= 18, 3)  world z-up, metres, SMPL joint order
    floor    height of the floor; default the lowest of the first 22 joints over the clip
    returns  (4, 4)  old world → canonical world
    """
    lowest = joints[:, :22, 2].min() if floor is None else torch.tensor(float(floor))
    first = joints[0]
    across = first[_RIGHT_HIP] - first[_LEFT_HIP] + first[_RIGHT_SHOULDER] - first[_LEFT_SHOULDER]
    x = torch.nn.functional.normalize(across * across.new_tensor([1.0, 1.0, 0.0]), dim=0)
    z = across.new_tensor([0.0, 0.0, 1.0])
    y = torch.linalg.cross(z, x)
    turn = torch.stack([x, y, z])  # (3, 3), the axes are its rows
    origin = torch.stack([first[0, 0], first[0, 1], lowest.to(first)])
    transform = torch.eye(4, dtype=joints.dtype)
    transform[:3, :3] = turn
    transform[:3, 3] = -turn @ origin
    return transform
