"""Joint regressors: sparse combinations of vertices that give the joints, at rest and posed."""

import numpy as np
import scipy.optimize
import torch
from scipy.spatial.transform import Rotation

from scripts.open.open_body.body import Body, Skeleton, pose_meshes
from scripts.open.open_body.source import INDEX, MIRROR, NUM_JOINTS, PARENTS
from scripts.open.open_body.surface import Surface
from scripts.open.open_body.tpose import is_right

TRUNK = ("pelvis", "spine1", "spine2", "spine3", "neck", "head", "jaw")


def rest_regressor(body: Body, skeleton: Skeleton) -> np.ndarray:
    """Non-negative regressor (55, V) of the rest joints for template and shape directions."""
    regressor = np.zeros((NUM_JOINTS, len(body.template)))
    num_betas = body.shapedirs.shape[-1]
    for joint in range(NUM_JOINTS):
        if is_right(joint):
            continue
        centre = skeleton.template[joint]
        distance = np.linalg.norm(body.template - centre, axis=1)
        chosen = np.argsort(distance + 0.05 * (body.surface.weights[:, joint] < 0.02))[:200]
        if joint in [INDEX[name] for name in TRUNK]:
            chosen = np.unique(np.concatenate([chosen, body.surface.mirror[chosen]]))
        rows = [1e2 * np.ones((1, len(chosen))), 30 * (body.template[chosen] - centre).T]
        wanted = [np.array([1e2]), np.zeros(3)]
        for b in range(num_betas):
            rows.append(30 * body.shapedirs[chosen, :, b].T)
            wanted.append(30 * skeleton.directions[joint, :, b])
        rows.append(1e-2 * np.eye(len(chosen)))
        wanted.append(np.zeros(len(chosen)))
        weights, _ = scipy.optimize.nnls(np.concatenate(rows), np.concatenate(wanted), maxiter=20000)
        weights[weights < 1e-4] = 0
        regressor[joint, chosen] = weights / weights.sum()
    return _mirror_rows(regressor, body.surface)


def sample_training_bodies(seed: int, num_betas: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Local rotations (count, 55, 3, 3) and betas (count, B): wide poses, mild poses, and rest poses."""
    generator = torch.Generator().manual_seed(seed)
    rotvec = torch.zeros(count, NUM_JOINTS, 3)
    rotvec[:, 0] = torch.randn(count, 3, generator=generator)
    rotvec[:, 1:22] = torch.randn(count, 21, 3, generator=generator) * 0.35
    rotvec[:, 25:] = torch.randn(count, 30, 3, generator=generator) * 0.2
    rotvec[:, INDEX["jaw"], 0] = torch.rand(count, generator=generator) * 0.3
    rotvec[count // 2 :, 1:] *= torch.rand(count // 2, 1, 1, generator=generator)
    rotvec[-60:] = 0
    betas = torch.randn(count, num_betas, generator=generator) * 1.2
    local = Rotation.from_rotvec(rotvec.reshape(-1, 3).double().numpy()).as_matrix()
    return local.reshape(count, NUM_JOINTS, 3, 3), betas.double().numpy()


def posed_regressor(body: Body, skeleton: Skeleton, rotations: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Regressor (55, V) trained on posed meshes, so that it gives the joints of posed meshes as well.

    A small ridge spreads the weights; the joints of the template are held in place.
    """
    meshes, joints = pose_meshes(body, skeleton, rotations, betas)
    V, weights = len(body.template), body.surface.weights
    regressor = np.zeros((NUM_JOINTS, V))
    for joint in range(NUM_JOINTS):
        if is_right(joint):
            continue
        related = [joint] + [k for k in range(NUM_JOINTS) if PARENTS[k] == joint or (k == PARENTS[joint])]
        centre = skeleton.template[joint]
        foreign = weights[:, related].sum(1) < 0.05
        distance = np.linalg.norm(body.template - centre, axis=1) + 0.3 * foreign
        chosen = np.argsort(distance)[: max(120, int(0.06 * V))]
        if MIRROR[joint] == joint:
            chosen = np.unique(np.concatenate([chosen, body.surface.mirror[chosen]]))
        offsets = meshes[:, chosen] - joints[:, joint, None]  # (N, n, 3)
        offsets = offsets.transpose(0, 2, 1).reshape(-1, len(chosen))  # (3N, n)
        normal = offsets.T @ offsets + len(offsets) * 0.003**2 * np.eye(len(chosen))
        at_rest = (body.template[chosen] - centre).T
        normal += 10 * len(offsets) * at_rest.T @ at_rest
        solution = np.linalg.solve(normal, np.ones(len(chosen)))
        regressor[joint, chosen] = solution / solution.sum()
    regressor = _mirror_rows(regressor, body.surface)
    regressor[np.abs(regressor) < 1e-5] = 0
    return regressor / regressor.sum(1, keepdims=True)


def _mirror_rows(regressor: np.ndarray, surface: Surface) -> np.ndarray:
    """Right joints from left ones; joints of the mid line made symmetric."""
    for joint in range(NUM_JOINTS):
        if is_right(joint):
            regressor[joint] = regressor[MIRROR[joint]][surface.mirror]
        elif MIRROR[joint] == joint:
            regressor[joint] = 0.5 * (regressor[joint] + regressor[joint][surface.mirror])
    return regressor
