"""Small made-up worlds in the on-disk formats of real data sets, for tests and for trying things out.

Each format is one module with

    write(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path

which writes a data set below `out` with the stand-in body models at `bodies` and returns its root. A new
format is a new module and a line in FORMATS.
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
}
BODIES = "standin_body_models"


@dataclass(frozen=True)
class WorldSize:
    """How much is made: frames per recording, and recordings."""

    frames: int = 12
    recordings: int = 2


def make_world(
    name: str, out: Path, seed: int = 0, size: WorldSize | None = None, bm_path: Path = Path("body_models")
) -> Path:
    """Write a world of format `name` below `out`; returns the root of the data set.

    bm_path  folder with the open body, of which the stand-in body models in <out>/standin_body_models are
             made; set dataset.bm_path to that folder to use the world
    The same arguments give the same files. Raises MoroError for an unknown format.
    """
    size = size or WorldSize()
    if name not in FORMATS:
        raise MoroError(f"unknown format '{name}'; choose one of {', '.join(FORMATS)}")
    if size.frames < 3 or size.recordings < 1:
        raise MoroError(f"a world needs 3 frames and 1 recording, not {size.frames} and {size.recordings}")
    bodies = out / BODIES
    write_standin_bodies(bodies, bm_path)
    return importlib.import_module(FORMATS[name]).write(out, seed, size, bodies)
