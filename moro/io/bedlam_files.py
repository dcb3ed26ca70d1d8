"""BEDLAM on disk: scenes, images, labels of every rendered person (spec: data 4.2, 5.6).

    <root>/bedlam_scene_names.csv             columns "Folder name", "Scene name" (from BEDLAM's repository)
    <root>/processed_labels/<folder>.pkl      {key: [per track: [per frame: value]]}, see LABELS
    <root>/images/<folder>/png/<imgname>
"""

import csv
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.io.pickles import load_pickle

SCENE_NAMES = "bedlam_scene_names.csv"
MADE_BY = "scripts.preprocess.process_bedlam_labels"
# What a frame's label holds, and how much of it is read: poses begin with the root and the 21 body joints,
# neutral shapes have 11 numbers.
LABELS: dict[str, tuple[int, ...]] = {
    "center": (2,),  # pixels of the upright image
    "scale": (),  # box side / 200
    "pose_cam": (66,),  # axis-angle, root in the camera frame
    "pose_world": (3,),  # the root alone, in the world
    "shape": (10,),
    "trans_cam": (3,),  # metres, relative to cam_ext's translation
    "cam_int": (3, 3),
    "cam_ext": (4, 4),  # world → camera
}
TEXTS = ("imgname", "sub")


@dataclass(frozen=True)
class Tracks:
    """Labels of N frames: those of the first person in one image sequence, then those of the next, K in all.

    arrays   as in LABELS, each (N, ...) float32
    images   (N,) bytes, below images/<folder>/png
    first    (K+1,) row at which each track begins, then N
    subjects (K,) str
    """

    arrays: dict[str, NDArray]
    images: NDArray
    first: NDArray
    subjects: NDArray


def label_file(root: Path, folder: str) -> Path:
    return root / "processed_labels" / f"{folder}.pkl"


def image_folder(root: Path, folder: str) -> Path:
    return root / "images" / folder / "png"


def read_scene_names(root: Path) -> dict[str, str]:
    """Scene name → folder name. MoroError if the table is missing or another one."""
    path = root / SCENE_NAMES
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {row["Scene name"].strip(): row["Folder name"].strip() for row in rows}
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; it is a file of BEDLAM's repository, put it there.") from error
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as error:
        raise MoroError(f'{path} is no table with columns "Folder name" and "Scene name".') from error


def read_tracks(path: Path) -> Tracks:
    """Read a label file. MoroError if it is missing, damaged, or its values do not fit together."""
    content = load_pickle(path)
    lacking = [key for key in (*LABELS, *TEXTS) if not isinstance(content, dict) or key not in content]
    if lacking:
        raise MoroError(f"{path} lacks {', '.join(lacking)}; make it again with python -m {MADE_BY}.")
    lengths = [len(track) for track in content["imgname"]]
    for key in LABELS:
        if [len(track) for track in content[key]] != lengths:
            raise MoroError(f"{path}: {key} does not fit imgname; make it again with python -m {MADE_BY}.")
    used = [number for number, length in enumerate(lengths) if length]
    if not used:
        raise MoroError(f"{path} holds no labels; make it again with python -m {MADE_BY}.")
    return Tracks(
        arrays={key: _stack([content[key][track] for track in used], key, path) for key in LABELS},
        images=np.concatenate([np.array(content["imgname"][track], dtype=np.bytes_) for track in used]),
        first=np.cumsum([0, *(lengths[track] for track in used)]),
        subjects=np.array([_subject(content["sub"][track]) for track in used]),
    )


def _subject(track: str | Sequence[str]) -> str:
    """Of a track, or of its first frame."""
    return track if isinstance(track, str) else str(track[0])


def _stack(tracks: Sequence[Sequence[NDArray]], key: str, path: Path) -> NDArray:
    """(N, *LABELS[key]) float32 of all tracks; longer vectors are cut."""
    shape = LABELS[key]
    try:
        rows = np.concatenate([np.asarray(track, np.float32) for track in tracks])
    except (TypeError, ValueError) as error:
        raise MoroError(f"{path}: {key} is not as expected ({error}); make it again.") from error
    rows = rows[:, : shape[0]] if len(shape) == 1 and rows.ndim == 2 else rows
    rows = rows[:, 0] if shape == () and rows.shape[1:] == (1,) else rows
    if rows.shape[1:] != shape or not np.isfinite(rows).all():
        found = list(rows.shape[1:])
        raise MoroError(f"{path}: {key} is {found} per frame instead of {list(shape)}, or not finite.")
    return rows


def write_tracks(path: Path, tracks: Sequence[Mapping[str, Sequence]]) -> None:
    """Write a label file: for each track the keys of LABELS and TEXTS, each a sequence over frames.

    Poses are kept whole; shapes are cut to the 10 numbers that the original passes on as they are.
    """
    content = {key: [track[key] for track in tracks] for key in (*LABELS, *TEXTS)}
    content["shape"] = [np.asarray(track)[:, : LABELS["shape"][0]] for track in content["shape"]]
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=4))
