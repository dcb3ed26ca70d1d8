"""Errors of the open model on held-out motion with virtual cameras, against three baselines.

    python scripts/open/evaluate.py [--split test] [--scenario mixed ...] [--limit N] [--output FILE.json]
                                    [key=value ...]

Scenarios: clean (nothing hidden), hidden (lower body or one side for 1-2 s), gap (the same for 2 s),
mixed (all kinds). Not by default: crowd (hidden by people: the detector is sure of what it reads there),
exact (clean, and the landmarks have no errors).

Methods: MoRo (what the demo does, on whole sequences), its single-frame stage, the same with hidden joints
interpolated in time (told the true visibility), and the mean pose placed where the single-frame stage says.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.recovery.heldout import SCENARIOS, STANDARD, format_table, held_out_tables, transposed
from moro.errors import ExitOnMoroError
from moro.io.atomic import write_json


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--limit", type=int, help="only N motions, evenly chosen")
    parser.add_argument("--scenario", action="append", choices=tuple(SCENARIOS), help=f"default: {STANDARD}")
    parser.add_argument("--output", type=Path, help="write the table as json")
    parser.add_argument("overrides", nargs="*", help="configuration, e.g. tag=mine")
    arguments = parser.parse_args()
    with ExitOnMoroError():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    tables = held_out_tables(
        arguments.overrides, arguments.split, arguments.limit, arguments.scenario or STANDARD
    )
    for name, table in tables.items():
        print(f"\n{name}\n" + format_table(transposed(table)))
    if arguments.output:
        write_json(arguments.output, tables)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
