"""AMASS as arrays at 30 frames per second: where they lie and what is in them (spec: data 4.1).

    <root>/smpl_data_fps_30/<subset>/<subject>/<recording>.npy   (T, 178) parameters, see COLUMNS
    <root>/pose_data_fps_30/<subset>/<subject>/<recording>.npy   (T, 25, 3) first joints, z-up world, metres
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.io.atomic import atomic_path

PARAMETERS, JOINTS = "smpl_data_fps_30", "pose_data_fps_30"
NUM_JOINTS = 25  # the 22 of all bodies, jaw, left eye, right eye
WIDTH = 178
COLUMNS = {  # rotations are axis-angle
    "global_orient": slice(0, 3),
    "transl": slice(3, 6),
    "betas": slice(6, 16),
    "body_pose": slice(16, 79),
    "hand_pose": slice(79, 169),
    "jaw_pose": slice(169, 172),
    "left_eye_pose": slice(172, 175),
    "right_eye_pose": slice(175, 178),
}
MADE_BY = "scripts.preprocess.process_amass"


def find_recordings(root: Path, subsets: Iterable[str]) -> list[Path]:
    """Parameter files of these subsets, sorted by path; subsets that are not there have none."""
    return sorted(path for name in subsets for path in (root / PARAMETERS / name).glob("*/*.npy"))


def open_parameters(path: Path) -> NDArray:
    """(T, 178) numbers, read from the disk only where they are looked at; MoroError for anything else."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MoroError(f"cannot read {path} ({error}); make it again with python -m {MADE_BY}.") from error
    if array.ndim != 2 or array.shape[1] != WIDTH or array.dtype.kind != "f":
        raise MoroError(
            f"{path} is {array.dtype}{list(array.shape)}, not (T, {WIDTH}) numbers; "
            f"make it again with python -m {MADE_BY}."
        )
    return array


def split_parameters(rows: NDArray) -> dict[str, NDArray]:
    """(T, 178) to global_orient, transl (T, 3), betas (T, 10), body_pose (T, 63), copied from the disk."""
    needed = ("global_orient", "transl", "betas", "body_pose")
    return {key: np.array(rows[:, COLUMNS[key]], np.float32) for key in needed}


def write_recording(root: Path, name: str, parts: Mapping[str, NDArray], joints: NDArray) -> None:
    """Write both files of a recording.

    name    <subset>/<subject>/<recording>
    parts   arrays (T, n) by the keys of COLUMNS; those left out are zero
    joints  (T, 25, 3)
    """
    rows = np.zeros((len(joints), WIDTH), np.float32)
    for key, array in parts.items():
        rows[:, COLUMNS[key]] = array
    for folder, array in ((JOINTS, joints.astype(np.float32)), (PARAMETERS, rows)):
        with atomic_path(root / folder / f"{name}.npy") as temporary:
            np.save(temporary, array)
