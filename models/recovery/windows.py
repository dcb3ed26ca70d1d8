"""Windows over the tracked people of one video: the demo data set (spec: data 4.7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.mask_transformer.data.windows import windows_of
from models.recovery.condition import PersonCondition
from moro.geometry.camera import bbox_condition
from moro.geometry.image import normalise_image


@dataclass(frozen=True)
class Window:
    """Frames start..stop-1 of person number `person`."""

    person: int
    start: int
    stop: int


class DemoDataset(Dataset):
    """Items of spec: data 4.7, one per window, plus `landmarks`; `crop_imgs` only if the people have crops.

    people       one condition per person, L frames each
    K            (3, 3) pixels
    frame_names  L names, as they will stand in results.pkl
    """

    def __init__(
        self,
        people: Sequence[PersonCondition],
        K: Tensor,
        frame_names: Sequence[str],
        clip_len: int,
        overlap_len: int,
    ) -> None:
        self.people, self.K, self.frame_names = list(people), K.float(), list(frame_names)
        self.windows = [
            Window(number, start, stop)
            for number in range(len(self.people))
            for start, stop in windows_of(len(self.frame_names), clip_len, overlap_len)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        window = self.windows[index]
        person, frames = self.people[window.person], slice(window.start, window.stop)
        count = window.stop - window.start
        center, scale = person.center[frames].float(), person.scale[frames].float()
        K = self.K.expand(count, 3, 3)
        item = {
            "body_idx": str(window.person),
            "seq_name": person.name,
            "img_paths": self.frame_names[frames],
            "center": center,
            "scale": scale,
            "bbox": bbox_condition(center, scale, K),
            "K": K,
            "dist_coeffs": torch.zeros(8),
            "landmarks": person.landmarks[frames],
            "has_transl": True,
            "true_params": False,
        }
        if person.crops is not None:
            item["crop_imgs"] = normalise_image(torch.from_numpy(person.crops[frames]))
        return item
