"""Crop window, black rules, offset of the content (spec: data 2.7, 2.10, 12.1 no. 1)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.geometry.crop import crop_image, crop_image_rotated, crop_window

_coordinate = st.floats(-500, 2500)


@given(x=_coordinate, y=_coordinate, scale=st.floats(0.05, 8))
def test_window_truncates_towards_zero(x: float, y: float, scale: float) -> None:
    upper, lower = crop_window(np.array([x, y]), scale)
    assert upper.tolist() == [int(x - 100 * scale), int(y - 100 * scale)]  # int() truncates towards zero
    assert lower.tolist() == [int(x + 100 * scale), int(y + 100 * scale)]


@settings(max_examples=40, deadline=None)
@given(x=_coordinate, y=_coordinate, scale=st.floats(0.05, 8))
def test_black_only_when_the_rules_say_so(x: float, y: float, scale: float) -> None:
    image = np.full((120, 160, 3), 255, np.uint8)
    upper, lower = crop_window(np.array([x, y]), scale)
    outside = upper[0] >= 160 or upper[1] >= 120 or lower[0] < 0 or lower[1] < 0
    huge = (lower - upper)[1] > 360 or (lower - upper)[0] > 480
    crop = crop_image(image, np.array([x, y]), scale, (32, 32))
    assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8
    if outside or huge:
        assert not crop.any()
    elif upper[0] >= 0 and upper[1] >= 0 and lower[0] <= 160 and lower[1] <= 120 and (lower > upper).all():
        assert (crop == 255).all()


def test_content_is_offset_by_the_upper_left_corner() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    crop = crop_image(image, np.array([-20.3, 90.7]), 1.28, (256, 256))  # window of 256 px from (-148, -37)
    upper, lower = crop_window(np.array([-20.3, 90.7]), 1.28)
    assert (lower - upper).tolist() == [255, 255]
    exact = crop_image(image, np.array([-20.0, 91.0]), 1.28, (256, 256))
    np.testing.assert_array_equal(exact[37:, 148:], image[: 256 - 37, : 256 - 148])
    assert not exact[:37].any() and not exact[:, :148].any()
    assert crop.shape == (256, 256, 3)


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0])
def test_rotated_crop_turns_counter_clockwise(degrees: float) -> None:
    y, x = np.mgrid[:200, :200]
    image = np.repeat((x + y)[..., None] * 0.5, 3, axis=2).astype(np.uint8)
    crop = crop_image_rotated(image, np.array([100.0, 100.0]), 0.64, (128, 128), degrees)
    expected = np.rot90(image[36:164, 36:164], k=round(degrees / 90)) / 255
    assert crop.dtype == np.float32
    np.testing.assert_allclose(crop[2:-2, 2:-2], expected[2:-2, 2:-2], atol=2 / 255)
