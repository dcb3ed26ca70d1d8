"""Metrics of known motions, the visibility split, aggregation, files (spec: data 8.2 to 8.6, 12.1)."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moro.errors import MoroError
from moro.evaluation.measures import Measured, Report, errors_against_truth, plausibility
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.results import read_results

F, J, V = 12, 24, 60
FEET = [3, 7, 11, 15]
ERRORS = ("pa_mpjpe", "mpjpe", "pve", "gmpjpe", "accel", "g_accel", "rte")


def walk(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Joints (F, J, 3) and vertices (F, V, 3) of a random shape on a bent path, metres."""
    rng = np.random.default_rng(seed)
    t = np.arange(F)[:, None] / 30
    path = np.concatenate([np.sin(3 * t), 0.1 * t, t * t], axis=1)[:, None]  # (F, 1, 3)
    joints = path + 0.4 * rng.normal(size=(J, 3)) + 0.02 * rng.normal(size=(F, J, 3))
    vertices = path + 0.4 * rng.normal(size=(V, 3))
    return torch.tensor(joints), torch.tensor(vertices)


def means(joints: Tensor, vertices: Tensor, seed: int = 0) -> dict[str, float]:
    """Against the unchanged walk."""
    values = errors_against_truth(joints, walk(seed)[0], vertices, walk(seed)[1], FEET)
    return Measured("", F, values).means()


def test_the_truth_has_no_error_and_its_own_jitter_and_sliding() -> None:
    joints, vertices = walk()
    result = means(joints, vertices)
    assert max(abs(result[key]) for key in ERRORS) < 1e-9
    third = joints[3:] - 3 * joints[2:-1] + 3 * joints[1:-2] - joints[:-3]
    assert result["jitter"] == pytest.approx(float(third.norm(dim=-1).mean()) * 2700)
    assert math.isnan(result["fs"])  # the walk moves faster than 0.3 m/s throughout
    slow = walk()[1] * 0.01
    own = errors_against_truth(joints, joints, slow, slow, FEET)["fs"]
    steps = slow[:, FEET].diff(dim=0).norm(dim=-1)
    assert torch.allclose(own, steps[steps * 30 < 0.3] * 1000)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_a_constant_offset_is_a_global_error_only(offset: list[float]) -> None:
    joints, vertices = walk()
    shift = torch.tensor(offset, dtype=torch.float64)
    result = means(joints + shift, vertices + shift)
    assert result["gmpjpe"] == pytest.approx(float(shift.norm()) * 1000, abs=1e-6)
    assert max(result[key] for key in ERRORS if key != "gmpjpe") < 1e-6


def test_rotation_and_scale_about_the_hips_are_aligned_away() -> None:
    joints, vertices = walk()
    hips = joints[:, 1:3].mean(1, keepdim=True)
    turn = rotvec_to_matrix(torch.tensor([0.2, 0.5, -0.1], dtype=torch.float64))
    turned = means((joints - hips) @ turn.T + hips, (vertices - hips) @ turn.T + hips)
    assert turned["pa_mpjpe"] < 1e-6 and turned["mpjpe"] > 10 and turned["pve"] > 10
    scaled = means((joints - hips) * 1.1 + hips, (vertices - hips) * 1.1 + hips)
    distance = (joints - hips).norm(dim=-1).mean() * 100
    assert scaled["pa_mpjpe"] < 1e-6
    assert scaled["mpjpe"] == pytest.approx(float(distance)) == pytest.approx(scaled["gmpjpe"])


def test_trajectory_error_is_a_percentage_of_the_path() -> None:
    """A straight metre walked to twice its length: half a metre off at the ends, none in the middle."""
    t = torch.linspace(0, 1, F, dtype=torch.float64)
    track = torch.zeros(F, J, 3, dtype=torch.float64)
    track[..., 0] = t[:, None]
    vertices = torch.zeros(F, V, 3, dtype=torch.float64)
    values = errors_against_truth(2 * track, track, vertices, vertices, None)
    torch.testing.assert_close(values["rte"], (t - 0.5).abs() * 100)
    assert "fs" not in values
    still = errors_against_truth(track, torch.zeros_like(track), vertices, vertices, None)
    assert still["rte"].numel() == 0


def test_acceleration_and_jitter_of_known_paths() -> None:
    t = torch.arange(F, dtype=torch.float64) / 30
    still, vertices = torch.zeros(F, J, 3, dtype=torch.float64), torch.zeros(F, V, 3, dtype=torch.float64)
    falling = still.clone()
    falling[..., 1] = 0.5 * 9.81 * t[:, None] ** 2
    values = errors_against_truth(falling, still, vertices, vertices, None)
    torch.testing.assert_close(values["g_accel"], torch.full((F - 2,), 9.81).double())
    assert float(values["accel"].max()) < 1e-9  # all joints fall alike
    assert float(values["jitter"].max()) < 1e-9
    cubic = still.clone()
    cubic[..., 0] = t[:, None] ** 3
    torch.testing.assert_close(plausibility(cubic, 0.0)["jitter"], torch.full((F - 3,), 0.6).double())
    torch.testing.assert_close(
        plausibility(falling, 0.0)["global_accel"], torch.full((F - 2,), 9.81).double()
    )


def test_sliding_feet() -> None:
    joints, vertices = walk()
    still = vertices[:1].expand(F, V, 3)
    sliding = still + torch.arange(F)[:, None, None] * torch.tensor([0.005, 0.0, 0.0]).double()
    values = errors_against_truth(joints, joints, sliding, still, FEET)["fs"]
    assert values.shape == ((F - 1) * len(FEET),)
    torch.testing.assert_close(values, torch.full_like(values, 5.0), rtol=1e-5, atol=0)


def test_plausibility_of_a_body_that_slides_into_the_floor() -> None:
    joints = torch.zeros(F, J, 3, dtype=torch.float64)
    joints[..., 0] = 0.01 * torch.arange(F)[:, None]  # 0.3 m/s
    joints[:, 10, 1] = -0.08
    result = Measured("", F, plausibility(joints, 0.0)).means()
    assert result["skating_ratio"] == 1 and result["penetration_ratio"] == 50
    assert result["penetration_depth"] == pytest.approx(40)
    raised = Measured("", F, plausibility(joints, -1.0)).means()
    assert raised["skating_ratio"] == raised["penetration_ratio"] == raised["penetration_depth"] == 0


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_visible_and_occluded_errors_make_up_mpjpe(seed: int, share: float) -> None:
    """Over several recordings, when the mask covers all joints (spec: data 12.1, 9)."""
    rng = np.random.default_rng(seed)
    sequences = []
    for number in range(2):
        joints, vertices = walk(number)
        noisy = joints + 0.05 * torch.tensor(rng.normal(size=joints.shape))
        visible = torch.tensor(rng.random((F, J)) < share)
        values = errors_against_truth(noisy, joints, vertices, vertices, None, visible)
        sequences.append(Measured(str(number), F, values))
    overall = Report(sequences).overall
    n = {key: sum(s.values[key].numel() for s in sequences) for key in ("visible_mpjpe", "occluded_mpjpe")}
    assert sum(n.values()) == 2 * F * J
    total = sum(overall[key] * n[key] for key in n if n[key])
    assert total / (2 * F * J) == pytest.approx(overall["mpjpe"])


def test_the_mean_is_over_frames_and_the_files_say_so(tmp_path: Path) -> None:
    def sequence(name: str, *values: float, **more: Tensor) -> Measured:
        return Measured(name, len(values), {"mpjpe": torch.tensor(values), "fs": torch.zeros(0), **more})

    report = Report([sequence("a", 1.0, 1.0, 1.0), sequence("b/c", 5.0, jitter=torch.tensor([2.0]))])
    assert report.overall["mpjpe"] == 2.0 and report.overall["jitter"] == 2.0
    again = Report(report.sequences)
    assert again.overall["mpjpe"] == 2.0  # defect D20: the reference can aggregate once only
    table = report.table()
    assert "2 sequences, 4 frames" in table
    assert "2.00 mm" in table and "2.000 10 m/s^3" in table and "n/a mm/frame" in table
    path = report.write(tmp_path, "test/all")
    assert path.name == "metrics_test_all.pkl" and read_results(path)["mpjpe"] == 2.0
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["overall"]["fs"] is None and content["sequences"][1]["mpjpe"] == 5.0
    with path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sequence"] for row in rows] == ["a", "b/c", "all"]
    assert rows[0]["jitter"] == "" and float(rows[1]["jitter"]) == 2.0 and rows[2]["frames"] == "4"
    with pytest.raises(MoroError, match="no sequence"):
        Report([])
