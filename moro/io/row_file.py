"""A long array in a file of its own, read and written some rows at a time.

A mapping of the file would do the same, but every page it has touched counts as memory of the process, so
that memory would grow with the length of a video after all.
"""

from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, DTypeLike, NDArray

from moro.errors import MoroError


class RowFile:
    """An array (L, *) in a .npy file; rows are read and written by slices without a step.

    shape, dtype  of the array
    Several threads may read it, or write different rows: the file is opened anew for each slice.
    Raises MoroError if there is no such file, or another kind of one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if npy.read_magic(file) != (1, 0):
                    raise ValueError("another version of the format")
                self.shape, _, self.dtype = npy.read_array_header_1_0(file)
                self._start = file.tell()
        except (OSError, ValueError) as error:
            raise MoroError(f"{path} is not a readable array ({error}); run the command again.") from error

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> "RowFile":
        """A new file, in the place of an old one; rows that are never written are zero."""
        dtype = np.dtype(dtype)
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with path.open("wb") as file:
            npy.write_array_header_1_0(file, header)
            file.truncate(file.tell() + dtype.itemsize * int(np.prod(shape)))
        return cls(path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray:
        """A copy of some rows."""
        first, count = self._span(rows)
        array = np.fromfile(self.path, self.dtype, count * self._width, offset=self._offset(first))
        return array.reshape(count, *self.shape[1:])

    def __setitem__(self, rows: slice, values: ArrayLike) -> None:
        first, count = self._span(rows)
        values = np.broadcast_to(np.asarray(values, self.dtype), (count, *self.shape[1:]))
        with self.path.open("r+b") as file:
            file.seek(self._offset(first))
            values.tofile(file)

    @property
    def _width(self) -> int:
        """Values in a row."""
        return int(np.prod(self.shape[1:]))

    def _offset(self, row: int) -> int:
        return self._start + row * self._width * self.dtype.itemsize

    def _span(self, rows: slice) -> tuple[int, int]:
        first, last, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("rows are read and written one after the other")
        return first, max(last - first, 0)
