"""Tokenizer files from MOYO (SMPL-X neutral) (spec: data 5.1).

    python -m models.mesh_vq_vae.data.preprocess.moyo --root <MOYO folder>

Every 5th frame of the middle 80 % of `<root>/<train|val|test>/*/*/*.npz`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from models.mesh_vq_vae.data.preprocess.common import Motion, moyo_fields, parse, run
from moro.errors import run_script

TRIM, SKIP = 0.1, 5


def find_motions(root: Path, split: str) -> list[Motion]:
    """Files of a split, named by their file name."""
    return [Motion(path, path.name) for path in sorted((root / split).glob("*/*/*.npz"))]


def main(argv: list[str] | None = None) -> None:
    arguments = parse(__doc__, "datasets/mesh_vq_vae/MOYO", argv)
    splits = {split: find_motions(arguments.root, split) for split in ("train", "val", "test")}
    run(splits, moyo_fields, TRIM, SKIP, arguments)


if __name__ == "__main__":
    run_script(main)
