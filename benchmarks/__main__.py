"""Measure the fast paths beside their plain twins and print one table (docs/benchmarks.md).

    python -m benchmarks                                      everything, about two hours on two cores
    python -m benchmarks --only tokenizer transformer.decode  rows whose names begin so
    python -m benchmarks --list                               the names
    python -m benchmarks --json results.json                  also written there, after every row
    python -m benchmarks --json results.json --update         rows already in the file are kept
    python -m benchmarks.report results.json                  the table of docs/benchmarks.md from the file

Nothing else should run on the machine. Rows at release size need the connection matrices of SMPL-X.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.harness import Options, Result, Row, judge, measure
from benchmarks.report import Machine, read_results, table, write_results

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = ("ceilings", "tokenizer", "transformer", "vit", "raster", "evaluation", "data", "demo")
REFERENCE_TABLES = Path("reference_data/smplx_ConnectionMatrices")


def main() -> int:
    arguments = _parse()
    os.chdir(ROOT)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)  # read by the processes that measure
    with tempfile.TemporaryDirectory(prefix="moro-benchmarks-") as work:
        rows = select(_options(arguments, Path(work)), arguments.only)
        if arguments.list:
            print("\n".join(row.name for row in rows))
            return 0
        return run(rows, arguments)


def select(options: Options, only: Iterable[str]) -> list[Row]:
    """Rows whose names begin with one of `only`, or all; subjects not asked for are not even imported."""
    subjects = [s for s in SUBJECTS if not only or any(s.startswith(o.partition(".")[0]) for o in only)]
    rows = [row for subject in subjects for row in import_module(f"benchmarks.{subject}").rows(options)]
    wrong = [start for start in only if not any(row.name.startswith(start) for row in rows)]
    if wrong:
        sys.exit(f"error: no row begins with {', '.join(wrong)}; --list names them")
    return [row for row in rows if not only or row.name.startswith(tuple(only))]


def run(rows: list[Row], arguments: argparse.Namespace) -> int:
    """Measure, print, write; 1 if a row failed or a fast path differs from its twin."""
    machine = Machine.this(arguments.threads)
    print(machine, flush=True)
    results = read_results(arguments.json)[1] if arguments.update else {}
    for number, row in enumerate(rows, start=1):
        if row.name in results and not arguments.only:
            continue
        print(f"[{number}/{len(rows)}] {row.name} ...", end=" ", flush=True)
        result = measure(row, 0.0 if arguments.quick else arguments.seconds)
        result.commit, result.date = machine.commit, machine.date
        results[row.name] = result
        judge(rows, results)
        print(_in_short(result), flush=True)
        if arguments.json:
            write_results(arguments.json, machine, results)
    print("\n" + table(results.values()))
    return int(any(result.failed or result.equal is False for result in results.values()))


def _in_short(result: Result) -> str:
    if result.skipped is not None:
        return result.skipped
    ratio = "" if result.ratio is None else f", {result.ratio:.1f}x, difference {result.difference:.1e}"
    return f"{result.ours_ms:.3g} ms{ratio}"


def _options(arguments: argparse.Namespace, work: Path) -> Options:
    options = Options(
        quick=arguments.quick,
        vit=arguments.vit,
        random_weights=arguments.random_weights,
        work=work,
        seconds=arguments.seconds,
    )
    shared = Path(os.environ.get("MORO_SHARED", ROOT.parent / "shared"))
    known = (arguments.tables, options.tables, shared / REFERENCE_TABLES)
    tables = next((Path(folder) for folder in known if folder and Path(folder).is_dir()), options.tables)
    return replace(options, tables=tables, video=arguments.video or options.video)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument(
        "--update", action="store_true", help="keep the file's rows; with --only, measure those anew"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=60.0, help="spent on repeating each row")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does everything run?")
    parser.add_argument(
        "--tables",
        type=Path,
        help="SMPL-X's connection matrices (default: body_models/smplx_ConnectionMatrices, then "
        "$MORO_SHARED/reference_data)",
    )
    parser.add_argument("--vit", action="store_true", help="also the training step with ViT-H (16 GB)")
    parser.add_argument("--video", type=Path, help="of one person, for the demo")
    parser.add_argument("--random-weights", action="store_true", help="demo without a checkpoint")
    arguments = parser.parse_args()
    if arguments.update and not arguments.json:
        parser.error("--update needs --json")
    for name in ("json", "tables", "video"):
        if getattr(arguments, name):
            setattr(arguments, name, getattr(arguments, name).resolve())
    return arguments


if __name__ == "__main__":
    sys.exit(main())
