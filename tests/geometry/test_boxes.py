"""Boxes and landmarks in box coordinates; body-part crops (spec: data 2.6, 2.9)."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from moro.geometry.boxes import (
    NUM_KEYPOINTS,
    PART_CROPS,
    box_from_landmarks,
    box_from_points,
    crop_to_part,
    extreme_crop,
    extreme_crop_sequence,
    full_body_visible,
    neighbour_landmarks,
    normalise_landmarks,
    upper_body_visible,
)


def _landmarks(frames: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    landmarks = torch.full((frames, 33, 4), 0.95)
    landmarks[..., :2] = 400 + 150 * torch.rand(1, 33, 2, generator=generator)
    landmarks[..., 0] += 10 * torch.arange(frames)[:, None]
    return landmarks


def test_box_of_points_is_square_with_margin() -> None:
    center, scale = box_from_points(torch.tensor([[[10.0, 20], [110, 70]]]))
    assert center.tolist() == [[60, 45]]
    assert torch.allclose(scale, torch.tensor([100 / 200 * 1.2]))


def test_frames_without_detection_are_interpolated() -> None:
    landmarks = _landmarks()
    whole, _, _ = box_from_landmarks(landmarks, smooth=0)
    landmarks[3:6] = 0
    center, scale, seen = box_from_landmarks(landmarks, smooth=0)
    assert seen.tolist() == [True] * 3 + [False] * 3 + [True] * 3
    torch.testing.assert_close(center, whole)  # the motion is linear
    assert (scale > 0).all()
    normalised = normalise_landmarks(landmarks, center, scale)
    assert normalised[~seen].abs().max() == 0
    assert normalised[seen, :, :2].abs().max() < 1


def test_hidden_landmarks_do_not_shape_the_box() -> None:
    landmarks = _landmarks(1)
    center, scale, _ = box_from_landmarks(landmarks)
    landmarks[:, 30, :2] = 900  # far off, but said to be invisible
    landmarks[:, 30, 2] = 0.05
    hidden_center, hidden_scale, _ = box_from_landmarks(landmarks)
    assert (hidden_center - center).abs().max() < 20 and hidden_scale < 1.1 * scale


def test_nothing_seen_gives_the_whole_image() -> None:
    center, scale, seen = box_from_landmarks(torch.zeros(4, 33, 4), (640, 480))
    assert not seen.any()
    assert center[0].tolist() == [320, 240] and scale[0] * 200 == 640


def test_box_coordinates_round_trip() -> None:
    landmarks = _landmarks(2)
    center, scale, _ = box_from_landmarks(landmarks)
    back = normalise_landmarks(landmarks, center, scale)
    pixels = back[..., :2] * 100 * scale[:, None, None] + center[:, None]
    torch.testing.assert_close(pixels, landmarks[..., :2])
    assert torch.equal(back[..., 2:], landmarks[..., 2:])


def test_neighbours_lie_in_the_box_of_the_frame() -> None:
    """As if the neighbour's pixels had been put into it; nothing beyond the ends, nothing unseen."""
    landmarks = _landmarks(6)
    landmarks[2, 5] = 0
    center, scale, _ = box_from_landmarks(landmarks)
    own = normalise_landmarks(landmarks, center, scale)
    around = neighbour_landmarks(own, center, scale, [-2, 0, 1])
    assert around.shape == (6, 3, 33, 4)
    torch.testing.assert_close(around[:, 1], own)
    expected = normalise_landmarks(landmarks[1:2], center[:1], scale[:1])
    torch.testing.assert_close(around[0, 2], expected[0], atol=1e-5, rtol=0)
    assert not around[:2, 0].any() and not around[5, 2].any() and not around[4, 0, 5].any()
    part = neighbour_landmarks(own, center, scale, [-2, 0, 1], slice(2, 4))
    assert torch.equal(part, around[2:4])


def _keypoints(rng: np.random.Generator) -> np.ndarray:
    keypoints = np.zeros((NUM_KEYPOINTS, 3))
    keypoints[:25, :2] = rng.uniform(0, 500, (25, 2))
    keypoints[:25, 2] = 1
    return keypoints


def test_part_table_keeps_the_named_part() -> None:
    # OpenPose rows that are left: 2 3 4 right arm, 5 6 7 left arm, 9 10 11 right leg, 12 13 14 left leg
    left = {name: sorted(set(range(25)) - set(crop.openpose)) for name, crop in PART_CROPS.items()}
    assert left["right arm"] == [2, 3, 4] and left["left arm"] == [5, 6, 7]
    assert left["right leg"] == [9, 10, 11, 22, 23, 24] and left["left leg"] == [12, 13, 14, 19, 20, 21]
    assert left["head"] == [0, 1, 2, 5, 15, 16, 17, 18] and left["torso"] == [1, 2, 5, 8, 9, 12]
    extras = {name: sorted(set(range(19)) - set(crop.extras)) for name, crop in PART_CROPS.items()}
    assert extras["right arm"] == [6, 7, 8] and extras["left arm"] == [9, 10, 11]
    assert extras["right leg"] == [0, 1, 2] and extras["left leg"] == [3, 4, 5]


@given(seed=st.integers(0, 200), part=st.sampled_from(sorted(PART_CROPS)))
def test_part_box_holds_the_part(seed: int, part: str) -> None:
    keypoints = _keypoints(np.random.default_rng(seed))
    center, scale = crop_to_part(np.array([250.0, 250]), 3.0, keypoints, part)
    kept = [row for row in range(25) if row not in PART_CROPS[part].openpose]
    assert (np.abs(keypoints[kept, :2] - center) <= 100 * scale).all()


def test_too_small_or_empty_part_keeps_the_box() -> None:
    keypoints = np.zeros((NUM_KEYPOINTS, 3))
    keypoints[[2, 3, 4]] = [[10, 10, 1], [11, 11, 1], [12, 10, 1]]
    for part in ("right arm", "left leg"):
        center, scale = crop_to_part(np.array([5.0, 6.0]), 1.5, keypoints, part)
        assert center.tolist() == [5, 6] and scale == 1.5


def test_single_image_needs_a_visible_body() -> None:
    rng = np.random.default_rng(0)
    keypoints = _keypoints(rng)
    assert full_body_visible(keypoints) and not upper_body_visible(keypoints)
    keypoints[[10, 11, 13, 14], 2] = 0
    assert not full_body_visible(keypoints) and upper_body_visible(keypoints)
    keypoints[:, 2] = 0
    box = (np.array([1.0, 2.0]), 3.0)
    assert extreme_crop(*box, keypoints, 2, rng) == box


def test_sequence_crops_a_share_of_the_frames() -> None:
    rng = np.random.default_rng(3)
    keypoints = np.stack([_keypoints(rng) for _ in range(10)])
    center, scale = np.full((10, 2), 250.0), np.full(10, 9.0)
    new_center, new_scale = extreme_crop_sequence(center, scale, keypoints, 2, rng, min_ratio=0.5)
    assert 5 <= (new_scale != scale).sum() <= 10
    assert (center == 250).all()  # the input stays
    same = extreme_crop_sequence(center, scale, keypoints, 0, rng)
    assert same[0] is center and same[1] is scale
    assert new_center.shape == (10, 2)
