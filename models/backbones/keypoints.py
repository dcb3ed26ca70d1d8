"""Backbone without images: 2D landmarks become conditioning tokens (docs/design.md 4.3)."""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone

LANDMARK_DIM = 4  # x, y in [-1, 1] of the box, visibility, presence
CONTEXT_DIM = 512  # width of the context network


class ResidualMlp(nn.Module):
    """x + Linear(GELU(Linear(LayerNorm(x))))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class KeypointBackbone(Backbone):
    """A residual network on all landmarks of a frame; it gives as many tokens as there are landmarks.

    The counterpart of the ViT, for a hundredth of the transformer's time; trained beforehand to lift a frame
    to 3D (option=backbone_pretrain), as the ViT was. A landmark that was not seen is all zeros in the batch;
    it is marked, for zeros would mean a place in the box.

    context_depth  residual layers
    """

    def __init__(self, num_landmarks: int = 33, out_channels: int = 64, context_depth: int = 2) -> None:
        super().__init__(out_channels)
        self.num_landmarks = num_landmarks
        self.context = nn.Sequential(
            nn.Linear(num_landmarks * (LANDMARK_DIM + 1), CONTEXT_DIM),
            *(ResidualMlp(CONTEXT_DIM) for _ in range(context_depth)),
            nn.LayerNorm(CONTEXT_DIM),
            nn.Linear(CONTEXT_DIM, num_landmarks * out_channels),
        )
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """batch["landmarks"] (B, F, num_landmarks, 4) -> tokens (B, F, num_landmarks, out_channels)."""
        landmarks = batch["landmarks"]
        seen = (landmarks != 0).any(-1, keepdim=True)
        marked = torch.cat((landmarks, seen.to(landmarks.dtype)), dim=-1)
        tokens = self.context(marked.flatten(2))  # (B, F, N, 5) -> (B, F, N*5) -> (B, F, N*C)
        return self.norm(tokens.unflatten(-1, (self.num_landmarks, -1)))
