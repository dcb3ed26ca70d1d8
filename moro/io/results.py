"""`results.pkl`: a joblib file of arrays, read without running anything in it (spec: data 6)."""

import io
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from joblib import numpy_pickle
from joblib.compressor import BinaryZlibFile

from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.io.row_file import RowFile

COMPRESSION = 3
ROWS = 64  # of a `RowFile` written at once


def write_results(
    path: str | Path, frame_name: Sequence[str], verts: np.ndarray | RowFile, contact: np.ndarray | None
) -> None:
    """Write results.pkl, whole or not at all (spec: models 6.4).

    frame_name  L image names
    verts       (L, V, 3)  camera frame, metres; what lies in a file is streamed
    contact     (L, C)     0 or 1; None where the task has none (zeros are written)
    """
    contact = np.zeros((len(verts), 4)) if contact is None else contact
    content = {
        "frame_name": np.array(list(frame_name))[None],  # (1, L)
        "verts": verts if isinstance(verts, RowFile) else np.asarray(verts, np.float32)[None],  # (1, L, V, 3)
        "contact": np.asarray(contact, np.float32)[None],  # (1, L, C)
    }
    with (
        atomic_path(path) as temporary,
        BinaryZlibFile(str(temporary), "wb", compresslevel=COMPRESSION) as compressed,
        io.BufferedWriter(compressed) as file,
    ):
        _StreamedArrays(file).dump(content)


class _StreamedArrays(numpy_pickle.NumpyPickler):
    """What joblib.dump does, and for a `RowFile` (L, *) what it would do with an array (1, L, *)."""

    def save(self, obj: Any) -> None:
        if not isinstance(obj, RowFile):
            super().save(obj)
            return
        shape = (1, *obj.shape)
        wrapper = numpy_pickle.NumpyArrayWrapper(np.ndarray, shape, "C", obj.dtype, allow_mmap=True)
        super().save(wrapper)
        self.framer.commit_frame(force=True)
        wrapper.write_array(np.empty(0, obj.dtype), self)  # the padding before the numbers
        for start in range(0, len(obj), ROWS):
            self.file_handle.write(obj[start : start + ROWS].tobytes())


def read_results(path: str | Path) -> dict[str, np.ndarray]:
    """Read a joblib file of a dictionary of arrays, such as results.pkl, without running anything in it.

    returns  frame_name (1, L), verts (1, L, V, 3), contact (1, L, C), or whatever arrays the file has
    Raises MoroError if the file is missing, damaged or names anything but arrays and plain values.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _RestrictedArrays(path, _decompressed(file)).load()
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; run the test or the demo that writes it first") from error
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError,
            TypeError, zlib.error, MemoryError) as error:  # fmt: skip
        raise MoroError(f"{path} is not a readable result file ({error}); write it anew") from error
    if not isinstance(content, dict):
        raise MoroError(f"{path} holds no dictionary of arrays; give a results.pkl of MoRo")
    return content


def _decompressed(file: BinaryIO) -> BinaryIO:
    """joblib's compress=3 is one zlib stream; files without compression are read as well."""
    head = file.read(1)
    file.seek(0)
    if head == b"\x78":
        return io.BytesIO(zlib.decompress(file.read()))
    return io.BytesIO(file.read())


class _RestrictedArrays(numpy_pickle.NumpyUnpickler):
    """joblib's reader of arrays, which may name nothing but arrays."""

    _allowed = {
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
    }

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(str(path), file, ensure_native_byte_order=True)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which may not be loaded")
        return super().find_class(module, name)

    def load_build(self) -> None:
        """joblib reads an array where its wrapper is built, object arrays by a free unpickler: refused."""
        wrapper = self.stack[-2] if len(self.stack) > 1 else None
        state = self.stack[-1]
        if isinstance(wrapper, numpy_pickle.NumpyArrayWrapper):
            dtype = state.get("dtype") if isinstance(state, dict) else None
            if not isinstance(dtype, np.dtype) or dtype.hasobject:
                raise pickle.UnpicklingError("it has an array of objects")
            if state.get("subclass") is not np.ndarray:
                raise pickle.UnpicklingError("it has an array of an unknown kind")
        super().load_build()

    dispatch = numpy_pickle.NumpyUnpickler.dispatch.copy()
    dispatch[pickle.BUILD[0]] = load_build
