"""How a row of the table is measured.

A row has two variants: "plain", a twin that computes as the original does, and "ours". Both run in turns in
one fresh process: first once each, to compare what they return, then again for the times, of which the
medians count. Peak memory is that of one run in a process of its own per variant, weights and inputs
included, above what the imports had taken.

This module imports neither torch nor anything of ours that does: whoever only prints a table need not.
"""

import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from moro.errors import MoroError

MAX_ROUNDS = 15
GROWTH = 1.15  # of a cost that is called linear or flat
STATUS = Path("/proc/self/status")
Run = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Options:
    """What the rows depend on.

    quick           tiny sizes: shows that everything runs, the numbers mean nothing
    tables          folder of SMPL-X's connection matrices, for the rows at release size
    vit             also the training step with ViT-H
    video           a video of one person for the demo
    random_weights  demo: no checkpoint
    work            scratch folder of this run
    seconds         time in which the runs of a row are repeated
    """

    quick: bool = False
    tables: Path = Path("body_models/smplx_ConnectionMatrices")
    vit: bool = False
    video: Path = Path("downloads/sports2d.mp4")
    random_weights: bool = False
    work: Path = Path(".")
    seconds: float = 60.0


@dataclass(frozen=True)
class Target:
    """What a row is to reach; all that are given count.

    speedup       times faster than the twin        memory_share  of the twin's peak, at most
    ms            per unit, at most                 mb            peak, at most
    linear_to     a smaller row: time and memory per unit are at most 15 % above that row's
    flat_to       a smaller row: peak memory is at most 15 % above that row's
    """

    speedup: float | None = None
    ms: float | None = None
    mb: float | None = None
    memory_share: float | None = None
    linear_to: str | None = None
    flat_to: str | None = None

    def __str__(self) -> str:
        parts = (
            (self.speedup, "{:g}x faster"),
            (self.ms, "{:g} ms"),
            (self.mb, "{:g} MB"),
            (self.memory_share, "{:g} of the twin's memory"),
            (self.linear_to, "per unit as {}"),
            (self.flat_to, "memory as {}"),
        )
        return ", ".join(text.format(value) for value, text in parts if value is not None)

    def is_met(self, result: "Result", others: Mapping[str, "Result"]) -> bool | None:
        """None if there is no target, or the row it refers to was not measured."""
        verdicts = [
            *_at_most(self.ms, result.ours_ms),
            *_at_most(self.mb, result.ours_mb),
        ]
        if self.speedup is not None:
            verdicts.append(result.ratio is not None and result.ratio >= self.speedup)
        if self.memory_share is not None:
            verdicts += _at_most(self.memory_share * (result.plain_mb or 0), result.ours_mb)
        for name, per_unit in ((self.linear_to, True), (self.flat_to, False)):
            if name is not None:
                other = others.get(name)
                if other is None or other.ours_ms is None:
                    return None
                verdicts += _at_most(GROWTH * other.peak(per_unit), result.peak(per_unit))
                if per_unit:
                    verdicts += _at_most(GROWTH * other.ours_ms, result.ours_ms)
        return all(verdicts) if verdicts else None


def _at_most(limit: float | None, value: float | None) -> list[bool]:
    return [] if limit is None else [value is not None and value <= limit]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    name       <module>.<what>-<size>, unique
    prepare    variant → function to measure, without arguments. It returns what must be equal in both
               variants (arrays by name); strings among it are notes for the reader. Must be a function of a
               module (or `partial` of one): other processes call it
    files      makes files that both variants read, in a process of its own; also a function of a module
    twin       whether there is a "plain" variant
    units      frames or meshes of one run; times are given per unit
    gflop      10^9 floating-point operations that ours cannot do without, per unit; for the roofline
    tolerance  largest difference, relative to the largest value; of integers the share that differs
    skip       why it cannot be measured here
    """

    name: str
    what: str
    size: str
    prepare: Callable[[str], Run]
    target: Target = field(default_factory=Target)
    files: Callable[[], None] | None = None
    twin: bool = True
    units: int = 1
    gflop: float | None = None
    tolerance: float = 1e-4
    skip: str | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        return ("plain", "ours") if self.twin else ("ours",)


@dataclass
class Result:
    """A measured row; times in ms per unit, memory in MB."""

    name: str
    what: str
    size: str
    units: int
    target: str
    gflop: float | None = None
    plain_ms: float | None = None
    ours_ms: float | None = None
    ratio: float | None = None
    plain_mb: float | None = None
    ours_mb: float | None = None
    difference: float | None = None
    equal: bool | None = None
    met: bool | None = None
    rounds: int = 0
    notes: list[str] = field(default_factory=list)
    skipped: str | None = None
    failed: bool = False
    commit: str = ""
    date: str = ""

    def peak(self, per_unit: bool) -> float:
        return (self.ours_mb or 0.0) / (self.units if per_unit else 1)


def measure(row: Row, seconds: float = 60.0) -> Result:
    """Measure one row; what goes wrong is said in `skipped` and never raised."""
    result = Result(
        row.name, row.what, row.size, row.units, str(row.target), row.gflop, skipped=row.skip
    )  # fmt: skip
    if row.skip is not None:
        return result
    try:
        if row.files is not None:
            _in_own_process(row.files)
        for variant in row.variants:
            setattr(result, f"{variant}_mb", _in_own_process(_peak_memory, row, variant))
        timing = _in_own_process(_take_turns, row, seconds)
    except MoroError as error:
        result.skipped = str(error)
    except BrokenProcessPool:
        result.skipped, result.failed = "the process was killed, probably for lack of memory", True
    except Exception as error:  # one broken row must not cost the others
        traceback.print_exception(error)
        result.skipped, result.failed = f"{type(error).__name__}: {error}", True
    else:
        for key, value in timing.items():
            setattr(result, key, value)
        if row.twin:
            result.ratio = result.plain_ms / result.ours_ms
            result.equal = result.difference <= row.tolerance
    return result


def judge(rows: Iterable[Row], results: Mapping[str, Result]) -> None:
    """Fill in `met`, once all rows are there."""
    for row in rows:
        result = results.get(row.name)
        if result is not None and result.skipped is None:
            result.met = False if result.equal is False else row.target.is_met(result, results)


# ------------------------------------------------------------------------------------ in a process of its own


def _in_own_process(function: Callable, *arguments: Any) -> Any:
    """A fresh interpreter: nothing that ran before shows in the peak memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _take_turns(row: Row, seconds: float) -> dict[str, Any]:
    """Times of both variants in ms per unit, and how far apart their results are."""
    runs = {variant: row.prepare(variant) for variant in row.variants}
    first = {variant: _timed(run) for variant, run in runs.items()}  # (seconds, results)
    notes = [value for _, found in first.values() for value in found.values() if isinstance(value, str)]
    difference = difference_of(*(found for _, found in first.values())) if row.twin else None
    rounds = int(seconds / max(sum(spent for spent, _ in first.values()), 1e-9))
    rounds = min(max(rounds, 1), MAX_ROUNDS)
    del first
    times: dict[str, list[float]] = {variant: [] for variant in runs}
    for _ in range(rounds):
        for variant, run in runs.items():
            times[variant].append(_timed(run)[0])
    medians = {f"{v}_ms": 1e3 * statistics.median(spent) / row.units for v, spent in times.items()}
    return {**medians, "difference": difference, "rounds": rounds, "notes": notes}


def _timed(run: Run) -> tuple[float, Mapping[str, Any]]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def _peak_memory(row: Row, variant: str) -> float | None:
    """Peak of one run above the memory taken by the imports, MB; None where there is no /proc (not Linux)."""
    if not STATUS.exists():
        return None
    imports = _peak()  # unpickling `row` has imported its module
    run = row.prepare(variant)
    _forget_peak()
    run()
    return _peak() - imports


def _peak() -> float:
    """The greatest resident memory of this process since its start or `_forget_peak`, MB."""
    lines = STATUS.read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def _forget_peak() -> None:
    """The peak starts again from here: what `prepare` needed for a moment does not count."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def difference_of(plain: Mapping[str, Any], ours: Mapping[str, Any]) -> float:
    """Largest difference of arrays by name, relative to the largest value; of integers the share.

    Infinite if names or shapes do not agree, or a value is not finite.
    """
    plain, ours = ({k: v for k, v in part.items() if not isinstance(v, str)} for part in (plain, ours))
    if plain.keys() != ours.keys():
        return float("inf")
    return max(map(_difference, plain.values(), (ours[key] for key in plain)), default=0.0)


def _difference(plain: Any, ours: Any) -> float:
    plain, ours = np.asarray(plain), np.asarray(ours)
    if plain.shape != ours.shape:
        return float("inf")
    if plain.size == 0:
        return 0.0
    if plain.dtype.kind in "iub":
        return float((plain != ours).mean())
    distance = np.abs(plain - ours).max() / max(np.abs(plain).max(), 1e-30)
    return float(distance) if np.isfinite(distance) else float("inf")
