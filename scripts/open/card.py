"""Put the figures of a benchmark into the model card and the README.

    python scripts/open/benchmark.py --all-cameras --clips FOLDER --output docs/open_results.json
    python scripts/open/card.py [docs/open_results.json]

A table stands between `<!-- NAME: start -->` and `<!-- NAME: end -->`; NAME is a key of `tables`.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.recovery.real_video import CLIPS, Result, summary
from moro.errors import ExitOnMoroError, MoroError
from moro.io.documents import markdown_table, replace_parts

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "ckpt/open/MODEL_CARD.md", ROOT / "README.md")
SCENARIOS = ("clean", "hidden", "gap", "mixed")
METHODS = ("MoRo", "single frame", "single frame, gaps interpolated")
MEASURES = (
    "PA-MPJPE", "PA-MPJPE visible", "PA-MPJPE occluded", "MPJPE", "Accel error [m/s2]",
    "Foot sliding [mm/frame]", "RTE [%]",
)  # fmt: skip
WITHHELD = {
    "withheld": "PCK withheld [%]", "the detector's, interpolated": "PCK interpolated [%]",
    "shown": "PCK shown [%]", "jitter, nothing withheld": "Jitter shown",
    "jitter of BlazePose": "Jitter BlazePose",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="?", default=ROOT / "docs/open_results.json")
    with ExitOnMoroError():
        results = parser.parse_args().results
        if not results.is_file():
            raise MoroError(f"{results} not found; scripts/open/benchmark.py --output {results} makes it.")
        made = tables(json.loads(results.read_text(encoding="utf-8")))
        for document in DOCUMENTS:
            replace_parts(document, made)


def tables(results: Mapping) -> dict[str, str]:
    """Markdown by name, of the file that benchmark.py writes."""
    held_out, cameras = results["held-out"], results["real video"]
    made = {scenario: _scenario(held_out[scenario]) for scenario in SCENARIOS}
    families = {name: held_out[f"{name}, MoRo by family"] for name in ("clean", "hidden")}
    made["families"] = markdown_table(
        ["family", *families["clean"]],
        ([name, *(f"{row['PA-MPJPE']:.1f}" for row in table.values())] for name, table in families.items()),
    )
    made["cameras"] = _cameras(cameras, "PA-MPJPE [mm]")
    made["cameras_mpjpe"] = _cameras(cameras, "MPJPE [mm]")
    made["withheld"] = markdown_table(
        ["clip", *WITHHELD],
        ([clip, *(f"{row[key]:.0f}" + " %" * ("%" in key) for key in WITHHELD.values())]
         for clip, row in results["withheld limbs"].items()),
    )  # fmt: skip
    return made


def _scenario(table: Mapping) -> str:
    rows = ([measure, *(f"{table[method][measure]:.1f}" for method in METHODS)] for measure in MEASURES)
    return markdown_table(["", *METHODS], rows)


def _cameras(result: Result, measure: str) -> str:
    """Both methods in each camera, their means, and by how much MoRo is worse if somebody is in front."""
    measured = summary(result)
    columns = [f"{method} {kind}" for kind in CLIPS for method in ("BlazePose", "MoRo")]
    rows = []
    for camera in (*result, "mean"):
        values = [measured[f"{camera} {kind} {method}"][measure]
                  for kind in CLIPS for method in ("BlazePose", "MoRo")]  # fmt: skip
        cost = round(100 * (values[3] / values[1] - 1))
        rows.append([camera, *(f"{value:.1f}" for value in values), f"{cost} %"])
    return markdown_table(["camera", *columns, "cost of occlusion, MoRo"], rows)


if __name__ == "__main__":
    main()
