"""Pixels as the image networks want them (spec: data 0)."""

import torch
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise_image(image: Tensor) -> Tensor:
    """image (*, H, W, 3) uint8 RGB → (*, 3, H, W) float32, ImageNet-normalised."""
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return ((image.float() / 255 - mean) / std).movedim(-1, -3)
