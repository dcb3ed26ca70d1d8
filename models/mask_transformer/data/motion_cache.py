"""Open motion put on bodies and into tokens once, instead of in every training sample.

Posing and tokenising a body costs more than everything else in a sample. So each training motion is performed
`dataset.cache_variants` times, by people of other shapes, mirrored and at other speeds, and only joints,
landmarks, trajectory and token ids are kept (about 0.8 kB per frame). What depends on the observer (heading,
camera, occlusion, detector errors) is still drawn anew for every sample.

Token ids are a file of their own for each tokenizer: a backbone can learn while the tokenizer is still
trained.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.mask_transformer.data.items import LocalBody
from moro.errors import MoroError
from moro.io.atomic import atomic_path

_log = logging.getLogger(__name__)

LAYOUT = 2  # of the files; a change makes old folders stale
CHUNK = 256  # frames posed at once
FIRST_ROWS = 65_536  # a large array from the start
Tokenise = Callable[[Tensor], Tensor]  # local meshes (F, V, 3) → ids (F, J)
Performances = Iterable[tuple[int, Iterable[LocalBody]]]  # number of the motion, the person in runs of frames


@dataclass(frozen=True)
class StoredLandmarks:
    """Stands for a body model's output where only its landmarks are asked for; points (F, 33, 3)."""

    points: Tensor

    def landmarks(self) -> Tensor:
        return self.points


@dataclass(frozen=True)
class CachedMotion:
    """Performances one after another; N frames in all, P performances.

    local_joints (N, 22, 3) · landmarks (N, 33, 3) relative to the pelvis · rotation (N, 3, 3) and
    translation (N, 3) of the pelvis in the z-up world, metres · first, length (P,) · motion (P,) number of
    the motion a performance is of · ids (N, J) int16, None without a tokenizer
    """

    local_joints: np.ndarray
    landmarks: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    first: np.ndarray
    length: np.ndarray
    motion: np.ndarray
    ids: np.ndarray | None = None

    def clip(self, performance: int, start: int, frames: int) -> tuple[LocalBody, Tensor | None]:
        """The person (without a mesh) and token ids (F, J), if there are any, from frame `start` on."""
        begin = int(self.first[performance]) + start
        rows = slice(begin, begin + frames)

        def part(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(array[rows]))

        person = LocalBody(
            mesh=None,
            local_joints=part(self.local_joints),
            root_pos=torch.zeros(frames, 1, 3),
            rotation=part(self.rotation),
            translation=part(self.translation)[:, None],
            output=StoredLandmarks(part(self.landmarks)),
        )
        return person, None if self.ids is None else part(self.ids).long()


ARRAYS = tuple(name for name in CachedMotion.__dataclass_fields__ if name != "ids")


def cache_key(*parts: str | int) -> str:
    """Name of a cache folder: a hash of everything its content depends on."""
    return hashlib.sha256("|".join(str(part) for part in (LAYOUT, *parts)).encode()).hexdigest()[:16]


def open_cache(folder: Path) -> CachedMotion:
    """Memory-mapped arrays of a finished cache, without token ids. MoroError if it is damaged."""
    return CachedMotion(**{name: _open_array(folder / f"{name}.npy") for name in ARRAYS})


@torch.no_grad()
def build_cache(folder: Path, performances: Performances, count: int) -> CachedMotion:
    """Write a cache and open it; an interrupted build leaves nothing behind.

    count  of the performances, for the progress bar
    """
    rows = {name: _Rows() for name in ARRAYS}
    total = 0
    for motion, parts in tqdm(performances, total=count, desc="motion cache", unit="clip", disable=None):
        length = 0
        for person in parts:
            _append(rows, person)
            length += len(person.local_joints)
        for name, value in (("first", total), ("length", length), ("motion", motion)):
            rows[name].extend(np.array([value], dtype=np.int64))
        total += length
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        for name, column in rows.items():
            np.save(temporary / f"{name}.npy", column.array())
        (temporary / "about.json").write_text(json.dumps({"performances": count, "frames": total}))
        if not folder.exists():  # another process may have been faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _log.info("motion cache: %d performances, %d frames in %s", count, total, folder)
    return open_cache(folder)


@torch.no_grad()
def with_tokens(
    cache: CachedMotion, file: Path, performances: Performances, tokenise: Tokenise
) -> CachedMotion:
    """The cache with the token ids of `file`, which is written if need be.

    performances  the same as the cache is of: they are made once more, as meshes are not kept
    Raises MoroError if the file is damaged or of other performances.
    """
    if not file.is_file():
        rows, count = _Rows(), len(cache.length)
        for _, parts in tqdm(performances, total=count, desc="token ids", unit="clip", disable=None):
            for person in parts:
                rows.extend(tokenise(person.mesh).to(torch.int16).numpy())
        with atomic_path(file) as temporary, temporary.open("wb") as opened:
            np.save(opened, rows.array())
    ids = _open_array(file)
    if len(ids) != len(cache.rotation):
        raise MoroError(f"{file} has {len(ids)} frames, its cache {len(cache.rotation)}; delete the file.")
    return replace(cache, ids=ids)


def _open_array(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MoroError(f"The motion cache {file.parent} is damaged ({error}); delete the folder.") from error


class _Rows:
    """A growing array. Not a list of small arrays: those, between the large passing ones of posing and
    tokenising, would keep gigabytes of freed memory from being used again."""

    def __init__(self) -> None:
        self.buffer: np.ndarray | None = None
        self.count = 0

    def extend(self, part: np.ndarray) -> None:
        if self.buffer is None:
            self.buffer = np.empty((FIRST_ROWS, *part.shape[1:]), part.dtype)
        end = self.count + len(part)
        while end > len(self.buffer):
            self.buffer = np.concatenate([self.buffer, np.empty_like(self.buffer)])
        self.buffer[self.count : end] = part
        self.count = end

    def array(self) -> np.ndarray:
        return self.buffer[: self.count]


def _append(rows: dict[str, _Rows], person: LocalBody) -> None:
    values = {
        "local_joints": person.local_joints,
        "landmarks": person.output.landmarks() - person.root_pos,
        "rotation": person.rotation,
        "translation": person.translation[:, 0],
    }
    for name, value in values.items():
        rows[name].extend(value.numpy())
