"""Lenses that bend: taking OpenCV's distortion out of images, points and boxes (spec: data 4.4)."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from moro.geometry.boxes import box_from_points

CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-6)


class Lens:
    """Removal of OpenCV's lens distortion, K kept.

    K (3, 3) pixels and dist_coeffs (5 | 8,) float64; size (width, height) of the camera's images in pixels
    """

    def __init__(self, K: NDArray, dist_coeffs: NDArray, size: tuple[int, int]) -> None:
        self.K, self.dist_coeffs, self.size = K, dist_coeffs, size
        self._maps: dict[tuple[int, int], tuple[NDArray, NDArray]] = {}  # by image size, made once

    def undistort(
        self, image: NDArray, upper: NDArray | None = None, lower: NDArray | None = None
    ) -> NDArray:
        """The image (H, W, 3) undistorted, or only its pixels [upper, lower), corners (x, y) inside it.

        Exactly those pixels of cv2.undistort(image): the maps are the ones it makes, read in part.
        """
        size = (image.shape[1], image.shape[0])
        if size not in self._maps:
            self._maps[size] = cv2.initUndistortRectifyMap(
                self.K, self.dist_coeffs, None, self.K, size, cv2.CV_16SC2
            )
        (x0, y0), (x1, y1) = (0, 0) if upper is None else upper, size if lower is None else lower
        where, between = (part[y0:y1, x0:x1] for part in self._maps[size])
        return cv2.remap(image, where, between, cv2.INTER_LINEAR)

    def undistort_points(self, points: NDArray) -> NDArray:
        """Pixels (N, 2) of the raw image to pixels of the undistorted one, float64."""
        flat = np.asarray(points, np.float64).reshape(-1, 1, 2)  # (N, 2) -> (N, 1, 2)
        if not len(flat):
            return flat[:, 0]
        return cv2.undistortPointsIter(flat, self.K, self.dist_coeffs, None, self.K, CRITERIA)[:, 0]

    def undistort_boxes(self, bboxes: NDArray, mirror: bool = False) -> tuple[NDArray, NDArray]:
        """Boxes (F, 4) x0, y0, x1, y1 of the raw image to center (F, 2), scale (F,) of the undistorted one.

        mirror  the boxes live in the raw image turned left to right
        """
        x, y = bboxes[:, 0::2], bboxes[:, 1::2]
        xs = np.stack([x[:, 0], x.mean(1), x[:, 1]], 1)
        ys = np.stack([y[:, 0], y.mean(1), y[:, 1]], 1)
        grid = np.stack(np.broadcast_arrays(xs[:, :, None], ys[:, None]), -1)  # (F, 3, 3, 2): edges bend
        grid[..., 0] = self._mirrored(grid[..., 0]) if mirror else grid[..., 0]
        flat = self.undistort_points(grid.reshape(-1, 2)).reshape(-1, 9, 2)  # (F*9, 2) -> (F, 9, 2)
        flat[..., 0] = self._mirrored(flat[..., 0]) if mirror else flat[..., 0]
        center, scale = box_from_points(torch.from_numpy(flat))
        return center.numpy(), scale.numpy()

    def _mirrored(self, x: NDArray) -> NDArray:
        return self.size[0] - 1 - x
