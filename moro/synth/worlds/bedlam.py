"""A small BEDLAM: two people before one camera per scene, 30 frames per second (spec: data 4.2, 5.6).

`BEDLAM/processed_labels` is written by the specification; `bedlam_labels_30fps/<folder>_30fps.npz` holds the
same as BEDLAM's own label generation gives it, for scripts/preprocess/process_bedlam_labels.py.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from moro.geometry.boxes import MARGIN, box_from_points
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.atomic import atomic_path
from moro.io.bedlam_files import SCENE_NAMES, image_folder, label_file, write_tracks
from moro.io.scenes import write_image
from moro.synth.worlds import WorldSize
from moro.synth.worlds.stage import (
    Actor,
    Camera,
    Photographer,
    Stage,
    look_at,
    make_stage,
    transform,
    write_text,
)

SIZE = (1280, 720)
LABELS = "bedlam_labels_30fps"
SPOTS = ((-0.45, 0.1), (0.5, 0.3))
LOST = (1, 3)  # person and frame that the label generation drops, as it does with people out of the picture
LEAST_INSIDE = 8  # joints of a labelled person in the picture
POSE = 165


@dataclass(frozen=True)
class View:
    """A scene and its camera: eye (x, y, z), target, roll in degrees, focal lengths at both ends in pixels.

    on_its_side  images are stored turned, to be seen upright after a turn of 90 degrees clockwise
    """

    folder: str
    scene: str
    eye: tuple[float, float, float]
    target: tuple[float, float, float] = (0.0, 0.1, 0.85)
    roll: float = 0.0
    focal: tuple[float, float] = (1000.0, 1000.0)
    on_its_side: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Of the upright image."""
        return SIZE[::-1] if self.on_its_side else SIZE

    def camera(self, frame: int, frames: int) -> Camera:
        near, far = self.focal
        focal = near + (far - near) * frame / (frames - 1)
        width, height = self.size
        K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        pose = look_at(self.eye, self.target)
        turn = rotvec_to_matrix(torch.tensor([0.0, 0.0, np.deg2rad(self.roll)]).float())
        pose[:3] = turn @ pose[:3]
        return Camera(K, pose, self.size, torch.zeros(8))


HELD_OUT = View("20221022_3_250_batch01handhair_static_highSchoolGym", "static-gym-hair", (0.2, -3.4, 1.5))
TRAIN = (
    View(
        "20221011_1_250_batch01hand_closeup_suburb_a", "closeup-suburba", (0.1, -2.9, 1.3), on_its_side=True
    ),
    View("20221018_3-8_250_batch01hand_pitchDown52_stadium", "pitchdown-stadium", (0.3, -2.4, 3.4), roll=4),
    View("20221010_3-10_500_batch01hand_zoom_suburb_d", "zoom-suburbd", (0.4, -3.6, 1.4), focal=(900, 1200)),
)


def write(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """The scene of validation and test, and one to three scenes of training; one sequence each."""
    root = out / "BEDLAM"
    views = [*TRAIN[: size.recordings], HELD_OUT]
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [("Folder name", "Scene name"), *((view.folder, view.scene) for view in views)]
    )
    write_text(root / SCENE_NAMES, table.getvalue())
    for number, view in enumerate(views):
        genders = ["neutral"] * 2
        stage = make_stage((seed, number), size.frames, genders, SPOTS, bodies, (-0.5, -0.6), size.motions)
        _write_images(image_folder(root, view.folder), view, stage)
        tracks = [track for person in range(2) for track in _tracks(view, stage.actors[person], person)]
        write_tracks(label_file(root, view.folder), tracks)
        _write_generated(out / LABELS / f"{view.folder}_30fps.npz", tracks)
    return root


def image_name(frame: int) -> str:
    return f"seq_000000/seq_000000_{frame:04d}.png"


def _write_images(folder: Path, view: View, stage: Stage) -> None:
    frames = len(stage.actors[0].transl)
    for frame in range(frames):
        picture = Photographer(stage, view.camera(frame, frames)).picture(frame)
        if view.on_its_side:
            picture = cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE)
        write_image(folder / image_name(frame), picture)


def _tracks(view: View, actor: Actor, person: int) -> Iterator[dict[str, list[Any]]]:
    """Labels of one person, a new track after every frame without."""
    frames = len(actor.transl)
    track: dict[str, list[Any]] = {}
    for frame in range(frames):
        label = _label(view, actor, person, frame, frames)
        if label is None or (person, frame) == LOST:
            if track:
                yield track
            track = {}
            continue
        for key, value in label.items():
            track.setdefault(key, []).append(value)
    if track:
        yield track


def _label(view: View, actor: Actor, person: int, frame: int, frames: int) -> dict[str, Any] | None:
    """What the label generation says of a person in a frame; None if it sees too little of them."""
    camera = view.camera(frame, frames)
    pixels = camera.pixels(actor.output.joints[frame])
    inside = ((pixels >= 0) & (pixels < torch.tensor(camera.size))).all(-1)
    if inside.sum() < LEAST_INSIDE:
        return None
    center, scale = box_from_points(pixels[inside][None], MARGIN)
    cam_ext, stage2world = _world(camera.stage2cam, torch.tensor([*SPOTS[person], 0.0]))
    seen, standing = actor.parameters(camera.stage2cam), actor.parameters(stage2world)

    def pose(arrays: dict[str, np.ndarray]) -> np.ndarray:
        vector = np.concatenate([arrays["global_orient"][frame], arrays["body_pose"][frame]])
        return np.pad(vector, (0, POSE - len(vector)))

    return {
        "imgname": image_name(frame),
        "sub": f"rp_person{person}_posed_{person:03d}",
        "center": center[0].numpy(),
        "scale": scale[0].numpy(),
        "pose_cam": pose(seen),
        "pose_world": pose(standing),
        "shape": np.pad(actor.betas.numpy(), (0, 1)),  # neutral shapes have 11 numbers
        "trans_cam": seen["transl"][frame] - cam_ext[:3, 3].numpy(),
        "trans_world": standing["transl"][frame],
        "cam_int": camera.K.numpy(),
        "cam_ext": cam_ext.numpy(),
    }


def _world(stage2cam: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """A person's world → camera, and stage → that world: y down, the camera's heading, about `origin`."""
    ahead = torch.nn.functional.normalize(stage2cam[2, :3] * torch.tensor([1.0, 1.0, 0.0]), dim=0)
    down = torch.tensor([0.0, 0.0, -1.0])
    axes = torch.stack([torch.linalg.cross(down, ahead), down, ahead])
    stage2world, cam_ext = torch.eye(4), torch.eye(4)
    stage2world[:3, :3], stage2world[:3, 3] = axes, -axes @ origin
    cam_ext[:3, :3], cam_ext[:3, 3] = stage2cam[:3, :3] @ axes.T, transform(origin, stage2cam)
    return cam_ext, stage2world


def _write_generated(path: Path, tracks: list[dict[str, list[Any]]]) -> None:
    """All frames of all tracks as BEDLAM's label generation writes them: one array per key."""
    arrays = {key: np.array([value for track in tracks for value in track[key]]) for key in tracks[0]}
    arrays["gender"] = np.full(len(arrays["imgname"]), "neutral")
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)
