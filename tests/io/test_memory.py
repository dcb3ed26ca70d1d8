"""Freed memory goes back to the system."""

from pathlib import Path

import numpy as np
import pytest

from moro import memory

STATUS = Path("/proc/self/statm")


def resident() -> int:
    return int(STATUS.read_text().split()[1]) * 4096


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
def test_what_is_freed_between_what_is_kept_goes_back() -> None:
    if memory._glibc() is None:
        pytest.skip("the C library is not glibc")
    arrays = [np.ones(2**13) for _ in range(1000)]  # 64 KB each: in the heap, not mapped one by one
    kept, full = arrays[::100], resident()
    del arrays
    memory.give_back()
    assert len(kept) == 10 and full - resident() > 4e7


@pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc")
def test_large_arrays_go_back_when_freed() -> None:
    if memory._glibc() is None:
        pytest.skip("the C library is not glibc")
    np.ones(2**21)  # 16 MB, freed: glibc would keep the next one of this size on its heap
    memory.give_back()
    large, full = [np.ones(2**20) for _ in range(20)], resident()
    above = np.ones(2**13)
    del large
    assert len(above) and full - resident() > 1.5e8


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory._glibc.cache_clear()
    memory.give_back()
    assert memory._glibc() is None
    memory._glibc.cache_clear()
