"""Rows of next to no work, for the test of the harness; other processes import them."""

import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, Run, Target
from moro.errors import MoroError


def squares(error: float, variant: str) -> Run:
    """The twin takes its time and ten times the memory."""
    values = np.arange(1000.0)

    def run() -> dict[str, object]:
        if variant == "plain":
            time.sleep(0 if error else 0.5)  # long, since tests also run on busy machines
            np.ones(40_000_000, np.uint8)
            return {"squares": np.array([v * v for v in values])}
        np.ones(4_000_000, np.uint8)
        return {"squares": values**2 * (1 + error), "note": "by one product"}

    return run


def write(path: str) -> None:
    Path(path).write_text("made")


def read(path: str, variant: str) -> Run:
    if not Path(path).is_file():
        raise MoroError("the file is missing; make it")
    return lambda: {}


def row(name: str, error: float, **options: object) -> Row:
    return Row(name, "squares", "1000 numbers", partial(squares, error), **options)


TARGET = Target(speedup=1.2, memory_share=0.25)
