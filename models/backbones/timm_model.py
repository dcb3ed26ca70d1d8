"""Image backbones of the timm library, an optional extra (docs/design.md 4.5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moro.errors import MoroError


class TimmModel(nn.Module):
    """Last feature map of a timm model, pooled to the grid the transformer expects.

    name        any timm model that offers `features_only`
    grid        rows and columns of tokens
    pretrained  load timm's own weights
    Raises MoroError if timm is missing or does not know the name.
    """

    def __init__(self, name: str, grid: tuple[int, int], pretrained: bool = True) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise MoroError(
                f"model.backbone.type=timm/{name} needs the package timm; install it with `pip install timm`."
            ) from error
        try:
            self.net = timm.create_model(name, pretrained=pretrained, features_only=True)
        except RuntimeError as error:
            raise MoroError(f"timm cannot build the model '{name}': {error}") from error
        self.grid = tuple(grid)
        self.out_channels: int = self.net.feature_info.channels()[-1]
        self.input_size: tuple[int, int] = tuple(timm.get_pretrained_cfg(name).input_size[1:])

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), ImageNet-normalised -> tokens (B, N, C), row-major."""
        images = functional.interpolate(
            images, self.input_size, mode="bilinear", align_corners=False, antialias=True
        )
        features: Tensor = self.net(images)[-1]  # (B, C, h, w)
        return torch.nn.functional.adaptive_avg_pool2d(features, self.grid).flatten(2).mT
