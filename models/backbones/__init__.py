"""Backbones: what turns images or landmarks into conditioning tokens for the masked transformer."""

import math
from collections.abc import Mapping
from typing import Any

from models.backbones.base import Backbone, ImageBackbone
from models.backbones.keypoints import KeypointBackbone
from models.backbones.timm_model import TimmModel
from models.backbones.vit import VisionTransformer
from moro.errors import MoroError

PATCH = 16


def build_backbone(config: Mapping[str, Any], pretrained: bool = True) -> Backbone:
    """The backbone of `model.backbone` (spec: models 2, 7.4; docs/design.md 4.3).

    config      type (vit | keypoints | timm/<name>), out_HW, out_C, use_checkpoint, chunk_size, freeze;
                of an own ViT also depth and num_heads; of keypoints context_depth and neighbours
    pretrained  timm's weights, if it is one of theirs; false when a full checkpoint follows
    returns     module with `.out_channels` and `.freeze()`; forward(batch) -> (B, F, N, out_C). It reads
                batch["landmarks"] and, if there are any, batch["neighbours"] (keypoints), or
                batch["crop_imgs"] (all others)
    Raises MoroError for an unknown type, a missing extra, or sizes that do not fit together.
    """
    kind, grid, width = str(config["type"]), tuple(config["out_HW"]), int(config["out_C"])
    chunk_size = config.get("chunk_size") or 0
    backbone: Backbone
    if kind == "keypoints":
        neighbours = len(config.get("neighbours") or ())
        backbone = KeypointBackbone(math.prod(grid), width, int(config.get("context_depth", 2)), neighbours)
    elif kind == "vit":
        vit = VisionTransformer(
            image_size=(PATCH * grid[0], PATCH * grid[1]),
            patch=PATCH,
            dim=width,
            depth=config.get("depth", 32),
            num_heads=config.get("num_heads", 16),
            use_checkpoint=bool(config.get("use_checkpoint", False)),
        )
        backbone = ImageBackbone(vit, chunk_size)
    elif kind.startswith("timm/"):
        backbone = ImageBackbone(TimmModel(kind.removeprefix("timm/"), grid, pretrained), chunk_size)
    else:
        raise MoroError(f"Unknown model.backbone.type '{kind}'; choose vit, keypoints or timm/<name>.")
    if backbone.out_channels != width:
        raise MoroError(
            f"The backbone {kind} gives {backbone.out_channels} channels per token; "
            f"set model.backbone.out_C to that (it is {width})."
        )
    if config.get("freeze", False):
        backbone.freeze()
    return backbone
