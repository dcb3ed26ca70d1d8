"""A small RICH: one person per recording, full-resolution images, scan calibration (spec: data 4.5)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moro.geometry.boxes import box_from_points
from moro.io.atomic import atomic_path
from moro.io.scenes import write_image
from moro.synth.worlds import WorldSize
from moro.synth.worlds.stage import (
    Actor,
    Camera,
    Photographer,
    look_at,
    make_stage,
    write_json,
    write_text,
)

SIZE = (4112, 3008)
UNLABELLED = 1  # images before the first labelled one, so that frame_id says something
# vid's sequence, camera, scan of the capture, gender
RECORDINGS = (
    ("Gym_013_burpee4", 6, "scan_camcoord", "male"),
    ("ParkingLot2_009_overfence1", 4, "scan_camcoord", "female"),
    ("LectureHall_021_sidebalancerun1", 0, "scan_chair_scene_camcoord", "male"),
)
# The calibration's world is the frame of its first camera, y down.
STAGE2WORLD = look_at((1.5, -4.0, 1.9), (0.0, 0.0, 0.9))


def write(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """Up to three recordings of one camera each, in the test split."""
    root = out / "rich"
    labels, boxes, scans, lines = {}, {}, {}, []
    for number, (sequence, view, scan, gender) in enumerate(RECORDINGS[: size.recordings]):
        camera = _camera(number)
        stage = make_stage(
            (seed, number), size.frames, [gender], [(0.0, 0.0)], bodies, (-0.2, -0.8), size.motions
        )
        (actor,) = stage.actors
        video = f"test/{sequence}/cam_{view:02d}"
        _write_images(root / "images" / video, Photographer(stage, camera), view, size.frames)
        capture = sequence.split("_")[0]
        calibration = root / "scan_calibration" / capture / "calibration" / f"{view:03d}.xml"
        write_text(calibration, _calibration_xml(camera))
        labels[video], boxes[video] = _labels(actor), _boxes(actor, camera)
        scans[f"{capture}_{scan}"] = torch.linalg.inv(STAGE2WORLD.double())
        lines.append(f"{sequence}\t{capture}\t{scan}\t{number:03d}\t0\t{gender}\t[{view}]")
    for name, content in (("labels", labels), ("preproc", boxes)):
        with atomic_path(root / "hmr4d_support" / f"rich_test_{name}.pt") as path:
            torch.save(content, path)
    write_json(root / "resource" / "w2az_sahmr.json", scans)
    header = "sequence_name\tcapture_name\tscan_name\tsubject_id\tmoving_cam\tgender\tview_id"
    write_text(root / "resource" / "test.txt", "\n".join([header, *lines]) + "\n")
    return root


def _camera(number: int) -> Camera:
    """Not the calibration's first camera; without lens distortion, which the format ignores."""
    K = torch.tensor([[3700.0, 0, 2061.0], [0, 3702.0, 1487.0], [0, 0, 1]])
    eye = (-1.8 + 3.4 * (number % 2), -4.2, 2.2)
    return Camera(K, look_at(eye, (0.0, 0.0, 0.85)), SIZE, torch.zeros(8))


def _write_images(folder: Path, photographer: Photographer, view: int, frames: int) -> None:
    for frame in range(frames):
        image = photographer.picture(frame)
        numbers = [frame + UNLABELLED] if frame else range(UNLABELLED + 1)
        for number in numbers:
            write_image(folder / f"{number + 100:05d}_{view:02d}.jpeg", image)


def _labels(actor: Actor) -> dict[str, object]:
    parameters = {key: torch.from_numpy(value) for key, value in actor.parameters(STAGE2WORLD).items()}
    frames = len(actor.transl)
    return {
        "frame_id": torch.arange(UNLABELLED, UNLABELLED + frames),
        "gt_smplx_params": parameters,
        "gender": actor.gender,
    }


def _boxes(actor: Actor, camera: Camera) -> dict[str, object]:
    center, scale = box_from_points(camera.pixels(actor.output.vertices))
    frames = len(center)
    return {
        "bbx_xys": torch.cat([center, 200 * scale[:, None]], dim=1),
        "img_wh": torch.tensor(camera.size),
        "kp2d": torch.zeros(frames, 17, 3),
        "f_imgseq": torch.zeros(frames, 1024),
    }


def _calibration_xml(camera: Camera) -> str:
    """OpenCV's storage format."""
    world2cam = camera.stage2cam.double() @ torch.linalg.inv(STAGE2WORLD.double())
    nodes = {"CameraMatrix": world2cam[:3], "Intrinsics": camera.K, "Distortion": torch.zeros(1, 5)}
    body = "".join(_matrix_node(name, matrix) for name, matrix in nodes.items())
    return f'<?xml version="1.0"?>\n<opencv_storage>\n{body}</opencv_storage>\n'


def _matrix_node(name: str, matrix: Tensor) -> str:
    numbers = " ".join(f"{value:.17g}" for value in np.asarray(matrix, np.float64).ravel())
    rows, columns = matrix.shape
    return (
        f'<{name} type_id="opencv-matrix">\n  <rows>{rows}</rows>\n  <cols>{columns}</cols>\n'
        f"  <dt>d</dt>\n  <data>\n    {numbers}</data></{name}>\n"
    )
