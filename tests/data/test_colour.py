"""Colour augmentation of single images (spec: data 4.3)."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mask_transformer.data import colour
from models.mask_transformer.data.colour import GROUP_A, GROUP_B, augment_colours

IMAGE = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC
)
ROWS = slice(10, 51)
OPERATIONS = (*GROUP_A, *GROUP_B)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.apply.__name__)
def test_an_operation_changes_a_copy(operation) -> None:
    kept = IMAGE.copy()
    results = [operation.apply(IMAGE, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert all(result.shape == IMAGE.shape and result.dtype == np.uint8 for result in results)
    assert (results[0] == results[1]).all() and (kept == IMAGE).all()
    assert (results[0] != IMAGE).any()
    if operation.rowwise:  # then a part of the result is the result of the part
        assert (operation.apply(IMAGE[ROWS], np.random.default_rng(3)) == results[0][ROWS]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_rows_that_are_seen_are_those_of_the_whole(seed: int) -> None:
    whole = augment_colours(IMAGE, np.random.default_rng(seed))
    part = augment_colours(IMAGE, np.random.default_rng(seed), ROWS)
    assert (part[ROWS] == whole[ROWS]).all()


def test_odds() -> None:
    """Of the two groups, and of their members: the shares of their weights."""
    rng = np.random.default_rng(1)
    for group in (GROUP_A, GROUP_B):
        draws = [colour._draw(group, rng) for _ in range(4000)]
        drawn = [operation for operation in draws if operation is not None]
        assert len(drawn) / 4000 == pytest.approx(0.3, abs=0.03)
        total = sum(operation.weight for operation in group)
        for operation in group:
            share = sum(other is operation for other in drawn) / len(drawn)
            assert share == pytest.approx(operation.weight / total, abs=0.04)


def test_known_values() -> None:
    rng = np.random.default_rng(0)
    grey = np.full((30, 30, 3), 100, np.uint8)
    assert set(np.unique(colour.posterise(IMAGE, rng))) <= set(range(0, 256, 16))
    assert (colour.gamma(IMAGE, rng, (100, 100)) == np.floor(IMAGE / 255 * 255)).mean() > 0.9
    assert (colour.gamma(grey, rng, (200, 200)) == int((100 / 255) ** 2 * 255)).all()
    assert (colour.brightness_contrast(grey, rng, 0.0) == 100).all()
    assert (colour.channel_noise(grey, rng, (1.5, 1.5)) == 150).all()
    assert (colour.hue_saturation_value(IMAGE, rng, (0, 0, 0)) - IMAGE.astype(int)).__abs__().max() <= 6
    assert (colour.snow(grey, rng, (0.4, 0.4)) == 150).all()  # 100 < 0.4 * 127.5 + 85
    assert (colour.snow(grey, rng, (0.1, 0.1)) == 100).all()
    assert (colour.blur(grey, rng) == 100).all() and (colour.motion_blur(grey, rng) == 100).all()
    same = colour.to_grey(IMAGE, rng)
    assert (same[..., 0] == same[..., 2]).all()
    low = (IMAGE // 4).astype(np.uint8)
    assert colour.equalise(low, rng).max() == 255


def test_rain_fits_into_small_pictures() -> None:
    for shape in ((15, 40, 3), (21, 12, 3)):
        image = np.zeros(shape, np.uint8)
        assert colour.rain(image, np.random.default_rng(0)).shape == shape
