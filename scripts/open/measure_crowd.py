"""How wrong and how sure BlazePose is of a person who is partly behind another one (docs/data_open.md).

    python scripts/open/measure_crowd.py [--all-cameras] [--data FOLDER] [--work FOLDER] [key=value ...]

Prints, for the landmarks of the reference in cameras 1 and 2 of the multi-view clips (docs/real_video.md),
clean and with somebody in front: the median error, the share of frames in which it is above 8 % of the
person's size in the picture, and the detector's median visibility in these.
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.recovery.heldout import Table, format_table
from models.recovery.real_video import CLIPS, DECIDING, Subject, cameras_of, load_reference, subjects
from models.recovery.reference import POINTS
from moro.body.skeleton import LANDMARK_NAMES
from moro.config import compose_config
from moro.errors import ExitOnMoroError

FAR = 0.08  # of the person's size: the limb is somewhere else


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all-cameras", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("downloads/pose2sim"), help="default: %(default)s")
    parser.add_argument("--work", type=Path, default=Path("exp/benchmark"), help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", help="configuration")
    with ExitOnMoroError():
        run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    cfg = compose_config("demo", ["preset=open", *arguments.overrides])
    cameras = cameras_of(arguments.data)
    reference = load_reference(cfg, cameras, arguments.data, arguments.work)
    names = None if arguments.all_cameras else DECIDING
    tables: dict[str, Table] = {}
    for shown in subjects(cfg, cameras, reference, arguments.data, names, arguments.work):
        for landmark, measures in errors_of(shown).items():
            row = tables.setdefault(shown.camera.name, {}).setdefault(landmark, {})
            row |= {f"{kind} {shown.kind}": value for kind, value in measures.items()}
    for name, table in tables.items():
        print(f"\n{name} ({', '.join(CLIPS)})\n{format_table(table)}")


def errors_of(shown: Subject) -> Table:
    """{landmark: measures}; errors in percent of the person's size."""
    size = np.ptp(shown.image, axis=1).max(axis=-1)[:, None]  # (T, 1)
    read = shown.track.landmarks[:, POINTS]
    error = np.linalg.norm(read[..., :2] - shown.image, axis=-1) / size  # (T, 16)
    table: Table = {}
    for column, point in enumerate(POINTS):
        own = error[shown.track.seen, column]
        sure = read[shown.track.seen, column, 2][own > FAR]
        table[LANDMARK_NAMES[point]] = {
            "median [%]": 100 * float(np.median(own)),
            "far [%]": 100 * float((own > FAR).mean()),
            "sure of far": float(np.median(sure)) if len(sure) else float("nan"),
        }
    return table


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    torch.set_grad_enabled(False)
    main()
