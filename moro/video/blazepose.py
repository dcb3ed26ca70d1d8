"""BlazePose: one person's 33 landmarks in 2D and in metres, on LiteRT without mediapipe (docs/design.md 4.6).

Two networks of the mediapipe 0.10.21 wheel (Apache-2.0), fetched by `scripts/fetch_demo_files.py`:
`pose_detection.tflite` finds people in a 224x224 picture (face box and four keypoints, one of them the hip
centre, another on the circle around the whole body), `pose_landmark_full.tflite` reads the landmarks in an
upright 256x256 crop. Two auxiliary landmarks give the crop of the next frame, so following a person needs no
detection. Method: Bazarevsky et al., "BlazePose: On-device real-time body pose tracking", 2020.
"""

import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moro.errors import MoroError

DETECTOR_FILE = "pose_detection.tflite"
LANDMARK_FILE = "pose_landmark_full.tflite"

NUM_LANDMARKS = 33
DETECTOR_SIZE = 224
LANDMARK_SIZE = 256
ANCHOR_STRIDES = (8, 16, 32, 32, 32)  # pixels of the detector's input; two anchors per cell and layer
ROI_SCALE = 1.25  # the crop is this much larger than the circle around the body
REFINE_RADIUS = 3  # heatmap cells around a landmark that refine it
REFINE_CONFIDENCE = 0.5


@dataclass(frozen=True)
class Roi:
    """Square crop around a person, turned so that the body is upright in it.

    center    (2,)  pixels of the frame
    size      side in pixels
    rotation  radians; positive turns the crop clockwise as seen in the frame
    """

    center: np.ndarray
    size: float
    rotation: float = 0.0

    def corners_matrix(self, side: float = 1.0) -> np.ndarray:
        """(2, 3) affine map from crop coordinates in [0, side]² to frame pixels."""
        turn = rotation_2d(self.rotation) * self.size
        corner = self.center - turn @ (0.5, 0.5)
        return np.concatenate([turn / side, corner[:, None]], axis=1)

    @property
    def box(self) -> np.ndarray:
        """(4,) corners x0, y0, x1, y1 of the crop as if it were upright."""
        return np.concatenate([self.center - self.size / 2, self.center + self.size / 2])


@dataclass(frozen=True)
class Detection:
    """A person found in a frame, in frame pixels.

    score      0..1
    box        (4,)    x0, y0, x1, y1 of the head (not of the body)
    keypoints  (4, 2)  hip centre, point on the circle around the body, shoulder centre, point above the head
    """

    score: float
    box: np.ndarray
    keypoints: np.ndarray

    @property
    def roi(self) -> Roi:
        """Crop around the whole body."""
        return roi_from_points(self.keypoints[0], self.keypoints[1])


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of one person.

    xy          (33, 2)  frame pixels                visibility  (33,)  probability of not being hidden
    world       (33, 3)  metres from the hip centre, presence    (33,)  probability of lying inside the frame
                         x right, y down, z away     confidence  probability of a person in the crop
    roi         crop they were read from             next_roi    crop for the next frame
    silhouette  (256, 256) bool: where in the crop `roi` the person is seen
    """

    xy: np.ndarray
    visibility: np.ndarray
    presence: np.ndarray
    world: np.ndarray
    confidence: float
    roi: Roi
    next_roi: Roi
    silhouette: np.ndarray


class BlazePose:
    """Detector and landmark network.

    folder   where the two .tflite files lie          threads  CPU threads of each network

    Raises MoroError if a file or the package `ai-edge-litert` is missing.
    """

    def __init__(self, folder: str | Path, threads: int = 2) -> None:
        self._detector = _Network(Path(folder) / DETECTOR_FILE, threads)
        self._landmarker = _Network(Path(folder) / LANDMARK_FILE, threads)

    def detect(
        self,
        rgb: np.ndarray,
        region: tuple[int, int, int, int] | None = None,
        min_score: float = 0.5,
        max_overlap: float = 0.3,
    ) -> list[Detection]:
        """People in a frame, best first.

        rgb          (H, W, 3) uint8
        region       x0, y0, x1, y1: look only there (small people are found in a part, not in the whole)
        max_overlap  detections of which the head boxes overlap more (IoU) are merged, weighted by score
        """
        x0, y0, x1, y1 = region or (0, 0, rgb.shape[1], rgb.shape[0])
        picture, scale, offset = _letterbox(rgb[y0:y1, x0:x1], DETECTOR_SIZE)
        boxes, logits = self._detector(picture.astype(np.float32) / 127.5 - 1.0)  # (1, A, 12), (1, A, 1)
        scores = _sigmoid(logits[0, :, 0])  # (A,)
        chosen = np.flatnonzero(scores > min_score)
        values = boxes[0, chosen] / DETECTOR_SIZE  # (n, 12): centre, size, 4 keypoints
        anchors, scores = self._anchors[chosen], scores[chosen]
        middle, half = values[:, :2] + anchors, values[:, 2:4] / 2
        points = values[:, 4:].reshape(-1, 4, 2) + anchors[:, None]  # (n, 4, 2)
        corners = np.stack([middle - half, middle + half], axis=1)  # (n, 2, 2)
        found = []
        for members in _overlap_groups(corners, scores, max_overlap):
            weight = (scores[members] / scores[members].sum())[:, None, None]
            box, keypoints = (weight * corners[members]).sum(0), (weight * points[members]).sum(0)
            box, keypoints = ((p * DETECTOR_SIZE - offset) / scale + (x0, y0) for p in (box, keypoints))
            found.append(Detection(float(scores[members[0]]), box.reshape(4), keypoints))  # (2, 2) -> (4,)
        return found

    def landmarks(self, rgb: np.ndarray, roi: Roi) -> Landmarks:
        """Landmarks of the person in a crop of a frame (H, W, 3) uint8."""
        to_frame = roi.corners_matrix()  # (2, 3)
        warp = roi.corners_matrix(LANDMARK_SIZE)
        side = (LANDMARK_SIZE, LANDMARK_SIZE)
        crop = cv2.warpAffine(rgb, warp, side, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        flat, confidence, mask, heatmaps, metric = self._landmarker(crop / np.float32(255.0))
        values = flat.reshape(39, 5)  # (1, 195) -> x, y, z in crop pixels; visibility, presence as logits
        inside = _refine(values[:, :2] / LANDMARK_SIZE, heatmaps[0])  # (39, 2)
        points = inside @ to_frame[:, :2].T + to_frame[:, 2]  # (39, 2)
        world = metric.reshape(39, 3)[:NUM_LANDMARKS].astype(np.float64)  # (1, 117) -> (33, 3)
        world[:, :2] = world[:, :2] @ rotation_2d(roi.rotation).T
        return Landmarks(
            xy=points[:NUM_LANDMARKS],
            visibility=_sigmoid(values[:NUM_LANDMARKS, 3]),
            presence=_sigmoid(values[:NUM_LANDMARKS, 4]),
            world=world,
            confidence=float(confidence.item()),
            roi=roi,
            next_roi=roi_from_points(points[33], points[34]),
            silhouette=mask[0, :, :, 0] > 0,  # logits
        )

    @cached_property
    def _anchors(self) -> np.ndarray:
        """(A, 2) centres of the anchors in [0, 1]², layers of equal stride interleaved cell by cell."""
        grids = []
        for stride in sorted(set(ANCHOR_STRIDES)):
            cells = DETECTOR_SIZE // stride
            y, x = np.divmod(np.arange(cells * cells), cells)
            centres = (np.stack([x, y], axis=1) + 0.5) / cells  # (cells², 2)
            grids.append(np.repeat(centres, 2 * ANCHOR_STRIDES.count(stride), axis=0))
        return np.concatenate(grids)


def rotation_2d(angle: float) -> np.ndarray:
    """(2, 2) rotation matrix of image coordinates (y down: positive is clockwise)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def roi_from_points(center: np.ndarray, rim: np.ndarray) -> Roi:
    """Crop from the hip centre and the point of the body's circle that lies above the head, each (2,)."""
    dx, dy = rim - center
    return Roi(np.asarray(center), 2 * ROI_SCALE * float(np.hypot(dx, dy)), float(np.arctan2(dx, -dy)))


class _Network:
    """A tflite network with one input picture; its outputs come in the order of the file."""

    def __init__(self, file: Path, threads: int) -> None:
        if not file.is_file():
            raise MoroError(f"{file} not found; run `python scripts/fetch_demo_files.py`.")
        interpreter = _litert().Interpreter
        try:
            self._interpreter = interpreter(str(file), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise MoroError(
                f"{file} is not a tflite network; delete it and run `python scripts/fetch_demo_files.py`."
            ) from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """(S, S, 3) float32 -> outputs, each with a batch axis of 1."""
        self._interpreter.set_tensor(self._input, picture[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _litert() -> Any:
    try:
        return importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise MoroError("the package ai-edge-litert is missing; run `pip install ai-edge-litert`.") from error


def _letterbox(image: np.ndarray, size: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Fit an image into a black square; returns it with the scale and the (2,) offset of the image in it."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    x, y = (size - w) // 2, (size - h) // 2
    square = np.zeros((size, size, 3), np.uint8)
    square[y : y + h, x : x + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    return square, scale, np.array([x, y])


def _overlap_groups(corners: np.ndarray, scores: np.ndarray, max_overlap: float) -> list[np.ndarray]:
    """Indices of boxes (n, 2, 2) that show the same thing, the best box first in its group."""
    groups, rest = [], np.argsort(-scores)
    area = np.prod(corners[:, 1] - corners[:, 0], axis=1)
    while len(rest):
        best = rest[0]
        low = np.maximum(corners[best, 0], corners[rest, 0])
        high = np.minimum(corners[best, 1], corners[rest, 1])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        same = shared > max_overlap * (area[best] + area[rest] - shared)
        same[0] = True
        groups.append(rest[same])
        rest = rest[~same]
    return groups


def _refine(points: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Move each landmark to the centre of mass of its heatmap nearby, where the heatmap is sure of it.

    points (39, 2) in [0, 1]², heatmaps (64, 64, 39) logits; returns (39, 2).
    """
    rows, columns, count = heatmaps.shape
    reach = np.arange(-REFINE_RADIUS, REFINE_RADIUS + 1)
    column = np.floor(points[:, 0] * columns).astype(int)[:, None] + reach  # (39, 7)
    row = np.floor(points[:, 1] * rows).astype(int)[:, None] + reach  # (39, 7)
    valid = ((row >= 0) & (row < rows))[:, :, None] & ((column >= 0) & (column < columns))[:, None, :]
    r, c = np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)
    logits = heatmaps[r[:, :, None], c[:, None, :], np.arange(count)[:, None, None]]  # (39, 7, 7)
    weight = _sigmoid(logits) * valid
    total = weight.sum((1, 2))
    sure = weight.max((1, 2)) >= REFINE_CONFIDENCE
    moved = np.stack([(weight.sum(1) * column).sum(1) / columns, (weight.sum(2) * row).sum(1) / rows], axis=1)
    return np.where(sure[:, None], moved / np.maximum(total, 1e-9)[:, None], points)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -80.0, 80.0)))
