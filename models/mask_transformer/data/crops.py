"""Image crops and boxes of video data: reading, undistortion, augmentation (spec: data 2.6 to 2.9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.data.items import LocalBody
from models.mask_transformer.data.reading import ImageReader
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
from moro.geometry.crop import crop_image
from moro.geometry.image import normalise_image
from moro.geometry.lens import Lens

DEPTH_EPS = 1e-6  # where loaders project for boxes (spec: data 0)
DEFAULT_RESOLUTION = (224, 224)


class CropReader(ImageReader):
    """Reads images and cuts normalised crops out of them; black ones of images that cannot be read.

    resolution      (height, width) of a crop
    max_unreadable  see ImageReader
    mirror          images are stored turned left to right: undistorted first, then turned (spec: data 4.6)
    """

    def __init__(
        self, resolution: Sequence[int], *, max_unreadable: float = 0.05, mirror: bool = False
    ) -> None:
        super().__init__(max_unreadable)
        self.resolution = (int(resolution[0]), int(resolution[1]))
        self.mirror = mirror

    def read(
        self,
        paths: Sequence[Path],
        center: Tensor,
        scale: Tensor,
        lens: Lens | None = None,
        size: tuple[int, int] | None = None,
        clockwise: bool = False,
    ) -> Tensor:
        """Crops of frames (spec: data 2.7): paths F, center (F, 2), scale (F,) -> (F, 3, height, width).

        size       (width, height) the images must have; default that of the lens
        clockwise  images are stored on their side: turned by 90 degrees first (spec: data 4.2)
        Raises MoroError for an image of another size, and for too many that cannot be read.
        """
        size = lens.size if lens is not None and size is None else size
        crops = [
            self._crop(path, c, float(s), lens, size, clockwise)
            for path, c, s in zip(paths, center.double().numpy(), scale.double().numpy())
        ]
        return normalise_image(torch.from_numpy(np.stack(crops)))

    def _crop(
        self,
        path: Path,
        center: np.ndarray,
        scale: float,
        lens: Lens | None,
        size: tuple[int, int] | None,
        clockwise: bool,
    ) -> np.ndarray:
        image = self.load(path)
        if image is None:
            return np.zeros((*self.resolution, 3), np.uint8)
        if clockwise:
            image = np.ascontiguousarray(np.rot90(image, -1))
        found = (image.shape[1], image.shape[0])
        # some label files give all cameras one orientation
        turned = lens is None and not clockwise and found[::-1] == size
        if size is not None and found != size and not turned:
            raise MoroError(
                f"{path} is {found[0]}x{found[1]} pixels but its camera has {size[0]}x{size[1]}; "
                "give the original images."
            )
        return crop_image(image, center, scale, self.resolution, partial(self._rectified, image, lens))

    def _rectified(
        self, image: np.ndarray, lens: Lens | None, upper: np.ndarray, lower: np.ndarray
    ) -> np.ndarray:
        """Pixels [upper, lower), corners (x, y), of the image undistorted and turned."""
        (x0, y0), (x1, y1) = upper, lower
        if self.mirror:
            x0, x1 = image.shape[1] - x1, image.shape[1] - x0
        part = image[y0:y1, x0:x1] if lens is None else lens.undistort(image, (x0, y0), (x1, y1))
        return part[:, ::-1] if self.mirror else part


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
