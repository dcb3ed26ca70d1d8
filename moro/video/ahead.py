"""Frames decoded in a thread of their own, a few ahead of whoever uses them."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

DEPTH = 8  # frames waiting; 720p: 22 MB


def read_ahead(items: Iterable[Item], depth: int = DEPTH) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them made in advance.

    What `items` raises is raised here, after the items before it. The thread ends with the last item, or when
    the caller stops early and this iterator is closed.
    """
    waiting: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[str, object]) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(entry, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    return
            put(("end", None))
        except BaseException as error:  # whatever it is, it belongs to the caller
            put(("error", error))

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
            del value  # the caller's alone
    finally:
        stopped.set()
        thread.join()
