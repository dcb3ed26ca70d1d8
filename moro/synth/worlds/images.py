"""Small COCO, MPII, Human3.6M and MPI-INF-3DHP with BEDLAM's labels of real images (spec: data 4.3, 5.4).

Both label files are written: the SMPL labels as they are downloaded, and the true SMPL-X labels as
scripts/preprocess/process_hmr_smplx.py makes them from those (with --force it makes them again).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moro.body.skeleton import VERTEX_JOINT_NAMES
from moro.geometry.boxes import MARGIN, box_from_points
from moro.io.atomic import atomic_path
from moro.io.image_files import SETS
from moro.io.scenes import write_image
from moro.synth.worlds import WorldSize
from moro.synth.worlds.stage import Actor, Camera, Photographer, look_at, make_stage

SPOTS = ((-0.45, 0.1), (0.55, 0.25))
SMPL_POSE, SMPLX_POSE = 72, 165
# Joints of the 24 labels (spec: data 2.8); the top of the head lies beyond the head joint.
LABELLED = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist",
    "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head", "pelvis",
    "spine3", "spine2", "jaw", "head", "nose", "left_eye", "right_eye", "left_ear", "right_ear",
)  # fmt: skip
NECK, HEAD_TOP, HEAD = 12, 13, 18


@dataclass(frozen=True)
class Look:
    """Pictures of a set: size (width, height), people, name by recording and frame; the labelled focal length
    in pixels, None where it and the translation are not labelled (then it is the diagonal)."""

    size: tuple[int, int]
    people: int
    picture: Callable[[int, int], str]
    focal: float | None = None


LOOKS = {
    "coco": Look((640, 480), 2, lambda r, f: f"train2014/COCO_train2014_{1000 * r + f:012d}.jpg", 610.0),
    "mpii": Look((1280, 720), 2, lambda r, f: f"images/{15_000_000 + 1000 * r + f:09d}.jpg", 930.0),
    "h36m": Look((1000, 1002), 1, lambda r, f: f"Images/S{r + 1}/S{r + 1}_Walking.54138969_{f + 1:06d}.jpg"),
    "mpi_inf_3dhp": Look(
        (2048, 2048), 1, lambda r, f: f"S{r + 1}/Seq1/imageFrames/video_0/frame_{f:06d}.jpg"
    ),
}  # fmt: skip


def write_coco(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    return _write("coco", out, seed, size, bodies)


def write_mpii(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    return _write("mpii", out, seed, size, bodies)


def write_h36m(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    return _write("h36m", out, seed, size, bodies)


def write_mpi_inf_3dhp(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    return _write("mpi_inf_3dhp", out, seed, size, bodies)


def _write(name: str, out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """A picture for each frame of each recording, a label for each person in it."""
    kind, look = SETS[name], LOOKS[name]
    root, rows = out / kind.folder, []
    number = list(SETS).index(name)
    for recording in range(size.recordings):
        genders = ["neutral"] * look.people
        stage = make_stage(
            (seed, number, recording), size.frames, genders, SPOTS, bodies, (-0.5, -0.75), size.motions
        )
        photographer = Photographer(stage, _camera(look, recording))
        for frame in range(size.frames):
            picture = look.picture(recording, frame)
            write_image(root / picture, photographer.picture(frame))
            rows += [{"imgname": picture} | row for row in _people(photographer, frame)]
    labels = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    if look.focal is not None:
        labels["focal_l"] = np.full(len(rows), look.focal)
    else:
        del labels["global_t"]
    for path, width in ((kind.smpl_labels(root), SMPL_POSE), (kind.smplx_labels(root), SMPLX_POSE)):
        pose = np.pad(labels["pose"], ((0, 0), (0, width - labels["pose"].shape[1])))
        with atomic_path(path) as temporary:
            np.savez(temporary, **(labels | {"pose": pose}))
    return root


def _camera(look: Look, recording: int) -> Camera:
    """A level camera; without lens distortion, which the labels do not know."""
    width, height = look.size
    focal = look.focal or float(np.hypot(width, height))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    eye = (0.4 - 0.9 * (recording % 3), -3.5, 1.3 + 0.2 * (recording % 2))
    return Camera(K, look_at(eye, (0.05, 0.1, 0.9)), look.size, torch.zeros(8))


def _people(photographer: Photographer, frame: int) -> Iterator[dict[str, Any]]:
    """The fields of every person's label in one picture; pose without hands."""
    camera = photographer.camera
    for person, actor in enumerate(photographer.stage.actors):
        points = _labelled_points(actor, frame)
        parameters = {key: value[frame] for key, value in actor.parameters(camera.stage2cam).items()}
        center, scale = box_from_points(camera.pixels(actor.output.joints[frame]), MARGIN)
        confidence = photographer.visible(points, frame, person)[:, None]
        yield {
            "center": center.double().numpy(),
            "scale": float(scale),
            "pose": np.concatenate([parameters["global_orient"], parameters["body_pose"]]),
            "shape": parameters["betas"],
            "part": np.concatenate([camera.pixels(points).numpy(), confidence], axis=1),
            "global_t": parameters["transl"],
            "gender": "neutral",
        }


def _labelled_points(actor: Actor, frame: int) -> Tensor:
    """(24, 3) on the stage."""
    names = (*actor.body.joint_names, *VERTEX_JOINT_NAMES)
    points = actor.output.full_joints[frame][[names.index(name) for name in LABELLED]]
    points[HEAD_TOP] += points[HEAD] - points[NECK]
    return points
