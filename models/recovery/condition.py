"""What the network is told about each person of a video: boxes, landmarks or crops (spec: data 9.2)."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from moro.geometry.boxes import box_from_landmarks, box_from_points, fill_gaps, normalise_landmarks
from moro.geometry.crop import crop_image
from moro.io.row_file import RowFile
from moro.video.ahead import read_ahead
from moro.video.reader import VideoFrames
from moro.video.tracks import Track


@dataclass
class PersonCondition:
    """One tracked person over the L frames of a video.

    name       "id<k>", also the name of the result folder
    center     (L, 2)          square box, pixels; interpolated where the person is unseen
    scale      (L,)            side / 200
    seen       (L,) bool       frames with a detection
    landmarks  (L, 33, 4)      in box coordinates (docs/design.md 4.3)
    crops      (L, h, w, 3)    uint8 RGB, only for backbones that look at images
    """

    name: str
    center: Tensor
    scale: Tensor
    seen: NDArray
    landmarks: Tensor
    crops: NDArray | RowFile | None = None


def condition_of_track(
    track: Track, name: str, image_size: tuple[int, int], tracker_boxes: bool = False
) -> PersonCondition:
    """Square boxes and landmarks relative to them; image_size is (width, height).

    tracker_boxes  the tracker's own boxes, as the release was trained with, interpolated and not smoothed
                   (spec: data 9.2); otherwise boxes around the visible landmarks
    """
    landmarks = torch.from_numpy(track.landmarks).float()
    if tracker_boxes:
        boxes, seen = torch.from_numpy(track.boxes).float(), torch.from_numpy(track.seen)
        corners = fill_gaps(boxes.nan_to_num(), seen).unflatten(1, (2, 2))  # (L, 4) -> (L, 2, 2)
        center, scale = box_from_points(corners)
    else:
        center, scale, seen = box_from_landmarks(landmarks, image_size)
    return PersonCondition(
        name=name,
        center=center,
        scale=scale,
        seen=seen.numpy() & track.seen,
        landmarks=normalise_landmarks(landmarks, center, scale),
    )


def add_crops(
    people: Sequence[PersonCondition], frames: VideoFrames, size: tuple[int, int], folder: Path
) -> None:
    """Cut every person out of every frame into one file per person in `folder`, so that memory stays flat.

    size  (height, width) of a crop, pixels
    """
    folder.mkdir(parents=True, exist_ok=True)
    for person in people:
        person.crops = RowFile.create(crops_file(folder, person.name), (len(frames), *size, 3), np.uint8)
    with closing(read_ahead(frames)) as decoded:
        shown = tqdm(decoded, total=len(frames), desc="crop", unit="frame", disable=None)
        for index, frame in enumerate(shown):
            for person in people:
                center, scale = person.center[index].numpy(), float(person.scale[index])
                person.crops[index : index + 1] = crop_image(frame, center, scale, size)


def crops_file(folder: Path, name: str) -> Path:
    return folder / f"crops_{name}.npy"
