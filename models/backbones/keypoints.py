"""Backbone without images: 2D landmarks become conditioning tokens (docs/design.md 4.3)."""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone
from moro.body.skeleton import LANDMARK_NAMES

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
    """A residual network on all landmarks of a frame and of some frames around it.

    The counterpart of the ViT, for a hundredth of the transformer's time; trained beforehand to lift a frame
    to 3D (option=backbone_pretrain), as the ViT was. A landmark that was not seen is all zeros in the batch;
    it is marked, for zeros would mean a place in the box.

    num_tokens      N, tokens it gives
    context_depth   residual layers
    num_neighbours  K other frames that are looked at: where a limb was before it went out of sight
    """

    def __init__(
        self,
        num_tokens: int = len(LANDMARK_NAMES),
        out_channels: int = 64,
        context_depth: int = 2,
        num_neighbours: int = 0,
    ) -> None:
        super().__init__(out_channels)
        self.num_tokens, self.num_neighbours = num_tokens, num_neighbours
        num_landmarks = len(LANDMARK_NAMES)
        self.context = nn.Sequential(
            nn.Linear((1 + num_neighbours) * num_landmarks * (LANDMARK_DIM + 1), CONTEXT_DIM),
            *(ResidualMlp(CONTEXT_DIM) for _ in range(context_depth)),
            nn.LayerNorm(CONTEXT_DIM),
            nn.Linear(CONTEXT_DIM, num_tokens * out_channels),
        )
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Tokens (B, F, N, C) of batch["landmarks"] (B, F, L, 4) and batch["neighbours"] (B, F, K, L, 4).

        Without neighbours in the batch each frame stands for itself: they count as unseen.
        """
        landmarks = batch["landmarks"][:, :, None]  # (B, F, 1, L, 4)
        B, F, _, L, D = landmarks.shape
        if self.num_neighbours:
            neighbours = batch.get("neighbours")
            if neighbours is None:
                neighbours = landmarks.new_zeros(B, F, self.num_neighbours, L, D)
            landmarks = torch.cat((landmarks, neighbours), dim=2)  # (B, F, 1+K, L, 4)
        seen = (landmarks != 0).any(-1, keepdim=True)
        marked = torch.cat((landmarks, seen.to(landmarks.dtype)), dim=-1)
        tokens = self.context(marked.flatten(2))  # (B, F, 1+K, L, 5) -> (B, F, (1+K)*L*5) -> (B, F, N*C)
        return self.norm(tokens.unflatten(-1, (self.num_tokens, -1)))
