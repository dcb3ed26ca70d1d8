"""COCO, MPII, Human3.6M, MPI-INF-3DHP: single images of people (spec: data 4.3)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.colour import augment_colours
from models.mask_transformer.data.crops import DEFAULT_RESOLUTION
from models.mask_transformer.data.items import BodyParameters, body_entries, camera_entries, local_body
from models.mask_transformer.data.reading import ImageReader
from models.mask_transformer.data.recordings import require_complete
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.skeleton import mirror_pose
from moro.errors import MoroError
from moro.geometry.boxes import NUM_KEYPOINTS, NUM_OPENPOSE, extreme_crop
from moro.geometry.crop import crop_image_rotated, crop_window, rotation_margin
from moro.geometry.image import normalise_image
from moro.geometry.rotation import matrix_to_rotvec, rotvec_to_matrix
from moro.io.image_files import SETS, Labels, read_labels

TRAIN_ONLY = ("h36m", "mpi_inf_3dhp")  # the others are validated on the training file (spec: data 4.3)
DEBUG_ROWS = 64
# Rows of the 44 keypoints for body-part crops, and the label each is taken from (spec: data 2.8).
LAYOUT = {0: 19, 15: 21, 16: 20, 17: 23, 18: 22, **{NUM_OPENPOSE + label: label for label in range(19)}}
J2D = (*range(13), 18, 14, 16, 17)  # labels of the 2-D loss
J2D_MIRRORED = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, *range(12, 17))


@dataclass(frozen=True)
class Change:
    """What is done to one sample.

    degrees  counter-clockwise; zoom: of the box; shift (2,): of its centre, as a share of its side; level of
    the body-part crop
    """

    flip: bool = False
    degrees: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    level: int = 0


@dataclass(frozen=True)
class Augmentation:
    """Odds and sizes of the changes (spec: data 4.3)."""

    flip_prob: float = 0.5
    rot_prob: float = 0.6
    rot_factor: float = 30.0
    scale_factor: float = 0.3
    trans_factor: float = 0.1
    crop_prob: float = 0.1
    crop_level: int = 2

    @classmethod
    def from_config(cls, dataset: DictConfig) -> "Augmentation":
        return cls(
            dataset.flip_prob if dataset.flip else 0.0,
            dataset.rot_aug_prob,
            dataset.rot_factor,
            dataset.scale_factor,
            dataset.trans_factor,
            dataset.extreme_crop_aug_prob,
            dataset.extreme_crop_lvl,
        )

    def draw(self, rng: Generator) -> Change:
        turn, zoom, *shift = rng.standard_normal(4)
        turned, flipped, cropped = rng.random(3) < (self.rot_prob, self.flip_prob, self.crop_prob)
        x, y = (float(self.trans_factor * np.clip(part, -1, 1)) for part in shift)
        return Change(
            flip=bool(flipped),
            degrees=float(np.clip(turn, -2, 2) * self.rot_factor) if turned else 0.0,
            zoom=float(1 + self.scale_factor * np.clip(zoom, -1, 1)),
            shift=(x, y),
            level=self.crop_level if cropped else 0,
        )


class ImageDataset(ClipDataset):
    """People in single images, F = 1, the neutral body in the camera frame.

    augmentation  None: samples as they are labelled
    compat        the box condition and `scale` leave the zoom out, and flips leave `center` and `translation`
                  alone, as in the published training (spec: data D10); otherwise they follow the crop. Crops
                  are cut in float64 like the original's

    With augmentation there is no true translation (`has_transl` false): the crop turns, not the camera.
    An unreadable image is a black crop; its size is then taken to be twice the box's centre.
    `offset` is one zero (see `items.body_entries`); `world2cano` has a leading 1 as everywhere (D12).
    """

    def __init__(
        self,
        root: Path,
        labels: Labels,
        body: BodyModel,
        augmentation: Augmentation | None = None,
        *,
        resolution: tuple[int, int] = DEFAULT_RESOLUTION,
        max_unreadable: float = 0.05,
        compat: bool = True,
        rows: NDArray | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.root, self.labels, self.body, self.augmentation = root, labels, body, augmentation
        self.resolution, self.compat = resolution, compat
        self.rows = np.arange(len(labels)) if rows is None else rows
        self.has_transl = labels.global_t is not None and augmentation is None
        self.reader = ImageReader(max_unreadable)

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, rng: Generator) -> dict[str, Any]:
        row, labels = int(self.rows[index]), self.labels
        change = Change() if self.augmentation is None else self.augmentation.draw(rng)
        path = self.root / str(labels.imgname[row])
        image = self.reader.load(path)
        size = np.ceil(2 * labels.center[row]) if image is None else np.array(image.shape[1::-1], float)
        center, scale = self._box(row, change, size, rng)
        crop = self._crop(image, center, scale, change, rng)
        person = local_body(self.body, self._parameters(row, change))
        entries = body_entries(person, person.joints())
        entries |= self._camera(row, center, scale, size, change)
        if change.flip and not self.compat:
            entries["translation"] = entries["translation"] * torch.tensor([-1.0, 1.0, 1.0])
        return entries | {
            "j2d": torch.from_numpy(self._keypoints(row, center, scale, change))[None],
            "crop_imgs": normalise_image(torch.from_numpy(crop))[None],
            "img_paths": [str(path)],
            "has_transl": self.has_transl,
        }

    def _box(self, row: int, change: Change, size: NDArray, rng: Generator) -> tuple[NDArray, float]:
        """Center (2,) and scale of the crop, without the zoom."""
        center, scale = self.labels.center[row], float(self.labels.scale[row])
        if self.augmentation is None:
            return center, scale
        keypoints = np.zeros((NUM_KEYPOINTS, 3), np.float32)
        keypoints[list(LAYOUT)] = self.labels.keypoints[row][list(LAYOUT.values())]
        center, scale = extreme_crop(center, scale, keypoints, change.level, rng)
        return np.clip(center + np.array(change.shift) * 200 * scale, 0, size - 1), scale

    def _crop(
        self, image: NDArray | None, center: NDArray, scale: float, change: Change, rng: Generator
    ) -> NDArray:
        """(height, width, 3) float32 in [0, 1]; colours change in the whole image (spec: data 4.3)."""
        if image is None:
            return np.zeros((*self.resolution, 3), np.float32)
        if self.augmentation is not None:
            rows = _seen_rows(image, center, scale * change.zoom, change.degrees)
            image = image if rows is None else augment_colours(image, rng, rows)
        crop = crop_image_rotated(
            image, center, scale * change.zoom, self.resolution, change.degrees, exact=self.compat
        )
        return np.ascontiguousarray(crop[:, ::-1]) if change.flip else crop

    def _parameters(self, row: int, change: Change) -> BodyParameters:
        """Pose of the crop's picture; the translation stays that of the image."""
        labels = self.labels
        pose = torch.from_numpy(labels.pose[row : row + 1])
        c, s = math.cos(-math.radians(change.degrees)), math.sin(-math.radians(change.degrees))
        turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        orient = matrix_to_rotvec(turn @ rotvec_to_matrix(pose[:, :3]))
        body_pose = pose[:, 3:]
        if change.flip:
            body_pose, orient = mirror_pose(body_pose, orient)
        transl = np.zeros(3, np.float32) if labels.global_t is None else labels.global_t[row]
        return BodyParameters(
            global_orient=rotvec_to_matrix(orient),
            body_pose=rotvec_to_matrix(body_pose.reshape(1, 21, 3)),  # (1, 63) -> (1, 21, 3)
            betas=torch.from_numpy(labels.betas[row : row + 1]),
            transl=torch.from_numpy(transl)[None],
        )

    def _camera(
        self, row: int, center: NDArray, scale: float, size: NDArray, change: Change
    ) -> dict[str, Tensor]:
        """Entries of a camera with the image's centre as principal point."""
        focal = float(np.hypot(*size))
        if self.has_transl and self.labels.focal is not None:
            focal = float(self.labels.focal[row])
        K = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]], dtype=torch.float64)
        mirrored = torch.from_numpy(center)
        if change.flip:
            mirrored = torch.stack([size[0] - mirrored[0], mirrored[1]])
        shown = torch.tensor([scale if self.compat else scale * change.zoom], dtype=torch.float64)
        entries = camera_entries(K, mirrored[None], shown, torch.eye(4), torch.eye(4))
        entries["K"] = entries["K"].float()
        if self.compat:
            entries["center"] = torch.from_numpy(center)[None].float()
        return entries

    def _keypoints(self, row: int, center: NDArray, scale: float, change: Change) -> NDArray:
        """(17, 3) x, y in [-1, 1] of the crop, whole pixels, and confidence (spec: data 4.3)."""
        size, labels = self.resolution[0], self.labels.keypoints[row][list(J2D)]
        side = 200 * scale * change.zoom
        middle = size / 2
        points = (labels[:, :2].astype(np.float64) - center) / side * size  # from the middle of the crop
        c, s = math.cos(-math.radians(change.degrees)), math.sin(-math.radians(change.degrees))
        points = points @ np.array([[c, -s], [s, c]]).T + middle
        points = 2 * (np.trunc(points) + 1) / size - 1
        if change.flip:
            points, labels = points[list(J2D_MIRRORED)] * [-1, 1], labels[list(J2D_MIRRORED)]
        return np.concatenate([points, labels[:, 2:]], axis=1).astype(np.float32)


def _seen_rows(image: NDArray, center: NDArray, scale: float, degrees: float) -> slice | None:
    """Rows of the image that a crop looks at; None if it lies above or below."""
    upper, lower = crop_window(center, scale)
    margin = rotation_margin(upper, lower, degrees)
    first, last = np.clip([upper[1] - margin, lower[1] + margin], 0, len(image))
    return slice(first, last) if first < last else None


def build(cfg: DictConfig, split: str) -> ImageDataset:
    """The data set `dataset.name` from the whole configuration.

    split  train: the whole file, augmented if `dataset.augment`; val and test (coco and mpii alone): the same
           file without augmentation
    Raises MoroError for a split that does not exist, and naming every folder of images that is missing.
    """
    dataset, training = cfg.dataset, split == "train"
    name = str(dataset.name)
    if name in TRAIN_ONLY and not training:
        raise MoroError(f"{name} is a training set, it has no {split} split; use data=coco or data=mpii.")
    root = Path(dataset.dataset_root or dataset.roots[name])
    labels = read_labels(SETS[name].smplx_labels(root))
    rows = _rows(len(labels), dataset.proportion, cfg.seed)[: DEBUG_ROWS if cfg.debug else None]
    if not len(rows):
        raise MoroError(f"{SETS[name].smplx_labels(root)} and dataset.proportion leave no samples.")
    folders = {name.rpartition("/")[0] for name in labels.imgname[rows].tolist()}
    lacking = {folder or ".": ["images"] for folder in folders if not (root / folder).is_dir()}
    require_complete(name, root, lacking)
    return ImageDataset(
        root,
        labels,
        load_body_model(dataset.bm_path, dataset.model_type),
        Augmentation.from_config(dataset) if training and dataset.augment else None,
        resolution=tuple(dataset.crop_res or DEFAULT_RESOLUTION),
        max_unreadable=dataset.max_unreadable,
        compat=cfg.compat,
        rows=rows,
        seed=cfg.seed if training else 0,
    )


def _rows(count: int, proportion: float, seed: int) -> NDArray:
    """All rows of the labels, or a random share of them."""
    if proportion >= 1:
        return np.arange(count)
    chosen = np.random.default_rng(seed).choice(count, round(proportion * count), replace=False)
    return np.sort(chosen)
