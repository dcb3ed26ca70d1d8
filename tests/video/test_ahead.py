"""Reading ahead: the same items, errors where they belong, no thread left behind."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from moro.video.ahead import read_ahead


def threads() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("count", [0, 1, 50])
def test_same_items_in_order(count: int) -> None:
    assert list(read_ahead(range(count), depth=3)) == list(range(count))
    assert threads() == 0


def test_only_a_few_are_made_in_advance() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with closing(read_ahead(source(), depth=3)) as items:
        for item in items:
            assert len(made) <= item + 6  # one in hand, three waiting, one about to
            if item == 20:
                break
    assert threads() == 0 and len(made) < 30


def test_an_error_comes_after_what_was_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    seen = []
    with pytest.raises(ValueError, match="broken"):
        for item in read_ahead(source()):
            seen.append(item)
    assert seen == [1] and threads() == 0
