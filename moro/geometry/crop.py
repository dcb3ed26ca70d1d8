"""The square crop of a person (spec: data 2.7, 2.10)."""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

# upper left, lower right corner (2,) (x, y) within an image -> the pixels [upper, lower)
Pixels = Callable[[np.ndarray, np.ndarray], np.ndarray]


def crop_window(center: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Upper left and lower right pixel (2,) of a box: its corners truncated towards zero (spec: data 2.7)."""
    center = np.asarray(center, dtype=np.float64)
    half = 100.0 * float(scale)
    return np.trunc(center - half).astype(int), np.trunc(center + half).astype(int)


def crop_image(
    image: np.ndarray,
    center: np.ndarray,
    scale: float,
    resolution: tuple[int, int] = (256, 256),
    pixels: Pixels | None = None,
) -> np.ndarray:
    """Crop of video data, resized with PIL's bilinear filter (spec: data 2.7).

    image    (H, W, 3) uint8
    center   (2,) pixels;  scale: side / 200;  resolution: (height, width)
    pixels   gives part of what `image` becomes before it is cut, if it does: only the box's part is made
    returns  (height, width, 3) uint8; black where the box has left the image or is over three times its size,
             so that the model has to infer the person from the context
    """
    H, W = image.shape[:2]
    upper, lower = crop_window(center, scale)
    width, height = lower - upper
    black = np.zeros((*resolution, image.shape[2]), dtype=np.uint8)
    outside = upper[0] >= W or upper[1] >= H or lower[0] < 0 or lower[1] < 0
    if outside or height > 3 * H or width > 3 * W or width < 1 or height < 1:
        return black
    window = _cut(image, upper, lower, pixels)
    resized = Image.fromarray(window).resize(resolution[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def rotation_margin(upper: np.ndarray, lower: np.ndarray, degrees: float) -> int:
    """Pixels around a window [upper, lower) that a turn of it looks at (spec: data 2.10)."""
    side = lower - upper
    return int(np.linalg.norm(side) / 2 - side[1] / 2) if degrees else 0


def crop_image_rotated(
    image: np.ndarray,
    center: np.ndarray,
    scale: float,
    resolution: tuple[int, int] = (256, 256),
    degrees: float = 0.0,
    exact: bool = False,
) -> np.ndarray:
    """Crop of the single-image data sets, turned about the box (spec: data 2.10).

    image    (H, W, 3) uint8
    degrees  counter-clockwise
    exact    in float64, as the original: slower, and another last bit
    returns  (height, width, 3) float32 in [0, 1], resized with OpenCV's bilinear filter; black outside
    """
    upper, lower = crop_window(center, scale)
    pad = rotation_margin(upper, lower, degrees)
    window = _cut(image, upper - pad, lower + pad).astype(np.float64 if exact else np.float32)
    if degrees:
        h, w = window.shape[:2]
        turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), degrees, 1.0)
        window = cv2.warpAffine(window, turn, (w, h), flags=cv2.INTER_LINEAR)
        window = window[pad : h - pad, pad : w - pad]
    resized = cv2.resize(window, resolution[::-1], interpolation=cv2.INTER_LINEAR)
    return (resized / resized.dtype.type(255)).astype(np.float32, copy=False)


def _cut(image: np.ndarray, upper: np.ndarray, lower: np.ndarray, pixels: Pixels | None = None) -> np.ndarray:
    """Pixels [upper, lower) of an image, or of what `pixels` makes of it; zero where they lie outside."""
    H, W = image.shape[:2]
    width, height = np.maximum(lower - upper, 1)
    (x0, y0), (x1, y1) = first, last = np.maximum(upper, 0), np.minimum(lower, (W, H))
    if x0 >= x1 or y0 >= y1:
        return np.zeros((height, width, image.shape[2]), dtype=image.dtype)
    part = image[y0:y1, x0:x1] if pixels is None else pixels(first, last)
    if part.shape[:2] == (height, width):
        return np.ascontiguousarray(part)
    window = np.zeros((height, width, image.shape[2]), dtype=image.dtype)
    window[y0 - upper[1] : y1 - upper[1], x0 - upper[0] : x1 - upper[0]] = part
    return window
