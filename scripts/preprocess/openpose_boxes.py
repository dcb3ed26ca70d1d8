"""Boxes around OpenPose detections: what process_{egobody,prox}_bbox share (spec: data 5.2, 5.3)."""

import argparse
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from moro.errors import MoroError
from moro.geometry.boxes import MARGIN
from moro.io.array_cache import is_made_from, state_of
from moro.io.atomic import atomic_path
from moro.parallel import parallel_map

logger = logging.getLogger("boxes")

MIN_CONFIDENCE = 0.2
FIRST_BOX = (100.0, 100.0, 200.0, 200.0)  # until somebody is detected


@dataclass(frozen=True)
class Job:
    """One box file: the detection files in order, their frames' names, which of the people."""

    output: Path
    files: list[Path]
    frames: list[str]
    person: int


def boxes_of(detections: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Boxes frame by frame from points (N, 3) x, y, confidence; a frame without two points keeps the last.

    returns  bboxes (T, 4) x0, y0, x1, y1 · centers (T, 2) · scales (T,) side / 200 with margin · detected
             (T,) bool: frames whose box is their own
    """
    boxes, detected = [], []
    box = FIRST_BOX
    for points in detections:
        xy = points[points[:, 2] > MIN_CONFIDENCE, :2]
        detected.append(len(xy) >= 2)
        if detected[-1]:
            box = (*xy.min(axis=0), *xy.max(axis=0))
        boxes.append(box)
    bboxes = np.array(boxes, np.float64).reshape(-1, 4)
    low, high = bboxes[:, :2], bboxes[:, 2:]
    return {
        "bboxes": bboxes,
        "centers": (low + high) / 2,
        "scales": (high - low).max(axis=1) * MARGIN / 200,
        "detected": np.array(detected, bool),
    }


def read_person(path: Path, person: int) -> np.ndarray:
    """(N, 3) points of one person, (0, 3) if there is none; MoroError if the file is damaged."""
    try:
        people = json.loads(path.read_text(encoding="utf-8"))["people"]
        points = people[person]["pose_keypoints_2d"] if person < len(people) else []
        return np.asarray(points, np.float64).reshape(-1, 3)  # (3N,) -> (N, 3)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MoroError(f"cannot read the detections {path} ({error}); unpack them again.") from error


def make(job: Job, force: bool = False) -> bool:
    """Write one box file; False if it is there already, made from these files as they are now."""
    state = state_of(job.frames, job.person, *job.files)
    if not force and is_made_from(job.output, state):
        return False
    arrays = boxes_of(read_person(path, job.person) for path in job.files)
    with atomic_path(job.output) as temporary:
        np.savez(temporary, frame_names=np.array(job.frames, np.str_), state=np.array(state), **arrays)
    return True


def run(jobs: Sequence[Job], title: str, arguments: argparse.Namespace) -> None:
    """Make all box files; those that are there are kept, unless their detections have changed since."""
    if not jobs:
        raise MoroError(
            f"No detections found below {arguments.root}; give the data set's folder with --root."
        )
    work = partial(make, force=arguments.force)
    made = list(parallel_map(work, jobs, arguments.jobs, title))
    logger.info("%s: %d box files written, %d were there", title, sum(made), len(made) - sum(made))


def parse(description: str, root: str, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of both scripts; `root` is relative to the folder the script is started in."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(root), help=f"data set (default {root})")
    parser.add_argument("--recordings", nargs="*", help="only these recordings (default: all)")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes")
    parser.add_argument("--force", action="store_true", help="make files again that are there already")
    return parser.parse_args(argv)


def recordings(folder: Path, wanted: Sequence[str] | None) -> list[Path]:
    """Folders of the recordings below `folder`, all or those named; MoroError if one is not there."""
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
    lacking = [name for name in wanted or () if name not in found]
    if lacking:
        raise MoroError(f"{folder} has no {', '.join(lacking)}; check --recordings.")
    return [path for name, path in found.items() if not wanted or name in wanted]
