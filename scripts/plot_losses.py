"""Plot what a training run has logged.

    python -m scripts.plot_losses exp/mask_transformer/MIMO-keypoints-default/video_train --out losses.png

A run is a stage folder (its newest logs/version_<n>/metrics.csv is taken) or a metrics.csv. One panel per
quantity; training and validation values of it share the panel, several runs share the axes. With --hours,
values are drawn over the time the steps took instead of their number.
"""

import argparse
import csv
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moro.errors import ExitOnMoroError, MoroError
from moro.io.atomic import atomic_path

Curve = tuple[list[float], list[float]]
PACE = "train/seconds_per_step"


def find_log(run: Path) -> Path:
    """The newest metrics.csv of a run; MoroError if there is none."""
    if run.is_file():
        return run
    logs = sorted(run.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise MoroError(f"no metrics.csv below {run}; give the folder of a training run")
    return logs[-1]


def read_log(path: Path) -> dict[str, Curve]:
    """Steps and values by logged name, e.g. `train/loss`."""
    curves: dict[str, Curve] = defaultdict(lambda: ([], []))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name not in ("step", "epoch", None) and text:
                    curves[name][0].append(int(float(row["step"])))
                    curves[name][1].append(float(text))
    if not curves:
        raise MoroError(f"{path} has no logged values yet")
    return dict(curves)


def over_hours(log: dict[str, Curve], path: Path) -> dict[str, Curve]:
    """The same values at hours of training; validation and pauses are not in them."""
    if PACE not in log:
        raise MoroError(f"{path} does not say how long its steps took ({PACE}); plot it without --hours")
    steps, seconds = log[PACE]
    hours = np.cumsum(np.diff(steps, prepend=0) * seconds) / 3600
    return {
        name: (list(np.interp(at, [0, *steps], [0, *hours])), values) for name, (at, values) in log.items()
    }


def panel_of(name: str) -> str:
    """Quantity a logged name belongs to: `val/random_mpjpe` and `train/mpjpe` → `mpjpe`."""
    quantity = re.sub(r"/dataloader_idx_\d+$", "", name).split("/", 1)[-1]
    return re.sub(r"^(random|joint|frame|full|inference)_", "", quantity)


def plot(runs: Iterable[Path], out: Path, pattern: str, hours: bool = False) -> None:
    """One figure of what matches `pattern`, a panel for each quantity."""
    logs = {}
    for run in runs:
        log = read_log(find_log(run))
        log = over_hours(log, run) if hours else log
        wanted = {name: curve for name, curve in log.items() if re.search(pattern, name)}
        logs[run.name if run.is_dir() else run.parent.name] = wanted
    panels = sorted({panel_of(name) for log in logs.values() for name in log})
    if not panels:
        raise MoroError(f"no logged quantity matches '{pattern}'")
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3 * rows), squeeze=False)
    for axis, panel in zip(axes.flat, panels):
        for run, log in logs.items():
            for name, (steps, values) in log.items():
                if panel_of(name) == panel:
                    style = "-" if name.startswith("train") else "o-"
                    label = name if len(logs) == 1 else f"{run}: {name}"
                    axis.plot(steps, values, style, label=label, markersize=3)
        axis.set_title(panel)
        axis.set_xlabel("hours" if hours else "step")
        axis.legend(fontsize=6)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.tight_layout()
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=70)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="stage folders or metrics.csv files")
    parser.add_argument("--out", type=Path, default=Path("losses.png"), help="picture to write")
    parser.add_argument("--pattern", default=".", help="regular expression on logged names, e.g. loss")
    parser.add_argument("--hours", action="store_true", help="over time instead of steps")
    arguments = parser.parse_args()
    with ExitOnMoroError():
        plt.switch_backend("agg")
        plot(arguments.runs, arguments.out, arguments.pattern, arguments.hours)


if __name__ == "__main__":
    main()
