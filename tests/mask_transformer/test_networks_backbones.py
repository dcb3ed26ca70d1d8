"""Backbones: ViT anchor and keys, keypoints, building from config."""

import sys
import types

import pytest
import torch
from torch import Tensor, nn

from models.backbones import build_backbone
from models.backbones.base import ImageBackbone
from models.backbones.keypoints import KeypointBackbone
from models.backbones.vit import VisionTransformer
from moro.errors import MoroError
from tests.mask_transformer.anchor_fill import fill, wave

RELEASE = {"type": "vit", "out_HW": [16, 12], "out_C": 1280, "chunk_size": 8, "freeze": False}
TINY = {**RELEASE, "out_HW": [2, 2], "out_C": 16, "depth": 3, "num_heads": 2}


def test_anchor_g_vit() -> None:
    vit = fill(VisionTransformer(dim=32, depth=2, num_heads=4))
    with torch.no_grad():
        tokens = vit(wave(1, 0.013, 0.1, (1, 3, 256, 256)))
    output = tokens.mT.unflatten(-1, (16, 12))  # (B, N, C) -> (B, C, 16, 12)
    first = [-1.089970, 1.189119, -0.274181, 0.216539, 1.704022, -0.029803, -1.550520, -0.940324]
    last = [-0.842006, 1.113164, -0.561207, 0.332894, 1.967626, -0.330170, -1.658199, -0.552998]
    torch.testing.assert_close(output[0, :8, 0, 0], torch.tensor(first), rtol=0, atol=1e-4)
    torch.testing.assert_close(output[0, :8, 15, 11], torch.tensor(last), rtol=0, atol=1e-4)


def test_stochastic_depth_grows_to_the_last_block() -> None:
    with torch.device("meta"):
        backbone = build_backbone(RELEASE)
    rates = [block.drop_path for block in backbone.model.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.55, 32).tolist())


def test_chunks_do_not_matter() -> None:
    images = torch.randn(2, 3, 3, 32, 48)
    whole = build_backbone({**TINY, "chunk_size": 0}).eval()
    parts = ImageBackbone(whole.model, chunk_size=4).eval()
    one, two = whole({"crop_imgs": images}), parts({"crop_imgs": images})
    assert one.shape == (2, 3, 4, 16)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one[1, 2], whole.model(images[1, 2:])[0])


def test_side_columns_are_not_read() -> None:
    vit = build_backbone(TINY).eval().model
    images = torch.randn(1, 3, 32, 48)
    changed = images.clone()
    changed[..., :8] = changed[..., -8:] = 0
    assert torch.equal(vit(images), vit(changed))
    with pytest.raises(MoroError, match="crop_res"):
        vit(torch.randn(1, 3, 16, 48))


def test_frozen_backbone_stays_in_eval() -> None:
    backbone = build_backbone({**TINY, "freeze": True}).train()
    images = {"crop_imgs": torch.randn(1, 4, 3, 32, 32)}
    assert torch.equal(backbone(images), backbone(images))  # no stochastic depth
    assert not any(p.requires_grad for p in backbone.parameters())
    free = build_backbone(TINY).train()
    with torch.no_grad():
        for parameter in free.parameters():
            parameter.normal_()
    assert not torch.equal(free(images), free(images))


def test_checkpointing_gives_the_same_gradients() -> None:
    plain = fill(VisionTransformer((32, 32), dim=16, depth=2, num_heads=2, drop_path_rate=0.0)).train()
    saving = fill(
        VisionTransformer((32, 32), dim=16, depth=2, num_heads=2, drop_path_rate=0.0, use_checkpoint=True)
    ).train()
    images = torch.randn(2, 3, 32, 32)
    for vit in (plain, saving):
        vit(images).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_keypoints_mark_what_is_unseen() -> None:
    backbone = build_backbone({"type": "keypoints", "out_HW": [1, 33], "out_C": 64, "context_depth": 2})
    assert isinstance(backbone, KeypointBackbone)
    landmarks = torch.rand(2, 3, 33, 4) + 0.1
    tokens = backbone({"landmarks": landmarks})
    assert tokens.shape == (2, 3, 33, 64)
    alone = backbone({"landmarks": landmarks[1:, 2:]})
    torch.testing.assert_close(tokens[1, 2], alone[0, 0])  # frames by themselves
    hidden = landmarks.clone()
    hidden[0, 0, 7] = 0
    changed = backbone({"landmarks": hidden})
    assert not torch.allclose(changed[0, 0, 7], tokens[0, 0, 7])
    assert not torch.allclose(changed[0, 0, 8], tokens[0, 0, 8])  # the others hear of it
    placed = landmarks.clone()
    placed[0, 0, 7] = torch.tensor([1e-6, 0, 0, 0])  # in the middle of the box
    assert not torch.allclose(backbone({"landmarks": placed})[0, 0, 7], changed[0, 0, 7], atol=1e-3)


def test_keypoints_look_at_neighbours() -> None:
    config = {"type": "keypoints", "out_HW": [1, 33], "out_C": 64, "neighbours": [-1, 1]}
    backbone = build_backbone(config)
    landmarks, neighbours = torch.rand(2, 3, 33, 4), torch.rand(2, 3, 2, 33, 4)
    tokens = backbone({"landmarks": landmarks, "neighbours": neighbours})
    assert tokens.shape == (2, 3, 33, 64)
    alone = backbone({"landmarks": landmarks})
    unseen = backbone({"landmarks": landmarks, "neighbours": torch.zeros_like(neighbours)})
    torch.testing.assert_close(alone, unseen)
    assert not torch.allclose(alone, tokens)


class FakeFeatures(nn.Module):
    """Stands in for a timm model: one feature map of 5 channels at an eighth of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = types.SimpleNamespace(channels=lambda: [3, 5])

    def forward(self, images: Tensor) -> list[Tensor]:
        coarse = nn.functional.avg_pool2d(images, 8)
        return [images, coarse[:, :1].expand(-1, 5, -1, -1)]


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    config = {"type": "timm/resnet18", "out_HW": [4, 3], "out_C": 5}
    with pytest.raises(MoroError, match="pip install timm"):
        build_backbone(config)
    fake = types.SimpleNamespace(
        create_model=lambda *_, **__: FakeFeatures(),
        get_pretrained_cfg=lambda _: types.SimpleNamespace(input_size=(3, 64, 64)),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    assert build_backbone(config)({"crop_imgs": torch.rand(2, 1, 3, 32, 32)}).shape == (2, 1, 12, 5)
    with pytest.raises(MoroError, match="out_C"):
        build_backbone({**config, "out_C": 6})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"type": "resnet"}, "resnet"), ({"num_heads": 3}, "divisible"), ({"chunk_size": -1}, "chunk_size")],
)
def test_bad_config(change: dict, message: str) -> None:
    with pytest.raises(MoroError, match=message):
        build_backbone({**TINY, **change})
