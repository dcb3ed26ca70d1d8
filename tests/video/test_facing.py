"""Front and back told apart over time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.body.skeleton import LANDMARK_NAMES, MIRROR_LANDMARKS
from moro.video.facing import LEFT, RIGHT, exchanged_frames, headings, put_right


def readings(heading: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """World landmarks (L, 33, 3) of people who face so, read the wrong way round in some frames."""
    across = np.stack([np.cos(heading), np.zeros_like(heading), np.sin(heading)], axis=-1)  # (L, 3)
    world = np.zeros((len(heading), len(LANDMARK_NAMES), 3))
    for points, side in ((LEFT, 0.2), (RIGHT, -0.2)):
        world[:, points] = side * across[:, None]
    return put_right(world, wrong)


def burst(length: int, *parts: tuple[int, int]) -> np.ndarray:
    wrong = np.zeros(length, bool)
    for start, stop in parts:
        wrong[start:stop] = True
    return wrong


def test_heading_of_someone_who_faces_the_camera_is_zero() -> None:
    np.testing.assert_allclose(headings(readings(np.array([0.0, 1.0, -3.0]), np.zeros(3, bool))), [0, 1, -3])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_bursts_are_found_while_people_turn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    speed = np.radians(rng.uniform(-12, 12))  # per frame: a full turn in a second
    heading = rng.uniform(-np.pi, np.pi) + speed * np.arange(90) + np.radians(rng.normal(0, 4, 90))
    start, other = rng.integers(5, 35), rng.integers(50, 70)
    wrong = burst(90, (start, start + rng.integers(1, 12)), (other, other + rng.integers(1, 16)))
    found = exchanged_frames(readings(heading, wrong), np.ones(90, bool))
    np.testing.assert_array_equal(found, wrong)


def test_changing_over_by_and_by() -> None:
    """The case that adjacent frames alone do not tell from a turn; headings of a real clip, in degrees."""
    read = [-3, -5, -3, -2, -75, -142, -138, -167, -167, -177, -173, 162, 176, -174, -166, -171,
            13, 7, 7, -165, -4, 0]  # fmt: skip
    found = exchanged_frames(readings(np.radians(read), np.zeros(22, bool)), np.ones(22, bool))
    np.testing.assert_array_equal(found, burst(22, (5, 16), (19, 20)))


def test_a_real_turn_is_left_alone() -> None:
    heading = np.radians(np.concatenate([np.zeros(20), np.linspace(0, 180, 12), np.full(30, 180.0)]))
    assert not exchanged_frames(readings(heading, np.zeros(62, bool)), np.ones(62, bool)).any()


def test_who_was_unseen_may_have_turned() -> None:
    heading, seen = np.radians([0.0] * 20 + [180.0] * 20), np.ones(40, bool)
    seen[10:30] = False
    assert not exchanged_frames(readings(heading, np.zeros(40, bool)), seen).any()


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_short_tracks(count: int) -> None:
    seen = burst(6, (2, 2 + count))
    assert not exchanged_frames(readings(np.zeros(6), np.zeros(6, bool)), seen).any()


def test_put_right_exchanges_names() -> None:
    landmarks = np.random.default_rng(0).random((3, 33, 4))
    right = put_right(landmarks, np.array([True, False, True]))
    np.testing.assert_array_equal(right[1], landmarks[1])
    np.testing.assert_array_equal(right[0], landmarks[0][list(MIRROR_LANDMARKS)])
    np.testing.assert_array_equal(put_right(right, np.array([True, False, True])), landmarks)
