"""Errors against ground truth (spec: models 5.3, data 8.2).

Points are (*, F, N, 3) in metres, frame by frame at `FPS`; N joints or vertices. `prediction` and `target`
have equal shapes.
"""

import torch
from torch import Tensor

from moro.geometry.alignment import rigid_align, similarity_align

FPS = 30.0  # of everything (spec: models 0.1)
MILLIMETRES = 1000.0
LEFT_HIP, RIGHT_HIP = 1, 2
CHUNK = 1 << 19  # coordinates of vertices held at a time: temporaries stay in the cache


def hip_centred(joints: Tensor, points: Tensor | None = None) -> Tensor:
    """`points` (default the joints themselves) relative to the middle of the hips, frame by frame.

    joints   (*, F, J, 3) in SMPL order
    points   (*, F, N, 3)
    """
    return (joints if points is None else points) - _hips(joints)


def _hips(joints: Tensor) -> Tensor:
    return joints[..., [LEFT_HIP, RIGHT_HIP], :].mean(-2, keepdim=True)  # (*, F, 1, 3)


def joint_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Distance of each point, mm: (*, F, N). Select by a visibility mask for visible / occluded MPJPE."""
    return (prediction - target).norm(dim=-1) * MILLIMETRES


def mean_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean distance per frame, mm: (*, F).

    Hip-centred joints give MPJPE, hip-centred vertices PVE, global joints GMPJPE.
    """
    return joint_error(prediction, target).mean(-1)


def vertex_error(joints: Tensor, true_joints: Tensor, vertices: Tensor, true_vertices: Tensor) -> Tensor:
    """PVE: mean distance per frame of vertices, each mesh relative to the hips of its joints, mm: (F,).

    joints, true_joints      (F, J, 3)
    vertices, true_vertices  (F, V, 3)
    Equals `mean_error` of `hip_centred` vertices, but reads each mesh once and copies none.
    """
    shift = (_hips(joints) - _hips(true_joints)).to(vertices)  # (F, 1, 3)
    frames = max(1, CHUNK // max(1, vertices.shape[1:].numel()))
    parts = zip(*(part.split(frames) for part in (vertices, true_vertices, shift)), strict=True)
    return torch.cat([_mean_length((v - w).sub_(s)) for v, w, s in parts]) * MILLIMETRES


def _mean_length(vectors: Tensor) -> Tensor:
    """Mean length of (F, N, 3), whose memory is used up: (F,). Half the time of a norm over an axis of 3."""
    x, y, z = vectors.square_().unbind(-1)
    return (x + y).add_(z).sqrt_().mean(-1)


def pa_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean distance per frame after similarity alignment (never a reflection), mm: (*, F)."""
    return mean_error(similarity_align(prediction, target), target)


def velocity_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean difference of velocities, m/s: (*, F-1)."""
    return (prediction - target).diff(dim=-3).norm(dim=-1).mean(-1) * FPS


def acceleration_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean difference of accelerations, m/s²: (*, F-2)."""
    return (prediction - target).diff(n=2, dim=-3).norm(dim=-1).mean(-1) * FPS**2


def foot_sliding(prediction: Tensor, target: Tensor, threshold: float = 0.3) -> Tensor:
    """How far predicted feet move while the true ones stand, mm per frame: one value per contact, 1-D.

    prediction, target  (*, F, N, 3)  points of the feet in the world (or a static camera)
    threshold           speed below which a true foot stands, m/s
    """
    standing = target.diff(dim=-3).norm(dim=-1) * FPS < threshold
    return prediction.diff(dim=-3).norm(dim=-1)[standing] * MILLIMETRES


def root_trajectory_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Distance to the true root track after rigid alignment of the whole track, % of its length.

    prediction, target  (*, F, 3)
    returns             (*, F); empty (*, 0) if the true root never moves
    """
    length = target.diff(dim=-2).norm(dim=-1).sum(-1, keepdim=True)
    if (length == 0).any():
        return target[..., :0, 0]
    return (rigid_align(prediction, target) - target).norm(dim=-1) / length * 100


def token_accuracy(ids: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Share of right ids where `labels` is not `ignore` (scalar); both (B, F, J)."""
    counted = labels != ignore
    return ((ids == labels) & counted).sum() / counted.sum().clamp(min=1)


def contact_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of right contacts (scalar).

    logits  (B, F, C);  labels (B, F-1, C): the last frame has none
    """
    return ((logits[:, :-1] > 0) == (labels > 0.5)).to(torch.float32).mean()
