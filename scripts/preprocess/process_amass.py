"""AMASS (SMPL-X neutral) as arrays at 30 frames per second (spec: data 4.1, 5.5).

    python -m scripts.preprocess.process_amass --root <AMASS folder> [--jobs 8]

Reads <root>/<subset>/<subject>/*.npz and writes <output>/{pose,smpl}_data_fps_30/<subset>/<subject>/*.npy.
Left out, as in RoHM's script: shapes, another body model or gender, frame rates that are no multiple of 30,
treadmill and `normal` recordings of BMLrub, some of HDM05. Can be interrupted and started again.
"""

import argparse
import logging
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError, run_script
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.amass_files import JOINTS, NUM_JOINTS, PARAMETERS, write_recording
from moro.parallel import parallel_map

logger = logging.getLogger("process_amass")

FPS = 30
WIDTHS = {"root_orient": 3, "trans": 3, "pose_body": 63, "pose_hand": 90, "pose_jaw": 3, "pose_eye": 6}
NUM_BETAS = 10
WRITTEN, PRESENT = "written", "already there"


@dataclass(frozen=True)
class Settings:
    """Where a process reads and writes."""

    root: Path
    output: Path
    bm_path: Path
    force: bool


class Unusable(Exception):
    """Why a file is left out, as the data set intends it."""


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    if not args.root.is_dir():
        raise MoroError(f"{args.root} is not a folder; give the unpacked AMASS with --root.")
    files = find_files(args.root, args.subsets)
    if not files:
        raise MoroError(f"{args.root} has no <subset>/<subject>/*.npz; give the unpacked AMASS with --root.")
    _body(args.bm_path)  # fails at once if it is missing
    settings = Settings(args.root, args.output, args.bm_path, args.force)
    outcomes = list(parallel_map(partial(convert, settings=settings), files, args.jobs, "AMASS"))
    for outcome, count in Counter(outcomes).most_common():
        logger.info("%6d  %s", count, outcome)
    if not {WRITTEN, PRESENT} & set(outcomes):
        raise MoroError(
            f"none of the {len(files)} files in {args.root} could be used; are they SMPL-X neutral?"
        )


def find_files(root: Path, subsets: Sequence[str] | None) -> list[Path]:
    """Motion files that are wanted by their name; of all subsets or of those named."""
    found = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}
    lacking = [name for name in subsets or () if name not in found]
    if lacking:
        raise MoroError(f"{root} has no {', '.join(lacking)}; check --subsets.")
    folders = [path for name, path in found.items() if not subsets or name in subsets]
    return [path for folder in folders for path in sorted(folder.glob("*/*.npz")) if wanted(path)]


def wanted(path: Path) -> bool:
    """Neither a file of a shape nor a recording that RoHM leaves out."""
    subset, name = path.parts[-3], path.stem
    if name.endswith("neutral_stagei"):
        return False
    if subset == "HDM05" and name.startswith("HDM_dg_07-01"):
        return False
    words = name.split("_")
    return not (subset == "BMLrub" and len(words) > 1 and words[1] in ("treadmill", "normal"))


def step_of(subset: str, fps: float) -> int:
    """Every how many frames one is taken. Raises Unusable if the rate is no multiple of 30."""
    if subset == "SSM":  # its rates are near 60 and 120
        return 2 if fps - 60 < 1 else 4
    if fps < FPS or fps % FPS:
        raise Unusable("frame rate no multiple of 30")
    return int(fps // FPS)


def convert(path: Path, settings: Settings) -> str:
    """Write the two arrays of one file; returns what became of it."""
    name = path.relative_to(settings.root).with_suffix("").as_posix()
    outputs = [settings.output / folder / f"{name}.npy" for folder in (JOINTS, PARAMETERS)]
    if not settings.force and all(_newer(output, path) for output in outputs):
        return PRESENT
    try:
        parts = read_frames(path)
    except Unusable as reason:
        return str(reason)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("could not use %s (%s)", path, error)
        return "damaged or of another kind"
    write_recording(settings.output, name, parts, _joints(_body(settings.bm_path), parts))
    return WRITTEN


def read_frames(path: Path) -> dict[str, np.ndarray]:
    """Parameters at 30 frames per second by the keys of moro.io.amass_files.COLUMNS, float32.

    Raises Unusable for a file that is left out, ValueError or KeyError for one of unexpected content.
    """
    with np.load(path, allow_pickle=False) as file:
        for key, value in (("gender", "neutral"), ("surface_model_type", "smplx")):
            if _text(file[key]) != value:
                raise Unusable(f"{key} is not {value}")
        step = step_of(path.parts[-3], float(file["mocap_frame_rate"]))
        arrays = {key: file[key][::step].astype(np.float32) for key in WIDTHS}
        betas = np.asarray(file["betas"], np.float32).reshape(-1)[:NUM_BETAS]
    frames = len(arrays["trans"])
    for key, width in WIDTHS.items():
        if arrays[key].shape != (frames, width) or not np.isfinite(arrays[key]).all():
            raise ValueError(f"{key} is {arrays[key].shape}, not ({frames}, {width}), or not finite")
    if len(betas) != NUM_BETAS or not frames:
        raise ValueError(f"{len(betas)} betas, {frames} frames")
    eye = arrays["pose_eye"][:, :3]  # RoHM gives both eyes the left one's
    return {
        "global_orient": arrays["root_orient"],
        "transl": arrays["trans"],
        "betas": np.tile(betas, (frames, 1)),
        "body_pose": arrays["pose_body"],
        "hand_pose": arrays["pose_hand"],
        "jaw_pose": arrays["pose_jaw"],
        "left_eye_pose": eye,
        "right_eye_pose": eye,
    }


def _joints(body: BodyModel, parts: dict[str, np.ndarray]) -> np.ndarray:
    """(T, 25, 3); hands, jaw and eyes turn none of them."""
    tensors = {key: torch.from_numpy(array) for key, array in parts.items()}
    pose = rotvec_to_matrix(tensors["body_pose"].unflatten(1, (21, 3)))  # (T, 63) -> (T, 21, 3, 3)
    orient = rotvec_to_matrix(tensors["global_orient"])
    return body.posed_joints(pose, tensors["betas"], orient, tensors["transl"])[:, :NUM_JOINTS].numpy()


@cache
def _body(bm_path: Path) -> BodyModel:
    """Once per process."""
    return load_body_model(bm_path, "smplx")


def _newer(output: Path, source: Path) -> bool:
    return output.is_file() and output.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _text(value: np.ndarray) -> str:
    text = value.item()
    return text.decode() if isinstance(text, bytes) else str(text)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="AMASS: <subset>/<subject>/*.npz")
    parser.add_argument("--output", type=Path, default=Path("datasets/mask_transformer/AMASS"))
    parser.add_argument("--subsets", nargs="*", help="only these (default: all)")
    parser.add_argument("--bm_path", type=Path, default=Path("body_models"))
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes")
    parser.add_argument("--force", action="store_true", help="make files again that are there already")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
