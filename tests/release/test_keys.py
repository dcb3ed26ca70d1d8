"""Names and shapes of the release, written down once (keys.txt), against networks as configured."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from models.backbones.human_fov import HumanFOV
from models.mask_transformer.build import build_mask_transformer
from models.mask_transformer.system import MoRoSystem
from tests.release.keys import Shapes, count, released

STAGES = {
    "pose_pretrain": "mask_transformer_motion",
    "motion_pretrain": "mask_transformer_motion",
    "image_pretrain": "mask_transformer_image",
    "video_pretrain": "mask_transformer_image",
}
LISTS = {
    "mesh_vqvae": ("tokenizer", ""),
    "backbone_vit": ("vit", "model."),
    "mask_transformer": ("mask_transformer_video", ""),
    "mask_transformer_image_pretrain": ("mask_transformer_image", ""),
    "mask_transformer_motion_pretrain": ("mask_transformer_motion", ""),
    "mask_transformer_pose_pretrain": ("mask_transformer_motion", ""),
    "smoother": ("smoother", ""),
    "full_module_video_train": ("video_train", ""),
}


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("file", LISTS)
def test_the_lists_of_the_original_agree(file: str, shared_dir: Path) -> None:
    section, prefix = LISTS[file]
    rows = (shared_dir / "spec" / "state_dict_keys" / f"{file}.txt").read_text().split("\n")
    listed = dict(row.split("\t")[:2] for row in rows if row.strip())
    assert {prefix + name: shape for name, shape in released(section).items()} == {
        name: ast.literal_eval(shape) for name, shape in listed.items()
    }


@pytest.mark.parametrize(("stage", "section"), STAGES.items())
def test_masked_transformer(release_config: Callable[[str], DictConfig], stage: str, section: str) -> None:
    with torch.device("meta"):
        network = build_mask_transformer(release_config(stage).model)
    assert shapes_of(network) == released(section)


def test_everything_of_the_last_stage(release_system: MoRoSystem) -> None:
    assert shapes_of(release_system) == released("video_train")
    assert (len(released("video_train")), len(released("body_model"))) == (778, 14)
    trained = {name for name, value in release_system.named_parameters() if value.requires_grad}
    assert not any(name.startswith(("vqvae.", "backbone.")) for name in trained)


def test_totals() -> None:
    counters = 2 * 512  # of the codebook, no parameters
    assert (len(released("tokenizer")), count(released("tokenizer"))) == (34, 7_266_501 + counters)
    assert (len(released("vit")), count(released("vit"))) == (389, 630_912_000)
    video = released("mask_transformer_video")
    assert (len(video), count(video)) == (351, 330_145_336)
    assert (len(released("smoother")), count(released("smoother"))) == (4, 23_937)


def test_human_fov() -> None:
    with torch.device("meta"):
        network = HumanFOV()
    assert shapes_of(network) == released("human_fov")
    assert sum(p.numel() for p in network.parameters()) == 67_677_178
