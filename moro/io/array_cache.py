"""Arrays kept on disk because they are slow to make, and made again when what they come from has changed."""

import logging
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from moro.io.atomic import atomic_path

_log = logging.getLogger(__name__)


def state_of(*parts: object) -> str:
    """A short text for all that cached arrays depend on: files by size and time, other things by value."""
    digest = sha256()
    for part in parts:
        if isinstance(part, Path):
            status = part.stat()
            part = (part.name, status.st_size, status.st_mtime_ns)
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()


def load_arrays(path: Path | None, state: str) -> dict[str, np.ndarray] | None:
    """What `keep_arrays` wrote; None if there is nothing, it is damaged, or was made from another state."""
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["state"]) == state:
                return {key: file[key] for key in file.files if key != "state"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        _log.warning("%s is damaged; it is made again", path)
    return None


def is_made_from(path: Path, state: str) -> bool:
    """Whether an npz file is there and its array `state` says that it was made from this state."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return "state" in file.files and str(file["state"]) == state
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def keep_arrays(path: Path | None, state: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays (none named "state") for `load_arrays`; a disk that cannot be written to is no error."""
    if path is None:
        return
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, state=np.array(state), **arrays)
    except OSError as error:  # data sets often lie on read-only disks
        _log.warning("cannot keep %s (%s); it will be made again next time", path, error)
