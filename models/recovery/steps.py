"""What a demo run keeps, so that the next one goes on from there: tracks, fitted motion, finished results.

Each is kept with a key of all it depends on; one whose key has changed is made anew. Tracks depend on the
video and the tracker; the motion also on the network, its weights and the camera; the results on everything.
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from moro.body.fitting import BodyFit
from moro.io.atomic import atomic_path, write_json
from moro.video.tracks import cache_key
from moro.video.yolo import choose_tracker

logger = logging.getLogger(__name__)

FPS = 30.0
WORK_FOLDER = "intermediate"  # beside the results: tracks and motion; while they are made, crops and meshes
PEOPLE = "id[0-9]*"  # the result folders of people
REPORT = "demo.json"
OUTPUTS = (
    REPORT, "config.yaml", "result.mp4", "bbx_overlay.mp4", f"{PEOPLE}/motion.npz", f"{PEOPLE}/motion.glb"
)  # fmt: skip
RESULTS = f"{PEOPLE}/results.pkl"
CAMERA_KEYS = ("focal_length", "fov_ckpt")
PLACES = ("video_path", "name", "output_path", "device")  # they change nothing in what comes out


@dataclass(frozen=True)
class Keys:
    """Of the three things kept, for one video and one configuration."""

    tracks: str
    motion: str
    results: str


def keys_of(cfg: DictConfig, video: Path, checkpoint: Path) -> Keys:
    """The keys of a run; files count by size and time of change."""
    demo = dict(cfg.demo)
    tracks = tracks_key(cfg, video)
    camera = {name: demo[name] for name in CAMERA_KEYS}
    network = [str(cfg.model), str(cfg.dataset), str(cfg.demo.precision), str(cfg.demo.refine)]
    motion = _digest(tracks, camera, network, _stamp(checkpoint), _stamp(Path(cfg.demo.fov_ckpt)))
    return Keys(tracks, motion, _digest(motion, {k: v for k, v in demo.items() if k not in PLACES}))


def tracks_key(cfg: DictConfig, video: Path) -> str:
    """Of the tracks of a video."""
    tracker = choose_tracker(cfg.demo.tracker)
    weights = cfg.demo.yolo_weights if tracker == "yolo" else None
    return cache_key(
        video, {"tracker": tracker, "weights": weights, "fps": FPS, "max_people": cfg.demo.max_people}
    )


# ------------------------------------------------------------------------------------------------ the results


def is_finished(folder: Path, key: str) -> bool:
    """Whether the folder holds the complete results of this key."""
    try:
        return json.loads((folder / REPORT).read_text())["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False


def finish(folder: Path, key: str, report: dict) -> None:
    """demo.json: what was done, and the mark that it is complete."""
    write_json(folder / REPORT, {"key": key, **report})


def clear_outputs(folder: Path, keep_results: bool) -> None:
    """Remove what an earlier run wrote, so that none of it passes for a result of this one.

    keep_results  the meshes in results.pkl belong to the motion that is kept
    """
    for pattern in OUTPUTS if keep_results else (*OUTPUTS, RESULTS):
        for file in folder.glob(pattern):
            file.unlink()
    for person in folder.glob(PEOPLE):
        if person.is_dir() and not any(person.iterdir()):
            person.rmdir()


def result_files(folder: Path) -> list[Path]:
    """Those of the outputs that are there, in order of their names."""
    found = [file for pattern in (*OUTPUTS, RESULTS) for file in folder.glob(pattern)]
    return sorted(file for file in found if file.suffix in (".mp4", ".npz", ".glb", ".pkl"))


# ------------------------------------------------------------------------------------------------- the motion


def save_motion(path: Path, fits: Sequence[BodyFit], focal: float, key: str) -> None:
    """Keep everybody's fitted motion and the focal length (pixels) it was recovered with."""
    names = [field.name for field in fields(BodyFit)]
    arrays = {f"{name}_{n}": getattr(fit, name).cpu().numpy() for n, fit in enumerate(fits) for name in names}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), focal=np.array(focal), count=np.array(len(fits)), **arrays)


def load_motion(path: Path, folder: Path, key: str) -> tuple[list[BodyFit], float] | None:
    """What `save_motion` kept; None if there is nothing, or of another key, or unreadable, or if a person's
    results.pkl, which was written with it, is no longer in `folder`."""
    if not path.is_file():
        return None
    names = [field.name for field in fields(BodyFit)]
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["key"]) != key:
                return None
            fits = [
                BodyFit(**{name: torch.from_numpy(data[f"{name}_{n}"]) for name in names})
                for n in range(int(data["count"]))
            ]
            whole = all((folder / f"id{n}" / "results.pkl").is_file() for n in range(len(fits)))
            return (fits, float(data["focal"])) if whole else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("ignoring the unreadable motion %s (%s)", path, error)
        return None


def _stamp(file: Path) -> list[int] | None:
    """Size and time of change; None if there is no such file."""
    return [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else None


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
