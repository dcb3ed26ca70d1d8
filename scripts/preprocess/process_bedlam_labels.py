"""BEDLAM's labels by person and image sequence: processed_labels/*.pkl (spec: data 4.2, 5.6).

    python -m scripts.preprocess.process_bedlam_labels --labels <folder of npz> [--root <BEDLAM>] [--jobs 8]

The npz files, one per image folder and named after it, are what BEDLAM's own label generation (in its
repository, `data_processing`) writes for the neutral body at 30 frames per second: imgname, sub, center,
scale, pose_cam, pose_world, shape, trans_cam, cam_int, cam_ext, one row per person and image. It leaves out
people who are hardly in the picture; a track ends there and a new one begins afterwards, so that clips have
no gaps in time. Can be interrupted and started again.
"""

import argparse
import logging
import os
import re
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.errors import MoroError, run_script
from moro.io.bedlam_files import LABELS, SCENE_NAMES, TEXTS, label_file, read_scene_names, write_tracks
from moro.parallel import parallel_map

logger = logging.getLogger("process_bedlam_labels")

FPS_SUFFIX = re.compile(r"_\d+fps$")
FRAME = re.compile(r"(\d+)\.\w+$")  # seq_000000/seq_000000_0012.png
MOTION = "motion_info"  # tells apart two motions of one subject, where it is there


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    files = sorted(args.labels.glob("*.npz"))
    if not files:
        raise MoroError(f"{args.labels} has no npz files; give BEDLAM's labels at 30 fps with --labels.")
    sources = {FPS_SUFFIX.sub("", path.stem): path for path in files}
    known = read_scene_names(args.root) if (args.root / SCENE_NAMES).is_file() else {}
    lacking = sorted(set(known.values()) - set(sources))
    if lacking:
        logger.warning("%s has no labels of %s", args.labels, ", ".join(lacking))
    work = partial(convert, root=args.root, force=args.force)
    made = list(parallel_map(work, list(sources.items()), args.jobs, "BEDLAM labels"))
    written = [counts for counts in made if counts is not None]
    logger.info(
        "%d label files written with %d tracks of %d frames, %d were there",
        len(written),
        sum(tracks for tracks, _ in written),
        sum(frames for _, frames in written),
        len(made) - len(written),
    )


def convert(source: tuple[str, Path], root: Path, force: bool = False) -> tuple[int, int] | None:
    """Write the label file of one image folder; its numbers of tracks and frames, None if it was there.

    source  name of the image folder, npz file. Raises MoroError if that is not what it should be.
    """
    folder, path = source
    output = label_file(root, folder)
    if not force and output.is_file() and output.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return None
    columns = _read(path)
    rows = tracks_of(columns, path)
    write_tracks(output, [{key: _track(columns[key], track) for key in (*LABELS, *TEXTS)} for track in rows])
    return len(rows), sum(len(track) for track in rows)


def tracks_of(columns: dict[str, np.ndarray], path: Path) -> list[np.ndarray]:
    """Row numbers of each track: one person in one image sequence, in consecutive images.

    Rows of a person must be in the order of time; people may be mixed.
    Raises MoroError if the labels are not of every image.
    """
    images = [str(name) for name in columns["imgname"]]
    numbers = [FRAME.search(name) for name in images]
    if not all(numbers):
        raise MoroError(f"{path}: {images[numbers.index(None)]} is no numbered image of a sequence.")
    motions = columns.get(MOTION, columns["sub"])
    people: dict[tuple[str, ...], list[int]] = {}
    for row, (name, subject, motion) in enumerate(zip(images, columns["sub"], motions)):
        people.setdefault((name.rpartition("/")[0], str(subject), str(motion)), []).append(row)
    frame = np.array([int(match[1]) for match in numbers])
    steps = np.concatenate([np.diff(frame[rows]) for rows in people.values()])
    if len(steps) and np.median(steps) != 1:
        raise MoroError(
            f"{path} has labels of every {np.median(steps):.0f}th image; make them at 30 frames per second."
        )
    return [
        track
        for rows in map(np.array, people.values())
        for track in np.split(rows, np.flatnonzero(np.diff(frame[rows]) != 1) + 1)
    ]


def _track(column: np.ndarray, rows: np.ndarray) -> np.ndarray | list[str]:
    values = column[rows]
    return [str(value) for value in values] if values.dtype.kind in "US" else values


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {key: file[key] for key in (*LABELS, *TEXTS)}
            if MOTION in file.files:
                columns[MOTION] = file[MOTION]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MoroError(f"{path} holds no labels of BEDLAM ({error}); make it again.") from error
    for key, column in columns.items():
        if len(column) != len(columns["imgname"]) or not len(column):
            raise MoroError(f"{path}: {key} has {len(column)} rows for {len(columns['imgname'])} images.")
        if column.dtype.kind == "S":
            columns[key] = np.char.decode(column)
    return columns


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=Path, required=True, help="folder of BEDLAM's npz at 30 fps")
    parser.add_argument("--root", type=Path, default=Path("datasets/mask_transformer/BEDLAM"))
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes")
    parser.add_argument("--force", action="store_true", help="make files again that are there already")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
