"""Backbone without images: each 2D landmark is one conditioning token (docs/design.md 4.3)."""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone

LANDMARK_DIM = 4  # x, y in [-1, 1] of the box, visibility, presence


class KeypointBackbone(Backbone):
    """An MLP on each landmark, whose weights are shared but for a map and an offset of each landmark's own.

    So a token says what its place means for this landmark ("left wrist high"), not only where it is: a sum
    over tokens, which is all that attention takes at first, then already tells the pose. A landmark that was
    not seen is all zeros in the batch; it gets a learned embedding instead of what zeros would mean, a place
    in the box.
    """

    def __init__(self, num_landmarks: int = 33, out_channels: int = 64, dim_hidden: int = 128) -> None:
        super().__init__(out_channels)
        self.landmark_map = nn.Parameter(torch.randn(num_landmarks, LANDMARK_DIM, dim_hidden))
        self.landmark_embed = nn.Parameter(torch.randn(num_landmarks, dim_hidden))
        self.unseen_embed = nn.Parameter(torch.randn(num_landmarks, dim_hidden))
        self.mlp = nn.Sequential(nn.GELU(), nn.Linear(dim_hidden, out_channels), nn.LayerNorm(out_channels))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """batch["landmarks"] (B, F, num_landmarks, 4) -> tokens (B, F, num_landmarks, out_channels)."""
        landmarks = batch["landmarks"]
        seen = (landmarks != 0).any(-1, keepdim=True)
        placed = torch.einsum("bfnd,ndc->bfnc", landmarks, self.landmark_map) + self.landmark_embed
        return self.mlp(torch.where(seen, placed, self.unseen_embed))
