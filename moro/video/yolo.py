"""Optional tracker of the original: YOLO boxes by ultralytics, an extra (AGPL) (spec: data 9.2 step 2).

Boxes and identities come from YOLO + BoT-SORT; landmarks are read by BlazePose in each box.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

import numpy as np

from moro.errors import MoroError
from moro.video.blazepose import BlazePose, Roi
from moro.video.tracking import PoseDetector, track_people
from moro.video.tracks import Track, area_fraction

TRACKERS = ("auto", "blazepose", "yolo")
PERSON_CLASS = 0
MIN_SCORE = 0.5
ROI_SCALE = 1.25  # the landmark crop is this much larger than the longer side of the box


def choose_tracker(name: str) -> str:
    """`blazepose` or `yolo`; `auto` is yolo where ultralytics is installed. Raises MoroError for others."""
    if name not in TRACKERS:
        raise MoroError(f"unknown tracker '{name}'; choose one of {', '.join(TRACKERS)}.")
    if name == "auto":
        return "yolo" if importlib.util.find_spec("ultralytics") else "blazepose"
    return name


def find_people(
    frames: Iterable[np.ndarray],
    detector: BlazePose,
    tracker: str = "auto",
    *,
    yolo_weights: str = "yolo11x.pt",
    min_fraction: float = 0.0,
    **options: Any,
) -> list[Track]:
    """Tracks of the people in a video, by the tracker named; largest first.

    frames    (H, W, 3) uint8 RGB, 30 per second       yolo_weights  file, or name known to ultralytics
    tracker   auto | blazepose | yolo                  options       arguments of `track_people` (blazepose)
    min_fraction  tracks seen in less than this part of the video are dropped, the longest of all excepted

    Raises MoroError for an unknown tracker, a missing package, or a video without frames.
    """
    if choose_tracker(tracker) == "yolo":
        return track_people_yolo(frames, detector, yolo_weights, min_fraction=min_fraction)
    return track_people(frames, detector, min_fraction=min_fraction, **options)


def track_people_yolo(
    frames: Iterable[np.ndarray],
    detector: PoseDetector,
    weights: str = "yolo11x.pt",
    *,
    min_confidence: float = 0.4,
    min_fraction: float = 0.0,
) -> list[Track]:
    """Tracks with YOLO's boxes and, where BlazePose sees a person in the box, its landmarks (else zeros).

    Raises MoroError if ultralytics is missing or there is no frame.
    """
    model = _ultralytics().YOLO(weights)
    seen: dict[int, dict[int, _Sighting]] = {}
    index, size = -1, (0, 0)
    for index, rgb in enumerate(frames):
        size = (rgb.shape[1], rgb.shape[0])
        # numpy input is taken as BGR; persist keeps the identities from call to call
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        result = model.track(bgr, persist=True, classes=[PERSON_CLASS], conf=MIN_SCORE, verbose=False)[0]
        if result.boxes.id is None:
            continue
        identities = result.boxes.id.int().tolist()
        boxes = np.asarray(result.boxes.xyxy.cpu(), dtype=np.float32)  # (n, 4)
        for identity, box in zip(identities, boxes, strict=True):
            seen.setdefault(identity, {})[index] = _look(detector, rgb, box, min_confidence)
    if index < 0:
        raise MoroError("the video has no frame to track people in.")
    enough = min(int(min_fraction * (index + 1)), max(map(len, seen.values()), default=0))
    tracks = [_to_track(s, index + 1) for s in seen.values() if len(s) >= enough]
    return sorted(tracks, key=lambda track: -area_fraction(track, *size))


_Sighting = tuple[np.ndarray, np.ndarray, np.ndarray]  # box (4,), landmarks (33, 4), world (33, 3)


def _look(detector: PoseDetector, rgb: np.ndarray, box: np.ndarray, min_confidence: float) -> _Sighting:
    roi = Roi((box[:2] + box[2:]) / 2, ROI_SCALE * float((box[2:] - box[:2]).max()))
    found = detector.landmarks(rgb, roi)
    if found.confidence >= min_confidence:
        found = detector.landmarks(rgb, found.next_roi)  # the box knows neither the hip centre nor the tilt
    if found.confidence < min_confidence:
        return box, np.zeros((33, 4), np.float32), np.zeros((33, 3), np.float32)
    landmarks = np.column_stack([found.xy, found.visibility, found.presence])  # (33, 4)
    return box, landmarks.astype(np.float32), found.world.astype(np.float32)


def _to_track(sightings: dict[int, _Sighting], length: int) -> Track:
    track = Track.unseen(length)
    for index, (box, landmarks, world) in sightings.items():
        track.boxes[index], track.landmarks[index], track.world[index] = box, landmarks, world
        track.seen[index] = True
    return track


def _ultralytics() -> Any:
    try:
        return importlib.import_module("ultralytics")
    except ImportError as error:
        raise MoroError(
            "the tracker 'yolo' needs the package ultralytics; run `pip install ultralytics` (AGPL), "
            "or set demo.tracker=blazepose."
        ) from error
