"""Freed memory goes back to the system."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moro import memory

STATUS = Path("/proc/self/statm")
ROOT = Path(__file__).parents[2]
needs_glibc = pytest.mark.skipif(
    memory._glibc() is None or not STATUS.exists(),
    reason="memory is given back by glibc, and read from /proc",
)


def resident() -> int:
    return int(STATUS.read_text().split()[1]) * 4096


@needs_glibc
def test_what_is_freed_between_what_is_kept_goes_back() -> None:
    arrays = [np.ones(2**13) for _ in range(1000)]  # 64 KB each: in the heap, not mapped one by one
    kept, full = arrays[::100], resident()
    del arrays
    memory.give_back()
    assert len(kept) == 10 and full - resident() > 4e7


# In a process of its own: arrays may also lie where a long one has freed others before.
LARGE_ARRAYS = """
import numpy as np
from moro import memory
from tests.io.test_memory import resident
np.ones(2**21)  # 16 MB, freed: glibc would keep the next ones of this size on its heap
{call}
large, full = [np.ones(2**20) for _ in range(20)], resident()
above = np.ones(2**13)
del large
print(full - resident())
"""


@needs_glibc
def test_large_arrays_go_back_when_freed() -> None:
    found = []
    for call in ("memory.give_back()", ""):
        command = [sys.executable, "-c", LARGE_ARRAYS.format(call=call)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        found.append(int(done.stdout))
    assert found[0] > 1.5e8 > found[1]


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory._glibc.cache_clear()
    memory.give_back()
    assert memory._glibc() is None
    memory._glibc.cache_clear()
