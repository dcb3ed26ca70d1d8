"""Files that recordings of several video data sets share: body parameters, cameras, boxes."""

import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from models.mask_transformer.data.items import BodyParameters, parameters_from_arrays
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.io.pickles import load_pickle

_log = logging.getLogger(__name__)

CACHE_VERSION = 1
_WIDTHS = {"transl": 3, "global_orient": 3, "betas": 10, "body_pose": 63}


@dataclass(frozen=True)
class Motion:
    """Body parameters of one person: frames T names; transl, global_orient, betas, body_pose (T, ...)."""

    frames: list[str]
    arrays: dict[str, np.ndarray]

    def parameters(self, start: int, stop: int) -> BodyParameters:
        return parameters_from_arrays({key: array[start:stop] for key, array in self.arrays.items()})


def read_motion(folder: Path, cache: Path | None = None) -> Motion:
    """Per-frame pickles `<folder>/<frame>/000.pkl` of a recording (spec: data 4.4, 4.6), by frame name.

    cache  npz file that keeps them; it is made again when the pickles' names, sizes or times have changed
    Raises MoroError if the folder holds no frames or a pickle is not what it should be.
    """
    files = sorted(path / "000.pkl" for path in folder.iterdir() if path.is_dir())
    if not files:
        raise MoroError(f"{folder} holds no <frame>/000.pkl files; unpack the body parameters again.")
    frames = [path.parent.name for path in files]
    state = _state(files)
    arrays = _read_cache(cache, state)
    if arrays is None:
        rows = [_read_frame(path) for path in files]
        arrays = {key: np.stack([row[key] for row in rows]) for key in _WIDTHS}
        _write_cache(cache, state, arrays)
    return Motion(frames, arrays)


def _state(files: Sequence[Path]) -> str:
    digest = sha256(str(CACHE_VERSION).encode())
    for path in files:
        try:
            status = path.stat()
        except OSError as error:
            raise MoroError(f"{path} is missing; unpack the body parameters again.") from error
        digest.update(f"{path.parent.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_frame(path: Path) -> dict[str, np.ndarray]:
    """One frame's parameters, each (width,) float32; longer ones (SMPL: 69 of body_pose) are cut."""
    content = load_pickle(path)
    row = {}
    for key, width in _WIDTHS.items():
        value = content.get(key) if isinstance(content, dict) else None
        value = np.zeros(0) if value is None else np.asarray(value)
        if value.size < width or value.dtype.kind != "f":
            raise MoroError(f"{path} has no {key} of {width} numbers; it is not a body parameter file.")
        row[key] = value.reshape(-1)[:width].astype(np.float32)  # (1, n) -> (width,)
    return row


def _read_cache(cache: Path | None, state: str) -> dict[str, np.ndarray] | None:
    if cache is None or not cache.is_file():
        return None
    try:
        with np.load(cache, allow_pickle=False) as file:
            if str(file["state"]) == state:
                return {key: file[key] for key in _WIDTHS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        _log.warning("%s is damaged; it is made again", cache)
    return None


def _write_cache(cache: Path | None, state: str, arrays: Mapping[str, np.ndarray]) -> None:
    if cache is None:
        return
    try:
        with atomic_path(cache) as temporary:
            np.savez(temporary, state=np.array(state), **arrays)
    except OSError as error:  # data sets often lie on read-only disks
        _log.warning("cannot keep %s (%s); the pickles will be read again next time", cache, error)


def read_json(path: Path) -> object:
    """Content of a json file; MoroError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MoroError(f"file not found: {path}") from error
    except (OSError, ValueError) as error:
        raise MoroError(f"cannot read {path} ({error}); unpack it again.") from error


def read_matrix(path: Path, key: str | None = None) -> np.ndarray:
    """(4, 4) float64 rigid transform from a json file, under `key` if given."""
    content = read_json(path)
    try:
        matrix = np.asarray(content if key is None else content[key], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise MoroError(f"{path} holds no 4x4 matrix{f' {key!r}' if key else ''}.") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise MoroError(f"{path} holds no 4x4 matrix{f' {key!r}' if key else ''}, but {matrix.shape}.")
    return matrix


def read_intrinsics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) and distortion coefficients (8,), zero-padded, float64, from a Kinect's Color.json."""
    content = read_json(path)
    try:
        K = np.asarray(content["camera_mtx"], np.float64)
        coefficients = np.asarray(content["k"], np.float64).reshape(-1)  # (1, n) | (n,) -> (n,)
    except (KeyError, TypeError, ValueError) as error:
        raise MoroError(f"{path} lacks camera_mtx (3x3) and k (distortion); it is no Color.json.") from error
    if K.shape != (3, 3) or len(coefficients) not in (4, 5, 8):
        raise MoroError(f"{path}: camera_mtx is {K.shape} and k has {len(coefficients)} numbers, not 3x3, 8.")
    return K, np.pad(coefficients, (0, 8 - len(coefficients)))


@dataclass(frozen=True)
class Boxes:
    """Boxes of some frames: center (F, 2), scale (F,), bboxes (F, 4) x0, y0, x1, y1, detected (F,) bool."""

    center: np.ndarray
    scale: np.ndarray
    bboxes: np.ndarray
    detected: np.ndarray


def read_boxes(path: Path, frames: Sequence[str], script: str, interpolate: bool = False) -> Boxes:
    """Boxes of the named frames from a box file (spec: data 5.2, 5.3).

    script       what makes the file, for the message
    interpolate  frames without detection, which hold the last box seen, get one between their neighbours'
    Raises MoroError if the file or some of the frames are missing.
    """
    keys = ("frame_names", "centers", "scales", "bboxes")
    try:
        with np.load(path, allow_pickle=False) as file:
            names, *arrays = (file[key] for key in keys)
            detected = file["detected"] if "detected" in file.files else np.ones(len(names), bool)
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; make it with python -m {script}.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MoroError(f"cannot read {path} ({error}); make it again with python -m {script}.") from error
    rows = {str(name): row for row, name in enumerate(names)}
    missing = [frame for frame in frames if frame not in rows]
    if missing:
        raise MoroError(
            f"{path} lacks {len(missing)} frames, the first {missing[0]}; "
            f"make it again with python -m {script}."
        )
    if interpolate and detected.any():
        arrays = [_between(array, detected) for array in arrays]
    chosen = [rows[frame] for frame in frames]
    center, scale, bboxes = (array[chosen].astype(np.float64) for array in arrays)
    return Boxes(center, scale, bboxes, detected[chosen])


def _between(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values (N,) or (N, C) with the rows that are not known interpolated over time."""
    frames, columns = np.arange(len(values)), values.reshape(len(values), -1)  # (N, C)
    filled = [np.interp(frames, frames[known], column[known]) for column in columns.T]
    return np.stack(filled, 1).reshape(values.shape)


def load_bodies(bm_path: str, model_type: str, genders: Sequence[str]) -> dict[str, BodyModel]:
    """One body model per gender."""
    return {gender: load_body_model(bm_path, model_type, gender) for gender in sorted(set(genders))}


def require_complete(title: str, root: Path, problems: Mapping[str, Sequence[str]]) -> None:
    """MoroError that names every recording with problems, so that a run does not fail one by one."""
    if problems:
        listed = "; ".join(f"{name} ({', '.join(lacking)})" for name, lacking in sorted(problems.items()))
        raise MoroError(
            f"{title} at {root} is incomplete, missing: {listed}. Unpack these or set dataset.dataset_root."
        )
