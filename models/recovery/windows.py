"""Windows over the tracked people of one video: the demo data set (spec: data 4.7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.backbones.base import Backbone
from models.mask_transformer.data.windows import windows_of
from models.mask_transformer.mirror import mirror_images
from models.mask_transformer.tokens import TokensOnce
from models.recovery.condition import PersonCondition
from moro.geometry.boxes import neighbour_landmarks
from moro.geometry.camera import bbox_condition
from moro.geometry.image import normalise_image

TOKEN_FRAMES = 64  # frames of crops turned into floating point at once


@dataclass(frozen=True)
class Window:
    """Frames start..stop-1 of person number `person`, of which first..last-1 are kept.

    Each half of an overlap comes from the window it lies farther inside of (spec: models 6.3).
    """

    person: int
    start: int
    stop: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """The frames that are kept, counted within the window."""
        return slice(self.first - self.start, self.last - self.start)


def windows_over(person: int, length: int, clip_len: int, overlap_len: int) -> list[Window]:
    """The windows over the `length` frames of a person, in order; what they keep adds up to all frames."""
    spans = windows_of(length, clip_len, overlap_len)
    firsts = [start + (overlap_len // 2 if start else 0) for start, _ in spans]
    return [
        Window(person, start, stop, first, last)
        for (start, stop), first, last in zip(spans, firsts, [*firsts[1:], length])
    ]


class DemoDataset(Dataset):
    """Items of spec: data 4.7, one per window, without the images: their tokens come from `FrameTokens`.

    people       one condition per person, L frames each
    K            (3, 3) pixels
    neighbours   frames around each whose landmarks the backbone looks at (`model.backbone.neighbours`)
    """

    def __init__(
        self,
        people: Sequence[PersonCondition],
        K: Tensor,
        clip_len: int,
        overlap_len: int,
        neighbours: Sequence[int] = (),
    ) -> None:
        self.people, self.K, self.neighbours = list(people), K.float(), list(neighbours)
        self.windows = [
            window
            for number, person in enumerate(self.people)
            for window in windows_over(number, len(person.scale), clip_len, overlap_len)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        window = self.windows[index]
        person, frames = self.people[window.person], slice(window.start, window.stop)
        center, scale = person.center[frames].float(), person.scale[frames].float()
        K = self.K.expand(window.stop - window.start, 3, 3)
        return {
            "body_idx": str(window.person),
            "seq_name": person.name,
            "center": center,
            "scale": scale,
            "bbox": bbox_condition(center, scale, K),
            "K": K,
            "dist_coeffs": torch.zeros(8),
            "landmarks": person.landmarks[frames],
            "has_transl": True,
            "true_params": False,
        }

    def images(self, person: int, frames: slice) -> dict[str, Tensor]:
        """What a backbone looks at in some frames: `landmarks`, `neighbours`, and `crop_imgs` of crops."""
        shown = self.people[person]
        images = {"landmarks": shown.landmarks[frames]}
        if self.neighbours:
            images["neighbours"] = neighbour_landmarks(
                shown.landmarks, shown.center.float(), shown.scale.float(), self.neighbours, frames
            )
        if shown.crops is not None:
            images["crop_imgs"] = normalise_image(torch.from_numpy(shown.crops[frames]))
        return images


class FrameTokens:
    """The backbone's tokens of windows, each frame's made once, and not many crops in memory at once.

    mirrored  of the frames as a mirror shows them
    """

    def __init__(
        self, backbone: Backbone, dataset: DemoDataset, device: torch.device, mirrored: bool = False
    ) -> None:
        self.backbone, self.dataset, self.device, self.mirrored = backbone, dataset, device, mirrored
        self.once = TokensOnce()

    def of(self, window: Window) -> Tensor:
        """(1, F, N, C) tokens of all frames of a window; windows are to be asked for in order."""
        keys = [(window.person, frame) for frame in range(window.start, window.stop)]
        return self.once.of(keys, lambda part: self._made(window, part))

    def _made(self, window: Window, part: slice) -> Tensor:
        found = []
        for start in range(window.start + part.start, window.start + part.stop, TOKEN_FRAMES):
            frames = slice(start, min(start + TOKEN_FRAMES, window.start + part.stop))
            images = self.dataset.images(window.person, frames)
            if self.mirrored:
                images = mirror_images(images)
            found.append(self.backbone({key: value[None].to(self.device) for key, value in images.items()}))
        return torch.cat(found, dim=1)
