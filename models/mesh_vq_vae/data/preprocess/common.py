"""Shared steps: choose frames of every motion file, join them, write one npz per split (spec: data 5.1)."""

import argparse
import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from moro.errors import MoroError
from moro.io.array_cache import is_made_from, state_of
from moro.io.atomic import atomic_path
from moro.parallel import parallel_map

NUM_BETAS = 10
logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]
Read = Callable[["np.lib.npyio.NpzFile"], Arrays | None]


@dataclass(frozen=True)
class Motion:
    """One motion file and the name its samples get."""

    path: Path
    name: str


@dataclass
class Summary:
    """What became of the files of one split."""

    used: int = 0
    skipped: list[Path] = field(default_factory=list)  # files without a pose (shapes alone)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    samples: int = 0


def kept_frames(num_frames: int, trim: float, skip: int) -> np.ndarray:
    """Indices int(trim T), + skip, … below int((1 - trim) T); frames of the file, whatever their rate."""
    return np.arange(int(trim * num_frames), int((1 - trim) * num_frames), skip)


def amass_fields(file: "np.lib.npyio.NpzFile") -> Arrays | None:
    """pose_body (T, 63), root_orient (T, 3), betas, gender of AMASS or BEDLAM; None if there are no poses."""
    if "poses" not in file.files:
        return None
    poses = file["poses"]
    return {"pose_body": poses[:, 3:66], "root_orient": poses[:, :3], "betas": file["betas"],
            "gender": file["gender"]}


def moyo_fields(file: "np.lib.npyio.NpzFile") -> Arrays:
    return {name: file[name] for name in ("pose_body", "root_orient", "betas", "gender")}


def build_split(motions: Iterable[Motion], read: Read, trim: float, skip: int, output: Path,
                jobs: int = 1) -> Summary:
    """Write one split's npz (spec: data 3.1). An interrupted run goes on where it was.

    motions  in the order of the result; read  fields of an open file, None for a file to leave out
    output   <split>.npz; finished parts are kept beside it, in .<split>.parts, until it is written
    jobs     processes
    Files that cannot be read are reported and left out. MoroError if nothing is left.
    """
    motions, summary, parts = list(motions), Summary(), []
    state = _state(motions, trim, skip)  # before they are read
    folder = output.parent / f".{output.stem}.parts"
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(_make_part, folder=folder, read=read, trim=trim, skip=skip)
    for motion, made in zip(motions, parallel_map(work, motions, jobs, output.stem)):
        if isinstance(made, Path):
            parts.append(made)
        elif made is None:
            summary.skipped.append(motion.path)
        else:
            summary.failed.append((motion.path, made))
    summary.used = len(parts)
    if not parts:
        raise MoroError(f"No motion for {output}: {len(motions)} files found, {len(summary.failed)} "
                        "unreadable; check the root folder.")
    joined = _join(parts)
    summary.samples = len(joined["gender"])
    with atomic_path(output) as temporary:
        np.savez(temporary, state=np.array(state), **joined)
    shutil.rmtree(folder)
    _report(output, summary)
    return summary


def parse(description: str, default_output: str, argv: list[str] | None) -> argparse.Namespace:
    """Arguments all three scripts share. MoroError if the root is no folder."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--root", type=Path, required=True, help="folder of the unpacked data set")
    result.add_argument("--output", type=Path, default=Path(default_output), help="folder of the npz files")
    result.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes")
    result.add_argument("--force", action="store_true", help="make splits again that are there already")
    arguments = result.parse_args(argv)
    if not arguments.root.is_dir():
        raise MoroError(f"{arguments.root} is not a folder; give the unpacked data set with --root.")
    return arguments


def run(splits: dict[str, list[Motion]], read: Read, trim: float, skip: int,
        arguments: argparse.Namespace) -> None:
    """Build every split that is not there, or was made from other files. MoroError if one has no motions."""
    for split, motions in splits.items():
        output = arguments.output / f"{split}.npz"
        if is_made_from(output, _state(motions, trim, skip)) and not arguments.force:
            logger.info("%s is there already (--force makes it again)", output)
        else:
            build_split(motions, read, trim, skip, output, arguments.jobs)


def _state(motions: list[Motion], trim: float, skip: int) -> str:
    """All that a split's file depends on."""
    files = [motion.path for motion in motions if motion.path.is_file()]  # a broken link is reported later
    return state_of(trim, skip, [motion.name for motion in motions], *files)


def _make_part(motion: Motion, folder: Path, read: Read, trim: float, skip: int) -> Path | str | None:
    """File with one motion's samples, made if it is not there; None without poses, a text if it fails."""
    try:
        status = motion.path.stat()
        source = f"{motion.path.resolve()} {status.st_size} {status.st_mtime_ns} {motion.name} {trim} {skip}"
        part = folder / f"{sha256(source.encode()).hexdigest()[:24]}.npz"
        if part.is_file():
            return part
        fields = _extract(motion, read, trim, skip)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile,
            pickle.UnpicklingError) as error:
        return f"{type(error).__name__}: {error}"
    if fields is None:
        return None
    with atomic_path(part) as temporary:
        np.savez(temporary, **fields)
    return part


def _extract(motion: Motion, read: Read, trim: float, skip: int) -> Arrays | None:
    """The samples of one file."""
    with np.load(motion.path, allow_pickle=False) as file:
        fields = read(file)
    if fields is None:
        return None
    T = len(fields["pose_body"])
    kept = kept_frames(T, trim, skip)
    pose, orient = fields["pose_body"][kept], fields["root_orient"][kept]
    betas = np.asarray(fields["betas"], np.float64).reshape(-1, np.shape(fields["betas"])[-1])  # (1 or T, B)
    betas = betas[kept] if len(betas) == T > 1 else betas[:1]
    if pose.shape[1:] != (63,) or orient.shape[1:] != (3,) or betas.shape[1] < NUM_BETAS:
        raise ValueError(f"pose {pose.shape}, root {orient.shape} or betas {betas.shape} of unexpected shape")
    gender = np.asarray(fields["gender"]).item()
    gender = gender.decode() if isinstance(gender, bytes) else str(gender)
    return {
        "pose_body": pose.astype(np.float64), "root_orient": orient.astype(np.float64),
        "betas": np.broadcast_to(betas[:, :NUM_BETAS], (len(kept), NUM_BETAS)),
        "gender": np.full(len(kept), gender), "name": np.full(len(kept), motion.name),
    }


def _join(parts: list[Path]) -> Arrays:
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        with np.load(part, allow_pickle=False) as file:
            for name in file.files:
                columns.setdefault(name, []).append(file[name])
    return {name: np.concatenate(values) for name, values in columns.items()}


def _report(output: Path, summary: Summary) -> None:
    logger.info("%s: %d samples of %d files, %d files without poses skipped", output, summary.samples,
                summary.used, len(summary.skipped))
    for path, reason in summary.failed:
        logger.warning("could not use %s (%s)", path, reason)
