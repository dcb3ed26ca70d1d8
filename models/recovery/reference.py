"""The motion of a person seen by several calibrated cameras: a reference for recovery from one of them.

The detector that the recovery uses reads each view, twice (as it is and mirrored); where the readings
disagree they count less. Then (moro.geometry.multiview): exchanged sides are put right, each view is shifted
onto the others, every point is triangulated from the views that agree, and the motion is smoothed with bones
of constant length. Its error is estimated by leaving out one view after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor
from tqdm import tqdm

from models.recovery.heldout import fill_gaps
from moro.body.skeleton import LANDMARK_NAMES, MIRROR_LANDMARKS
from moro.errors import MoroError
from moro.geometry.alignment import similarity_align
from moro.geometry.multiview import align_views, refine_motion, reproject, settle_sides, triangulate
from moro.io.qualisys import CalibratedCamera
from moro.metrics.errors import FPS, MILLIMETRES
from moro.video.blazepose import BlazePose, roi_from_points
from moro.video.reader import VideoFrames
from moro.video.tracks import Track

MAIN_PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
PARTS = (*MAIN_PARTS, "heel", "foot_index")
# Landmarks of the reference: the first 12 are the main joints, left and right in turn.
POINTS = [LANDMARK_NAMES.index(f"{side}_{part}") for part in PARTS for side in ("left", "right")]
MAIN = slice(0, 2 * len(MAIN_PARTS))
MIRROR = [POINTS.index(MIRROR_LANDMARKS[point]) for point in POINTS]
SWAPPED_TOGETHER = (range(0, 6), range(6, 8), range(8, 16))  # arms with shoulders, hips, legs

_JOINED = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"),
           ("ankle", "heel"), ("ankle", "foot_index"))  # fmt: skip
BONES = [(0, 1), (6, 7)] + [
    (2 * PARTS.index(a) + side, 2 * PARTS.index(b) + side) for a, b in _JOINED for side in (0, 1)
]
DOUBT = (
    8.0  # pixels of disagreement between the two readings at which a view has lost three quarters of its say
)


@dataclass(frozen=True)
class Reference:
    """A person's motion in the world of the calibration.

    points       (T, 16, 3)  metres, landmarks `POINTS`
    shift        (C, 2)      pixels by which each view is moved against its calibration
    reprojection (C,)        median distance of detections to the reference, pixels
    left_out     (C,)        mean change of the main joints, mm after Procrustes, when a view is left out
    """

    points: Tensor
    shift: Tensor
    reprojection: Tensor
    left_out: Tensor

    def delayed(self, frames: float) -> "Reference":
        """The same motion, so many frames (also parts of one) later, as a clip shows it that lags behind."""
        index = np.arange(len(self.points))
        points = CubicSpline(index, self.points.numpy())(index - frames)
        return replace(self, points=torch.from_numpy(points))

    def in_camera(self, camera: CalibratedCamera) -> Tensor:
        """(T, 16, 3) camera frame, metres, float32."""
        world2cam = torch.from_numpy(camera.world2cam)
        return (self.points @ world2cam[:3, :3].T + world2cam[:3, 3]).float()

    def in_image(self, camera: CalibratedCamera, view: int) -> NDArray:
        """(T, 16, 2) pixels of view number `view`, without the lens's (slight) distortion."""
        image = reproject(self.points, torch.from_numpy(camera.projection)[None])[0][0]
        return (image + self.shift[view]).numpy()


def build_reference(cameras: Sequence[CalibratedCamera], readings: Sequence[Track]) -> Reference:
    """Reference from one person's track in each view, made by `read_carefully`; all of T frames at 30 fps.

    Raises MoroError if a landmark is never seen by two cameras.
    """
    pixels = torch.from_numpy(np.stack([_undistorted(c, t) for c, t in zip(cameras, readings)]))
    weight = torch.from_numpy(np.stack([t.landmarks[:, POINTS, 2:].prod(-1) for t in readings])).double()
    projection = torch.from_numpy(np.stack([camera.projection for camera in cameras]))
    swapped = settle_sides(pixels, weight, projection, MIRROR, SWAPPED_TOGETHER)
    pixels = torch.where(swapped[..., None], pixels[:, :, MIRROR], pixels)
    weight = torch.where(swapped, weight[:, :, MIRROR], weight)
    shift = align_views(pixels, weight, projection)
    pixels = pixels - shift[:, None, None]
    points = _motion(pixels, weight, projection)
    off = (reproject(points, projection)[0] - pixels).norm(dim=-1)  # (C, T, 16)
    errors = []
    for left in range(len(cameras)):
        rest = [view for view in range(len(cameras)) if view != left]
        other = _motion(pixels[rest], weight[rest], projection[rest])[:, MAIN]
        aligned = similarity_align(other, points[:, MAIN])
        errors.append((aligned - points[:, MAIN]).norm(dim=-1).mean() * MILLIMETRES)
    return Reference(points, shift, off.flatten(1).median(1).values, torch.stack(errors))


def read_carefully(frames: VideoFrames, track: Track, detector: BlazePose) -> Track:
    """The landmarks of a track read anew in every frame, twice: the picture as it is and mirrored.

    Their mean is taken; visibility falls with their disagreement. Frames without the person stay so.
    """
    result = Track.unseen(len(track.seen))
    shown = tqdm(frames, total=len(frames), desc=f"read {frames.path.stem}", unit="frame", disable=None)
    for index, frame in enumerate(shown):
        if not track.seen[index]:
            continue
        known = track.landmarks[index]
        hips, shoulders = known[[23, 24], :2].mean(0), known[[11, 12], :2].mean(0)
        up = (shoulders - hips) / max(float(np.linalg.norm(shoulders - hips)), 1e-6)
        reach = np.linalg.norm(known[:, :2] - hips, axis=1)[known[:, 2] > 0.3].max(initial=1.0)
        rim = hips + up * reach
        width = frame.shape[1] - 1
        plain = detector.landmarks(frame, roi_from_points(hips, rim))
        turned = detector.landmarks(
            np.ascontiguousarray(frame[:, ::-1]),
            roi_from_points(np.array([width - hips[0], hips[1]]), np.array([width - rim[0], rim[1]])),
        )
        back = turned.xy[list(MIRROR_LANDMARKS)] * (-1, 1) + (width, 0)
        apart = np.linalg.norm(plain.xy - back, axis=1)
        visibility = np.minimum(plain.visibility, turned.visibility[list(MIRROR_LANDMARKS)])
        visibility = visibility * (1 + (apart / DOUBT) ** 2) ** -2
        result.landmarks[index] = np.column_stack([(plain.xy + back) / 2, visibility, plain.presence])
        result.seen[index] = True
    return result


def _motion(pixels: Tensor, weight: Tensor, projection: Tensor) -> Tensor:
    start = triangulate(pixels, weight, projection).points
    known = start.isfinite().all(-1).numpy()
    if not known.any(0).all():
        missing = [LANDMARK_NAMES[POINTS[n]] for n in np.flatnonzero(~known.any(0))]
        raise MoroError(f"no two cameras ever see {', '.join(missing)}; a reference needs more views.")
    return refine_motion(fill_gaps(start, known), pixels, weight, projection, BONES, FPS)


def _undistorted(camera: CalibratedCamera, track: Track) -> NDArray:
    """(T, 16, 2) pixels without the lens's distortion."""
    raw = track.landmarks[:, POINTS, :2].astype(np.float64)
    return camera.lens.undistort_points(raw.reshape(-1, 2)).reshape(raw.shape)  # (T*16, 2) -> (T, 16, 2)
