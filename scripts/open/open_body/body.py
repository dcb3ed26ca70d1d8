"""The body under construction, and its plain forward pass in double precision."""

from dataclasses import dataclass

import numpy as np

from scripts.open.open_body.source import NUM_JOINTS, REFLECT
from scripts.open.open_body.surface import Surface
from scripts.open.open_body.tpose import forward_kinematics, global_rotations


@dataclass
class Skeleton:
    """Rest joints, shared by all resolutions: template (55, 3) and shape directions (55, 3, B)."""

    template: np.ndarray
    directions: np.ndarray


@dataclass
class Body:
    """One resolution: mean adult in A-pose `apose` and in T-pose `template`, both (V, 3), and its directions.

    area (V,) share of the surface per vertex · shapedirs (V, 3, B) · posedirs (V, 3, 486)
    """

    surface: Surface
    apose: np.ndarray
    template: np.ndarray
    area: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray


def pose_features(local: np.ndarray) -> np.ndarray:
    """What pose correctives multiply: R - I of joints 1..54, (*, 55, 3, 3) -> (*, 486)."""
    return (local[..., 1:, :, :] - np.eye(3)).reshape(*local.shape[:-3], 9 * (NUM_JOINTS - 1))


def pose_meshes(
    body: Body, skeleton: Skeleton, local: np.ndarray, betas: np.ndarray, correctives: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Posed vertices (N, V, 3) and joints (N, 55, 3) for local rotations (N, 55, 3, 3) and betas (N, B)."""
    vertices = body.template + np.einsum("nb,vcb->nvc", betas, body.shapedirs)
    rest = skeleton.template + np.einsum("nb,jcb->njc", betas, skeleton.directions)
    if correctives:
        flat = body.posedirs.reshape(-1, body.posedirs.shape[-1])  # (3V, 486)
        vertices = vertices + (pose_features(local) @ flat.T).reshape(vertices.shape)
    rotations = global_rotations(local)
    joints = forward_kinematics(rotations, rest)
    shift = joints - np.einsum("njab,njb->nja", rotations, rest)
    weights = body.surface.weights
    posed = np.empty_like(vertices)
    for n in range(len(posed)):  # one at a time: blended transforms of all would not fit in memory
        blended = (weights @ rotations[n].reshape(NUM_JOINTS, 9)).reshape(-1, 3, 3)
        posed[n] = np.einsum("vab,vb->va", blended, vertices[n]) + weights @ shift[n]
    return posed, joints


def symmetric_points(points: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Average of (N, 3) or (N, 3, B) points and their mirror image."""
    sign = REFLECT if points.ndim == 2 else REFLECT[:, None]
    return 0.5 * (points + points[mirror] * sign)
