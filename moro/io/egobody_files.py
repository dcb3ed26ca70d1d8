"""EgoBody on disk: recordings, test sequences, cameras, folders (spec: data 4.4, 8.3)."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.geometry.lens import Lens
from moro.io.scenes import Boxes, read_boxes, read_json, read_lens, read_transform

MASTER = "master"
_KINECTS = {"sub_1": 11, "sub_2": 13, "sub_3": 14, "sub_4": 15}  # the master is 12
VIEWS = (MASTER, *_KINECTS)
BOX_SCRIPT = "scripts.preprocess.process_egobody_bbox"
FLOOR_HEIGHTS = {  # y of the floor in each scene's y-up world, metres
    "seminar_g110": -1.660,
    "seminar_d78": -0.810,
    "seminar_j716": -0.8960,
    "seminar_g110_0315": -0.73,
    "seminar_d78_0318": -1.03,
    "seminar_g110_0415": -0.77,
}
MIN_CONFIDENCE = 0.2  # of an OpenPose point
NUM_POINTS = 25
_COLUMNS = (
    "recording_name", "view", "target_idx", "target_gender", "scene_name", "body_idx_fpv",
    "target_start_frame", "target_end_frame",
)  # fmt: skip
_INFO_COLUMNS = ("recording_name", "scene_name", "body_idx_0", "body_idx_1", "body_idx_fpv")
_SUFFIXES = ("", "_train", "_val", "_test")  # of the folders of parameters as the release unpacks them


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


@dataclass(frozen=True)
class Recording:
    """A row of data_info_release.csv; genders of bodies 0 and 1."""

    scene: str
    genders: tuple[str, str]
    interactee_idx: int


def read_recordings(root: str | Path) -> dict[str, Recording]:
    """The rows of `<root>/data_info_release.csv` that are whole, by recording. MoroError if it is missing."""
    recordings = {}
    for row in _read_csv(Path(root) / "data_info_release.csv", _INFO_COLUMNS):
        entries = [(row[key] or "").split() for key in ("body_idx_0", "body_idx_1")]  # "0 female"
        fpv = (row["body_idx_fpv"] or "").split()
        whole = all(len(entry) == 2 and entry[1] in ("male", "female") for entry in entries)
        if whole and fpv and fpv[0].isdigit():
            name, genders = row["recording_name"].strip(), (entries[0][1], entries[1][1])
            recordings[name] = Recording(row["scene_name"].strip(), genders, int(fpv[0]))
    return recordings


def read_split(root: str | Path, split: str) -> list[str]:
    """Recordings of a split (train, val, test), from `<root>/data_splits.csv`."""
    entries = [(row[split] or "").strip() for row in _read_csv(Path(root) / "data_splits.csv", [split])]
    return [entry for entry in entries if entry and entry.lower() != "nan"]


def read_test_sequences(root: str | Path) -> list[TestSequence]:
    """All rows of `<root>/egobody_occ_info.csv`, in order. MoroError if it is missing or damaged."""
    path = Path(root) / "egobody_occ_info.csv"
    return [_sequence(row, path, number) for number, row in enumerate(_read_csv(path, _COLUMNS), start=2)]


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table that has these columns and is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; see docs/files.md where it comes from") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MoroError(f"{path} is not a readable table ({error}); fetch it again") from error
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        raise MoroError(f"{path} lacks the columns {', '.join(missing)}, or has no rows; fetch it again")
    return rows


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
    It lies in <body_type>_<role>, or in <body_type>_<role>_<split> as the release unpacks it.
    """
    role = "interactee" if body_idx == interactee_idx else "camera_wearer"
    below = Path(recording) / f"body_idx_{body_idx}" / "results"
    folders = [Path(root) / f"{body_type}_{role}{suffix}" / below for suffix in _SUFFIXES]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def calibration_file(root: str | Path, recording: str, scene: str, view: str) -> Path:
    """From a view to the master camera; from the master to the scene's world."""
    folder = Path(root) / "calibrations" / recording / "cal_trans"
    if view == MASTER:
        return folder / "kinect12_to_world" / f"{scene}.json"
    if view not in _KINECTS:
        raise MoroError(f"EgoBody has no view {view!r}; use {', '.join(VIEWS)}")
    return folder / f"kinect_{_KINECTS[view]}to12_color.json"


def master_to_world(root: str | Path, recording: str, scene: str) -> NDArray:
    """(4, 4) master colour camera → y-up world of the scene."""
    return read_transform(calibration_file(root, recording, scene, MASTER), "trans")


def view_to_master(root: str | Path, recording: str, view: str) -> NDArray:
    """(4, 4) camera of a view → master colour camera."""
    if view == MASTER:
        return np.eye(4)
    return read_transform(calibration_file(root, recording, "", view), "trans")


def lens_file(root: str | Path, view: str) -> Path:
    """Intrinsics of a view's colour camera."""
    return Path(root) / "kinect_cam_params" / f"kinect_{view}" / "Color.json"


def view_lens(root: str | Path, view: str) -> Lens:
    """Lens of a view's colour camera."""
    return read_lens(lens_file(root, view))


def image_folder(root: str | Path, recording: str, view: str) -> Path:
    """Folder of frame_00000.jpg, ..."""
    return Path(root) / "kinect_color" / recording / view


def keypoint_folder(root: str | Path, recording: str, view: str) -> Path:
    """Folder of the OpenPose files."""
    return Path(root) / "keypoints_cleaned" / recording / view


def read_keypoints(root: str | Path, recording: str, view: str, frame: str, body_idx: int) -> NDArray:
    """(25, 3) x, y, confidence of OpenPose in the raw image; zeros where it is unsure or saw nobody."""
    path = keypoint_folder(root, recording, view) / f"{frame}_keypoints.json"
    people = read_json(path).get("people", []) if path.is_file() else []
    points = people[body_idx].get("pose_keypoints_2d", []) if body_idx < len(people) else []
    if len(points) != 3 * NUM_POINTS:
        return np.zeros((NUM_POINTS, 3), np.float32)
    points = np.asarray(points, np.float32).reshape(NUM_POINTS, 3)  # (75,) -> (25, 3)
    return np.where(points[:, 2:] > MIN_CONFIDENCE, points, 0)


def box_file(root: str | Path, recording: str, view: str, body_idx: int) -> Path:
    """Boxes made by the preprocessing (spec: data 5.2)."""
    return keypoint_folder(root, recording, view) / f"bbox_idx{body_idx}.npz"


def person_boxes(root: str | Path, recording: str, view: str, body_idx: int) -> Boxes:
    """Boxes of one person in one view, in pixels of the raw image."""
    return read_boxes(box_file(root, recording, view, body_idx), BOX_SCRIPT)
