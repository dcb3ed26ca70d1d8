"""Open motion put on bodies and into tokens once, instead of in every training sample.

Posing and tokenising a body costs more than everything else in a sample. So each training motion is performed
`dataset.cache_variants` times, by people of other shapes, mirrored and at other speeds, and only joints,
landmarks, trajectory and token ids are kept (about 0.8 kB per frame). What depends on the observer (heading,
camera, occlusion, detector errors) is still drawn anew for every sample.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.mask_transformer.data.items import LocalBody
from moro.errors import MoroError

_log = logging.getLogger(__name__)

LAYOUT = 1  # of the files; a change makes old folders stale
CHUNK = 256  # frames posed at once
FIRST_ROWS = 65_536  # a large array from the start
Tokenise = Callable[[Tensor], Tensor]  # local meshes (F, V, 3) → ids (F, J)


@dataclass(frozen=True)
class StoredLandmarks:
    """Stands for a body model's output where only its landmarks are asked for; points (F, 33, 3)."""

    points: Tensor

    def landmarks(self) -> Tensor:
        return self.points


@dataclass(frozen=True)
class CachedMotion:
    """Performances one after another; N frames in all, P performances.

    ids (N, J) int16 · local_joints (N, 22, 3) · landmarks (N, 33, 3) relative to the pelvis · rotation
    (N, 3, 3) and translation (N, 3) of the pelvis in the z-up world, metres · first, length (P,) ·
    motion (P,) number of the motion a performance is of
    """

    ids: np.ndarray
    local_joints: np.ndarray
    landmarks: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    first: np.ndarray
    length: np.ndarray
    motion: np.ndarray

    def clip(self, performance: int, start: int, frames: int) -> tuple[LocalBody, Tensor]:
        """The person (without a mesh) and token ids (F, J) from frame `start` on."""
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
        return person, part(self.ids).long()


ARRAYS = tuple(CachedMotion.__dataclass_fields__)


def cache_key(*parts: str | int) -> str:
    """Name of a cache folder: a hash of everything its content depends on."""
    return hashlib.sha256("|".join(str(part) for part in (LAYOUT, *parts)).encode()).hexdigest()[:16]


def open_cache(folder: Path) -> CachedMotion:
    """Memory-mapped arrays of a finished cache. MoroError if it is damaged."""
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    except (OSError, ValueError) as error:
        raise MoroError(f"The motion cache {folder} is damaged ({error}); delete the folder.") from error
    return CachedMotion(**arrays)


@torch.no_grad()
def build_cache(
    folder: Path, performances: Iterable[tuple[int, Iterable[LocalBody]]], count: int, tokenise: Tokenise
) -> CachedMotion:
    """Write a cache and open it; an interrupted build leaves nothing behind.

    performances  (number of the motion, the person in runs of frames); count: how many, for the progress bar
    """
    rows = {name: _Rows() for name in ARRAYS}
    total = 0
    for motion, parts in tqdm(performances, total=count, desc="motion cache", unit="clip", disable=None):
        length = 0
        for person in parts:
            _append(rows, person, tokenise(person.mesh))
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


def _append(rows: dict[str, _Rows], person: LocalBody, ids: Tensor) -> None:
    values = {
        "ids": ids.to(torch.int16),
        "local_joints": person.local_joints,
        "landmarks": person.output.landmarks() - person.root_pos,
        "rotation": person.rotation,
        "translation": person.translation[:, 0],
    }
    for name, value in values.items():
        rows[name].extend(value.numpy())
