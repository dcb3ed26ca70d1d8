"""Metrics of a sequence by their published names, and their means over a test set (spec: data 8.2 to 8.6)."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import joblib
import torch
from torch import Tensor

from moro import metrics
from moro.errors import MoroError
from moro.io.atomic import atomic_path, write_json


class Measure(NamedTuple):
    """How a metric is printed."""

    key: str
    label: str
    unit: str
    decimals: int = 2


MEASURES = (
    Measure("pa_mpjpe", "PA-MPJPE", "mm"),
    Measure("mpjpe", "MPJPE", "mm"),
    Measure("visible_mpjpe", "Visible MPJPE", "mm"),
    Measure("occluded_mpjpe", "Occluded MPJPE", "mm"),
    Measure("pve", "PVE", "mm"),
    Measure("gmpjpe", "GMPJPE", "mm"),
    Measure("accel", "Accel", "m/s^2"),
    Measure("g_accel", "Global Accel", "m/s^2"),
    Measure("rte", "RTE", "% of path length"),
    Measure("jitter", "Jitter", "10 m/s^3", 3),
    Measure("fs", "Foot sliding", "mm/frame"),
    Measure("skating_ratio", "Skating Ratio", "of 1", 3),
    Measure("penetration_depth", "Penetration Depth", "mm"),
    Measure("penetration_ratio", "Penetration Ratio", "%"),
    Measure("global_accel", "Global Accel", "m/s^2"),
)


def errors_against_truth(
    joints: Tensor,
    true_joints: Tensor,
    vertices: Tensor,
    true_vertices: Tensor,
    foot_points: Sequence[int] | None,
    visible: Tensor | None = None,
) -> dict[str, Tensor]:
    """Values of each metric with ground truth, 1-D each (spec: data 8.2); all points in the world, metres.

    joints, true_joints      (F, J, 3)
    vertices, true_vertices  (F, V, 3)
    foot_points              vertices of toes and heels; None leaves foot sliding out
    visible                  (F, J') bool of the first J' joints; None leaves the split out
    """
    centred, true_centred = metrics.hip_centred(joints), metrics.hip_centred(true_joints)
    values = {
        "pa_mpjpe": metrics.pa_error(centred, true_centred),
        "mpjpe": metrics.mean_error(centred, true_centred),
        "pve": metrics.vertex_error(joints, true_joints, vertices, true_vertices),
        "gmpjpe": metrics.mean_error(joints, true_joints),
        "accel": metrics.acceleration_error(centred, true_centred),
        "g_accel": metrics.acceleration_error(joints, true_joints),
        "rte": metrics.root_trajectory_error(joints[:, 0], true_joints[:, 0]),
        "jitter": metrics.jitter(joints),
    }
    if foot_points is not None:
        feet = list(foot_points)
        values["fs"] = metrics.foot_sliding(vertices[:, feet], true_vertices[:, feet])
    if visible is not None:
        J = visible.shape[1]
        distance = metrics.joint_error(centred[:, :J], true_centred[:, :J])  # (F, J')
        values["visible_mpjpe"], values["occluded_mpjpe"] = distance[visible], distance[~visible]
    return values


def plausibility(joints: Tensor, floor: float) -> dict[str, Tensor]:
    """Values of each metric without ground truth, 1-D each (spec: data 8.5).

    joints  (F, J, 3) in a y-up world, metres;  floor: its height
    """
    return {
        "jitter": metrics.jitter(joints),
        "skating_ratio": metrics.skating_ratio(joints, floor),
        "penetration_depth": metrics.penetration_depth(joints, floor),
        "penetration_ratio": metrics.penetration_ratio(joints, floor),
        "global_accel": metrics.acceleration(joints),
    }


@dataclass(frozen=True)
class Measured:
    """One sequence: its name, the number of frames that count, and the 1-D values of each metric."""

    sequence: str
    num_frames: int
    values: Mapping[str, Tensor]

    def means(self) -> dict[str, float]:
        return {key: _mean([value]) for key, value in self.values.items()}


class Report:
    """Means over the values of all sequences: each frame (or joint of one) counts once (spec: data 8.6)."""

    def __init__(self, sequences: Sequence[Measured]) -> None:
        if not sequences:
            raise MoroError("no sequence was evaluated; check the name given")
        self.sequences = list(sequences)
        present = {key for sequence in sequences for key in sequence.values}
        self.measures = [measure for measure in MEASURES if measure.key in present]
        self.overall = {
            measure.key: _mean([s.values[measure.key] for s in sequences if measure.key in s.values])
            for measure in self.measures
        }

    def table(self) -> str:
        """The printed table; a metric without any value is n/a.

        Beside a metric that some sequences lack (visible joints, without a mask) stands how many have it.
        """
        frames = sum(sequence.num_frames for sequence in self.sequences)
        lines = [f"{len(self.sequences)} sequences, {frames} frames"]
        for measure in self.measures:
            value = self.overall[measure.key]
            number = "n/a" if math.isnan(value) else f"{value:.{measure.decimals}f}"
            having = sum(measure.key in sequence.values for sequence in self.sequences)
            part = "" if having == len(self.sequences) else f"  ({having} of {len(self.sequences)} sequences)"
            lines.append(f"{measure.label:<18} {number:>10} {measure.unit}{part}")
        return "\n".join(lines)

    def write(self, folder: str | Path, name: str) -> Path:
        """Write metrics_<name>.pkl (name → mean), .csv and .json (a row per sequence); path of the first."""
        stem = Path(folder) / f"metrics_{name.replace('/', '_')}"
        path = stem.with_name(stem.name + ".pkl")
        with atomic_path(path) as temporary:
            joblib.dump(self.overall, temporary)
        rows = [{"sequence": s.sequence, "frames": s.num_frames, **s.means()} for s in self.sequences]
        write_json(stem.with_name(stem.name + ".json"), {"overall": self.overall, "sequences": rows})
        total = {"sequence": "all", "frames": sum(s.num_frames for s in self.sequences), **self.overall}
        with (
            atomic_path(stem.with_name(stem.name + ".csv")) as temporary,
            temporary.open("w", newline="") as file,
        ):
            columns = ["sequence", "frames", *(measure.key for measure in self.measures)]
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(map(_without_gaps, [*rows, total]))
        return path


def _mean(parts: Sequence[Tensor]) -> float:
    """Mean of all values, nan if there are none."""
    return float(torch.cat([part.double().reshape(-1) for part in parts]).mean())


def _without_gaps(row: Mapping[str, object]) -> dict[str, object]:
    """Cells that have no finite value stay empty."""
    return {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
