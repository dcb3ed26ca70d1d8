"""Memory that was freed goes back to the system, for runs whose memory must not depend on their length."""

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Hand freed memory over to the system, also from between what is still in use.

    The C library keeps it for later, in pieces that the next large array may not fit into: what a long video
    needs then depends on luck. Does nothing where that library is not glibc (macOS, Windows, Alpine).
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
