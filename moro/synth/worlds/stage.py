"""What all worlds share: people moving on a floor, cameras around them, something in the way, pictures.

The stage is z-up with the floor at z = 0, metres, 30 frames per second.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import trimesh
from torch import Tensor

from moro.body.loading import load_body_model
from moro.body.model import BodyModel, BodyOutput
from moro.body.openpose import body25_points
from moro.geometry.camera import project
from moro.geometry.frames import transform_parameters
from moro.geometry.rotation import matrix_to_rotvec, rotvec_to_matrix
from moro.io.atomic import atomic_path
from moro.render.raster import rasterise
from moro.render.scene import Mesh, render_overlay
from moro.synth.motions import MotionClip, generate_clips
from moro.synth.worlds.captured import captured_clips

SURFACE = 0.1  # metres a point may lie behind a surface and still count as seen
SHIRTS = ("orange", "teal", "purple", "lime")
SEEN, UNSEEN = 0.85, 0.1  # OpenPose's confidence
KINDS = slice(2, 6)  # of the generated motions: squats, bends, reaches, gestures


@dataclass(frozen=True)
class Camera:
    """K (3, 3), stage2cam (4, 4), size (width, height), distortion (8,) of OpenCV's model, zeros if none.

    mirrored  the stored picture is turned left to right, and the lens bends that one; everything else (K, the
              poses, detections) belongs to the picture as the camera pose sees it
    """

    K: Tensor
    stage2cam: Tensor
    size: tuple[int, int]
    distortion: Tensor
    mirrored: bool = False

    def pixels(self, points: Tensor, raw: bool = True) -> Tensor:
        """(*, N, 3) on the stage to (*, N, 2) in the picture, with the lens's distortion if `raw`."""
        ideal = project(transform(points, self.stage2cam), self.K)
        return self._bent(ideal) if raw else ideal

    def _bent(self, pixels: Tensor) -> Tensor:
        pixels = self._turned(pixels)
        rays = (pixels - self.K[:2, 2]) / self.K.diagonal()[:2]
        rays = torch.nn.functional.pad(rays, (0, 1), value=1.0)  # (*, N, 3)
        return self._turned(project(rays, self.K, self.distortion))

    def _turned(self, pixels: Tensor) -> Tensor:
        if not self.mirrored:
            return pixels
        return torch.stack([self.size[0] - 1 - pixels[..., 0], pixels[..., 1]], -1)


@dataclass(frozen=True)
class Actor:
    """A person on the stage: global_orient, transl (F, 3), body_pose (F, 63) axis-angle, betas (10,)."""

    gender: str
    body: BodyModel
    betas: Tensor
    global_orient: Tensor
    body_pose: Tensor
    transl: Tensor
    output: BodyOutput

    def parameters(self, stage2frame: Tensor) -> dict[str, np.ndarray]:
        """Parameters (F, ...) in another frame (spec: data 2.3), float32."""
        pelvis = self.output.joints[:, 0] - self.transl
        orient, transl = transform_parameters(self.global_orient, self.transl, pelvis, stage2frame)
        arrays = {
            "global_orient": orient,
            "transl": transl,
            "body_pose": self.body_pose,
            "betas": self.betas.expand(len(orient), -1),
        }
        return {key: value.numpy().astype(np.float32) for key, value in arrays.items()}


@dataclass(frozen=True)
class Stage:
    """Actors and one box-shaped thing that hides them: corners (8, 3), faces (12, 3)."""

    actors: list[Actor]
    box_vertices: Tensor
    box_faces: Tensor


def transform(points: Tensor, matrix: Tensor) -> Tensor:
    """(*, 3) points moved by a rigid (4, 4)."""
    return points @ matrix[:3, :3].mT + matrix[:3, 3]


def look_at(eye: Sequence[float], target: Sequence[float]) -> Tensor:
    """(4, 4) stage → camera (OpenCV axes) of a level camera."""
    eye, target = torch.tensor(eye, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix.float()


def make_stage(
    seed: Sequence[int],
    frames: int,
    genders: Sequence[str],
    spots: Sequence[tuple[float, float]],
    bodies: Path,
    box: tuple[float, float],
    motions: Path | None = None,
) -> Stage:
    """Actors of the given genders at spots (x, y), and a box at (x, y) about as high as a table.

    seed     the same numbers give the same stage; bodies: stand-in body models
    motions  output of process_mocap, whose captured motion they perform; None: generated motion
    """
    rng = np.random.default_rng(list(seed))
    neutral = load_body_model(bodies, "smplx")
    if motions is None:
        clips = generate_clips(int(rng.integers(2**31)), KINDS.stop, neutral)[KINDS]
    else:
        clips = captured_clips(motions, frames, len(genders), neutral, rng)
    order = rng.permutation(len(clips))
    actors = [
        _actor(
            clips[order[n % len(clips)]], frames, gender, load_body_model(bodies, "smplx", gender), spot, rng
        )
        for n, (gender, spot) in enumerate(zip(genders, spots))
    ]
    thing = trimesh.creation.box((0.55, 0.35, 0.7))
    vertices = torch.from_numpy(np.array(thing.vertices)).float() + torch.tensor([*box, 0.35])
    return Stage(actors, vertices, torch.from_numpy(np.array(thing.faces)).long())


def _actor(
    clip: MotionClip,
    frames: int,
    gender: str,
    body: BodyModel,
    spot: tuple[float, float],
    rng: np.random.Generator,
) -> Actor:
    """The middle of a motion, started at `spot` in a random heading, its lowest vertex on the floor."""
    start = max(0, (len(clip) - frames) // 2)
    chosen = torch.arange(start, start + frames).clamp(max=len(clip) - 1)
    turn = rotvec_to_matrix(torch.tensor([0.0, 0.0, float(rng.uniform(-np.pi, np.pi))]))
    local, pelvis = clip.local_pose[chosen], clip.pelvis[chosen] @ turn.T
    betas = torch.from_numpy(rng.standard_normal(body.num_betas) * 0.7).float()
    orient = turn @ local[:, 0]
    with torch.no_grad():
        output = body(local[:, 1:], betas.expand(frames, -1), orient, pelvis)
    lowest = output.vertices[..., 2].min()
    shift = torch.cat([torch.tensor(spot) - pelvis[0, :2], -lowest[None]])
    moved = replace(
        output,
        full_vertices=output.full_vertices + shift,
        skeleton_joints=output.skeleton_joints + shift,
    )
    body_pose = matrix_to_rotvec(local[:, 1:]).flatten(1)  # (F, 21, 3) -> (F, 63)
    return Actor(gender, body, betas, matrix_to_rotvec(orient), body_pose, pelvis + shift, moved)


# ---- pictures ------------------------------------------------------------------------------------------


class Photographer:
    """Pictures of a stage by one camera; the empty room and the lens are prepared once."""

    def __init__(self, stage: Stage, camera: Camera) -> None:
        self.stage, self.camera = stage, camera
        self._room = empty_room(camera)
        self._lens = _lens_map(camera)

    def picture(self, frame: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB as it is stored: turned if the camera does so, with the lens's distortion."""
        image = self.ideal(frame)
        image = np.ascontiguousarray(image[:, ::-1]) if self.camera.mirrored else image
        return image if self._lens is None else cv2.remap(image, *self._lens, cv2.INTER_LINEAR)

    def ideal(self, frame: int) -> np.ndarray:
        """The picture without distortion, not turned."""
        matrix = self.camera.stage2cam
        meshes = [
            Mesh(transform(actor.output.vertices[frame], matrix), actor.body.faces, SHIRTS[n % len(SHIRTS)])
            for n, actor in enumerate(self.stage.actors)
        ]
        meshes.append(Mesh(transform(self.stage.box_vertices, matrix), self.stage.box_faces, "white"))
        return render_overlay(self._room, meshes, self.camera.K, supersample=1)

    def visible(self, points: Tensor, frame: int, person: int) -> np.ndarray:
        """(N,) bool: points (N, 3) of one actor that neither the box, another actor nor the edge hides."""
        matrix = self.camera.stage2cam
        others = [
            (transform(actor.output.vertices[frame], matrix), actor.body.faces)
            for n, actor in enumerate(self.stage.actors)
            if n != person
        ]
        others.append((transform(self.stage.box_vertices, matrix), self.stage.box_faces))
        starts = np.cumsum([0, *(len(vertices) for vertices, _ in others)])
        vertices = torch.cat([vertices for vertices, _ in others])
        faces = torch.cat([faces + int(start) for (_, faces), start in zip(others, starts)])
        width, height = self.camera.size
        surface = rasterise(vertices, faces, self.camera.K, (height, width)).depth_map()
        seen = transform(points, matrix)
        x, y = project(seen, self.camera.K).floor().long().unbind(-1)
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        depth = surface[y.clamp(0, height - 1), x.clamp(0, width - 1)]
        return (inside & (seen[:, 2] < depth + SURFACE)).numpy()

    def openpose(self, frame: int, person: int) -> np.ndarray:
        """(25, 3) x, y in the raw image and confidence, low where the point is hidden."""
        actor = self.stage.actors[person]
        points = body25_points(actor.body, actor.output.full_joints[frame])
        confidence = np.where(self.visible(points, frame, person), SEEN, UNSEEN)
        return np.concatenate([self.camera.pixels(points).numpy(), confidence[:, None]], axis=1)


def empty_room(camera: Camera, drawn_width: int = 960) -> np.ndarray:
    """(H, W, 3) uint8: a chequered floor under a plain wall; drawn smaller, then enlarged."""
    reduction = max(1, camera.size[0] // drawn_width)
    width, height = (side // reduction for side in camera.size)
    u, v = np.meshgrid((np.arange(width) + 0.5) * reduction, (np.arange(height) + 0.5) * reduction)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K.double().numpy()).T
    turn, shift = camera.stage2cam[:3, :3].double().numpy(), camera.stage2cam[:3, 3].double().numpy()
    eye, direction = -turn.T @ shift, rays @ turn  # rows of rays times R = R^T ray
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = -eye[2] / direction[..., 2]
        spot = eye[:2] + distance[..., None] * direction[..., :2]
    floor = (distance > 0) & (np.abs(spot) < 6).all(-1)
    tiles = np.floor(np.where(floor[..., None], spot, 0) / 0.5).sum(-1).astype(int) % 2
    wall = 150 + 60 * v / (height * reduction)
    grey = np.where(floor, 105 + 40 * tiles, wall)
    room = (grey[..., None] * [1.0, 0.98, 0.93]).astype(np.uint8)
    return cv2.resize(room, camera.size, interpolation=cv2.INTER_LINEAR)


def _lens_map(camera: Camera) -> tuple[np.ndarray, np.ndarray] | None:
    """Where each raw pixel lies in the ideal image, as cv2.remap reads it."""
    if not camera.distortion.any():
        return None
    K, coefficients = camera.K.double().numpy(), camera.distortion.double().numpy()
    width, height = camera.size
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
    ideal = cv2.undistortPoints(grid.reshape(-1, 1, 2), K, coefficients, P=K)  # (H, W, 2) -> (H*W, 1, 2)
    ideal = ideal.reshape(height, width, 2).astype(np.float32)  # (H*W, 1, 2) -> (H, W, 2)
    return cv2.convertMaps(ideal[..., 0], ideal[..., 1], cv2.CV_16SC2)


# ---- files ---------------------------------------------------------------------------------------------


def write_pickle(path: Path, content: object) -> None:
    """As the data sets' own files are: protocol 2."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=2))


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Tensors and arrays become lists."""
    write_text(path, json.dumps(content, default=lambda value: value.tolist()))


def write_openpose(path: Path, people: Sequence[np.ndarray]) -> None:
    """One frame's detections: people (25, 3) each."""
    entries = [{"person_id": [-1], "pose_keypoints_2d": points.reshape(-1).tolist()} for points in people]
    write_json(path, {"version": 1.3, "people": entries})


def intrinsics_json(camera: Camera) -> dict[str, object]:
    """A Kinect's Color.json."""
    return {"camera_mtx": camera.K.double(), "k": camera.distortion.double()}
