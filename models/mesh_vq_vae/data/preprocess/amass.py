"""Tokenizer files from AMASS (SMPL-X neutral) (spec: data 5.1).

    python -m models.mesh_vq_vae.data.preprocess.amass --root <AMASS folder>

Every 10th frame of the middle 60 % of `<root>/<subset>/<subject>/*.npz`. Where subsets are missing, a split
is made of those that are there, and a warning names the others.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from models.mesh_vq_vae.data.preprocess.common import Motion, amass_fields, parse, run
from moro.errors import run_script

logger = logging.getLogger(__name__)

SPLITS = {
    "train": ("CMU", "KIT", "BMLrub", "CNRS", "DFaust", "Eyes_Japan_Dataset", "BMLmovi", "TotalCapture",
              "EKUT", "ACCAD", "TCDHands", "PosePrior", "SOMA", "WEIZMANN"),
    "val": ("HumanEva", "HDM05", "SFU", "MoSh"),
    "test": ("Transitions", "SSM"),
}
TRIM, SKIP = 0.2, 10


def find_motions(root: Path, subsets: tuple[str, ...]) -> list[Motion]:
    """Files of the subsets, named by their path below the root."""
    return [Motion(path, path.relative_to(root).with_suffix("").as_posix())
            for subset in subsets for path in sorted((root / subset).glob("*/*.npz"))]


def report_subsets(root: Path) -> None:
    """Log the subsets of each split that are not there, and the folders that belong to no split."""
    there = {path.name for path in root.iterdir() if path.is_dir()}
    for split, subsets in SPLITS.items():
        if absent := [name for name in subsets if name not in there]:
            logger.warning("%s: split %s is made without %s", root, split, ", ".join(absent))
    if unused := sorted(there.difference(*SPLITS.values())):
        logger.warning("%s: of no split, not used: %s", root, ", ".join(unused))


def main(argv: list[str] | None = None) -> None:
    arguments = parse(__doc__, "datasets/mesh_vq_vae/AMASS_smplx", argv)
    report_subsets(arguments.root)
    splits = {split: find_motions(arguments.root, subsets) for split, subsets in SPLITS.items()}
    run(splits, amass_fields, TRIM, SKIP, arguments)


if __name__ == "__main__":
    run_script(main)
