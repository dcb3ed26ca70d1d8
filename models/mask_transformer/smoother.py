"""Temporal smoothing of token embeddings before they are decoded to a mesh (spec: models 3.9)."""

import torch
from torch import Tensor, nn

from moro.errors import MoroError


class TokenSmoother(nn.Module):
    """y = x + alpha * net(x) with convolutions along time.

    share_weights  each token by itself with the same weights; otherwise all tokens of a frame jointly
    """

    def __init__(
        self,
        num_tokens: int,
        dim_in: int,
        dim_hidden: int = 64,
        kernel_size: int = 5,
        num_layers: int = 2,
        share_weights: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise MoroError(f"model.smoother.kernel_size must be odd, got {kernel_size}.")
        self.share_weights = share_weights
        channels = dim_in if share_weights else num_tokens * dim_in
        layers: list[nn.Module] = []
        for index in range(num_layers):
            layers += [
                nn.Conv1d(
                    channels if index == 0 else dim_hidden,
                    dim_hidden,
                    kernel_size,
                    padding=kernel_size // 2,
                    padding_mode="replicate",
                    bias=False,
                ),
                nn.ReLU(),
            ]
        layers.append(nn.Conv1d(dim_hidden if num_layers else channels, channels, 1, bias=False))
        self.net = nn.Sequential(*layers)
        self.alpha = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, J, dim) -> (B, F, J, dim)."""
        B, F, J, C = x.shape
        if self.share_weights:
            series = x.permute(0, 2, 3, 1).reshape(B * J, C, F)  # (B, F, J, C) -> (B*J, C, F)
            change = self.net(series).view(B, J, C, F).permute(0, 3, 1, 2)
        else:
            series = x.reshape(B, F, J * C).mT  # (B, F, J, C) -> (B, J*C, F)
            change = self.net(series).mT.reshape(B, F, J, C)
        return x + self.alpha * change
