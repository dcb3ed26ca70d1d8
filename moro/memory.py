"""Memory that was freed goes back to the system, for runs whose memory must not depend on their length."""

import ctypes
import functools
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters (malloc.h)
LARGE = 2**22  # bytes


def give_back() -> None:
    """Hand freed memory over to the system, and from now on large arrays as soon as they are freed.

    The C library keeps it for later, in pieces that the next large array may not fit into, and does so with
    ever larger arrays: what a long video needs then depends on luck. Does nothing where that library is not
    glibc (macOS, Windows, Alpine).
    """
    library = _glibc()
    if library is not None:
        library.mallopt(MMAP_THRESHOLD, LARGE)
        library.mallopt(TRIM_THRESHOLD, LARGE)
        library.malloc_trim(0)


@functools.cache
def _glibc() -> Any | None:
    """The C library, if it has both functions."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
