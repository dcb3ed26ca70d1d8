"""The networks equal their plain twins: outputs, gradients, decoded tokens."""

import pytest
import torch
from torch import Tensor

from models.backbones.vit import VisionTransformer
from models.mask_transformer.decoding import generate
from models.mask_transformer.network import MaskTransformer, TransformerOutput
from tests.mask_transformer.anchor_fill import fill, small_inputs, small_network, wave
from tests.mask_transformer.twin import PlainTransformer, plain_twin, vision_transformer


def small(task: str, **flags: object) -> MaskTransformer:
    network = MaskTransformer(small_network(task, ddepth=2, **flags))
    network.load_codebook(wave(1, 0.7, 0, (7, 3)))
    return network


def tensors_of(output: TransformerOutput) -> dict[str, Tensor]:
    return {key: value for key, value in output._asdict().items() if isinstance(value, Tensor)}


@pytest.mark.parametrize(
    ("task", "flags"),
    [("video", {}), ("image", {}), ("motion", {}), ("video", {"img_temporal": True, "att_fuse": False}),
     ("video", {"attn_len": 60, "qk_scale": 0.4})],
)  # fmt: skip
def test_outputs_and_gradients(task: str, flags: dict) -> None:
    network = small(task, **flags)
    twin = plain_twin(network)
    _, cond, bbox = small_inputs(frames=9, batch=2)
    ids = torch.arange(2 * 9 * 5).view(2, 9, 5) % 8
    inputs = {"cond": cond, "bbox": bbox}
    if task == "motion":
        inputs = {"cano_input": wave(1, 0.4, 0.2, (2, 9, 9))}
    results = []
    for computed in (network, twin):
        network.zero_grad(set_to_none=True)
        outputs = tensors_of(computed(ids, **inputs))
        sum(value.sin().sum() for value in outputs.values()).backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        results.append((outputs, gradients))
    for fast, plain in zip(*results):
        assert fast.keys() == plain.keys() and len(fast) > 3
        for name, value in plain.items():
            scale = value.detach().abs().max().item()
            torch.testing.assert_close(fast[name], value, rtol=0, atol=1e-5 + 1e-4 * scale, msg=name)


def test_the_twin_shares_the_parameters_and_leaves_the_network_alone() -> None:
    network = small("video")
    twin = plain_twin(network)
    assert isinstance(twin.dst_former, PlainTransformer)
    assert type(network.dst_former) is not PlainTransformer
    assert all(p is q for p, q in zip(network.parameters(), twin.parameters(), strict=True))


@torch.inference_mode()
def test_decoded_tokens() -> None:
    network = small("video")
    _, cond, bbox = small_inputs(frames=6)
    ids = torch.full((1, 6, 5), network.mask_id)
    fast, plain = (generate(n, ids, cond, bbox) for n in (network, plain_twin(network)))
    assert torch.equal(fast.ids, plain.ids)
    torch.testing.assert_close(fast.confidence, plain.confidence, rtol=1e-4, atol=1e-5)


def test_vision_transformer() -> None:
    vit = fill(VisionTransformer(image_size=(64, 48), dim=16, depth=2, num_heads=2))
    images = wave(1, 0.013, 0.1, (2, 3, 64, 64))
    torch.testing.assert_close(vit(images), vision_transformer(vit, images), rtol=1e-5, atol=1e-5)
