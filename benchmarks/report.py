"""Results as text: the printed table, the json file, and the table of docs/benchmarks.md.

    python -m benchmarks.report results.json     put the file's table into docs/benchmarks.md
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import Result
from moro.io.atomic import write_json
from moro.io.documents import markdown_table, replace_parts

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs/benchmarks.md"
CEILING = "ceilings.matmul"
COLUMNS = (
    "what", "size", "twin ms", "ours ms", "ratio", "twin MB", "ours MB", "difference", "target", "met?"
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Where and when was measured."""

    processor: str
    cores: int
    threads: int
    memory_gb: float
    system: str
    python: str
    torch: str
    date: str
    commit: str

    @classmethod
    def this(cls, threads: int) -> "Machine":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        return cls(
            processor=_processor(),
            cores=os.cpu_count() or 1,
            threads=threads,
            memory_gb=round(memory, 1),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            torch=version("torch"),
            date=date.today().isoformat(),
            commit=_commit(),
        )

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores, {self.threads} threads, {self.memory_gb:g} GB; "
            f"{self.system}, Python {self.python}, torch {self.torch}; {self.date}, commit {self.commit}"
        )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Short hash, with a + if files have been changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


# ---------------------------------------------------------------------------------------------------- files


def write_results(path: Path, machine: Machine, results: Mapping[str, Result]) -> None:
    """Machine and rows as json, atomically."""
    content = {"machine": asdict(machine), "rows": [asdict(result) for result in results.values()]}
    write_json(path, content)


def read_results(path: Path) -> tuple[Machine | None, dict[str, Result]]:
    """What `write_results` wrote; nothing if the file does not exist."""
    if not path.is_file():
        return None, {}
    content = json.loads(path.read_text())
    return Machine(**content["machine"]), {row["name"]: Result(**row) for row in content["rows"]}


def update_document(document: Path, machine: Machine, results: Mapping[str, Result]) -> None:
    """Replace the part `results` of the document."""
    replace_parts(document, {"results": f"{machine}\n\n{markdown(results.values())}\n"})


# ---------------------------------------------------------------------------------------------------- tables


def cells(result: Result) -> list[str]:
    """The text of each of COLUMNS."""
    if result.skipped is not None:
        return [result.what, result.size, *[""] * 6, result.target, result.skipped]
    met = {None: "", True: "yes", False: "no" if result.equal is not False else "DIFFERS"}[result.met]
    ratio = "" if result.ratio is None else f"{result.ratio:.1f}x"
    difference = "" if result.difference is None else f"{result.difference:.0e}"
    times = [_number(result.plain_ms), _number(result.ours_ms), ratio]
    return [
        result.what, result.size, *times, _number(result.plain_mb), _number(result.ours_mb), difference,
        result.target, met,
    ]  # fmt: skip


def roofline(results: Iterable[Result]) -> list[str]:
    """How near each row with a known amount of arithmetic comes to what a plain matrix product reaches here.

    A twin that is itself near the ceiling bounds the ratio that anything can reach.
    """
    by_name = {result.name: result for result in results if result.ours_ms}
    ceiling = by_name.pop(CEILING, None)
    if ceiling is None:
        return []
    limit = ceiling.gflop / ceiling.ours_ms  # 10^9 operations per ms
    lines = [f"{CEILING}: {1e3 * limit:.0f} GFLOP/s"]
    for name, result in by_name.items():
        if result.gflop is None:
            continue
        least = result.gflop / limit
        rate, share = 1e3 * result.gflop / result.ours_ms, 100 * least / result.ours_ms
        line = (
            f"{name}: {result.gflop:.3g} GFLOP per unit at {rate:.0f} GFLOP/s, {share:.0f} % of the ceiling; "
            f"at best {_number(least)} ms"
        )
        if result.plain_ms:
            line += f", {result.plain_ms / least:.1f}x faster than the twin"
        lines.append(line)
    return lines


def _number(value: float | None) -> str:
    """Three digits that matter, and no exponent."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(results: Iterable[Result]) -> str:
    """For the terminal; notes below."""
    results = list(results)
    rows = [COLUMNS, *(cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    lines = ["  ".join([*(text.ljust(w) for text, w in zip(row, widths)), row[-1]]).rstrip() for row in rows]
    return "\n".join([*lines, *notes_of(results), *roofline(results)])


def notes_of(results: Iterable[Result]) -> list[str]:
    return [f"{result.name}: {note}" for result in results for note in result.notes]


def markdown(results: Iterable[Result]) -> str:
    """For the document; times are per unit, memory is above that of the imports."""
    results = list(results)
    text = markdown_table(COLUMNS, (cells(result) for result in results)).rstrip("\n")
    for title, below in (("Notes", notes_of(results)), ("Roofline", roofline(results))):
        text += f"\n\n{title}:\n\n" + "\n".join(f"- {line}" for line in below) if below else ""
    return text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    machine, results = read_results(arguments.results)
    if machine is None:
        sys.stderr.write(f"error: {arguments.results} not found; python -m benchmarks --json makes it\n")
        return 1
    update_document(arguments.document, machine, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
