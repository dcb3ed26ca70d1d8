"""What the open model is worth: on held-out motion with exact truth, and on real video.

    python scripts/open/benchmark.py [--only heldout|real] [--all-cameras] [--clips FOLDER] [--limit N]
                                     [--output FILE.json] [key=value ...]

Real video (docs/real_video.md) needs `python scripts/fetch_demo_files.py --benchmark`. Cameras 1 and 2 are
for decisions while developing; --all-cameras for the final report. Tracks are kept in --work between runs.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.mask_transformer.build import choose_checkpoint, resolve_paths
from models.recovery.heldout import format_table, held_out_tables, transposed
from models.recovery.pipeline import load_system, videos_of
from models.recovery.real_video import DECIDING, compare_with_reference, summary
from models.recovery.withheld import measure_withheld
from moro.body.loading import load_body_model
from moro.config import compose_config
from moro.errors import ExitOnMoroError, MoroError
from moro.io.atomic import write_json

SAMPLE = Path("downloads/sports2d.mp4")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", choices=("heldout", "real"))
    add("--all-cameras", action="store_true", help="all four cameras, not only those for decisions")
    add("--data", type=Path, default=Path("downloads/pose2sim"), help="default: %(default)s")
    add("--clips", type=Path, help="folder of further clips for the withheld limbs")
    add("--limit", type=int, help="only N held-out motions, evenly chosen")
    add("--work", type=Path, default=Path("exp/benchmark"), help="default: %(default)s")
    add("--output", type=Path, help="write the tables as json")
    add("overrides", nargs="*", help="configuration, e.g. tag=mine")
    with ExitOnMoroError():
        run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    report: dict[str, Any] = {}
    if arguments.only != "heldout":
        report |= real_video(arguments)
        save(report, arguments.output)
    if arguments.only != "real":
        report["held-out"] = held_out_tables(arguments.overrides, limit=arguments.limit)
        for name, table in report["held-out"].items():
            print(f"\nHeld-out motion, {name}\n" + format_table(transposed(table)))
        save(report, arguments.output)


def real_video(arguments: argparse.Namespace) -> dict[str, Any]:
    """Against four cameras, and with limbs withheld."""
    clips = [SAMPLE, *found_clips(arguments.clips)]
    for clip in clips:
        if not clip.is_file():
            raise MoroError(f"{clip} not found; run `python scripts/fetch_demo_files.py --benchmark`.")
    composed = compose_config("demo", ["preset=open", "tag=release", *arguments.overrides])
    cfg, paths = resolve_paths(composed)
    system = load_system(cfg, choose_checkpoint(cfg, paths))
    body = load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type)
    names = None if arguments.all_cameras else DECIDING
    result, reference = compare_with_reference(cfg, system, body, arguments.data, names, arguments.work)
    trust = {
        "reprojection [px]": reference.reprojection.tolist(),
        "change without a view [mm]": reference.left_out.tolist(),
        "shift of the views [px]": reference.shift.tolist(),
    }
    print("\nReal video, 12 main joints against four cameras\n" + format_table(summary(result)))
    for name, values in trust.items():
        print(f"reference, {name}: {json.dumps(values, default=float)}")
    withheld = measure_withheld(cfg, system, body, clips, arguments.work)
    print("\nReal video, withheld limbs\n" + format_table(withheld))
    return {"reference": trust, "real video": result, "withheld limbs": withheld}


def found_clips(folder: Path | None) -> list[Path]:
    """Videos of a folder in the order of their names."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise MoroError(f"{folder} is no folder; --clips wants one with videos.")
    return videos_of(folder) or []


def save(report: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        write_json(path, report)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_grad_enabled(False)
    main()
