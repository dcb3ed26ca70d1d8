"""Colour augmentation of the single-image data sets (spec: data 4.3), with OpenCV and numpy alone.

The operations, their parameters and the shares are those of albumentations 1.3.1, which the original uses and
which is no longer maintained; random numbers come from the generator given. Images are (H, W, 3) uint8 RGB.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.uint8]
GROUP_PROB = 0.3  # of each of the two groups


@dataclass(frozen=True)
class Operation:
    """weight among those of its group; rowwise: a row's result depends on that row alone."""

    weight: float
    apply: Callable[[Image, Generator], Image]
    rowwise: bool = False


def augment_colours(image: Image, rng: Generator, rows: slice | None = None) -> Image:
    """One of group A with probability 0.3, then one of group B with probability 0.3 (spec: data 4.3).

    rows     those that will be looked at; elsewhere the result may be left as it was
    returns  a new image, or the one given if nothing was drawn
    """
    chosen = [operation for group in (GROUP_A, GROUP_B) if (operation := _draw(group, rng)) is not None]
    for number, operation in enumerate(chosen):
        if rows is not None and all(later.rowwise for later in chosen[number:]):
            image = image.copy()
            image[rows] = operation.apply(image[rows], rng)
        else:
            image = operation.apply(image, rng)
    return image


def _draw(group: tuple[Operation, ...], rng: Generator) -> Operation | None:
    if rng.random() >= GROUP_PROB:
        return None
    weights = np.array([operation.weight for operation in group])
    return group[rng.choice(len(group), p=weights / weights.sum())]


# ---- group A: what cameras, files and weather do -------------------------------------------------------


def downscale(image: Image, rng: Generator, scales: tuple[float, float] = (0.5, 0.9)) -> Image:
    """Smaller and back, nearest pixels."""
    scale = rng.uniform(*scales)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def compress(image: Image, rng: Generator, qualities: tuple[int, int] = (20, 100)) -> Image:
    """Through jpeg, channels as they lie in memory."""
    quality = int(rng.integers(qualities[0], qualities[1] + 1))
    _, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def rain(image: Image, rng: Generator, drop: int = 20, blur: int = 4, brightness: float = 0.7) -> Image:
    """A slanted drop for every 600 pixels, then blur, then darker."""
    H, W = image.shape[:2]
    slant = int(rng.uniform(-10, 10))
    count = H * W // 600
    x = rng.integers(min(slant, 0), W - max(slant, 0) + 1, count)
    y = rng.integers(0, max(H - drop, 0) + 1, count)
    start = np.stack([x, y], axis=1)  # (count, 2)
    lines = np.stack([start, start + [slant, drop]], axis=1).astype(np.int32)  # (count, 2, 2)
    drawn = cv2.polylines(image.copy(), list(lines), False, (200, 200, 200), 1)
    hsv = cv2.cvtColor(cv2.blur(drawn, (blur, blur)), cv2.COLOR_RGB2HSV)
    hsv[..., 2] = cv2.LUT(hsv[..., 2], (np.arange(256) * np.float32(brightness)).astype(np.uint8))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def motion_blur(image: Image, rng: Generator, sizes: tuple[int, int] = (3, 15)) -> Image:
    """Mean along a random segment in a square of odd size."""
    size = int(rng.choice(np.arange(sizes[0], sizes[1] + 1, 2)))
    x0, x1 = (int(x) for x in rng.integers(0, size, 2))
    y0, y1 = (int(y) for y in rng.choice(size, 2, replace=x0 != x1))  # two different ends
    kernel = cv2.line(np.zeros((size, size), np.float32), (x0, y0), (x1, y1), 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def blur(image: Image, rng: Generator, sizes: tuple[int, int] = (3, 10)) -> Image:
    """Mean over a square of odd size."""
    size = int(rng.choice(np.arange(sizes[0], sizes[1] + 1, 2)))
    return cv2.blur(image, (size, size))


def snow(image: Image, rng: Generator, points: tuple[float, float] = (0.2, 0.4), gain: float = 1.5) -> Image:
    """What is darker than a threshold gets 1.5 times as light."""
    threshold = rng.uniform(*points) * 255 / 2 + 255 / 3
    levels = np.arange(256, dtype=np.float32)
    levels = np.where(levels < threshold, np.minimum(levels * np.float32(gain), 255), levels)
    hls = cv2.cvtColor(image, cv2.COLOR_RGB2HLS)
    hls[..., 1] = cv2.LUT(hls[..., 1], levels.astype(np.uint8))
    return cv2.cvtColor(hls, cv2.COLOR_HLS2RGB)


# ---- group B: light and colour -------------------------------------------------------------------------


def local_contrast(image: Image, rng: Generator, limits: tuple[float, float] = (1, 11)) -> Image:
    """CLAHE of the lightness on 10 x 10 tiles."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    equaliser = cv2.createCLAHE(clipLimit=float(rng.uniform(*limits)), tileGridSize=(10, 10))
    lab[..., 0] = equaliser.apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def to_grey(image: Image, rng: Generator) -> Image:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def brightness_contrast(image: Image, rng: Generator, limit: float = 0.2) -> Image:
    """Times 1 ± 0.2, then plus ± 0.2 of white."""
    gain, shift = rng.uniform(1 - limit, 1 + limit), rng.uniform(-limit, limit)
    return cv2.LUT(image, _levels(np.arange(256) * gain + shift * 255))


def channel_noise(image: Image, rng: Generator, gains: tuple[float, float] = (0.5, 1.5)) -> Image:
    """One factor for each channel of the whole image."""
    return cv2.LUT(image, _levels(np.arange(256)[:, None] * rng.uniform(*gains, 3))[:, None])  # (256, 1, 3)


def hue_saturation_value(
    image: Image, rng: Generator, limits: tuple[float, float, float] = (20, 30, 20)
) -> Image:
    """Each of the three shifted; hue in OpenCV's half degrees."""
    hue, saturation, value = (rng.uniform(-limit, limit) for limit in limits)
    levels = np.arange(256, dtype=np.float64)
    turned = np.mod(levels + hue, 180).astype(np.uint8)
    table = np.stack([turned, _levels(levels + saturation), _levels(levels + value)], -1)  # (256, 3)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[:, None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def posterise(image: Image, rng: Generator, bits: int = 4) -> Image:
    return image & np.uint8(256 - 2 ** (8 - bits))


def gamma(image: Image, rng: Generator, limits: tuple[float, float] = (80, 200)) -> Image:
    power = rng.uniform(*limits) / 100
    return cv2.LUT(image, ((np.arange(256) / 255) ** power * 255).astype(np.uint8))


def equalise(image: Image, rng: Generator) -> Image:
    """Each channel's histogram made flat."""
    return np.stack([cv2.equalizeHist(np.ascontiguousarray(image[..., c])) for c in range(3)], axis=-1)


def _levels(values: NDArray) -> NDArray[np.uint8]:
    """A table of 256 levels, clipped and cut to whole numbers."""
    return np.clip(values, 0, 255).astype(np.uint8)


GROUP_A = (
    Operation(0.1, downscale),
    Operation(0.1, compress),
    Operation(0.1, rain),
    Operation(0.2, motion_blur),
    Operation(0.1, blur),
    Operation(0.5, snow, rowwise=True),
)
GROUP_B = (
    Operation(0.2, local_contrast),
    Operation(0.2, to_grey, rowwise=True),
    Operation(0.2, brightness_contrast, rowwise=True),
    Operation(0.2, channel_noise, rowwise=True),
    Operation(0.2, hue_saturation_value, rowwise=True),
    Operation(0.1, posterise, rowwise=True),
    Operation(0.1, gamma, rowwise=True),
    Operation(0.1, equalise),
)
