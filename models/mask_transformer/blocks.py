"""Transformer blocks of the masked transformer (spec: models 3.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.mask_transformer.attention import Rotary, SpatialAttention, TemporalAttention, fused_attention


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim_in, dim_hidden)
        self.fc2 = nn.Linear(dim_hidden, dim_out)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(functional.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Pre-norm residual block: spatial then temporal ("st"), or temporal then spatial ("ts")."""

    def __init__(
        self,
        dim: int,
        order: str,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        attn_len: int = 60,
    ) -> None:
        super().__init__()
        self.order = order
        hidden = int(dim * mlp_ratio)
        attention = {
            "num_heads": num_heads,
            "qkv_bias": qkv_bias,
            "qk_scale": qk_scale,
            "attn_drop": attn_drop_rate,
            "proj_drop": drop_rate,
        }
        self.norm1_s, self.norm1_t = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn_s = SpatialAttention(dim, **attention)
        self.attn_t = TemporalAttention(dim, attn_len=attn_len, **attention)
        self.norm2_s, self.norm2_t = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp_s = Mlp(dim, hidden, dim, drop_rate)
        self.mlp_t = Mlp(dim, hidden, dim, drop_rate)

    def forward(self, x: Tensor, rotary: Rotary, keep: int | None = None) -> Tensor:
        """x (B, F, J, C) -> (B, F, keep, C), the first `keep` tokens (default all) as they would be anyway.

        Tokens meet in spatial attention only: there the others serve as keys, after it nobody needs them.
        """
        if self.order == "st":
            return self.temporal(self.spatial(x, keep), rotary)
        return self.spatial(self.temporal(x, rotary), keep)

    def spatial(self, x: Tensor, keep: int | None) -> Tensor:
        x = x[:, :, :keep] + self.attn_s(self.norm1_s(x), keep)
        return x + self.mlp_s(self.norm2_s(x))

    def temporal(self, x: Tensor, rotary: Rotary) -> Tensor:
        x = x + self.attn_t(self.norm1_t(x), rotary)
        return x + self.mlp_t(self.norm2_t(x))


class DSTFormer(nn.Module):
    """Two streams of opposite order per layer, fused by a learned weight per token.

    fuse            False: their mean (`att_fuse`)
    use_checkpoint  keep only what goes into a block and compute the rest again in the backward pass
    The other arguments are those of `Block`.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int = 8,
        fuse: bool = True,
        use_checkpoint: bool = False,
        **block: float | bool | None,
    ) -> None:
        super().__init__()
        self.blocks_st = nn.ModuleList(Block(dim, "st", num_heads, **block) for _ in range(depth))
        self.blocks_ts = nn.ModuleList(Block(dim, "ts", num_heads, **block) for _ in range(depth))
        self.fuse, self.use_checkpoint = fuse, use_checkpoint
        if fuse:
            self.ts_attn = nn.ModuleList(nn.Linear(2 * dim, 2) for _ in range(depth))
        self.rotary = Rotary(dim // num_heads)

    def forward(self, x: Tensor, keep: int | None = None) -> Tensor:
        """x (B, F, J, C) -> (B, F, keep, C): the last layer finishes `keep` tokens only (default all)."""
        last = len(self.blocks_st) - 1
        for layer, (block_st, block_ts) in enumerate(zip(self.blocks_st, self.blocks_ts)):
            kept = keep if layer == last else None
            x_st, x_ts = (self.run(block, x, kept) for block in (block_st, block_ts))
            x = torch.lerp(x_ts, x_st, self.stream_weight(layer, x_st, x_ts))
        return x

    def run(self, block: Block, x: Tensor, keep: int | None) -> Tensor:
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, self.rotary, keep, use_reentrant=False)
        return block(x, self.rotary, keep)

    def stream_weight(self, layer: int, x_st: Tensor, x_ts: Tensor) -> Tensor:
        """Weight (B, F, J, 1) of the "st" stream.

        The softmax over the two outputs of ts_attn is the sigmoid of their difference, which needs one
        product with each stream and no joint tensor.
        """
        if not self.fuse:
            return x_st.new_full((), 0.5)
        head = self.ts_attn[layer]
        weight_st, weight_ts = (head.weight[:1] - head.weight[1:]).chunk(2, dim=1)  # (1, C) each
        bias = head.bias[:1] - head.bias[1:]
        difference = functional.linear(x_st, weight_st, bias) + functional.linear(x_ts, weight_ts)
        return difference.sigmoid().to(x_st.dtype)


class PostNormLayer(nn.TransformerEncoderLayer):
    """PyTorch's post-norm encoder layer with its parameters and names, computed with our attention."""

    def __init__(self, dim: int, num_heads: int, hidden: int, drop: float) -> None:
        super().__init__(dim, num_heads, hidden, dropout=drop, activation="gelu", batch_first=True)
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, C) -> (B, N, C)."""
        x = self.norm1(x + self.dropout1(self.attention(x)))
        hidden = self.dropout(functional.gelu(self.linear1(x)))
        return self.norm2(x + self.dropout2(self.linear2(hidden)))

    def attention(self, x: Tensor) -> Tensor:
        attn = self.self_attn
        qkv = functional.linear(x, attn.in_proj_weight, attn.in_proj_bias)
        # (B, N, 3C) -> (B, N, 3, heads, D) -> 3 x (B, heads, N, D)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3).unbind(2)
        attended = fused_attention(q, k, v, drop=attn.dropout if self.training else 0.0)
        return attn.out_proj(attended.transpose(1, 2).flatten(2))  # (B, heads, N, D) -> (B, N, C)


class SpatialFormer(nn.Module):
    """Post-norm encoder on each frame by itself, no final norm (spec: models 3.3)."""

    def __init__(
        self, dim: int, depth: int, num_heads: int = 8, mlp_ratio: float = 4.0, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        layers = nn.ModuleList(PostNormLayer(dim, num_heads, hidden, drop_rate) for _ in range(depth))
        self.transformer = nn.ModuleDict({"layers": layers})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, N, C) -> (B, F, N, C)."""
        frames = x.flatten(0, 1)  # (B, F, N, C) -> (B*F, N, C)
        for layer in self.transformer["layers"]:
            frames = layer(frames)
        return frames.view_as(x)
