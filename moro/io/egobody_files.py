"""EgoBody on disk: test sequences, cameras, folders (spec: data 4.4, 8.3)."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.io.scenes import Lens, read_lens, read_transform

IMAGE_SIZE = (1080, 1920)  # H, W
MASTER = "master"
FLOOR_HEIGHTS = {  # y of the floor in each scene's y-up world, metres
    "seminar_g110": -1.660,
    "seminar_d78": -0.810,
    "seminar_j716": -0.8960,
    "seminar_g110_0315": -0.73,
    "seminar_d78_0318": -1.03,
    "seminar_g110_0415": -0.77,
}
_KINECTS = {"sub_1": 11, "sub_2": 13, "sub_3": 14, "sub_4": 15}  # the master is 12
_COLUMNS = (
    "recording_name", "view", "target_idx", "target_gender", "scene_name", "body_idx_fpv",
    "target_start_frame", "target_end_frame",
)  # fmt: skip


@dataclass(frozen=True)
class TestSequence:
    """A row of egobody_occ_info.csv: one person in one view; frames start..end count for the evaluation."""

    recording: str
    view: str
    body_idx: int
    gender: str
    scene: str
    interactee_idx: int  # the other person wears the camera
    start_frame: int
    end_frame: int

    @property
    def name(self) -> str:
        """Folder of the sequence's results."""
        return f"{self.recording}/{self.view}/body_idx_{self.body_idx}"


def read_test_sequences(root: str | Path) -> list[TestSequence]:
    """All rows of `<root>/egobody_occ_info.csv`, in order. MoroError if it is missing or damaged."""
    path = Path(root) / "egobody_occ_info.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; it comes with MoRo's data, see docs/files.md") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MoroError(f"{path} is not a readable table ({error}); fetch it again") from error
    missing = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise MoroError(f"{path} lacks the columns {', '.join(missing)}, or has no rows; fetch it again")
    return [_sequence(row, path, number) for number, row in enumerate(rows, start=2)]


def _sequence(row: dict[str, str], path: Path, line: int) -> TestSequence:
    try:
        return TestSequence(
            recording=row["recording_name"].strip(),
            view=row["view"].strip(),
            body_idx=int(float(row["target_idx"])),
            gender=row["target_gender"].strip(),
            scene=row["scene_name"].strip(),
            interactee_idx=int(row["body_idx_fpv"].split()[0]),
            start_frame=int(float(row["target_start_frame"])),
            end_frame=int(float(row["target_end_frame"])),
        )
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise MoroError(f"{path}, line {line}, is damaged ({error}); fetch the file again") from error


def parameter_folder(
    root: str | Path, body_type: str, recording: str, body_idx: int, interactee_idx: int
) -> Path:
    """Folder of a person's parameters; they are in the master camera's frame.

    body_type  smplx (training data) or smpl (evaluation)
    """
    role = "interactee" if body_idx == interactee_idx else "camera_wearer"
    return Path(root) / f"{body_type}_{role}" / recording / f"body_idx_{body_idx}" / "results"


def master_to_world(root: str | Path, recording: str, scene: str) -> NDArray:
    """(4, 4) master colour camera → y-up world of the scene."""
    return read_transform(_calibration(root, recording) / "kinect12_to_world" / f"{scene}.json", "trans")


def view_to_master(root: str | Path, recording: str, view: str) -> NDArray:
    """(4, 4) camera of a view → master colour camera."""
    if view == MASTER:
        return np.eye(4)
    if view not in _KINECTS:
        raise MoroError(f"EgoBody has no view {view!r}; use {MASTER} or {', '.join(_KINECTS)}")
    return read_transform(_calibration(root, recording) / f"kinect_{_KINECTS[view]}to12_color.json", "trans")


def view_lens(root: str | Path, view: str) -> Lens:
    """Intrinsics of a view's colour camera."""
    return read_lens(Path(root) / "kinect_cam_params" / f"kinect_{view}" / "Color.json")


def image_folder(root: str | Path, recording: str, view: str) -> Path:
    """Folder of frame_00000.jpg, ..."""
    return Path(root) / "kinect_color" / recording / view


def keypoint_folder(root: str | Path, recording: str, view: str) -> Path:
    """Folder of the OpenPose files and of bbox_idx{0,1}.npz."""
    return Path(root) / "keypoints_cleaned" / recording / view


def _calibration(root: str | Path, recording: str) -> Path:
    return Path(root) / "calibrations" / recording / "cal_trans"
