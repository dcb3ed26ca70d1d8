"""Pixels as the image networks want them (spec: data 0)."""

import torch
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise_image(image: Tensor) -> Tensor:
    """image (*, H, W, 3) RGB, uint8 or float in [0, 1] → (*, 3, H, W) float32, ImageNet-normalised."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))  # (3, 1, 1)
    image = image.movedim(-1, -3).contiguous()  # one number for a plane, not three in turns: much faster
    image = image if image.is_floating_point() else image.float().div_(255)
    return (image - mean).div_(std)
