"""Attention: banded form against its dense twin, rotary positions, precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.mask_transformer.attention import Rotary, SpatialAttention, TemporalAttention, rotate
from models.mask_transformer.blocks import DSTFormer, SpatialFormer
from moro.errors import MoroError
from tests.mask_transformer.anchor_fill import fill, wave
from tests.mask_transformer.twin import temporal_attention


def test_anchor_d_rotary() -> None:
    x = torch.tensor([1.0, 2, 3, 4]).expand(1, 3, 1, 4)
    turned = rotate(x, Rotary(4)(3, x.device))[0, :, 0]
    expected = torch.tensor(
        [[1, 2, 3, 4], [-1.142640, 1.922076, 2.959851, 4.029799], [-2.234742, 0.077004, 2.919405, 4.059196]]
    )
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-4)


def test_anchor_e_temporal_attention() -> None:
    attention = fill(TemporalAttention(8, num_heads=2, attn_len=1))
    output = attention(wave(1, 0.9, 0, (1, 4, 1, 8)), Rotary(4))[0, :, 0]
    first = [0.496712, 0.404019, -0.083900, 0.315259, -0.193151, -0.407683, -0.036741, -0.586211]
    last = [0.515753, 0.423932, -0.067072, 0.325657, -0.191248, -0.414653, -0.051200, -0.605285]
    torch.testing.assert_close(output[[0, 3]], torch.tensor([first, last]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("frames", "reach"), [(7, 60), (61, 60), (62, 60), (150, 3), (200, 70), (129, 0)])
def test_band_equals_dense(frames: int, reach: int) -> None:
    torch.manual_seed(0)
    attention = TemporalAttention(8, num_heads=2, attn_len=reach, qk_scale=0.7)
    x = torch.randn(2, frames, 3, 8)
    results = []
    for run in (lambda z: attention(z, Rotary(4)), lambda z: temporal_attention(attention, z)):
        attention.zero_grad()
        leaf = x.clone().requires_grad_()
        output = run(leaf)
        (output * wave(1, 0.3, 0, output.shape)).sum().backward()
        results.append([output, leaf.grad, *(p.grad.clone() for p in attention.parameters())])
    for fast, plain in zip(*results):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(frames=st.integers(2, 150), reach=st.integers(0, 80), seed=st.integers(0, 1000))
def test_band_equals_dense_anywhere(frames: int, reach: int, seed: int) -> None:
    torch.manual_seed(seed)
    attention = TemporalAttention(4, num_heads=1, attn_len=reach)
    x = torch.randn(1, frames, 2, 4)
    expected = temporal_attention(attention, x)
    torch.testing.assert_close(attention(x, Rotary(4)), expected, rtol=1e-5, atol=1e-5)


def test_long_clips_make_no_square_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = TemporalAttention(8, num_heads=2, attn_len=20)
    sizes = []
    attend = attention.attend

    def spy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        sizes.append(q.shape[2] * k.shape[2])
        return attend(q, k, v, mask)

    monkeypatch.setattr(attention, "attend", spy)
    attention(torch.randn(1, 1000, 1, 8), Rotary(4))
    assert sum(sizes) <= 1000 * (attention.block + 2 * 20)


def test_rotary_table_grows_and_is_kept() -> None:
    rotary = Rotary(4)
    short = rotary(10, torch.device("cpu"))
    assert rotary(20, torch.device("cpu")).data_ptr() == short.data_ptr()
    long = rotary(5000, torch.device("cpu"))
    assert len(long) == 5000 and torch.equal(long[:10], short)
    assert not list(rotary.state_dict())


def test_spatial_attention_of_some_queries() -> None:
    attention = SpatialAttention(8, num_heads=2)
    x = torch.randn(2, 3, 6, 8)
    torch.testing.assert_close(attention(x, 4), attention(x)[:, :, :4])


def test_streams_fused_as_by_softmax() -> None:
    former = fill(DSTFormer(8, depth=1, num_heads=2))
    x = torch.randn(1, 3, 4, 8)
    st_, ts_ = former.blocks_st[0](x, former.rotary), former.blocks_ts[0](x, former.rotary)
    weight = former.ts_attn[0](torch.cat((st_, ts_), dim=-1)).softmax(-1)
    torch.testing.assert_close(former(x), weight[..., :1] * st_ + weight[..., 1:] * ts_)
    plain = fill(DSTFormer(8, depth=1, num_heads=2, fuse=False))
    mean = (plain.blocks_st[0](x, plain.rotary) + plain.blocks_ts[0](x, plain.rotary)) / 2
    torch.testing.assert_close(plain(x), mean)


@pytest.mark.parametrize("training", [True, False])
def test_spatial_former_equals_torch(training: bool) -> None:
    former = fill(SpatialFormer(16, depth=2, num_heads=4)).train(training)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    encoder.load_state_dict(former.transformer.state_dict())
    x = torch.randn(2, 3, 5, 16)
    expected = encoder(x.flatten(0, 1)).unflatten(0, (2, 3))  # (B, F, N, C) <-> (B*F, N, C)
    torch.testing.assert_close(former(x), expected, rtol=1e-5, atol=1e-5)


def test_autocast_runs_close_to_full_precision() -> None:
    former = DSTFormer(32, depth=2, num_heads=2, attn_len=4)
    x = torch.randn(1, 80, 3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        low = former(x)
    low.float().square().mean().backward()
    torch.testing.assert_close(low.float(), former(x), rtol=0.05, atol=0.1)
    assert all(torch.isfinite(p.grad).all() for p in former.parameters())


def test_negative_band_is_refused() -> None:
    with pytest.raises(MoroError, match="attn_len"):
        TemporalAttention(8, num_heads=2, attn_len=-1)
