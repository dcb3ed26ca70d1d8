"""A small made-up body with the full skeleton, and a motion of it, for the export tests."""

from dataclasses import dataclass

import numpy as np
import pytest
import roma
import torch
import trimesh

from moro.body.model import BodyData, BodyModel
from moro.body.skeleton import BODY_PARENTS, JOINT_NAMES
from moro.geometry.ground import Ground


@dataclass
class MotionFit:
    full_pose: torch.Tensor
    betas: torch.Tensor
    transl: torch.Tensor


def make_body(num_betas=10, seed=0):
    """A ball of 12 vertices around each of 55 joints; up to 6 joints per vertex; pose correctives."""
    rng = np.random.default_rng(seed)
    names = JOINT_NAMES["smplx"]
    parents = list(BODY_PARENTS) + [15] * 3
    for wrist in (20, 21):
        parents += [p for k in range(5) for p in (wrist, len(parents) + 3 * k, len(parents) + 3 * k + 1)]
    joints = np.zeros((len(names), 3))
    joints[0] = [0.01, -0.3, 0.02]
    for joint, parent in enumerate(parents):
        if parent >= 0:
            joints[joint] = joints[parent] + rng.normal(0, 0.12, 3)
    ball = trimesh.creation.icosphere(0, radius=0.04)
    B, J = len(ball.vertices), len(joints)
    vertices = (joints[:, None] + ball.vertices).reshape(-1, 3)  # (J, B, 3) -> (V, 3)
    faces = np.concatenate([ball.faces + B * j for j in range(J)])
    regressor = np.kron(np.eye(J), np.full((1, B), 1 / B))
    weights = np.kron(np.eye(J), np.full((B, 1), 0.8))
    for vertex in range(len(vertices)):
        others = rng.choice(J, 5, replace=False)
        weights[vertex, others] += rng.dirichlet(np.ones(5)) * 0.2
    posedirs = rng.normal(0, 0.0005, (len(vertices), 3, 9 * (J - 1)))
    shape = np.repeat(rng.normal(0, 0.01, (J, 1, 3, num_betas)), B, 1).reshape(-1, 3, num_betas)
    data = BodyData(vertices, faces, weights, regressor, parents, shape, posedirs, names)
    return BodyModel(data, "test-660", "ab" * 32)


@pytest.fixture(scope="session")
def body():
    return make_body()


@pytest.fixture
def fit(body):
    """40 camera-frame frames, turning more than once about the vertical, so that quaternions change sign."""
    T = 40
    rng = np.random.default_rng(1)
    pose = rng.normal(0, 0.5, (1, 55, 3)) + np.sin(np.linspace(0, 6, T))[:, None, None] * rng.normal(
        0, 0.4, (1, 55, 3)
    )
    pose[:, 22:25] = 0
    angle = np.linspace(0, 7, T)
    pose[:, 0] = np.stack([0 * angle, np.where(angle > np.pi, angle - 2 * np.pi, angle), 0 * angle], 1)
    transl = np.stack([np.linspace(-1, 1, T), np.full(T, 0.2), np.linspace(3, 4, T)], 1)
    betas = rng.normal(0, 1, body.num_betas)
    return MotionFit(*(torch.tensor(a, dtype=torch.float32) for a in (pose, betas, transl)))


@pytest.fixture(scope="session")
def ground():
    tilt = np.deg2rad(20)
    return Ground(
        np.array([0.02, -np.cos(tilt), -np.sin(tilt)]) / np.hypot(1, 0.02), np.array([-1.0, 1.3, 3.0])
    )


@pytest.fixture
def posed(body, fit):
    """BodyOutput of the fit, camera frame."""
    R = roma.rotvec_to_rotmat(fit.full_pose)
    return body(R[:, 1:22], fit.betas.expand(len(R), -1), R[:, 0], fit.transl, hand_pose=R[:, 25:])
