"""Tokens of overlapping clips are made once per frame."""

import torch
from torch import Tensor, nn

from models.mask_transformer.tokens import TokensOnce
from tests.mask_transformer.fake_data import small_config, small_system


def test_only_new_frames_are_made() -> None:
    made: list[int] = []

    def clip(once: TokensOnce, start: int, stop: int) -> list[float]:
        def make(frames: slice) -> Tensor:
            numbers = list(range(start, stop))[frames]
            made.extend(numbers)
            return torch.tensor(numbers)[None, :, None, None]

        return once.of(range(start, stop), make).flatten().tolist()

    once = TokensOnce()
    for start, stop in ((0, 10), (6, 16), (6, 16), (12, 14), (14, 20), (50, 53), (0, 4)):
        assert clip(once, start, stop) == list(range(start, stop))
    assert made == [*range(16), *range(12, 14), *range(14, 20), *range(50, 53), *range(4)]
    once.forget()
    assert clip(once, 2, 4) == [2, 3] and made[-2:] == [2, 3]


class Averages(nn.Module):
    """One token per image; counts the images."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        self.images += batch["crop_imgs"].shape[1]
        return batch["crop_imgs"].mean((2, 3, 4))[..., None, None]


def test_test_clips_share_tokens() -> None:
    system = small_system(small_config("video_train"))
    system.backbone = Averages()
    images = torch.rand(1, 12, 3, 4, 4)

    def clip(start: int, stop: int, sequence: str = "a", box: float = 0.0) -> dict:
        return {
            "crop_imgs": images[:, start:stop],
            "bbox": torch.full((1, stop - start, 3), box),
            "img_paths": [[f"{frame}.jpg"] for frame in range(start, stop)],
            "seq_name": [sequence],
        }

    for start, stop in ((0, 8), (5, 12)):
        cond = system.with_tokens(clip(start, stop))["cond"]
        torch.testing.assert_close(cond.flatten(), images[0, start:stop].mean((1, 2, 3)))
    assert system.backbone.images == 12
    system.with_tokens(clip(9, 12, box=1.0))  # other crops
    system.with_tokens(clip(9, 12, sequence="b", box=1.0))
    assert system.backbone.images == 18
    two = {**clip(0, 4), "bbox": torch.zeros(2, 4, 3)}
    assert "cond" not in system.with_tokens(two)
