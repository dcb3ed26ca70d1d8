"""Backbone without images: each 2D landmark is one conditioning token (docs/design.md 4.3)."""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone

LANDMARK_DIM = 4  # x, y in [-1, 1] of the box, visibility, presence


class KeypointBackbone(Backbone):
    """A shared MLP on each landmark plus an embedding that says which one it is.

    A landmark that was not seen is all zeros in the batch. It gets a learned "unseen" embedding instead of
    the MLP's answer to zeros, which is a place in the box.
    """

    def __init__(self, num_landmarks: int = 33, out_channels: int = 64, dim_hidden: int = 128) -> None:
        super().__init__(out_channels)
        self.mlp = nn.Sequential(
            nn.Linear(LANDMARK_DIM, dim_hidden), nn.GELU(), nn.Linear(dim_hidden, out_channels)
        )
        self.landmark_embed = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(num_landmarks, out_channels), std=0.02)
        )
        self.unseen_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(out_channels), std=0.02))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """batch["landmarks"] (B, F, num_landmarks, 4) -> tokens (B, F, num_landmarks, out_channels)."""
        landmarks = batch["landmarks"]
        seen = (landmarks != 0).any(-1, keepdim=True)
        return torch.where(seen, self.mlp(landmarks), self.unseen_embed) + self.landmark_embed
