"""Backbone without images: each 2D landmark is one conditioning token (docs/design.md 4.3)."""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone

LANDMARK_DIM = 4  # x, y in [-1, 1] of the box, visibility, presence
DIM_LANDMARK = 128  # width of a landmark's own map
CONTEXT_DIM = 512  # width of the context network


class ResidualMlp(nn.Module):
    """x + Linear(GELU(Linear(LayerNorm(x))))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class KeypointBackbone(Backbone):
    """What the landmarks of a frame say, each by itself or all together, as one token per landmark.

    A landmark that was not seen is all zeros in the batch; it is marked, for zeros would mean a place in the
    box.

    context_depth  0: every landmark by itself, through a map of its own, so that a token says what its place
                   means for this landmark ("left wrist high"). Above 0: a residual network of this depth on
                   all landmarks makes the tokens: the counterpart of the ViT's depth, for a hundredth of the
                   transformer's time. It is trained beforehand to lift a frame to 3D
                   (option=backbone_pretrain), as the ViT was
    """

    def __init__(self, num_landmarks: int = 33, out_channels: int = 64, context_depth: int = 0) -> None:
        super().__init__(out_channels)
        self.num_landmarks = num_landmarks
        if context_depth:
            self.context = nn.Sequential(
                nn.Linear(num_landmarks * (LANDMARK_DIM + 1), CONTEXT_DIM),
                *(ResidualMlp(CONTEXT_DIM) for _ in range(context_depth)),
                nn.LayerNorm(CONTEXT_DIM),
                nn.Linear(CONTEXT_DIM, num_landmarks * out_channels),
            )
            self.norm = nn.LayerNorm(out_channels)
        else:
            self.context = None
            self.landmark_map = nn.Parameter(torch.randn(num_landmarks, LANDMARK_DIM, DIM_LANDMARK))
            self.landmark_embed = nn.Parameter(torch.randn(num_landmarks, DIM_LANDMARK))
            self.unseen_embed = nn.Parameter(torch.randn(num_landmarks, DIM_LANDMARK))
            self.mlp = nn.Sequential(
                nn.GELU(), nn.Linear(DIM_LANDMARK, out_channels), nn.LayerNorm(out_channels)
            )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """batch["landmarks"] (B, F, num_landmarks, 4) -> tokens (B, F, num_landmarks, out_channels)."""
        landmarks = batch["landmarks"]
        seen = (landmarks != 0).any(-1, keepdim=True)
        if self.context is not None:
            marked = torch.cat((landmarks, seen.to(landmarks.dtype)), dim=-1)
            tokens = self.context(marked.flatten(2))  # (B, F, N, 5) -> (B, F, N*5) -> (B, F, N*C)
            return self.norm(tokens.unflatten(-1, (self.num_landmarks, -1)))
        placed = torch.einsum("bfnd,ndc->bfnc", landmarks, self.landmark_map) + self.landmark_embed
        return self.mlp(torch.where(seen, placed, self.unseen_embed))
