"""Arrays in a file, a few rows at a time."""

from pathlib import Path

import numpy as np
import pytest

from moro.errors import MoroError
from moro.io.row_file import RowFile

STATUS = Path("/proc/self/statm")


def test_rows_come_back(tmp_path: Path) -> None:
    rows = RowFile.create(tmp_path / "a.npy", (7, 2, 3), np.float32)
    array = np.zeros((7, 2, 3), np.float32)
    assert len(rows) == 7 and rows.shape == (7, 2, 3) and rows.dtype == np.float32
    for span, value in ((slice(5, 7), 1.5), (slice(0, 2), np.arange(6).reshape(2, 3)), (slice(3, 3), 9)):
        array[span] = rows[span] = value
    other = RowFile(tmp_path / "a.npy")
    for span in (slice(None), slice(1, 6), slice(6, 99), slice(4, 4), slice(-2, None)):
        assert np.array_equal(rows[span], array[span]) and np.array_equal(other[span], array[span])
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    with pytest.raises(ValueError):
        rows[0:3] = np.ones((2, 2, 3))
    with pytest.raises(ValueError):
        rows[::2]


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
def test_rows_that_were_touched_take_no_memory(tmp_path: Path) -> None:
    rows = RowFile.create(tmp_path / "a.npy", (64, 2**20), np.uint8)
    before = resident()
    for row in range(64):
        rows[row : row + 1] = row
        assert rows[row : row + 1][0, -1] == row
    assert resident() - before < 2**24


def resident() -> int:
    return int(STATUS.read_text().split()[1]) * 4096


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.npy").write_bytes(b"text")
    for name in ("none.npy", "b.npy"):
        with pytest.raises(MoroError, match="not a readable array"):
            RowFile(tmp_path / name)
