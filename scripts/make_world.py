"""A small made-up data set in the exact on-disk format of a real one, for tests and for trying things out.

    python -m scripts.make_world --format egobody --out worlds
    python train_mask_transformer.py data=egobody dataset.dataset_root=worlds/EgoBody \\
        dataset.bm_path=worlds/standin_body_models ...

Cameras, occluders and labels are generated, pictures rendered; people perform generated motion, or captured
motion with --motions. The body models beside the
data are stand-ins made of the open body, so numbers from such a world say nothing about published ones.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moro.errors import run_script
from moro.synth.worlds import FORMATS, WorldSize, make_world

logger = logging.getLogger("make_world")
ALL = "all"


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    size = WorldSize(args.frames, args.recordings, args.motions)
    for name in list(FORMATS) if args.format == ALL else [args.format]:
        logger.info("wrote %s", make_world(name, args.out, args.seed, size, args.bm_path, args.vertices))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", choices=[*FORMATS, ALL], required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder in which the data set is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=12, help="per recording")
    parser.add_argument("--recordings", type=int, default=2)
    parser.add_argument(
        "--motions", type=Path, help="output of process_mocap, for captured motion (default: generated)"
    )
    parser.add_argument("--bm_path", type=Path, default=Path("body_models"), help="folder with the open body")
    parser.add_argument("--vertices", type=int, help="of the stand-in body models, e.g. SMPL-X's 9383")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
