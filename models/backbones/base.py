"""What all backbones have in common."""

from typing import Self

import torch
from torch import Tensor, nn

from moro.errors import MoroError


class Backbone(nn.Module):
    """Maps a batch to conditioning tokens (B, F, N, out_channels); once frozen it stays so."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.frozen = False

    def freeze(self) -> None:
        """No gradient, and eval mode for good: stochastic depth must stay off (spec: models 2)."""
        self.frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)


class ImageBackbone(Backbone):
    """Any image network as a backbone: batch["crop_imgs"] (B, F, 3, H, W) -> tokens (B, F, N, C).

    model       (B, 3, H, W) -> (B, N, C), with `.out_channels`; state-dict prefix `model.`
    chunk_size  frames per pass, to bound the memory; 0 for all at once
    """

    def __init__(self, model: nn.Module, chunk_size: int = 8) -> None:
        super().__init__(model.out_channels)
        if chunk_size < 0:
            raise MoroError(f"model.backbone.chunk_size must not be negative, got {chunk_size}.")
        self.model = model
        self.chunk_size = chunk_size

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        images = batch["crop_imgs"]
        B, F = images.shape[:2]
        chunks = images.flatten(0, 1).split(self.chunk_size or B * F)  # (B, F, 3, H, W) -> (B*F, 3, H, W)
        return torch.cat([self.model(chunk) for chunk in chunks]).unflatten(0, (B, F))
