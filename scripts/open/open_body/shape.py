"""Shape space: principal components of adult shapes in the T-pose, weighted by surface area."""

from dataclasses import dataclass

import numpy as np
import trimesh

from scripts.open.open_body.body import symmetric_points
from scripts.open.open_body.source import MIRROR, Source
from scripts.open.open_body.surface import Surface
from scripts.open.open_body.tpose import forward_kinematics, skin

PELVIS = np.array([0.0, -0.35, 0.0])  # where the mean body's pelvis is put, metres


@dataclass
class Adults:
    """Random adults: coefficients (N, S) of the active blend shapes, their mean, the A-pose of the mean."""

    coefficients: np.ndarray
    mean: np.ndarray
    active: np.ndarray
    joints: np.ndarray


def mean_adult(source: Source, coefficients: np.ndarray) -> Adults:
    """Keep the blend shapes that vary among adults; joints (55, 3) of the mean, symmetric."""
    active = np.abs(coefficients).max(0) > 0
    mean = coefficients.mean(0)
    joints = source.joints + np.tensordot(mean, source.joint_blendshapes, 1)
    return Adults(coefficients[:, active], mean[active], active, symmetric_points(joints, MIRROR))


@dataclass
class TPose:
    """One resolution in T-pose: mean vertices and joints, and the same for the r directions adults vary in.

    apose, vertices (V, 3) · joints (55, 3) · vertex_modes (r, V, 3)
    joint_modes (r, 55, 3) · area (V,), sums to 1
    """

    apose: np.ndarray
    vertices: np.ndarray
    joints: np.ndarray
    vertex_modes: np.ndarray
    joint_modes: np.ndarray
    area: np.ndarray


def modes_of(adults: Adults) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal directions (r, S) spanned by the adults, and the adults' coordinates (N, r) along them."""
    centred = adults.coefficients - adults.mean
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    modes = right[: int((singular > singular[0] * 1e-6).sum())]
    return modes, centred @ modes.T


def mean_tpose(
    source: Source, surface: Surface, adults: Adults, rotations: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean adult: vertices (V, 3) in A-pose; vertices (V, 3) and joints (55, 3) in T-pose."""
    mean = np.zeros(len(adults.active))
    mean[adults.active] = adults.mean
    apose = surface.apply(source.vertices + np.tensordot(mean, source.blendshapes, 1))
    apose = symmetric_points(apose, surface.mirror)
    joints = forward_kinematics(rotations, adults.joints)
    vertices = skin(apose, adults.joints, rotations, surface.weights, joints)
    offset = PELVIS - joints[0] * [0, 1, 1]
    return apose, symmetric_points(vertices + offset, surface.mirror), joints + offset


def to_tpose(
    source: Source, surface: Surface, adults: Adults, modes: np.ndarray, rotations: np.ndarray
) -> TPose:
    """Bring mean and modes of one resolution to the T-pose (linear in both for fixed rotations)."""
    apose, vertices, joints = mean_tpose(source, surface, adults, rotations)
    blendshapes = surface.apply(source.blendshapes[adults.active])
    joint_blendshapes = source.joint_blendshapes[adults.active]
    vertex_modes, joint_modes = [], []
    for mode in modes:
        rest = np.tensordot(mode, joint_blendshapes, 1)
        posed = forward_kinematics(rotations, rest)
        mesh = skin(np.tensordot(mode, blendshapes, 1), rest, rotations, surface.weights, posed)
        vertex_modes.append(mesh - posed[0])  # shapes are compared with the pelvis fixed
        joint_modes.append(posed - posed[0])
    area = vertex_area(vertices, surface)
    return TPose(apose, vertices, joints, np.stack(vertex_modes), np.stack(joint_modes), area)


def vertex_area(vertices: np.ndarray, surface: Surface) -> np.ndarray:
    """Each vertex's share of the surface area (V,), symmetric."""
    mesh = trimesh.Trimesh(vertices, surface.faces, process=False)
    area = np.zeros(len(vertices))
    np.add.at(area, surface.faces.ravel(), np.repeat(mesh.area_faces / 3, 3))
    area = 0.5 * (area + area[surface.mirror])
    return area / area.sum()


def principal_shapes(
    tpose: TPose, coordinates: np.ndarray, num_betas: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Area-weighted PCA of the adults' T-pose meshes.

    coordinates  (N, r) adults along the modes
    returns      (r, B) combination of modes per unit-variance beta (beta 0 > 0 is taller),
                 (N, B) the adults' betas, and the share of the variance they keep
    """
    root_area = np.sqrt(tpose.area)[None, :, None]
    weighted = (tpose.vertex_modes * root_area).reshape(len(tpose.vertex_modes), -1)  # (r, 3V)
    basis, triangle = np.linalg.qr(weighted.T)  # (3V, r), (r, r): PCA in r instead of 3V dimensions
    samples = coordinates @ triangle.T
    samples = samples - samples.mean(0)
    left, singular, right = np.linalg.svd(samples, full_matrices=False)
    variance = singular**2 / len(samples)
    components = right[:num_betas] * np.sqrt(variance[:num_betas])[:, None]  # (B, r) in the basis
    combination = np.linalg.lstsq(triangle, components.T, rcond=None)[0]  # (r, B)
    betas = left[:, :num_betas] * np.sqrt(len(samples))
    top, bottom = tpose.vertices[:, 1].argmax(), tpose.vertices[:, 1].argmin()
    height = (tpose.vertex_modes[:, top, 1] - tpose.vertex_modes[:, bottom, 1]) @ combination
    sign = np.where(height < 0, -1.0, 1.0)
    return combination * sign, betas * sign, float(variance[:num_betas].sum() / variance.sum())


def combine_modes(modes: np.ndarray, combination: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Shape directions (N, 3, B) from modes (r, N, 3), symmetric."""
    return symmetric_points(np.einsum("rb,rvc->vcb", combination, modes), mirror)
