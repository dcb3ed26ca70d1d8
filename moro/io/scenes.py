"""Files that EgoBody and PROX have in common: cameras, boxes, per-frame body parameters; any images."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.geometry.lens import Lens
from moro.io.atomic import atomic_path
from moro.io.pickles import load_pickle

IMAGE_SIZE = (1920, 1080)  # width, height of a Kinect's colour images
WIDTHS = {"transl": 3, "global_orient": 3, "betas": 10, "body_pose": 63}  # of parameters, in axis-angle


@dataclass(frozen=True)
class Boxes:
    """Square person boxes by frame name (spec: data 5.2).

    centers (N, 2) px, scales (N,) side / 200 with margin, bboxes (N, 4) x0 y0 x1 y1, detected (N,) bool: the
    box is the frame's own; source: the file and what makes it, for messages
    """

    frame_names: tuple[str, ...]
    centers: NDArray
    scales: NDArray
    bboxes: NDArray
    detected: NDArray
    source: str

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.frame_names)}

    def of(self, frames: Sequence[str]) -> tuple[NDArray, NDArray]:
        """centers (F, 2) and scales (F,) of frames named without suffix; NaN where a frame has no box."""
        row = np.array([self._row.get(name, -1) for name in frames], int)
        centers, scales = np.full((len(row), 2), np.nan), np.full(len(row), np.nan)
        centers[row >= 0], scales[row >= 0] = self.centers[row[row >= 0]], self.scales[row[row >= 0]]
        return centers, scales

    def select(self, frames: Sequence[str]) -> "Boxes":
        """The boxes of these frames, in their order; MoroError if some have none."""
        missing = [frame for frame in frames if frame not in self._row]
        if missing:
            raise MoroError(
                f"{self.source} lacks {len(missing)} frames, the first {missing[0]}; make it again."
            )
        rows = [self._row[frame] for frame in frames]
        return Boxes(
            tuple(frames),
            *(array[rows] for array in (self.centers, self.scales, self.bboxes, self.detected)),
            self.source,
        )

    def interpolated(self) -> "Boxes":
        """Frames without detection, which hold the last box seen, get one between their neighbours'."""
        if not self.detected.any():
            return self
        arrays = (_between(array, self.detected) for array in (self.centers, self.scales, self.bboxes))
        centers, scales, bboxes = arrays
        return replace(self, centers=centers, scales=scales, bboxes=bboxes)


def _between(values: NDArray, known: NDArray) -> NDArray:
    """Values (N,) or (N, C) with the rows that are not known interpolated over time."""
    frames, columns = np.arange(len(values)), values.reshape(len(values), -1)  # (N, C)
    filled = [np.interp(frames, frames[known], column[known]) for column in columns.T]
    return np.stack(filled, 1).reshape(values.shape)


def read_json(path: str | Path) -> Any:
    """Content of a json file. Raises MoroError if it is missing or damaged."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; check dataset_root and docs/files.md") from error
    except (OSError, ValueError) as error:
        raise MoroError(f"{path} is not a readable json file ({error}); fetch it again") from error


def read_transform(path: str | Path, key: str | None = None) -> NDArray:
    """(4, 4) float64 of a json file that holds the matrix itself, or a dictionary with it under `key`."""
    content = read_json(path)
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    return _array(content, (4, 4), path, key or "the matrix")


def read_lens(path: str | Path) -> Lens:
    """Kinect colour camera {"camera_mtx": 3x3, "k": coefficients}, as EgoBody and PROX store it."""
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    k = np.asarray(content.get("k", []), np.float64).ravel()
    k = np.pad(k, (0, max(0, 8 - len(k)))) if len(k) in (4, 5) else k  # what the file leaves out is zero
    return Lens(
        _array(content.get("camera_mtx"), (3, 3), path, "camera_mtx"), _array(k, (8,), path, "k"), IMAGE_SIZE
    )


def read_boxes(path: str | Path, script: str) -> Boxes:
    """Boxes made by the preprocessing of EgoBody or PROX (spec: data 5.2, 5.3).

    script  the module that makes them, for messages
    Raises MoroError if the file is missing or damaged.
    """
    path = Path(path)
    source = f"{path} (made by python -m {script})"
    try:
        with np.load(path, allow_pickle=False) as file:
            names, *arrays = (file[key] for key in ("frame_names", "centers", "scales", "bboxes"))
            # the original's files do not say which frames had a detection
            detected = file["detected"] if "detected" in file.files else np.ones(len(names), bool)
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; make it with python -m {script}.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MoroError(f"{source} is not a readable file of boxes ({error}); make it again") from error
    N = len(names)
    if [array.shape for array in (*arrays, detected)] != [(N, 2), (N,), (N, 4), (N,)]:
        raise MoroError(f"{source}: centers, scales or bboxes do not fit its {N} frames; make it again")
    centers, scales, bboxes = (array.astype(np.float64) for array in arrays)
    return Boxes(tuple(str(name) for name in names), centers, scales, bboxes, detected, source)


def read_frame_parameters(folder: str | Path, frames: Sequence[str]) -> dict[str, NDArray]:
    """Body parameters of frames, from `<folder>/<frame>/000.pkl` (spec: data 4.4 "GT pickle").

    frames   names of the frames' folders, e.g. frame_00000
    returns  transl (F, 3), global_orient (F, 3), betas (F, 10), body_pose (F, 63), float32, axis-angle
    Raises MoroError if a file is missing, damaged or of another kind.
    """
    rows = [_read_frame(Path(folder) / frame / "000.pkl") for frame in frames]
    return {
        key: np.stack([row[key] for row in rows]) if rows else np.zeros((0, width), np.float32)
        for key, width in WIDTHS.items()
    }


def _read_frame(path: Path) -> dict[str, NDArray]:
    """One frame's parameters, each (width,) float32; longer ones (SMPL: 69 of body_pose) are cut."""
    content = load_pickle(path)
    row = {}
    for key, width in WIDTHS.items():
        value = content.get(key) if isinstance(content, dict) else None
        value = np.zeros(0) if value is None else np.asarray(value)
        if value.size < width or value.dtype.kind != "f":
            raise MoroError(f"{path} has no {key} of {width} numbers; it is not a body parameter file.")
        row[key] = value.reshape(-1)[:width].astype(np.float32)  # (1, n) -> (width,)
    return row


def read_image(path: str | Path) -> NDArray | None:
    """(H, W, 3) uint8 RGB; None if the file is missing or damaged."""
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None


def write_image(path: str | Path, image: NDArray, quality: int = 95) -> None:
    """(H, W, 3) uint8 RGB as jpeg of this quality or png, by the name. MoroError if it cannot be written."""
    done, data = cv2.imencode(
        Path(path).suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise MoroError(f"cannot write {path}: name it .jpg or .png")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _array(value: Any, shape: tuple[int, ...], path: str | Path, name: str) -> NDArray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape != shape or not np.isfinite(array).all():
        raise MoroError(f"{path}: {name} must be finite numbers of shape {shape}; fetch the file again")
    return array
