"""Square boxes around people: from points, with jitter, cut to body parts; landmarks relative to a box.

A box is `center` (2,) in pixels and `scale` = side / 200 (spec: data 0); the margin is inside `scale`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

MARGIN = 1.2
MIN_CROP_SIDE = 4.0  # pixels; a smaller body-part box keeps the original box
NEIGHBOUR_REACH = 4.0  # half box sides; landmarks of other frames are kept within
MIN_SEEN = 0.5  # visibility x presence above which a landmark shapes the box


def box_from_points(points: Tensor, margin: float = MARGIN) -> tuple[Tensor, Tensor]:
    """Box of all given points (spec: data 2.6).

    points   (*, N, 2)  pixels
    returns  center (*, 2), scale (*,)
    """
    low, high = points.amin(dim=-2), points.amax(dim=-2)
    return (low + high) / 2, (high - low).amax(dim=-1) / 200 * margin


def box_from_landmarks(
    landmarks: Tensor,
    image_size: tuple[int, int] | None = None,
    margin: float = MARGIN,
    smooth: float = 2.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of a detected person, frame by frame; frames without detection are interpolated.

    landmarks   (L, 33, 4)  x, y in pixels, visibility, presence; all zero where unseen
    image_size  (width, height): points further than 10 % outside the image do not shape the box
    smooth      sigma in frames of a Gaussian over time: a landmark at the edge of visibility does not make
                the box flicker
    returns     center (L, 2), scale (L,), seen (L,) bool: frames with a detection of their own

    The box holds the landmarks that are likely visible (visibility x presence > 0.5); with fewer than four of
    these, it is blended with that of all present landmarks, because two shoulders alone say little about the
    body's size. If no frame is seen, the box is the whole image (or the unit box without `image_size`).
    """
    xy, weight = landmarks[..., :2], landmarks[..., 2] * landmarks[..., 3]
    present = landmarks[..., 3] > 0
    if image_size is not None:
        size = torch.tensor(image_size, dtype=xy.dtype)
        present = present & ((xy >= -0.1 * size) & (xy <= 1.1 * size)).all(dim=-1)
    visible = present & (weight > MIN_SEEN)
    seen = present.sum(dim=-1) >= 2
    center_all, scale_all = _masked_box(xy, present, margin)
    center_seen, scale_seen = _masked_box(xy, visible, margin)
    share = (visible.sum(dim=-1).to(xy.dtype) / 4).clamp(max=1)
    share = torch.where(visible.sum(dim=-1) >= 2, share, torch.zeros_like(share))
    center = center_all + share[:, None] * (center_seen - center_all)
    scale = scale_all + share * (scale_seen - scale_all)
    if not seen.any():
        return *_whole_image(len(xy), image_size, xy.dtype), seen
    box = fill_gaps(torch.cat([center, scale[:, None]], dim=-1), seen)  # (L, 3)
    if smooth > 0 and len(box) > 1:
        box = torch.from_numpy(gaussian_filter1d(box.numpy(), smooth, axis=0, mode="nearest"))
    return box[:, :2], box[:, 2].clamp(min=1e-3), seen


def _masked_box(xy: Tensor, mask: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """`box_from_points` over the points of a mask (L, N); zeros where the mask is empty."""
    far = torch.tensor(torch.finfo(xy.dtype).max)
    low = torch.where(mask[..., None], xy, far).amin(dim=-2)
    high = torch.where(mask[..., None], xy, -far).amax(dim=-2)
    empty = ~mask.any(dim=-1)
    low, high = low.masked_fill(empty[:, None], 0.0), high.masked_fill(empty[:, None], 0.0)
    return (low + high) / 2, (high - low).amax(dim=-1) / 200 * margin


def _whole_image(
    frames: int, image_size: tuple[int, int] | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    width, height = image_size or (200, 200)
    center = torch.tensor([width / 2, height / 2], dtype=dtype).expand(frames, 2).clone()
    return center, torch.full((frames,), max(width, height) / 200, dtype=dtype)


def fill_gaps(values: Tensor, seen: Tensor) -> Tensor:
    """Linear interpolation over time of `values` (L, C) where not `seen`; held at the ends."""
    frames = np.arange(len(values))
    known = np.flatnonzero(seen.numpy())
    filled = [np.interp(frames, known, values[known, c].numpy()) for c in range(values.shape[1])]
    return torch.from_numpy(np.stack(filled, axis=-1)).to(values.dtype)


def normalise_landmarks(landmarks: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """Landmarks in the coordinates of the square box (docs/design.md 4.3).

    landmarks  (L, 33, 4)  x, y in pixels, visibility, presence
    center     (L, 2), scale (L,)
    returns    (L, 33, 4)  x, y in [-1, 1] inside the box; all zero where the presence is zero or the
               landmark lies outside twice the box
    """
    xy = (landmarks[..., :2] - center[:, None]) / (100 * scale[:, None, None])
    kept = (landmarks[..., 3] > 0) & (xy.abs() <= 2).all(dim=-1)
    normalised = torch.cat([xy, landmarks[..., 2:]], dim=-1)
    return torch.where(kept[..., None], normalised, torch.zeros_like(normalised)).to(torch.float32)


def landmark_rays(landmarks: Tensor, center: Tensor, scale: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the camera landmarks were seen, and how far they are to be trusted.

    landmarks  (..., 33, 4) as of `normalise_landmarks`;  center (..., 2), scale (...), K (..., 3, 3)
    returns    rays (..., 33, 2): x / z and y / z, and weights (..., 33), 0 where unseen, up to 1
    """
    pixels = landmarks[..., :2] * (100 * scale[..., None, None]) + center[..., None, :]
    focal = torch.diagonal(K, dim1=-2, dim2=-1)[..., None, :2]
    rays = (pixels - K[..., None, :2, 2]) / focal
    return rays, landmarks[..., 2:].prod(-1) ** 2  # doubtful ones count for little


def neighbour_landmarks(
    landmarks: Tensor,
    center: Tensor,
    scale: Tensor,
    offsets: Sequence[int],
    frames: slice = slice(None),
) -> Tensor:
    """Landmarks of the frames around each frame, in the box of that frame (docs/design.md 4.3).

    landmarks  (L, N, 4)  in the coordinates of their own boxes, zero where unseen (`normalise_landmarks`)
    center     (L, 2), scale (L,)
    offsets    of K neighbours, frames; 1 is the next
    frames     those whose neighbours are wanted, F of L
    returns    (F, K, N, 4)  zero where the neighbour did not see a landmark, or does not exist
    """
    own = torch.arange(len(landmarks))[frames, None]  # (F, 1)
    there = own + torch.tensor(list(offsets))  # (F, K)
    exists = (there >= 0) & (there < len(landmarks))
    there = there.clamp(0, len(landmarks) - 1)
    points = landmarks[there]  # (F, K, N, 4)
    shift = (center[there] - center[own]) / (100 * scale[own, None])  # (F, K, 2)
    xy = points[..., :2] * (scale[there] / scale[own])[..., None, None] + shift[:, :, None]
    kept = (points != 0).any(-1, keepdim=True) & exists[..., None, None]  # (F, K, N, 1)
    moved = torch.cat([xy.clamp(-NEIGHBOUR_REACH, NEIGHBOUR_REACH), points[..., 2:]], dim=-1)
    return torch.where(kept, moved, torch.zeros_like(moved)).to(torch.float32)


def jitter_center(center: Tensor, scale: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    """Centres moved by clip(N(0, 1), -1, 1) * factor * side per frame and axis (spec: models 7.3)."""
    noise = torch.from_numpy(rng.standard_normal(tuple(center.shape))).to(center.dtype).clamp(-1, 1)
    return center + noise * factor * 200 * scale[..., None]


# ---- crops to body parts (spec: data 2.9) ------------------------------------------------------------

NUM_OPENPOSE = 25
NUM_KEYPOINTS = 44  # OpenPose BODY_25, then 19 extras


@dataclass(frozen=True)
class PartCrop:
    """Keypoint rows dropped (OpenPose rows, extras counted from 25) and the factor on the box."""

    openpose: tuple[int, ...]
    extras: tuple[int, ...]
    factor: float

    def dropped(self) -> list[int]:
        return [*self.openpose, *(NUM_OPENPOSE + extra for extra in self.extras)]


def _rows(*spans: int | tuple[int, int]) -> tuple[int, ...]:
    """Row numbers; a pair stands for a range with both ends."""
    rows: list[int] = []
    for span in spans:
        rows += [span] if isinstance(span, int) else range(span[0], span[1] + 1)
    return tuple(rows)


PART_CROPS: dict[str, PartCrop] = {
    "hips": PartCrop(_rows(10, 11, 13, 14, (19, 24)), _rows(0, 1, 4, 5), 1.1),
    "shoulders": PartCrop(_rows(3, 4, (6, 14), (19, 24)), _rows((0, 7), 10, 11, 14, 15, 16), 1.2),
    "head": PartCrop(_rows(3, 4, (6, 14), (19, 24)), _rows((0, 11), 14, 15, 16), 1.3),
    "torso": PartCrop(_rows(0, 3, 4, 6, 7, 10, 11, (13, 24)), _rows(0, 1, (4, 7), 10, 11, 13, 17, 18), 1.1),
    "right arm": PartCrop(_rows(0, 1, (5, 24)), _rows((0, 5), (9, 18)), 1.1),
    "left arm": PartCrop(_rows((0, 4), (8, 24)), _rows((0, 8), (12, 18)), 1.1),
    "legs": PartCrop(_rows((0, 7), (15, 18)), _rows((6, 13), (15, 18)), 1.1),
    "right leg": PartCrop(_rows((0, 8), (12, 21)), _rows((3, 18)), 1.1),
    "left leg": PartCrop(_rows((0, 11), (15, 18), (22, 24)), _rows((0, 2), (6, 18)), 1.1),
}

# Which part by one uniform number: (upper bound, part), by level and by what is visible.
_FULL = {
    1: ((0.7, "hips"), (0.9, "shoulders"), (1.0, "head")),
    2: (
        (0.2, "hips"), (0.3, "shoulders"), (0.4, "head"), (0.5, "torso"), (0.6, "right arm"),
        (0.7, "left arm"), (0.8, "legs"), (0.9, "right leg"), (1.0, "left leg"),
    ),
}  # fmt: skip
_UPPER = {
    1: ((0.9, "shoulders"), (1.0, "head")),
    2: ((0.2, "shoulders"), (0.4, "head"), (0.6, "torso"), (0.8, "right arm"), (1.0, "left arm")),
}

_FULL_PAIRS = tuple(zip((2, 3, 4, 5, 6, 7, 10, 11, 13, 14), (8, 7, 6, 9, 10, 11, 1, 0, 4, 5)))
_LOWER_ROWS = (10, 11, 13, 14, 25, 26, 29, 30)
_UPPER_ROWS = (0, 1, 15, 16, 17, 18, *(25 + extra for extra in (8, 9, 12, 13, 17, 18)))


def full_body_visible(keypoints: np.ndarray) -> bool:
    """Of each of ten limb points, OpenPose's or the extra has confidence. keypoints (44, 3)."""
    confident = keypoints[:, 2] > 0
    return all(confident[row] or confident[NUM_OPENPOSE + extra] for row, extra in _FULL_PAIRS)


def upper_body_visible(keypoints: np.ndarray) -> bool:
    """No leg point and at least two of head and shoulders have confidence. keypoints (44, 3)."""
    confident = keypoints[:, 2] > 0
    return not confident[list(_LOWER_ROWS)].any() and confident[list(_UPPER_ROWS)].sum() >= 2


def crop_to_part(
    center: np.ndarray, scale: float, keypoints: np.ndarray, part: str
) -> tuple[np.ndarray, float]:
    """Box of the keypoints that `PART_CROPS[part]` leaves (spec: data 2.9).

    center (2,), scale; keypoints (44, 3) x, y, confidence; part: a key of PART_CROPS.
    The box stays as it was where too little is left or the new box is under 4 pixels.
    """
    crop = PART_CROPS[part]
    left = keypoints.copy()
    left[crop.dropped()] = 0
    if left[:, 2].sum() <= 1:
        return center, scale
    points = left[left[:, 2] > 0, :2]
    low, high = points.min(axis=0), points.max(axis=0)
    side = (high - low) * MARGIN * crop.factor
    if (side < MIN_CROP_SIDE).any():
        return center, scale
    return (low + high) / 2, float(side.max() / 200)


def extreme_crop(
    center: np.ndarray, scale: float, keypoints: np.ndarray, level: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Random body-part crop of a single image (spec: data 2.9); unchanged at level 0."""
    p = rng.random()
    if level == 0:
        return center, scale
    if full_body_visible(keypoints):
        return crop_to_part(center, scale, keypoints, _choose(_FULL[level], p))
    if upper_body_visible(keypoints):
        return crop_to_part(center, scale, keypoints, _choose(_UPPER[level], p))
    return center, scale


def extreme_crop_sequence(
    center: np.ndarray,
    scale: np.ndarray,
    keypoints: np.ndarray,
    level: int,
    rng: np.random.Generator,
    min_ratio: float = 0.2,
) -> tuple[np.ndarray, np.ndarray]:
    """One body-part crop for a random subset of a clip's frames (spec: data 2.9).

    center (F, 2), scale (F,), keypoints (F, 44, 3); at least `min_ratio` of the frames are cropped.
    """
    if level == 0:
        return center, scale
    center, scale = center.copy(), scale.copy()
    part = _choose(_FULL[level], rng.random())
    frames = len(center)
    count = max(1, round(rng.uniform(min_ratio, 1.0) * frames))
    for frame in rng.permutation(frames)[:count]:
        center[frame], scale[frame] = crop_to_part(center[frame], scale[frame], keypoints[frame], part)
    return center, scale


def _choose(table: tuple[tuple[float, str], ...], p: float) -> str:
    return next(part for bound, part in table if p < bound)
