"""Where the detector reads landmarks on a body that has its own: rendered people (docs/data_open.md).

The open body's landmarks are its joints and points of its skin; a detector was taught other ones. On pictures
of bodies in known poses the difference is a fixed vector in the frame of the limb, and what is left is noise.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.mask_transformer.data.open_motion import Motion
from moro.body.model import BodyModel
from moro.body.refinement import holder_of
from moro.body.skeleton import BODY_JOINT_NAMES, LANDMARK_NAMES, global_rotations
from moro.geometry.camera import project
from moro.geometry.rotation import rotvec_to_matrix
from moro.render.scene import Mesh, render_overlay
from moro.video.blazepose import BlazePose, Landmarks

IMAGE_SIZE = (960, 720)  # width, height
FOCAL = (700.0, 1100.0)  # pixels
PERSON = (380.0, 600.0)  # pixels that a person of 1.75 m is high
ELEVATION = (-0.05, 0.35)  # radians from which the camera looks down
CLOTHES = {  # what is worn on what follows these joints, and range of its colours; skin elsewhere
    "shirt": (("spine1", "spine2", "spine3", "collar", "shoulder"), (0.1, 0.95)),
    "trousers": (("pelvis", "hip", "knee"), (0.05, 0.6)),
    "shoes": (("ankle", "foot"), (0.05, 0.9)),
}
SKIN = np.array([0.85, 0.65, 0.52])
SURE = 0.7  # visibility of readings that count
OUTLIER = 0.03  # metres: a reading so far off has lost three quarters of its say
PRIOR = 0.5  # readings' worth of belief that there is no offset
ROUNDS = 20


class Shown(NamedTuple):
    """A person in front of the camera: landmarks (33, 3), rotations of the joints (22, 3, 3), K (3, 3)."""

    landmarks: Tensor
    rotations: Tensor
    K: Tensor


class Offsets(NamedTuple):
    """offset (33, 3) metres in the frames of the limbs (T-pose axes); readings (33,) that count, and their
    median distance, metres, from the landmarks before and after the offset: (33,) each."""

    offset: NDArray
    readings: NDArray
    before: NDArray
    after: NDArray


def shown_people(
    body: BodyModel, motions: Sequence[Motion], rng: np.random.Generator
) -> Iterator[tuple[Shown, NDArray]]:
    """People of random shape, pose and colours, seen from anywhere, and their pictures (H, W, 3)."""
    parts = _parts(body)
    while True:
        motion = motions[rng.integers(len(motions))]
        frame = int(rng.integers(len(motion)))
        pose = rotvec_to_matrix(motion.rotvec[frame : frame + 1])  # (1, 22, 3, 3)
        betas = body.clamp_betas(torch.from_numpy(rng.standard_normal(body.num_betas)).float())
        out = body(global_orient=pose[:, 0], body_pose=pose[:, 1:], betas=betas[None])
        view, place, K = _camera(rng)
        middle = out.joints[0, 0]
        vertices, landmarks = ((p[0] - middle) @ view.T + place for p in (out.vertices, out.landmarks()))
        meshes = [Mesh(vertices, body.faces[faces], colour) for faces, colour in zip(parts, _colours(rng))]
        yield Shown(landmarks, view @ global_rotations(pose)[0], K), render_overlay(_backdrop(rng), meshes, K)


def read_twice(detector: BlazePose, picture: NDArray) -> Landmarks | None:
    """Landmarks as in a video: in the crop that an earlier reading gives; None if nobody is found."""
    found = detector.detect(picture)
    return detector.landmarks(picture, detector.landmarks(picture, found[0].roi).next_roi) if found else None


def fit_offsets(shown: Sequence[Shown], pixels: NDArray, visibility: NDArray) -> Offsets:
    """Least squares, reweighted (Geman-McClure); pixels (N, 33, 2), visibility (N, 33) of N people."""
    seen = Shown(*(torch.stack(part).double() for part in zip(*shown)))
    image = project(seen.landmarks, seen.K).numpy()
    landmarks, rotations, K = (part.numpy() for part in seen)
    depth = landmarks[..., 2, None]  # (N, 33, 1)
    off = (pixels - image) * depth / K[:, None, [0, 1], [0, 1]]  # (N, 33, 2) metres beside the landmark
    slope = np.zeros((*off.shape, 3))  # of that, by a shift in the camera's axes
    slope[..., [0, 1], [0, 1]] = 1
    slope[..., 2] = -landmarks[..., :2] / depth
    slope = slope @ rotations[:, [holder_of(name) for name in LANDMARK_NAMES]]  # (N, 33, 2, 3) limb's axes
    sure = (visibility > SURE).astype(float)
    offset, left = np.zeros((len(LANDMARK_NAMES), 3)), off
    for _ in range(ROUNDS):
        say = sure * (1 + np.square(left).sum(-1) / OUTLIER**2) ** -2
        normal = np.einsum("nl,nlrc,nlrd->lcd", say, slope, slope) + PRIOR * np.eye(3)
        offset = np.linalg.solve(normal, np.einsum("nl,nlrc,nlr->lc", say, slope, off)[..., None])[..., 0]
        left = off - np.einsum("nlrc,lc->nlr", slope, offset)
    distances = (np.where(sure, np.linalg.norm(value, axis=-1), np.nan) for value in (off, left))
    return Offsets(offset, sure.sum(0), *(np.nanmedian(value, axis=0) for value in distances))


def _parts(body: BodyModel) -> list[NDArray]:
    """Numbers of the faces of the skin and of each garment."""
    owner = [BODY_JOINT_NAMES[j].split("_")[-1] if j < len(BODY_JOINT_NAMES) else ""
             for j in body.weights.argmax(1).tolist()]  # fmt: skip
    garment = np.zeros(len(owner), int)
    for number, (joints, _) in enumerate(CLOTHES.values(), start=1):
        garment[[joint in joints for joint in owner]] = number
    of_face = garment[body.faces[:, 0].numpy()]
    return [np.flatnonzero(of_face == number) for number in range(len(CLOTHES) + 1)]


def _colours(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    skin = np.minimum(SKIN * rng.uniform(0.5, 1.1), 1)
    return [tuple(skin), *(tuple(rng.uniform(low, high, 3)) for _, (low, high) in CLOTHES.values())]


def _camera(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation (3, 3) from the z-up world, where the person's middle is (3,), and K (3, 3)."""
    focal = rng.uniform(*FOCAL)
    heading, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(*ELEVATION)
    forward = np.array(
        [np.cos(heading) * np.cos(elevation), np.sin(heading) * np.cos(elevation), -np.sin(elevation)]
    )
    right = np.array([np.sin(heading), -np.cos(heading), 0])
    view = np.stack([right, np.cross(forward, right), forward])  # rows: camera x, y, z
    place = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.1, 0.1), focal * 1.75 / rng.uniform(*PERSON)])
    width, height = IMAGE_SIZE
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return tuple(torch.from_numpy(value).float() for value in (view, place, K))


def _backdrop(rng: np.random.Generator) -> NDArray:
    """A wall with things on it and a floor."""
    width, height = IMAGE_SIZE
    wall = rng.integers(60, 200, 3) + np.linspace(-30, 30, height)[:, None, None]
    picture = np.clip(wall + rng.normal(0, 6, (height, width, 1)), 0, 255)
    picture[int(height * rng.uniform(0.55, 0.8)) :] *= 0.7
    picture = np.ascontiguousarray(picture.astype(np.uint8))
    for _ in range(6):
        x, y, w, h = rng.integers(0, width), rng.integers(0, height), *rng.integers(20, 200, 2)
        colour = rng.integers(40, 220, 3).tolist()
        cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
    return picture


def distance_in_image(shown: Shown, read: Landmarks) -> float:
    """Median distance of reading and landmarks over the person's size; large if it is turned round."""
    image = project(shown.landmarks, shown.K).numpy()
    return float(np.median(np.linalg.norm(read.xy - image, axis=-1)) / np.ptp(image, axis=0).max())
