"""Pretraining of a backbone: targets, that it learns, and that it goes on from the weights of a run."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.backbones import build_backbone
from models.mask_transformer.build import build_lifting, resolve_paths
from models.mask_transformer.lifting import LiftingSystem
from moro.config import compose_config
from moro.errors import MoroError
from moro.geometry.camera import bbox_condition, translation_to_weak, view_rotation, weak_to_translation
from moro.geometry.rotation import rot6d_to_matrix
from tests.mask_transformer.fake_data import small_config


def _batch(frames: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[900.0, 0, 640], [0, 900, 360], [0, 0, 1]]).expand(1, frames, 3, 3)
    center = torch.rand(1, frames, 2, generator=generator) * 400 + 300
    scale = torch.rand(1, frames, generator=generator) + 1
    landmarks = torch.randn(1, frames, 33, 4, generator=generator)
    return {
        "landmarks": landmarks,
        "bbox": bbox_condition(center, scale, K),
        "rotation": rot6d_to_matrix(torch.randn(1, frames, 6, generator=generator)),
        "translation": torch.tensor([0.3, -0.2, 4.0]).expand(1, frames, 1, 3),
        "local_joints": torch.randn(1, frames, 22, 3, generator=generator) * 0.4,
        "ids": (landmarks[..., :12, 0] > 0).long(),
    }


def test_weak_perspective_is_undone() -> None:
    batch = _batch()
    weak = translation_to_weak(batch["translation"], batch["bbox"])
    whole = torch.cat((torch.zeros(1, 32, 6), weak), dim=-1)
    torch.testing.assert_close(weak_to_translation(whole, batch["bbox"]), batch["translation"])


def test_view_rotation_turns_the_optical_axis_to_the_box() -> None:
    bbox = _batch()["bbox"]
    rotation = view_rotation(bbox)
    axis = nn.functional.normalize(torch.cat((bbox[..., :2], torch.ones(1, 32, 1)), dim=-1), dim=-1)
    torch.testing.assert_close(rotation[..., 2], axis)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(1, 32, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(1, 32))
    torch.testing.assert_close(view_rotation(torch.tensor([0.0, 0.0, 0.3])), torch.eye(3))


@pytest.mark.parametrize("aligned", [False, True])
def test_it_learns_single_frames(aligned: bool) -> None:
    torch.manual_seed(0)
    cfg = small_config("backbone_pretrain")
    cfg.model.dst_former.aligned = aligned
    if aligned:
        cfg.model.backbone.out_HW = [1, cfg.model.num_tokens]
    system, batch = LiftingSystem(cfg, build_backbone(cfg.model.backbone), torch.randn(16, 9)), _batch()
    optimizer = torch.optim.Adam(system.parameters(), lr=3e-3)
    first = None
    for _ in range(60):
        terms, _ = system.losses(batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        first = first or {name: value.item() for name, value in terms.items()}
    for name, value in terms.items():
        assert value.item() < 0.75 * first[name], name


def test_it_can_begin_before_there_is_a_tokenizer() -> None:
    cfg = small_config("backbone_pretrain")
    system, batch = LiftingSystem(cfg, build_backbone(cfg.model.backbone), None), _batch()
    del batch["ids"]
    terms, _ = system.losses(batch)
    terms["loss"].backward()
    assert "token" not in terms and terms["loss"].isfinite()
    for name, parameter in system.named_parameters():
        unasked = name.startswith(("token_head.", "heads.standing."))  # the batch has neither
        assert (parameter.grad is None) == unasked, name
    with_tokenizer = LiftingSystem(cfg, build_backbone(cfg.model.backbone), torch.randn(16, 9))
    assert with_tokenizer.load_state_dict(system.state_dict())  # and goes on with one


def test_it_starts_from_the_weights_of_an_earlier_run(tmp_path: Path) -> None:
    cfg, _ = resolve_paths(compose_config("config", ["option=backbone_pretrain", "preset=open"]))
    checkpoint = tmp_path / "last.ckpt"
    earlier = build_lifting(cfg).state_dict()
    torch.save({"state_dict": earlier}, checkpoint)
    for name, value in build_lifting(cfg, checkpoint).state_dict().items():
        assert torch.equal(value, earlier[name]), name
    cfg.model.backbone.context_depth += 1
    with pytest.raises(MoroError, match="last.ckpt"):
        build_lifting(cfg, checkpoint)
