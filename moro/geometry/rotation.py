"""Rotations: the 6D form of the networks, everything else through roma."""

import roma
import torch
from torch import Tensor
from torch.nn.functional import normalize


def matrix_to_rot6d(matrix: Tensor) -> Tensor:
    """First two rows of a rotation matrix (spec: models 0.2).

    matrix   (*, 3, 3)
    returns  (*, 6)
    """
    return matrix[..., :2, :].flatten(-2)  # (*, 2, 3) -> (*, 6)


def rot6d_to_matrix(rot6d: Tensor) -> Tensor:
    """Rotation matrix whose first two rows span those given, by Gram-Schmidt (spec: models 0.2).

    rot6d    (*, 6)  any two rows, not necessarily orthonormal
    returns  (*, 3, 3)
    """
    first, second = rot6d[..., :3], rot6d[..., 3:]
    row0 = normalize(first, dim=-1, eps=1e-12)
    row1 = normalize(second - (row0 * second).sum(-1, keepdim=True) * row0, dim=-1, eps=1e-12)
    return torch.stack((row0, row1, torch.linalg.cross(row0, row1, dim=-1)), dim=-2)


def rotvec_to_matrix(rotvec: Tensor) -> Tensor:
    """Axis-angle (*, 3), radians, to matrices (*, 3, 3)."""
    return roma.rotvec_to_rotmat(rotvec)


def matrix_to_rotvec(matrix: Tensor) -> Tensor:
    """Matrices (*, 3, 3) to axis-angle (*, 3), radians, of length at most pi."""
    return roma.rotmat_to_rotvec(matrix)


def euler_to_matrix(angles: Tensor, convention: str = "ZXY") -> Tensor:
    """Intrinsic Euler angles (*, 3), radians, to matrices (*, 3, 3); "ZXY" is Rz(a0) Rx(a1) Ry(a2)."""
    return roma.euler_to_rotmat(convention, angles)


def matrix_to_euler(matrix: Tensor, convention: str = "ZXY") -> Tensor:
    """Matrices (*, 3, 3) to intrinsic Euler angles (*, 3), radians; entries are clamped to [-1, 1] first."""
    return roma.rotmat_to_euler(convention, matrix.clamp(-1, 1))
