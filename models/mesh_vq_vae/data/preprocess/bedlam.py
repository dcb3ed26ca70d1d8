"""Tokenizer file from BEDLAM's motions (spec: data 5.1).

    python -m models.mesh_vq_vae.data.preprocess.bedlam --root <neutral_ground_truth_motioninfo folder>

Every 10th frame of the middle 60 % of `<root>/<person>/<sequence>/*.npz`; for training only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from models.mesh_vq_vae.data.preprocess.common import Motion, amass_fields, parse, run
from moro.errors import run_script

TRIM, SKIP = 0.2, 10


def find_motions(root: Path) -> list[Motion]:
    """Files named by person and sequence."""
    paths = sorted(root.glob("*/*/*.npz"))
    return [Motion(path, f"{path.parent.parent.name}-{path.parent.name}") for path in paths]


def main(argv: list[str] | None = None) -> None:
    arguments = parse(__doc__, "datasets/mesh_vq_vae/bedlam_animations", argv)
    run({"train": find_motions(arguments.root)}, amass_fields, TRIM, SKIP, arguments)


if __name__ == "__main__":
    run_script(main)
