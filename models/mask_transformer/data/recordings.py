"""What recordings of several video data sets share: body parameters over time, bodies, what is missing."""

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
from moro.io.scenes import WIDTHS, read_frame_parameters

_log = logging.getLogger(__name__)

CACHE_VERSION = 1


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
        arrays = read_frame_parameters(folder, frames)
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


def _read_cache(cache: Path | None, state: str) -> dict[str, np.ndarray] | None:
    if cache is None or not cache.is_file():
        return None
    try:
        with np.load(cache, allow_pickle=False) as file:
            if str(file["state"]) == state:
                return {key: file[key] for key in WIDTHS}
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
