"""What recordings of several video data sets share: body parameters over time, bodies, what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.mask_transformer.data.items import BodyParameters, parameters_from_arrays
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.io.array_cache import keep_arrays, load_arrays, state_of
from moro.io.scenes import read_frame_parameters

CACHE_VERSION = 1  # of what a cache holds


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
    try:
        state = state_of(CACHE_VERSION, frames, *files)
    except OSError as error:
        raise MoroError(f"{error.filename} is missing; unpack the body parameters again.") from error
    arrays = load_arrays(cache, state)
    if arrays is None:
        arrays = read_frame_parameters(folder, frames)
        keep_arrays(cache, state, arrays)
    return Motion(frames, arrays)


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
