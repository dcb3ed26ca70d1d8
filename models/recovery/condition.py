"""What the network is told about each person of a video: boxes, landmarks or crops (spec: data 9.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from moro.geometry.boxes import box_from_landmarks, normalise_landmarks
from moro.geometry.crop import crop_image
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
    crops      (L, h, w, 3)    uint8 RGB, only for backbones that look at images; may lie on disk
    """

    name: str
    center: Tensor
    scale: Tensor
    seen: NDArray
    landmarks: Tensor
    crops: NDArray | None = None


def condition_of_track(track: Track, name: str, image_size: tuple[int, int]) -> PersonCondition:
    """Square boxes around what is visible and landmarks relative to them; image_size is (width, height)."""
    landmarks = torch.from_numpy(track.landmarks).float()
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
        person.crops = np.lib.format.open_memmap(
            folder / f"crops_{person.name}.npy", "w+", np.uint8, (len(frames), *size, 3)
        )
    for index, frame in enumerate(tqdm(frames, total=len(frames), desc="crop", unit="frame", disable=None)):
        for person in people:
            center, scale = person.center[index].numpy(), float(person.scale[index])
            person.crops[index] = crop_image(frame, center, scale, size)
