"""Silhouettes on their way from crops to frames."""

import numpy as np
import pytest

from moro.video.blazepose import Roi
from moro.video.silhouettes import PAINT, are_covered, cover_of, paint_over, torso_colours

SIZE = (320, 240)


def block() -> np.ndarray:
    shape = np.zeros((256, 256), bool)
    shape[96:160, 64:192] = True  # twice as wide as high, in the middle of the crop
    return shape


@pytest.mark.parametrize("angle", [0.0, 0.6, np.pi / 2])
def test_a_silhouette_lies_where_its_crop_was(angle: float) -> None:
    roi = Roi(np.array([150.0, 110.0]), 128.0, angle)
    cover = cover_of([(roi, block())], SIZE)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    inside = np.array([roi.center + a * along + b * across for a in (-28, 28) for b in (-12, 12)])
    outside = np.array([roi.center + 40 * along, roi.center - 24 * across, (-150.0, 110.0), (150.0, 500.0)])
    assert cover.shape == SIZE[::-1] and are_covered(inside, cover).all()
    assert not are_covered(outside, cover).any()
    assert cover.sum() == pytest.approx(64 * 32, rel=0.2)  # a little wider than the silhouette


def test_nobody_covers_nothing() -> None:
    frame, points = np.full((240, 320, 3), 7, np.uint8), np.zeros((3, 2))
    assert cover_of([], SIZE) is None
    assert cover_of([(Roi(np.array([900.0, 900.0]), 50.0), block())], SIZE) is None
    assert paint_over(frame, None) is frame and not are_covered(points, None).any()


def test_paint_covers_and_leaves_the_frame_alone() -> None:
    frame = np.full((240, 320, 3), 7, np.uint8)
    cover = cover_of([(Roi(np.array([150.0, 110.0]), 128.0), block())], SIZE)
    painted = paint_over(frame, cover)
    assert (painted[cover] == PAINT).all() and (painted[~cover] == 7).all() and (frame == 7).all()


def test_colours_are_those_of_what_shows() -> None:
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[:, :160], frame[:, 160:] = (200, 40, 40), (40, 40, 200)
    corners, cover = np.array([(100.0, 50.0), (220.0, 150.0)]), np.zeros((240, 320), bool)
    cover[:, 160:] = True
    red = torso_colours(corners - (60, 0), frame)
    assert np.sqrt(torso_colours(corners, frame, cover) * red).sum() > 0.9  # one column is mixed
    assert np.sqrt(torso_colours(corners, frame) * red).sum() < 0.8
    assert torso_colours(corners, frame, np.ones_like(cover)) is None
