"""Errors on held-out motion: scenarios, measures, baselines."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.recovery.heldout import (
    SCENARIOS,
    Remembered,
    by_family,
    errors_of,
    fill_gaps,
    format_table,
    interpolated,
    summary,
    transposed,
)
from moro.synth.landmarks import EXACT
from moro.synth.occlusion import OBSERVED_NAMES, point_groups, sample_occlusion

FRAMES = 40
VISIBLE = torch.ones(FRAMES, 22, dtype=torch.bool)


def walk(seed: int = 0) -> Tensor:
    """(F, 22, 3) joints that move along x, 4 cm per frame."""
    pose = torch.randn(22, 3, generator=torch.Generator().manual_seed(seed)) * 0.3
    return pose + torch.tensor([0.04, 0, 0]) * torch.arange(FRAMES)[:, None, None] + torch.tensor([0, 0, 4.0])


def test_scenarios_hide_what_they_say() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 500, (300, len(OBSERVED_NAMES), 2))

    def hidden(name: str) -> np.ndarray:
        ranges = SCENARIOS[name].occlusion
        return np.stack([sample_occlusion(points, (640, 640), rng, ranges) for _ in range(60)])

    assert not hidden("clean").any() and not hidden("exact").any() and SCENARIOS["exact"].detector == EXACT
    groups = point_groups(OBSERVED_NAMES)
    kinds = np.stack([groups["lower"], groups["left"], groups["right"]])  # (3, N)
    share = {}
    for name in ("hidden", "gap"):
        found = hidden(name).reshape(-1, len(OBSERVED_NAMES))  # (60, F, N) -> (60*F, N)
        whole = (found[:, None] >= kinds).all(-1)  # (60*F, 3): which of the kinds are hidden
        assert np.array_equal(found, (whole[:, :, None] & kinds).any(1))
        share[name] = found.any(-1).mean()
    assert 0.2 < share["hidden"] < share["gap"] < 0.6


def test_the_truth_has_no_error_and_a_shift_is_only_seen_by_the_feet() -> None:
    truth = walk()
    exact = summary([errors_of(truth, truth, VISIBLE)])
    assert exact.pop("PA-MPJPE") < 0.01 and exact.pop("PA-MPJPE visible") < 0.01
    assert math.isnan(exact.pop("PA-MPJPE occluded")) and math.isnan(exact.pop("MPJPE occluded"))
    assert all(abs(value) < 0.1 or math.isnan(value) for value in exact.values())
    shifted = truth + torch.tensor([0.05, 0, 0]) * (torch.arange(FRAMES) % 2)[:, None, None]
    row = summary([errors_of(shifted, truth, VISIBLE)])
    assert row["MPJPE"] < 0.1 and row["RTE [%]"] > 1


def test_errors_are_split_by_visibility_and_by_family() -> None:
    truth, visible = walk(), VISIBLE.clone()
    visible[:, 20] = False
    wrong = truth.clone()
    wrong[:, 20, 1] += 0.1
    parts = [errors_of(wrong, truth, visible, "walk"), errors_of(truth, truth, VISIBLE, "sit")]
    row = summary(parts[:1])
    assert row["MPJPE occluded"] == pytest.approx(100, abs=0.1) and row["MPJPE visible"] < 0.1
    families = by_family(parts)
    assert list(families) == ["sit", "walk"] and families["sit"]["MPJPE"] < 0.1
    assert "walk" in format_table(families) and "MPJPE" in transposed(families)


def test_somebody_who_stays_has_no_relative_trajectory_error() -> None:
    still = walk()[:1].expand(FRAMES, -1, -1)
    assert errors_of(still + 0.1, still, VISIBLE).rte.numel() == 0
    assert math.isnan(summary([errors_of(still, still, VISIBLE)])["RTE [%]"])


def test_gaps_are_filled_from_the_frames_around() -> None:
    truth = walk()
    known = np.ones((FRAMES, 22), bool)
    known[10:20, 5] = False
    broken = truth.clone()
    broken[10:20, 5] = 7.0
    torch.testing.assert_close(fill_gaps(broken, known), truth)
    sample = {"joint_visible": torch.from_numpy(known)}
    torch.testing.assert_close(interpolated(lambda _: broken)(sample), truth)


def test_a_method_is_asked_once_per_sample() -> None:
    asked = []
    method = Remembered(lambda sample: asked.append(sample) or walk(len(asked)))
    first, second = {"a": 1}, {"a": 1}
    assert method(first) is method(first) and len(asked) == 1
    assert method(second) is not method(first)
