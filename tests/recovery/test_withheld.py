"""Withheld limbs: what is hidden, what counts as found."""

import numpy as np
import torch

from models.recovery.reference import POINTS
from models.recovery.withheld import LIMBS, add_hits, found_within, hide_limbs, shares, withhold
from moro.body.skeleton import LANDMARK_NAMES
from moro.synth.occlusion import point_groups
from tests.recovery.studio import SIZE, cameras, detections, person


def test_limbs_are_hidden_as_wholes_for_one_to_two_seconds() -> None:
    groups = point_groups(LANDMARK_NAMES)
    hidden = hide_limbs(30 * 600, np.random.default_rng(0))
    trunk = ~np.any([groups[limb] for limb in LIMBS], axis=0)
    assert not hidden[:, trunk].any()
    for limb in LIMBS:
        part = hidden[:, groups[limb]]
        assert (part == part[:, :1]).all()
        assert 0.27 < part.mean() < 0.33
        edges = np.flatnonzero(np.diff(part[:, 0].astype(int)))
        runs = np.diff(edges)[int(part[0, 0]) :: 2]  # from a beginning to its end
        assert runs.min() >= 29 and runs.max() <= 61


def test_short_clips_and_seeds() -> None:
    draws = [hide_limbs(40, np.random.default_rng(seed)) for seed in range(300)]
    limbs = point_groups(LANDMARK_NAMES)
    share = np.mean([draw[:, limbs["left_arm"]].mean() for draw in draws])
    assert 0.25 < share < 0.35  # also at the ends of a clip
    assert (hide_limbs(40, np.random.default_rng(7)) == draws[7]).all()


def test_withholding_leaves_no_trace() -> None:
    track = detections(person(), cameras()[0])
    hidden = np.zeros((12, 33), bool)
    hidden[4:8, 15] = True
    partial = withhold(track, hidden)
    assert (partial.landmarks[hidden] == 0).all() and (partial.world[hidden] == 0).all()
    assert (partial.landmarks[~hidden] == track.landmarks[~hidden]).all() and track.landmarks[hidden].any()


def test_found_within_a_tenth_of_the_box() -> None:
    truth = np.zeros((2, 3, 2))
    image = truth.copy()
    image[:, 1, 0], image[:, 2, 1] = 19, 21
    found = found_within(image, truth, np.array([200.0, 100.0]))
    assert found.tolist() == [[True, True, False], [True, False, False]]


def test_hits_compare_hidden_visible_landmarks_only() -> None:
    camera = cameras()[0]
    camera.dist_coeffs[:] = 0
    points = person().float()
    track = detections(person(), camera)
    world2cam = torch.from_numpy(camera.world2cam).float()
    exact = torch.ones(12, 33, 3)
    exact[:, POINTS] = points @ world2cam[:3, :3].T + world2cam[:3, 3]
    wrong = exact.clone()
    wrong[:6, POINTS[4], 1] += 1.0
    wrong[:, POINTS[8]] += 1.0  # not hidden, does not count
    hidden = np.zeros((12, 33), bool)
    hidden[2:10, [POINTS[4], POINTS[5]]] = True
    track.landmarks[:, POINTS[5], 2] = 0.2  # the detector itself did not see it
    hits: dict = {}
    add_hits(hits, track, hidden, {"exact": exact, "wrong": wrong}, torch.from_numpy(camera.K).float(), SIZE)
    assert [len(part) for part in hits["exact"]] == [8]
    row = shares(hits)
    assert row["PCK exact [%]"] == 100 and row["PCK wrong [%]"] == 50 and row["PCK interpolated [%]"] == 100
