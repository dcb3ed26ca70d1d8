"""Where people are seen, and pictures without them: what keeps one from being read as another (4.6).

A single-person network reads whoever is in front. Of somebody half behind another it sees the right person
only if the other is painted over. A silhouette is bool (S, S) over a crop, a cover bool (H, W) over a frame.
"""

import cv2
import numpy as np

from moro.video.blazepose import Roi

PAINT = (128, 128, 128)
BRUSH = np.ones((5, 5), np.uint8)  # widens a silhouette: people move between the frames
VISIBLE_TORSO = 0.15  # of whose torso less shows, nothing can be said about the colours


def cover_of(shapes: list[tuple[Roi, np.ndarray]], size: tuple[int, int]) -> np.ndarray | None:
    """Cover of several silhouettes, each with its crop, in a frame of (width, height); None if empty."""
    cover = np.zeros(size[::-1], np.uint8)
    for roi, shape in shapes:
        wide = cv2.dilate(shape.astype(np.uint8), BRUSH)
        cover |= cv2.warpAffine(wide, roi.corners_matrix(len(shape)), size, flags=cv2.INTER_NEAREST)
    return cover > 0 if cover.any() else None


def paint_over(rgb: np.ndarray, cover: np.ndarray | None) -> np.ndarray:
    """The frame (H, W, 3) with what is covered painted grey; the frame itself if nothing is."""
    if cover is None:
        return rgb
    painted = rgb.copy()
    painted[cover] = PAINT
    return painted


def are_covered(xy: np.ndarray, cover: np.ndarray | None) -> np.ndarray:
    """(n,) bool: which of the points (n, 2), in pixels of the frame, lie in the cover."""
    covered = np.zeros(len(xy), bool)
    if cover is None:
        return covered
    inside = ((xy >= 0) & (xy < cover.shape[::-1])).all(axis=1)
    column, row = xy[inside].astype(int).T
    covered[inside] = cover[row, column]
    return covered


def torso_colours(corners: np.ndarray, rgb: np.ndarray, cover: np.ndarray | None = None) -> np.ndarray | None:
    """Normalised histogram of the uncovered colours (CIE Lab) in the box around points (n, 2), in a frame.

    None if the box is out of view or covered.
    """
    corners = corners.round().astype(int)
    x0, y0 = np.maximum(corners.min(0), 0)
    x1, y1 = np.minimum(corners.max(0) + 1, rgb.shape[1::-1])
    if x1 - x0 < 3 or y1 - y0 < 3:
        return None
    patch = cv2.resize(rgb[y0:y1, x0:x1], (24, 24), interpolation=cv2.INTER_AREA)
    shown = None
    if cover is not None:
        shown = (~cover[y0:y1, x0:x1]).astype(np.uint8)
        shown = cv2.resize(shown, (24, 24), interpolation=cv2.INTER_NEAREST)
        if shown.mean() < VISIBLE_TORSO:
            return None
    lab = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)  # (24, 24, 3)
    clipped = np.clip(lab, np.uint8((0, 88, 88)), np.uint8((255, 167, 167)))  # clothes are near grey: 128
    histogram = cv2.calcHist([clipped], [0, 1, 2], shown, [5, 8, 8], [0, 256, 88, 168, 88, 168])  # (5, 8, 8)
    smooth = cv2.blur(histogram.reshape(5, 64), (1, 3), borderType=cv2.BORDER_REPLICATE).ravel()
    return smooth / smooth.sum()
