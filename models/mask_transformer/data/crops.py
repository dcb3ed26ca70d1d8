"""Image crops and boxes of video data: reading, undistortion, augmentation (spec: data 2.6 to 2.9)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.data.items import LocalBody
from moro.body.openpose import body25_rows
from moro.errors import MoroError
from moro.geometry.boxes import (
    MARGIN,
    NUM_KEYPOINTS,
    box_from_points,
    extreme_crop_sequence,
    jitter_center,
)
from moro.geometry.camera import project
from moro.geometry.crop import crop_image, crop_window
from moro.geometry.image import normalise_image

_log = logging.getLogger(__name__)

DEPTH_EPS = 1e-6  # where loaders project for boxes (spec: data 0)
DEFAULT_RESOLUTION = (224, 224)


class Lens:
    """Removal of OpenCV's lens distortion, K kept (spec: data 4.4).

    K (3, 3) and dist_coeffs (5 | 8,) float64; size (width, height) in pixels
    """

    def __init__(self, K: np.ndarray, dist_coeffs: np.ndarray, size: tuple[int, int]) -> None:
        self.K, self.dist_coeffs, self.size = K, dist_coeffs, size
        self._maps: tuple[np.ndarray, np.ndarray] | None = None

    def undistort(self, image: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Pixels [upper, lower), corners (x, y) inside the image, of cv2.undistort(image).

        Exactly those pixels: the maps are the ones cv2.undistort makes, read in part.
        """
        if self._maps is None:  # once per camera and worker
            self._maps = cv2.initUndistortRectifyMap(
                self.K, self.dist_coeffs, None, self.K, self.size, cv2.CV_16SC2
            )
        rows, columns = slice(upper[1], lower[1]), slice(upper[0], lower[0])
        return cv2.remap(image, self._maps[0][rows, columns], self._maps[1][rows, columns], cv2.INTER_LINEAR)

    def undistort_points(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of the raw image to pixels of the undistorted one, float64."""
        flat = np.asarray(points, np.float64).reshape(-1, 1, 2)  # (N, 2) -> (N, 1, 2)
        if not len(flat):
            return flat[:, 0]
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-6)
        return cv2.undistortPointsIter(flat, self.K, self.dist_coeffs, None, self.K, criteria)[:, 0]

    def undistort_boxes(self, bboxes: np.ndarray, mirror: bool = False) -> tuple[np.ndarray, np.ndarray]:
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

    def _mirrored(self, x: np.ndarray) -> np.ndarray:
        return self.size[0] - 1 - x


class CropReader:
    """Reads images and cuts normalised crops out of them.

    resolution  (height, width) of a crop
    mirror      images are stored turned left to right: undistorted first, then turned (spec: data 4.6)
    strict      an unreadable image is an error instead of a black crop

    `unreadable` counts the black crops of this process; every doubling of it is logged.
    """

    def __init__(self, resolution: Sequence[int], *, mirror: bool = False, strict: bool = False) -> None:
        self.resolution = (int(resolution[0]), int(resolution[1]))
        self.mirror, self.strict = mirror, strict
        self.unreadable = 0

    def read(
        self,
        paths: Sequence[Path],
        center: Tensor,
        scale: Tensor,
        lens: Lens | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Crops of frames (spec: data 2.7): paths F, center (F, 2), scale (F,) -> (F, 3, height, width).

        size  (width, height) the images must have; default that of the lens
        Raises MoroError for an image of another size, and if `strict` for an unreadable one.
        """
        size = lens.size if lens is not None and size is None else size
        crops = [
            self._crop(path, c, float(s), lens, size)
            for path, c, s in zip(paths, center.double().numpy(), scale.double().numpy())
        ]
        return normalise_image(torch.from_numpy(np.stack(crops)))

    def _crop(
        self, path: Path, center: np.ndarray, scale: float, lens: Lens | None, size: tuple[int, int] | None
    ) -> np.ndarray:
        image = read_image(path)
        if image is None:
            self._count(path)
            return np.zeros((*self.resolution, 3), np.uint8)
        found = (image.shape[1], image.shape[0])
        turned = lens is None and found[::-1] == size  # some label files give all cameras one orientation
        if size is not None and found != size and not turned:
            raise MoroError(
                f"{path} is {found[0]}x{found[1]} pixels but its camera has {size[0]}x{size[1]}; "
                "give the original images."
            )
        if lens is not None or self.mirror:
            image = self._rectified(image, center, scale, lens)
        return crop_image(image, center, scale, self.resolution)

    def _rectified(
        self, image: np.ndarray, center: np.ndarray, scale: float, lens: Lens | None
    ) -> np.ndarray:
        """The image undistorted and turned, inside the box; black elsewhere, where nothing is read."""
        H, W = image.shape[:2]
        upper, lower = (np.clip(corner, 0, (W, H)) for corner in crop_window(center, scale))
        canvas = np.zeros_like(image)
        if (lower <= upper).any():
            return canvas
        x0, x1 = (W - lower[0], W - upper[0]) if self.mirror else (upper[0], lower[0])
        corners = np.array([x0, upper[1]]), np.array([x1, lower[1]])
        part = image[upper[1] : lower[1], x0:x1] if lens is None else lens.undistort(image, *corners)
        canvas[upper[1] : lower[1], upper[0] : lower[0]] = part[:, ::-1] if self.mirror else part
        return canvas

    def _count(self, path: Path) -> None:
        if self.strict:
            raise MoroError(f"cannot read the image {path}; it is missing or damaged, unpack it again.")
        self.unreadable += 1
        if self.unreadable & (self.unreadable - 1) == 0:
            _log.warning(
                "%d unreadable image(s) so far, replaced by black crops; the last: %s", self.unreadable, path
            )


def read_image(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB; None if the file is missing or damaged."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def boxes_of_joints(joints: Tensor, K: Tensor, dist_coeffs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Boxes of joints (F, 22, 3) in the camera frame (spec: data 2.6): center (F, 2), scale (F,)."""
    return box_from_points(project(joints, K, dist_coeffs, DEPTH_EPS), MARGIN)


@dataclass(frozen=True)
class BoxAugmentation:
    """Training boxes of video data (spec: data 4.2, 4.4).

    prob of a body-part crop of a clip; its level 0, 1, 2 and least share of frames; jitter of the centre as a
    share of the side
    """

    prob: float
    level: int
    seq_ratio: float
    trans_factor: float

    @classmethod
    def from_config(cls, dataset: DictConfig) -> "BoxAugmentation | None":
        """None if `dataset.extreme_crop_aug` is off."""
        if not dataset.extreme_crop_aug:
            return None
        return cls(
            dataset.extreme_crop_aug_prob,
            dataset.extreme_crop_lvl,
            dataset.extreme_crop_seq_ratio,
            dataset.trans_factor,
        )

    def apply(
        self,
        center: Tensor,
        scale: Tensor,
        person: LocalBody,
        K: Tensor,
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Center (F, 2) and scale (F,) of a person seen by K (3, 3), image size (width, height)."""
        if rng.random() < self.prob:
            boxes = extreme_crop_sequence(
                center.numpy(), scale.numpy(), _keypoints(person, K), self.level, rng, self.seq_ratio
            )
            center, scale = (torch.from_numpy(part) for part in boxes)
        center = jitter_center(center, scale, self.trans_factor, rng)
        limit = torch.tensor(size, dtype=center.dtype) - 1
        return center.clamp(min=torch.zeros(2, dtype=center.dtype), max=limit), scale


def _keypoints(person: LocalBody, K: Tensor) -> np.ndarray:
    """(F, 44, 3) pixels and confidence of the true keypoints, extras zero (spec: data 2.8)."""
    rows, found = body25_rows(person.output.body)
    pixels = project(person.place(person.output.full_joints[:, rows]), K, eps=DEPTH_EPS)
    keypoints = np.zeros((len(pixels), NUM_KEYPOINTS, 3), np.float32)
    keypoints[:, found, :2], keypoints[:, found, 2] = pixels.numpy(), 1
    return keypoints
