"""The harness on rows of next to no work: times, memory, equality, targets, files."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import Result, Row, Target, difference_of, judge, measure
from benchmarks.report import (
    CEILING,
    Machine,
    read_results,
    roofline,
    table,
    update_document,
    write_results,
)
from tests.benchmarks import trivial

MARKS = "<!-- results: start -->", "<!-- results: end -->"  # of docs/benchmarks.md


@pytest.fixture(scope="module")
def result() -> Result:
    return measured(trivial.row("t.squares", 0.0, target=trivial.TARGET))


def measured(row: Row) -> Result:
    found = measure(row, seconds=0.0)
    judge([row], {row.name: found})
    return found


def test_a_row(result: Result) -> None:
    assert result.skipped is None and result.equal and result.met and result.rounds == 1
    assert result.plain_ms > 500 > result.ours_ms and result.ratio > 1.2 and result.difference == 0
    assert 35 < result.plain_mb < 60 and result.ours_mb < 10
    assert result.notes == ["by one product"]


def test_a_fast_path_that_differs_meets_nothing() -> None:
    found = measured(trivial.row("t.wrong", 1e-3, target=trivial.TARGET))
    assert found.equal is False and found.met is False and found.difference == pytest.approx(1e-3)
    assert "DIFFERS" in table([found])


def test_files_and_what_is_missing(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    row = Row("t.read", "read", "1 file", partial(trivial.read, path), twin=False)
    assert measure(row, 0.0).skipped == "the file is missing; make it"
    found = measured(replace(row, files=partial(trivial.write, path)))
    assert found.skipped is None and found.ratio is None and found.met is None
    assert measure(replace(row, skip="not here"), 0.0).skipped == "not here"


def test_targets() -> None:
    def of(ms: float, mb: float, units: int = 1) -> Result:
        return Result("r", "", "", units, "", ours_ms=ms, ours_mb=mb, plain_mb=100.0, ratio=3.0)

    assert Target().is_met(of(1, 1), {}) is None
    assert Target(ms=2, mb=5, speedup=3, memory_share=0.05).is_met(of(2, 5), {})
    assert Target(ms=2).is_met(of(2.1, 5), {}) is False
    assert Target(speedup=3.1).is_met(of(1, 1), {}) is False
    small = {"s": of(1.0, 100.0, units=250)}
    assert Target(linear_to="s").is_met(of(1.1, 440.0, units=1000), small)
    assert Target(linear_to="s").is_met(of(1.1, 1000.0, units=1000), small) is False
    assert Target(linear_to="s").is_met(of(1.2, 400.0, units=1000), small) is False
    assert Target(flat_to="s").is_met(of(9, 114.0, units=1000), small)
    assert Target(flat_to="s").is_met(of(9, 120.0), small) is False
    assert Target(flat_to="s").is_met(of(9, 114.0), {}) is None


def test_differences() -> None:
    def of(a: object, b: object) -> float:
        return difference_of({"x": a, "note": "a"}, {"x": b})

    assert of(np.array([1.0, 2.0]), np.array([1.0, 2.2])) == pytest.approx(0.1)
    assert of(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert of(np.array([1.0]), np.array([np.nan])) == float("inf")
    assert of(np.zeros(2), np.zeros(3)) == float("inf")
    assert difference_of({"x": 1}, {}) == float("inf") and difference_of({}, {}) == 0


def test_files_of_results(result: Result, tmp_path: Path) -> None:
    machine = Machine.this(threads=1)
    assert machine.processor and machine.memory_gb > 0 and len(machine.date) == 10
    path = tmp_path / "results.json"
    assert read_results(path) == (None, {})
    skipped = Result("t.skipped", "rest", "none", 1, "", skipped="nothing there")
    write_results(path, machine, {result.name: result, skipped.name: skipped})
    again, results = read_results(path)
    assert again == machine and results == {result.name: result, skipped.name: skipped}
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    update_document(document, machine, results)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| squares | 1000 numbers |" in text and "nothing there" in text and str(machine) in text
    assert "by one product" in table(results.values())


def test_roofline() -> None:
    ceiling = Result(CEILING, "", "", 1, "", gflop=20.0, ours_ms=100.0)
    row = Result("t.row", "", "", 1, "", gflop=10.0, ours_ms=80.0, plain_ms=150.0)
    assert roofline([row]) == []
    first, second = roofline([ceiling, row])
    assert first.endswith("200 GFLOP/s")
    assert "at 125 GFLOP/s, 62 % of the ceiling; at best 50 ms, 3.0x faster than the twin" in second
