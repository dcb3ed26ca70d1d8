"""Small made-up worlds in the on-disk formats of real data sets, for tests and for trying things out.

Each format is one module with

    write(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path

which writes a data set below `out` with the stand-in body models at `bodies` and returns its root; where a
module writes several, it has a function for each. A new format is a new module and a line in FORMATS.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from moro.errors import MoroError
from moro.synth.worlds.bodies import write_standin_bodies

FORMATS = {
    "egobody": "moro.synth.worlds.egobody",
    "rich": "moro.synth.worlds.rich",
    "prox": "moro.synth.worlds.prox",
    "amass": "moro.synth.worlds.motion_files:write_amass",
    "AMASS_smplx": "moro.synth.worlds.motion_files:write_amass_smplx",
    "MOYO": "moro.synth.worlds.motion_files:write_moyo",
    "bedlam_animations": "moro.synth.worlds.motion_files:write_bedlam_animations",
    "bedlam": "moro.synth.worlds.bedlam",
    "coco": "moro.synth.worlds.images:write_coco",
    "mpii": "moro.synth.worlds.images:write_mpii",
    "h36m": "moro.synth.worlds.images:write_h36m",
    "mpi_inf_3dhp": "moro.synth.worlds.images:write_mpi_inf_3dhp",
}
BODIES = "standin_body_models"


@dataclass(frozen=True)
class WorldSize:
    """How much is made: frames per recording, and recordings; of which motion.

    motions  output of process_mocap, whose captured motion people perform; None: generated motion
    """

    frames: int = 12
    recordings: int = 2
    motions: Path | None = None


def make_world(
    name: str,
    out: Path,
    seed: int = 0,
    size: WorldSize | None = None,
    bm_path: Path = Path("body_models"),
    num_vertices: int | None = None,
) -> Path:
    """Write a world of format `name` below `out`; returns the root of the data set.

    bm_path       folder with the open body, of which the stand-in body models in
                  <out>/standin_body_models are made; set dataset.bm_path to that folder to use the world
    num_vertices  of these (default: the open body's); they are left alone where they are there
    The same arguments give the same files. Raises MoroError for an unknown format.
    """
    size = size or WorldSize()
    if name not in FORMATS:
        raise MoroError(f"unknown format '{name}'; choose one of {', '.join(FORMATS)}")
    if size.frames < 3 or size.recordings < 1:
        raise MoroError(f"a world needs 3 frames and 1 recording, not {size.frames} and {size.recordings}")
    bodies = out / BODIES
    write_standin_bodies(bodies, bm_path, num_vertices)
    module, _, function = FORMATS[name].partition(":")
    return getattr(importlib.import_module(module), function or "write")(out, seed, size, bodies)
