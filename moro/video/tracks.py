"""What tracking gives: boxes and landmarks of one person over a video; choosing, keeping and drawing them."""

import hashlib
import json
import logging
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moro.errors import MoroError
from moro.io.atomic import atomic_path

logger = logging.getLogger(__name__)

CACHE_VERSION = 4  # raise when tracking changes so that old caches are not reused
MIN_VISIBILITY = 0.3  # a landmark below it does not shape the box
BOX_MARGIN = 0.08  # of the longer side: the landmarks end at the eyes, wrists and heels, the person does not
COLOURS = ((230, 60, 60), (60, 140, 240), (70, 190, 90), (245, 170, 40), (170, 90, 220), (40, 200, 200))
BONES = (
    (11, 12), (11, 13), (13, 15), (12, 14), (14, 16), (11, 23), (12, 24), (23, 24), (23, 25), (25, 27),
    (24, 26), (26, 28), (27, 31), (28, 32), (27, 29), (28, 30), (0, 7), (0, 8),
)  # fmt: skip


@dataclass
class Track:
    """One person over the L frames of a video (docs/design.md 4.6).

    boxes      (L, 4)      x0, y0, x1, y1 in pixels; NaN where unseen
    landmarks  (L, 33, 4)  x, y in pixels, visibility, presence; zeros where unseen
    world      (L, 33, 3)  metres from the hip centre, x right, y down, z away; zeros where unseen. As the
                           detector has them: also where it took front for back, which `landmarks` do not
                           repeat (moro/video/facing.py)
    seen       (L,)        bool
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    world: np.ndarray
    seen: np.ndarray

    @classmethod
    def unseen(cls, length: int) -> "Track":
        """A track of `length` frames in which nobody is seen yet."""
        return cls(
            boxes=np.full((length, 4), np.nan, np.float32),
            landmarks=np.zeros((length, 33, 4), np.float32),
            world=np.zeros((length, 33, 3), np.float32),
            seen=np.zeros(length, bool),
        )

    @property
    def presence(self) -> float:
        """Part of the frames in which the person is seen."""
        return float(self.seen.mean())


def landmark_box(landmarks: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1 around the visible ones of (33, 4) landmarks, slightly enlarged."""
    visible = landmarks[:, 2] > MIN_VISIBILITY
    points = landmarks[visible if visible.sum() >= 3 else slice(None), :2]
    low, high = points.min(0), points.max(0)
    margin = BOX_MARGIN * float((high - low).max())
    return np.concatenate([low - margin, high + margin])


def area_fraction(track: Track, width: int, height: int) -> float:
    """Sum over the frames of box area inside the picture / picture area (spec: data 9.2 step 2)."""
    boxes = track.boxes[track.seen]
    sides = np.clip(boxes[:, 2:], 0, (width, height)) - np.clip(boxes[:, :2], 0, (width, height))
    return float(np.prod(sides, axis=1).sum() / (width * height))


def select_tracks(tracks: list[Track], min_fraction: float = 0.6) -> list[Track]:
    """Those seen in at least int(min_fraction * L) frames, in the order given (spec: data 9.2 step 2).

    Raises MoroError when none is left.
    """
    chosen = [track for track in tracks if track.seen.sum() >= max(1, int(min_fraction * len(track.seen)))]
    if chosen:
        return chosen
    if not tracks:
        raise MoroError("no person was found in the video; give a clip that shows one person well.")
    best = max(track.presence for track in tracks)
    raise MoroError(
        f"no person is seen in {min_fraction:.0%} of the frames (the longest seen in {best:.0%}); "
        "cut the video to where the person is in view."
    )


# ---- cache -----------------------------------------------------------------------------------------------


def cache_key(video_path: str | Path, settings: dict[str, Any]) -> str:
    """Hex key of a video (path, size and time of change of its file or files) and of tracking settings."""
    path = Path(video_path).resolve()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([CACHE_VERSION, stats, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def save_tracks(path: str | Path, tracks: list[Track], key: str = "") -> None:
    """Write tracks and the key they belong to as a compressed npz without any pickle."""
    arrays = {f"{f.name}_{i}": getattr(t, f.name) for i, t in enumerate(tracks) for f in fields(Track)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), count=np.array(len(tracks)), **arrays)


def load_tracks(path: str | Path, key: str = "") -> list[Track] | None:
    """Tracks written by `save_tracks`; None if there is no file, or one of another key or unreadable."""
    if not Path(path).is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["key"]) != key:
                return None
            names = [field.name for field in fields(Track)]
            return [Track(**{n: data[f"{n}_{i}"] for n in names}) for i in range(int(data["count"]))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("ignoring the unreadable track cache %s (%s)", path, error)
        return None


# ---- drawing ---------------------------------------------------------------------------------------------


def draw_tracks(frame: np.ndarray, tracks: list[Track], index: int, landmarks: bool = True) -> np.ndarray:
    """A copy of frame number `index`, (H, W, 3) uint8 RGB, with the tracks' numbered boxes and skeletons."""
    picture = frame.copy()
    line = max(1, round(max(frame.shape[:2]) / 400))
    for number, track in enumerate(tracks):
        if not track.seen[index]:
            continue
        colour = COLOURS[number % len(COLOURS)]
        x0, y0, x1, y1 = (int(v) for v in track.boxes[index].round())
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, line)
        cv2.putText(
            picture, f"ID{number}", (x0 + line, max(y0, 0) + 12 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * line,
            colour, line, cv2.LINE_AA,
        )  # fmt: skip
        if landmarks:
            _draw_skeleton(picture, track.landmarks[index], colour, line)
    return picture


def _draw_skeleton(picture: np.ndarray, landmarks: np.ndarray, colour: tuple[int, ...], line: int) -> None:
    points = landmarks[:, :2].round().astype(int)
    visible = landmarks[:, 2] > 0.5
    for a, b in BONES:
        if visible[a] and visible[b]:
            ends = (tuple(map(int, points[joint])) for joint in (a, b))
            cv2.line(picture, *ends, colour, line, cv2.LINE_AA)
