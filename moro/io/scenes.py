"""Files that EgoBody and PROX have in common: cameras, boxes, per-frame body parameters, images."""

import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.io.pickles import load_pickle

logger = logging.getLogger(__name__)

BODY_POSE = 63  # axis-angle numbers of the 21 joints all bodies share; SMPL files hold 69


@dataclass(frozen=True)
class Lens:
    """K (3, 3) float64 pixels, dist_coeffs (8,) float64 of OpenCV's rational model."""

    K: NDArray
    dist_coeffs: NDArray


@dataclass(frozen=True)
class Boxes:
    """Square person boxes by frame name (spec: data 5.2): centers (N, 2) px, scales (N,) side / 200."""

    frame_names: tuple[str, ...]
    centers: NDArray
    scales: NDArray

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.frame_names)}

    def of(self, frames: Sequence[str]) -> tuple[NDArray, NDArray]:
        """centers (F, 2) and scales (F,) of frames named without suffix; NaN where a frame has no box."""
        row = np.array([self._row.get(name, -1) for name in frames], int)
        centers, scales = np.full((len(row), 2), np.nan), np.full(len(row), np.nan)
        centers[row >= 0], scales[row >= 0] = self.centers[row[row >= 0]], self.scales[row[row >= 0]]
        return centers, scales


def read_json(path: str | Path) -> Any:
    """Content of a json file. Raises MoroError if it is missing or damaged."""
    path = Path(path)
    try:
        return json.loads(path.read_text())
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
    """Colour camera {"camera_mtx": 3x3, "k": coefficients}, as EgoBody and PROX store it."""
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    k = np.asarray(content.get("k", []), np.float64).ravel()
    k = np.pad(k, (0, max(0, 8 - len(k))))  # k4..k6 are zero where the file ends at k3
    return Lens(_array(content.get("camera_mtx"), (3, 3), path, "camera_mtx"), _array(k[:8], (8,), path, "k"))


def read_boxes(path: str | Path) -> Boxes:
    """Boxes made by the preprocessing of EgoBody or PROX (spec: data 5.2, 5.3)."""
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            names, centers, scales = (file[key] for key in ("frame_names", "centers", "scales"))
    except FileNotFoundError as error:
        raise MoroError(
            f"{path} not found; make the boxes with the preprocessing of this data set"
        ) from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise MoroError(f"{path} is not a readable file of boxes ({error}); make it again") from error
    if centers.shape != (len(names), 2) or scales.shape != (len(names),):
        raise MoroError(f"{path}: centers and scales do not fit its {len(names)} frames; make it again")
    return Boxes(tuple(str(name) for name in names), centers.astype(np.float64), scales.astype(np.float64))


def read_frame_parameters(folder: str | Path, frames: Sequence[str]) -> dict[str, NDArray]:
    """Body parameters of frames, from `<folder>/<frame>/000.pkl` (spec: data 4.4 "GT pickle").

    frames   names of the frames' folders, e.g. frame_00000
    returns  transl (F, 3), global_orient (F, 3), betas (F, 10), body_pose (F, 63), float32, axis-angle
    Raises MoroError if a file is missing, damaged or of another kind.
    """
    folder = Path(folder)
    rows: dict[str, list[NDArray]] = {"transl": [], "global_orient": [], "betas": [], "body_pose": []}
    for frame in frames:
        path = folder / frame / "000.pkl"
        content = load_pickle(path)
        for key, values in rows.items():
            if not isinstance(content, dict) or key not in content:
                raise MoroError(f"{path} lacks {key}; it is no file of body parameters")
            values.append(np.asarray(content[key], np.float32).ravel())
    widths = {"transl": 3, "global_orient": 3, "betas": 10, "body_pose": BODY_POSE}
    for key, values in rows.items():
        short = [frame for frame, value in zip(frames, values, strict=True) if len(value) < widths[key]]
        if short:
            raise MoroError(f"{folder / short[0] / '000.pkl'}: {key} needs {widths[key]} numbers")
    return {
        key: np.stack([value[: widths[key]] for value in values]) if values else np.zeros((0, widths[key]))
        for key, values in rows.items()
    }


def read_image(path: str | Path) -> NDArray | None:
    """(H, W, 3) uint8 RGB; None with a warning where the file is missing or damaged."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR) if Path(path).is_file() else None
    if image is None:
        logger.warning("%s is missing or not an image", path)
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class Undistorter:
    """Takes the lens distortion out of images, keeping K; the pixel map is made once per image size."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        self._size: tuple[int, ...] = ()

    def __call__(self, image: NDArray) -> NDArray:
        """(H, W, 3) uint8 to the same."""
        if image.shape[:2] != self._size:
            H, W = self._size = image.shape[:2]
            K = self.lens.K
            self._map = cv2.initUndistortRectifyMap(K, self.lens.dist_coeffs, None, K, (W, H), cv2.CV_16SC2)
        return cv2.remap(image, *self._map, cv2.INTER_LINEAR)


def _array(value: Any, shape: tuple[int, ...], path: str | Path, name: str) -> NDArray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape != shape or not np.isfinite(array).all():
        raise MoroError(f"{path}: {name} must be finite numbers of shape {shape}; fetch the file again")
    return array
