"""What the confidence of the open model's tokens is worth: predicted against actual joint errors.

    python scripts/open/calibrate.py [--split val] [--scenario hidden] [--limit N] [--output FILE.json]
                                     [key=value ...]

Meshes are drawn from the tokens' probabilities; their spread is the predicted error of each joint. Of the
network alone, before what the demo does after it.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.recovery.heldout import SCENARIOS, format_table, held_out_data, load_stage
from models.recovery.uncertainty import calibrate
from moro.body.loading import load_body_model
from moro.errors import ExitOnMoroError
from moro.io.atomic import write_json


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--limit", type=int, help="only N motions, evenly chosen")
    parser.add_argument("--scenario", default="hidden", choices=tuple(SCENARIOS))
    parser.add_argument("--output", type=Path, help="write it all as json")
    parser.add_argument("overrides", nargs="*", help="configuration, e.g. tag=mine")
    arguments = parser.parse_args()
    with ExitOnMoroError():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    system = load_stage("video_train", arguments.overrides)
    body = load_body_model(system.cfg.dataset.bm_path, system.cfg.dataset.model_type)
    dataset, starts = held_out_data(system.cfg, body, arguments.scenario, arguments.split, arguments.limit)
    found = calibrate(system, dataset, starts)
    print(format_table(found.bins))
    print(f"error = {found.line[0]:.1f} + {found.line[1]:.2f} * spread [mm]")
    for name, value in found.spearman.items():
        print(f"rank correlation of the error with {name}: {value:.2f}")
    if arguments.output:
        write_json(arguments.output, asdict(found))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
