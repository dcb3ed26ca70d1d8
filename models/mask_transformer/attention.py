"""Attention of the masked transformer: within a frame, and along time in a band (spec: models 3.3).

Both take and return (B, F, J, C) contiguous and avoid copies: the three projections are separate products, so
that heads can be split off by views alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moro.errors import MoroError

ROTARY_BASE = 10000.0
ROTARY_POSITIONS = 4096
SMALLEST_QUERY_BLOCK = 64  # below this, the overhead per call outweighs the work saved


class Rotary(nn.Module):
    """Rotary position table shared by all temporal attentions of a network (spec: models 3.3).

    Adjacent channels (2j, 2j+1) are one complex number, turned by the angle f * 10000^(-2j / head_dim).
    The table is made once per device and grows when a longer clip comes.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        if head_dim % 2:
            raise MoroError(f"Rotary embedding needs an even head width, got {head_dim}; change num_heads.")
        self.head_dim = head_dim
        self.table: Tensor | None = None  # plain attribute: neither saved nor cast by .half()

    def forward(self, num_frames: int, device: torch.device) -> Tensor:
        """Complex table (num_frames, 1, head_dim / 2), ready to multiply (B, F, heads, head_dim / 2)."""
        if self.table is None or self.table.device != device or len(self.table) < num_frames:
            self.table = self.build(max(ROTARY_POSITIONS, num_frames), device)
        return self.table[:num_frames]

    @torch.inference_mode(False)  # a table made in validation must serve the training after it
    def build(self, num_positions: int, device: torch.device) -> Tensor:
        """Complex table (num_positions, 1, head_dim / 2)."""
        positions = torch.arange(num_positions, dtype=torch.float64)
        channels = torch.arange(0, self.head_dim, 2, dtype=torch.float64)
        angles = positions[:, None] * ROTARY_BASE ** (-channels / self.head_dim)
        table = torch.polar(torch.ones_like(angles), angles)[:, None]  # (P, D/2) -> (P, 1, D/2)
        return table.to(torch.complex64).to(device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn x (B, F, heads, D) by the table of `Rotary`, in float32 whatever the precision of x."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (B, F, heads, D/2)
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    drop: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Attention on (batch, heads, length, head_dim); `mask` is True where a query may look.

    On CPU always in float32: in low precision the backward of the fused kernel is ten times slower there.
    """
    if q.device.type == "cpu" and q.dtype != torch.float32:
        with torch.autocast("cpu", enabled=False):
            return fused_attention(q.float(), k.float(), v.float(), mask, drop, scale).to(q.dtype)
    return functional.scaled_dot_product_attention(q, k, v, mask, dropout_p=drop, scale=scale)


class Attention(nn.Module):
    """Parameters common to both attentions: `qkv`, laid out (3, heads, head_dim), and `proj`."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise MoroError(f"The width {dim} is not divisible by {num_heads} attention heads.")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = qk_scale  # None: head_dim ** -0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def project(self, query: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q of `query`, k and v of `source`, each as wide as the network."""
        weights = self.qkv.weight.chunk(3)
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        inputs = (query, source, source)
        q, k, v = (functional.linear(x, w, b) for x, w, b in zip(inputs, weights, biases))
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return fused_attention(q, k, v, mask, self.attn_drop if self.training else 0.0, self.scale)

    def output(self, x: Tensor) -> Tensor:
        return self.proj_drop(self.proj(x))


class SpatialAttention(Attention):
    """Every frame by itself over its tokens; no mask, no position signal."""

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        """x (B, F, J, C) -> (B, F, num_queries, C): the first `num_queries` tokens look at all J."""
        B, F, J, C = x.shape
        q, k, v = (
            # (B, F, tokens, C) -> (B*F, heads, tokens, D)
            tensor.view(B * F, -1, self.num_heads, self.head_dim).transpose(1, 2)
            for tensor in self.project(x[:, :, :num_queries], x)
        )
        attended = self.attend(q, k, v).transpose(1, 2)  # (B*F, tokens, heads, D)
        return self.output(attended.reshape(B, F, -1, C))


class TemporalAttention(Attention):
    """Every token index by itself along time, with rotary positions, at most `attn_len` frames away.

    Memory and time grow linearly with the clip: queries go in blocks, each with the keys its band reaches.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, attn_len: int = 60, **options: float | bool | None
    ) -> None:
        super().__init__(dim, num_heads, **options)
        if attn_len < 0:
            raise MoroError(f"attn_len must not be negative, got {attn_len}.")
        self.attn_len = attn_len
        self.block = max(attn_len, SMALLEST_QUERY_BLOCK)
        self.mask: Tensor | None = None

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        """x (B, F, J, C) -> (B, F, J, C); frame 0 of x has position 0."""
        B, F, J, C = x.shape
        if F == 1:  # one frame sees only itself: the softmax is 1 and q, k do not matter
            return self.output(self.project_value(x))
        table = rotary(F, x.device)
        q, k, v = (  # each token's heads are heads of their own, so no copy is needed to bring time last
            tensor.view(B, F, J * self.num_heads, self.head_dim) for tensor in self.project(x, x)
        )
        q, k = rotate(q, table), rotate(k, table)
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))  # (B, J*heads, F, D)
        attended = self.attend_band(q, k, v)
        return self.output(attended.transpose(1, 2).reshape(B, F, J, C))

    def project_value(self, x: Tensor) -> Tensor:
        bias = None if self.qkv.bias is None else self.qkv.bias.chunk(3)[2]
        return functional.linear(x, self.qkv.weight.chunk(3)[2], bias)

    def attend_band(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of (B, heads, F, D) within the band |i - j| <= attn_len."""
        F, reach, block = q.shape[2], self.attn_len, self.block
        if reach + 1 >= F:  # everybody sees everybody
            return self.attend(q, k, v)
        mask = self.band_mask(q.device)
        blocks = []
        for start in range(0, F, block):
            stop = min(start + block, F)
            first, last = max(0, start - reach), min(F, stop + reach)
            offset = first - (start - reach)  # the mask's columns start at frame `start - reach`
            window = mask[: stop - start, offset : offset + last - first]
            blocks.append(self.attend(q[:, :, start:stop], k[:, :, first:last], v[:, :, first:last], window))
        return torch.cat(blocks, dim=2)

    @torch.inference_mode(False)
    def band_mask(self, device: torch.device) -> Tensor:
        """Mask (block, block + 2 attn_len) of one block of queries, made once per device."""
        if self.mask is None or self.mask.device != device:
            rows = torch.arange(self.block, device=device)[:, None]
            columns = torch.arange(self.block + 2 * self.attn_len, device=device)
            self.mask = (columns - rows - self.attn_len).abs() <= self.attn_len
        return self.mask
