"""Errors of the open model on held-out motion with virtual cameras, against two baselines.

    python scripts/open/evaluate.py [--split test] [--limit N] [--output FILE.json] [key=value ...]

Methods: MoRo (the video model on whole sequences), its single-frame stage, the same with hidden joints
interpolated in time (told the true visibility), and the mean pose placed where the single-frame stage says.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.recovery.heldout import format_table, held_out_table, transposed
from moro.errors import ExitOnMoroError
from moro.io.atomic import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--limit", type=int, help="only the first N sequences")
    parser.add_argument("--output", type=Path, help="write the table as json")
    parser.add_argument("overrides", nargs="*", help="configuration, e.g. tag=mine")
    arguments = parser.parse_args()
    with ExitOnMoroError():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    table = held_out_table(arguments.overrides, arguments.split, arguments.limit)
    print(format_table(transposed(table)))
    if arguments.output:
        with atomic_path(arguments.output) as temporary:
            temporary.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
