"""A made-up studio: four calibrated cameras, a person whose landmarks are known, and its detections."""

import numpy as np
import torch
from torch import Tensor

from models.recovery.reference import POINTS
from moro.geometry.camera import project
from moro.io.qualisys import CalibratedCamera
from moro.video.tracks import Track

FRAMES = 12
SIZE = (1080, 1920)
# Left side of a person facing +x: forward, left, up in metres; shoulders ... toes, as in the reference.
LEFT = ((0, 0.18, 1.4), (0, 0.3, 1.15), (0.15, 0.3, 0.95), (0, 0.1, 0.9), (0.05, 0.11, 0.5), (0, 0.12, 0.1),
        (-0.06, 0.12, 0.03), (0.15, 0.13, 0.02))  # fmt: skip


def cameras() -> list[CalibratedCamera]:
    """In the corners of a room, 4 m from its middle."""
    found = []
    for number, angle in enumerate(np.radians([20, 110, 205, 300])):
        centre = np.array([4 * np.cos(angle), 4 * np.sin(angle), 1.7])
        forward = np.array([0, 0, 0.9]) - centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        world2cam = np.eye(4)
        world2cam[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        world2cam[:3, 3] = -world2cam[:3, :3] @ centre
        K = np.array([[1500.0, 0, 530], [0, 1500, 970], [0, 0, 1]])
        bends = np.array([-0.04, 0.1, 0.001, 0.0005, 0.0])
        found.append(CalibratedCamera(f"cam{number}", K, bends, world2cam, SIZE))
    return found


def person(frames: int = FRAMES) -> Tensor:
    """(T, 16, 3) landmarks of somebody who turns on the spot and leans."""
    left = torch.tensor(LEFT).double()
    both = torch.stack([left, left * torch.tensor([1, -1, 1])], 1).flatten(0, 1)  # (8, 2, 3) -> (16, 3)
    angle = torch.linspace(0, 0.8, frames).double()
    turn = torch.zeros(frames, 3, 3).double()
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 1, 0], turn[:, 0, 1], turn[:, 2, 2] = angle.sin(), -angle.sin(), 1
    return both @ turn.mT + torch.stack([0.2 * angle, 0 * angle, 0 * angle], -1)[:, None]


def detections(points: Tensor, camera: CalibratedCamera) -> Track:
    """A track of the exact projections (with the lens's distortion), all visible."""
    world2cam = torch.from_numpy(camera.world2cam)
    inside = points @ world2cam[:3, :3].T + world2cam[:3, 3]
    image = project(inside, torch.from_numpy(camera.K), torch.from_numpy(camera.dist_coeffs))
    track = Track.unseen(len(points))
    track.landmarks[:, POINTS, :2] = image.numpy()
    track.landmarks[..., 2:] = 1
    track.world[:, POINTS] = (inside - inside[:, 6:8].mean(1, keepdim=True)).numpy()
    track.seen[:] = True
    return track
