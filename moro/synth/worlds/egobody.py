"""A small EgoBody: two people in a room, a master Kinect and one or two others (spec: data 4.4)."""

import csv
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moro.io.atomic import atomic_path
from moro.io.scenes import write_image
from moro.synth.worlds import WorldSize
from moro.synth.worlds.stage import (
    Actor,
    Camera,
    Photographer,
    Stage,
    intrinsics_json,
    look_at,
    make_stage,
    write_json,
    write_openpose,
    write_pickle,
    write_text,
)

SIZE = (1920, 1080)
FIRST_FRAME = 40  # recordings do not start at frame 0
UNDETECTED = 2  # in this frame of a recording nobody finds person 0
MARGIN = 1  # frames at both ends that the evaluation leaves out
# Recordings of the debug presets: name, second view, scene. More get made-up names.
RECORDINGS = (
    ("recording_20220318_S33_S34_01", "sub_3", "seminar_d78_0318"),
    ("recording_20211004_S19_S06_01", "sub_1", "seminar_g110"),
    ("recording_20220315_S21_S30_03", "sub_2", "seminar_g110_0315"),
)
FLOOR = {"seminar_d78_0318": -1.03, "seminar_g110": -1.66, "seminar_g110_0315": -0.73}  # y
TO_MASTER = {"sub_1": "kinect_11to12_color", "sub_2": "kinect_13to12_color", "sub_3": "kinect_14to12_color"}
EYES = {
    "master": (0.2, -3.4, 1.5),
    "sub_1": (3.2, -1.4, 1.6),
    "sub_2": (-3.2, 0.8, 1.4),
    "sub_3": (-2.6, -2.2, 1.7),
}
FOCAL = {"master": 910.0, "sub_1": 905.0, "sub_2": 915.0, "sub_3": 912.0}
DISTORTION = (0.10, -0.09, 0.0006, -0.0004, 0.02, 0.02, -0.01, 0.004)
GENDERS = ("female", "male")
SPOTS = ((-0.45, 0.1), (0.55, 0.25))


def write(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """The first recording is val and test, the others train; with one recording it is all three."""
    root = out / "EgoBody"
    names = [_recording(number) for number in range(size.recordings)]
    for number, (name, view, scene) in enumerate(names):
        stage = make_stage((seed, number), size.frames, GENDERS, SPOTS, bodies, (-0.5, -0.75), size.motions)
        _write_recording(root, name, ("master", view), scene, stage)
    for view in EYES:
        write_json(
            root / "kinect_cam_params" / f"kinect_{view}" / "Color.json", intrinsics_json(_camera(view))
        )
    _write_lists(root, names, size.frames)
    return root


def _recording(number: int) -> tuple[str, str, str]:
    if number < len(RECORDINGS):
        return RECORDINGS[number]
    return f"recording_20210101_S{number:02d}_S{number + 1:02d}_01", "sub_1", "seminar_g110"


def _camera(view: str) -> Camera:
    focal = FOCAL[view]
    K = torch.tensor([[focal, 0, 957.5], [0, focal - 1, 548.0], [0, 0, 1]])
    return Camera(K, look_at(EYES[view], (0.0, 0.1, 0.85)), SIZE, torch.tensor(DISTORTION))


def stage2scene(scene: str) -> Tensor:
    """(4, 4) to the scene's y-up world, whose floor is at y = FLOOR[scene]; turned to be no identity."""
    turn = torch.tensor([[0.8, -0.6, 0, 0.3], [0, 0, 1, FLOOR[scene]], [-0.6, -0.8, 0, -0.4], [0, 0, 0, 1]])
    return turn.float()


def _write_recording(root: Path, name: str, views: tuple[str, ...], scene: str, stage: Stage) -> None:
    master = _camera("master").stage2cam
    calibration = root / "calibrations" / name / "cal_trans"
    world = stage2scene(scene) @ torch.linalg.inv(master)
    write_json(calibration / "kinect12_to_world" / f"{scene}.json", {"trans": world})
    for view in views:
        camera = _camera(view)
        if view in TO_MASTER:
            to_master = master @ torch.linalg.inv(camera.stage2cam)
            write_json(calibration / f"{TO_MASTER[view]}.json", {"trans": to_master})
        _write_view(root, name, view, Photographer(stage, camera))
    for person, actor in enumerate(stage.actors):
        _write_parameters(root, name, person, actor, master)


def _write_view(root: Path, name: str, view: str, photographer: Photographer) -> None:
    actors = photographer.stage.actors
    visible = []
    for frame in range(len(actors[0].transl)):
        stem = frame_name(frame)
        write_image(root / "kinect_color" / name / view / f"{stem}.jpg", photographer.picture(frame))
        people = [photographer.openpose(frame, person) for person in range(len(actors))]
        if frame == UNDETECTED:
            people[0] = np.zeros_like(people[0])
        write_openpose(root / "keypoints_cleaned" / name / view / f"{stem}_keypoints.json", people)
        visible.append(photographer.visible(actors[0].output.joints[frame], frame, 0))
    with atomic_path(root / "mask_joint" / name / view / "mask_joint.npy") as path:
        np.save(path, np.stack(visible)[MARGIN : len(visible) - MARGIN].astype(np.float32))


def _write_parameters(root: Path, name: str, person: int, actor: Actor, stage2master: Tensor) -> None:
    """SMPL-X and, with two more joints, SMPL-H parameters of every frame; person 1 wears the headset."""
    role = "camera_wearer" if person == 1 else "interactee"
    arrays = actor.parameters(stage2master)
    for model, extra in (("smplx", 0), ("smpl", 6)):
        folder = root / f"{model}_{role}" / name / f"body_idx_{person}" / "results"
        for frame in range(len(actor.transl)):
            row = {key: value[frame : frame + 1] for key, value in arrays.items()}
            row["body_pose"] = np.pad(row["body_pose"], ((0, 0), (0, extra)))
            row["gender"] = actor.gender
            write_pickle(folder / frame_name(frame) / "000.pkl", row)


def frame_name(frame: int) -> str:
    return f"frame_{FIRST_FRAME + frame:05d}"


def _write_lists(root: Path, names: list[tuple[str, str, str]], frames: int) -> None:
    last = FIRST_FRAME + frames - 1
    info = [
        [
            "recording_name",
            "scene_name",
            "body_idx_0",
            "body_idx_1",
            "body_idx_fpv",
            "start_frame",
            "end_frame",
        ]
    ]
    occluded = [
        ["recording_name", "view", "target_idx", "target_gender", "scene_name", "body_idx_fpv",
         "target_start_frame", "target_end_frame"]
    ]  # fmt: skip
    for name, view, scene in names:
        info.append([name, scene, f"0 {GENDERS[0]}", f"1 {GENDERS[1]}", f"0 {GENDERS[0]}", FIRST_FRAME, last])
        occluded.append(
            [name, view, 0, GENDERS[0], scene, f"0 {GENDERS[0]}", FIRST_FRAME + MARGIN, last - MARGIN]
        )
    train = [name for name, *_ in names[1:]] or [names[0][0]]
    splits = [["train", "val", "test"]]
    splits += [[name, *(names[0][0] if row == 0 else "" for _ in range(2))] for row, name in enumerate(train)]
    _write_csv(root / "data_info_release.csv", info)
    _write_csv(root / "data_splits.csv", splits)
    _write_csv(root / "egobody_occ_info.csv", occluded[:2])  # the test recording


def _write_csv(path: Path, rows: list[list[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
