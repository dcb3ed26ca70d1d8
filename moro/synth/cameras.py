"""Virtual static cameras around a moving person."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

IMAGE_SIZES = ((1920, 1080), (1280, 720), (1080, 1920), (720, 1280), (640, 480), (1024, 768), (1080, 1080))


@dataclass(frozen=True)
class CameraRanges:
    """What cameras are drawn: ranges (low, high), uniform unless said; degrees and metres.

    Chosen to hold the cameras of the evaluation sets (Kinect: 59 degrees, 1 to 5 m away, 1 to 2 m high; RICH:
    4 to 10 m), phones in both orientations and ceiling-mounted cameras.
    """

    vertical_fov: tuple[float, float] = (35.0, 80.0)
    person_share: tuple[float, float] = (0.2, 0.95)  # person's size / image height at one frame, log-uniform
    height: tuple[float, float] = (0.4, 2.4)  # above the floor
    high_share: float = 0.12  # of the cameras hang higher:
    high: tuple[float, float] = (2.4, 3.5)
    max_elevation: float = 50.0  # steepest view of the person, up or down
    roll_sigma: float = 2.0  # normal, cut at three sigma
    tilted_share: float = 0.0  # of the cameras are held askew instead:
    tilted: tuple[float, float] = (-18.0, 18.0)
    close_share: float = 0.12  # of the cameras are so close that they see part of the person:
    close: tuple[float, float] = (0.95, 2.2)
    aim_x: tuple[float, float] = (0.2, 0.8)  # where in the image the person stands at that frame
    aim_y: tuple[float, float] = (0.35, 0.65)
    near: float = 0.5  # no part of the person comes closer


@dataclass(frozen=True)
class Camera:
    """Pinhole camera: K (3, 3) pixels, world2cam (4, 4) metres (OpenCV axes), image_size (width, height)."""

    K: Tensor
    world2cam: Tensor
    image_size: tuple[int, int]


def sample_camera(joints: Tensor, rng: np.random.Generator, ranges: CameraRanges | None = None) -> Camera:
    """A static camera that frames the person at one random frame; elsewhere the person may leave the image.

    joints  (F, N, 3)  world z-up, floor at z = 0, metres
    """
    ranges = ranges or CameraRanges()
    points = joints.double().numpy()
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    focal = height / 2 / np.tan(np.radians(rng.uniform(*ranges.vertical_fov)) / 2)
    person = points[rng.integers(len(points))]
    target = (person.min(axis=0) + person.max(axis=0)) / 2
    size = max(0.8, float(np.ptp(person, axis=0).max())) + 0.15  # beyond the joints: crown and soles
    close = rng.random() < ranges.close_share
    share = np.exp(rng.uniform(*np.log(ranges.close if close else ranges.person_share)))
    if close:  # of the upper body as a rule
        target[2] += rng.uniform(-0.2, 0.4) * np.ptp(person[:, 2])
    distance = max(size * focal / (share * height), ranges.near + np.ptp(person[:, :2], axis=0).max() / 2)
    azimuth = rng.uniform(0, 2 * np.pi)
    level = rng.uniform(*(ranges.high if rng.random() < ranges.high_share else ranges.height))
    roll = np.radians(np.clip(rng.standard_normal(), -3, 3) * ranges.roll_sigma)
    if ranges.tilted_share and rng.random() < ranges.tilted_share:
        roll = np.radians(rng.uniform(*ranges.tilted))
    aim = (rng.uniform(*ranges.aim_x) * width, rng.uniform(*ranges.aim_y) * height)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    for _ in range(6):
        world2cam = _look_at(target, distance, azimuth, level, aim, K, roll, ranges)
        depth = points @ world2cam[2, :3] + world2cam[2, 3]
        if depth.min() >= ranges.near:
            break
        distance = 1.3 * distance + ranges.near - depth.min()  # the person would walk through the camera
    return Camera(torch.from_numpy(K).float(), torch.from_numpy(world2cam).float(), (int(width), int(height)))


def _look_at(
    target: np.ndarray,
    distance: float,
    azimuth: float,
    level: float,
    aim: tuple[float, float],
    K: np.ndarray,
    roll: float,
    ranges: CameraRanges,
) -> np.ndarray:
    """(4, 4) world → camera that sees `target` at pixel `aim` from `distance`, near height `level`."""
    steepest = distance * np.sin(np.radians(ranges.max_elevation))
    rise = np.clip(level - target[2], -steepest, steepest)
    run = np.sqrt(max(distance**2 - rise**2, 1e-6))
    position = target + np.array([run * np.cos(azimuth), run * np.sin(azimuth), rise])
    position[2] = max(position[2], 0.15)  # not below the floor
    forward = _unit(target - position)
    right = _unit(np.cross(forward, [0.0, 0.0, 1.0]))
    straight = np.stack([right, np.cross(forward, right), forward])  # rows: camera x, y, z
    # Turn the camera so that the ray through `aim`, not the optical axis, meets the target: pan, then tilt.
    ray = np.linalg.solve(K, [*aim, 1.0])
    tilt = np.arctan(ray[1])
    pan = np.arctan(ray[0] * np.cos(tilt))
    turn = _rotation_z(roll) @ _rotation_x(-tilt) @ _rotation_y(pan)
    world2cam = np.eye(4)
    world2cam[:3, :3] = turn @ straight
    world2cam[:3, 3] = -world2cam[:3, :3] @ position
    return world2cam


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _rotation_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _rotation_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _rotation_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
