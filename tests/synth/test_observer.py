"""Virtual cameras, occlusion and detector noise."""

import numpy as np
import pytest
import torch

from moro.body.skeleton import LANDMARK_NAMES
from moro.geometry.camera import project
from moro.synth.cameras import CameraRanges, sample_camera
from moro.synth.landmarks import EXACT, DetectorNoise, observe_landmarks
from moro.synth.occlusion import OBSERVED_NAMES, OcclusionRanges, point_groups, sample_occlusion


def _person() -> torch.Tensor:
    """A standing stick figure (1, 22, 3) that fills 1.7 m."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.3, -0.2, 0.0], [0.3, 0.2, 1.7], (22, 3))
    points[:2] = [[0, 0, 0.0], [0, 0, 1.7]]
    return torch.from_numpy(points).float()[None]


@pytest.mark.parametrize("seed", range(30))
def test_cameras_see_the_person(seed: int) -> None:
    person = _person()
    ranges = CameraRanges(close_share=0.0)
    camera = sample_camera(person, np.random.default_rng(seed), ranges)
    R = camera.world2cam[:3, :3]
    torch.testing.assert_close(R @ R.T, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.det(R) > 0
    seen = person @ R.T + camera.world2cam[:3, 3]
    assert seen[..., 2].min() >= ranges.near
    assert seen[0, 0, 1] > seen[0, 1, 1]  # the feet are below the head: y points down
    pixels = project(seen, camera.K)[0]
    width, height = camera.image_size
    middle = ((pixels.amin(0) + pixels.amax(0)) / 2 / torch.tensor([width, height])).tolist()
    assert all(0.05 < value < 0.95 for value in middle)
    share = float(np.ptp(pixels[:, 1].numpy()) / height)
    assert 0.1 < share < 1.1
    position = -R.T @ camera.world2cam[:3, 3]
    assert position[2] > 0.1  # above the floor
    fov = 2 * np.degrees(np.arctan(height / 2 / float(camera.K[1, 1])))
    assert ranges.vertical_fov[0] <= fov <= ranges.vertical_fov[1]


def test_point_groups_are_the_limbs() -> None:
    groups = point_groups(LANDMARK_NAMES)
    named = {key: {LANDMARK_NAMES[i] for i in np.flatnonzero(mask)} for key, mask in groups.items()}
    assert named["left_arm"] == {"left_elbow", "left_wrist", "left_pinky", "left_index", "left_thumb"}
    assert named["right_leg"] == {"right_knee", "right_ankle", "right_heel", "right_foot_index"}
    assert groups["lower"].sum() == 10 and groups["all"].all()


def test_occlusion_is_mixed_and_sometimes_absent() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(100, 500, (60, len(OBSERVED_NAMES), 2))
    hidden = np.stack([sample_occlusion(points, (640, 640), rng) for _ in range(200)])
    share = hidden.mean(axis=(1, 2))
    assert 0.15 < (share == 0).mean() < 0.45
    assert 0.1 < share.mean() < 0.6
    assert hidden.all(axis=2).any()  # the whole body, for a while
    assert not sample_occlusion(points, (640, 640), rng, OcclusionRanges(clear=1.0)).any()


SIZE = (640, 640)


def _clip(frames: int = 60) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.tile(rng.uniform(100, 500, (1, 33, 2)), (frames, 1, 1))


def test_error_grows_and_visibility_falls_where_hidden() -> None:
    points = _clip()
    hidden = np.zeros((60, 33), bool)
    hidden[:, 23:] = True
    quiet = DetectorNoise(swap_legs=0, swap_arms=0, swap_all=0, frame_miss=0, drop_hidden=0)
    size = np.ptp(points[0], axis=0).max()
    errors, visibility = [], []
    for seed in range(20):
        out = observe_landmarks(
            points, hidden, np.zeros_like(hidden), SIZE, np.random.default_rng(seed), quiet
        )
        assert out.dtype == np.float32 and (out[..., 2:] > 0).all() and (out[..., 2:] < 1).all()
        errors.append(np.linalg.norm(out[..., :2] - points, axis=-1) / size)
        visibility.append(out[..., 2])
    error, seen = np.mean(errors, axis=(0, 1)), np.mean(visibility, axis=(0, 1))
    assert 0.005 < error[:23].mean() < 0.025
    assert 0.03 < error[23:25].mean() < 0.12 < error[25:].mean() < 0.4  # hips are guessed well
    assert seen[:23].mean() > 0.9 and seen[25:].mean() < 0.4
    assert seen[23:25].mean() > 0.9  # and always claimed to be visible


def test_landmarks_beyond_the_border_lose_presence_with_distance() -> None:
    points = _clip()
    points[:, 27] = [300, 620]  # just below a 600-pixel image
    points[:, 28] = [300, 1000]
    clear = np.zeros((60, 33), bool)
    quiet = DetectorNoise(swap_legs=0, swap_arms=0, swap_all=0, frame_miss=0, drop_hidden=0)
    seeds = [np.random.default_rng(seed) for seed in range(20)]
    out = np.stack([observe_landmarks(points, clear, clear, (640, 600), rng, quiet) for rng in seeds])
    presence, visibility = out[..., 3].mean(axis=(0, 1)), out[..., 2].mean(axis=(0, 1))
    assert presence[28] < 0.35 < 0.6 < presence[27] and presence[0] > 0.95
    assert visibility[28] < 0.4 and visibility[0] > 0.95


def test_a_covered_arm_is_off_less_than_a_hidden_one() -> None:
    points, clear = _clip(), np.zeros((60, 33), bool)
    arm = clear.copy()
    arm[:, 15] = True
    quiet = DetectorNoise(swap_legs=0, swap_arms=0, swap_all=0, frame_miss=0, drop_hidden=0)
    errors = []
    for covered, hidden in ((arm, clear), (clear, arm)):
        out = [
            observe_landmarks(points, hidden, covered, SIZE, np.random.default_rng(n), quiet)
            for n in range(20)
        ]
        errors.append(np.linalg.norm(np.stack(out)[:, :, 15, :2] - points[:, 15], axis=-1).mean())
    assert errors[0] < 0.5 * errors[1]


def test_misses_and_drops_are_all_zero() -> None:
    points = _clip()
    hidden = np.zeros((60, 33), bool)
    hidden[20:40] = True
    noise = DetectorNoise(miss_when_hidden=1.0, frame_miss=0.0)
    out = observe_landmarks(points, hidden, np.zeros_like(hidden), SIZE, np.random.default_rng(0), noise)
    assert not out[20:40].any() and out[:20].any(axis=(1, 2)).all()


def test_an_exact_detector_says_the_truth_or_nothing() -> None:
    points, hidden = _clip(), np.random.default_rng(0).random((60, 33)) < 0.3
    seen = observe_landmarks(points, hidden, ~hidden, SIZE, np.random.default_rng(2), EXACT)
    np.testing.assert_allclose(seen[~hidden][:, :2], points[~hidden], rtol=1e-6)
    assert (seen[hidden] == 0).all()


def test_swapped_legs_are_exchanged() -> None:
    points = _clip(1)
    noise = DetectorNoise(
        bias=0, jitter=0, miss_visible=0, swap_legs=200.0, swap_seconds=(2.0, 2.0), swap_arms=0, swap_all=0
    )
    clear = np.zeros((1, 33), bool)
    out = observe_landmarks(points, clear, clear, SIZE, np.random.default_rng(1), noise)
    np.testing.assert_allclose(out[0, 25, :2], points[0, 26], rtol=1e-5)  # knees
    np.testing.assert_allclose(out[0, 23, :2], points[0, 23], rtol=1e-5)  # hips stay


def test_limbs_behind_people_are_wrong_and_sure() -> None:
    points = _clip()
    hidden = np.zeros((60, 33), bool)
    hidden[:, 25:] = True  # both legs
    quiet = {"swap_legs": 0, "swap_arms": 0, "swap_all": 0, "frame_miss": 0, "drop_hidden": 0}

    def visibility(noise: DetectorNoise) -> tuple[np.ndarray, np.ndarray]:
        """Of the knees and feet, and of the rest."""
        rngs = (np.random.default_rng(seed) for seed in range(30))
        seen = [
            observe_landmarks(points, hidden, np.zeros_like(hidden), SIZE, rng, noise)[..., 2] for rng in rngs
        ]
        return np.concatenate(seen)[:, 25:], np.concatenate(seen)[:, :25]

    doubted, rest = visibility(DetectorNoise(**quiet))
    sure, same = visibility(DetectorNoise(claimed=1.0, **quiet))
    assert np.median(doubted) < 0.3 and 0.75 < np.median(sure) < 0.9
    assert np.median(rest) == pytest.approx(np.median(same), abs=0.01)


def test_some_cameras_are_held_askew() -> None:
    person = _person()

    def roll(seed: int, ranges: CameraRanges) -> float:
        up = sample_camera(person, np.random.default_rng(seed), ranges).world2cam[:3, 2]
        return abs(float(np.degrees(np.arctan2(up[0], -up[1]))))

    askew = CameraRanges(tilted_share=1.0, tilted=(15.0, 18.0))
    usual, tilted = (np.mean([roll(seed, one) for seed in range(40)]) for one in (CameraRanges(), askew))
    assert usual < 6 and 13 < tilted < 20  # degrees; aiming beside the middle turns cameras a little, too
