"""Put the figures of a benchmark into the model card and the README.

    python scripts/open/benchmark.py --all-cameras --clips FOLDER --output docs/open_results.json
    python scripts/open/card.py [docs/open_results.json]

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`; NAME is a key of `tables`.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.errors import ExitOnMoroError, MoroError
from moro.io.atomic import atomic_path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "ckpt/open/MODEL_CARD.md", ROOT / "README.md")
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
SCENARIOS = ("clean", "hidden", "gap", "mixed")
METHODS = ("MoRo", "single frame", "single frame, gaps interpolated")
MEASURES = (
    "PA-MPJPE", "PA-MPJPE visible", "PA-MPJPE occluded", "MPJPE", "Accel error [m/s2]",
    "Foot sliding [mm/frame]", "RTE [%]",
)  # fmt: skip
KINDS = ("clean", "occluded")
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
            text = filled(document.read_text(encoding="utf-8"), made)
            with atomic_path(document) as temporary:
                temporary.write_text(text, encoding="utf-8")


def filled(text: str, made: Mapping[str, str]) -> str:
    """The text with its tables anew. MoroError if it names one that there is not."""
    unknown = {name for _, name, _ in PLACE.findall(text)} - made.keys()
    if unknown:
        raise MoroError(f"There is no table {', '.join(sorted(unknown))}; there are {', '.join(made)}.")
    return PLACE.sub(lambda found: found[1] + made[found[2]] + found[3], text)


def tables(results: Mapping) -> dict[str, str]:
    """Markdown by name, of the file that benchmark.py writes."""
    held_out, cameras = results["held-out"], results["real video"]
    made = {scenario: _scenario(held_out[scenario]) for scenario in SCENARIOS}
    families = {name: held_out[f"{name}, MoRo by family"] for name in ("clean", "hidden")}
    made["families"] = _table(
        ["family", *families["clean"]],
        ([name, *(f"{row['PA-MPJPE']:.1f}" for row in table.values())] for name, table in families.items()),
    )
    made["cameras"] = _cameras(cameras, "PA-MPJPE [mm]")
    made["cameras_mpjpe"] = _cameras(cameras, "MPJPE [mm]")
    made["withheld"] = _table(
        ["clip", *WITHHELD],
        ([clip, *(f"{row[key]:.0f}" + " %" * ("%" in key) for key in WITHHELD.values())]
         for clip, row in results["withheld limbs"].items()),
    )  # fmt: skip
    return made


def _scenario(table: Mapping) -> str:
    rows = ([measure, *(f"{table[method][measure]:.1f}" for method in METHODS)] for measure in MEASURES)
    return _table(["", *METHODS], rows)


def _cameras(cameras: Mapping, measure: str) -> str:
    """Both methods in each camera, their means, and by how much MoRo is worse if somebody is in front."""
    methods = [(kind, method) for kind in KINDS for method in ("BlazePose", "MoRo")]
    values = {name: [camera[kind][method][measure] for kind, method in methods]
              for name, camera in cameras.items() if name.startswith("cam")}  # fmt: skip
    values["mean"] = [sum(column) / len(values) for column in zip(*values.values(), strict=True)]
    rows = (
        [name, *(f"{value:.1f}" for value in row), f"{round(100 * (row[3] / row[1] - 1))} %"]
        for name, row in values.items()
    )
    titles = [f"{method} {kind}" for kind, method in methods]
    return _table(["camera", *titles, "cost of occlusion, MoRo"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(header), "|".join(["---"] * len(header)), *(" | ".join(row) for row in rows)]
    return f"| {lines[0].lstrip()} |\n|{lines[1]}|\n" + "".join(f"| {line} |\n" for line in lines[2:])


if __name__ == "__main__":
    main()
