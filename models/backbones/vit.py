"""Vision transformer of ViTPose / HMR2 (spec: models 2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from moro.errors import MoroError


class VisionAttention(nn.Module):
    """Self-attention with joint qkv weights, laid out (3, heads, head_dim)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, C) -> (B, N, C)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3C) -> (B, N, 3, heads, D)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # (B, heads, 3, N, D) -> 3 x (B, heads, N, D)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class VisionMlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class VisionBlock(nn.Module):
    """Pre-norm block; in training each sample skips a branch with probability `drop_path`."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = VisionAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = VisionMlp(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))

    def drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * (branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep)


class PatchEmbed(nn.Module):
    """Non-overlapping patches with two pixels of padding, as the weights were trained."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch, padding=2)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> (B, N, C), patches row-major."""
        return self.proj(images).flatten(2).mT  # (B, C, h, w) -> (B, N, C)


class VisionTransformer(nn.Module):
    """Plain ViT without class token; the defaults are ViT-H/16 on 256 x 192.

    use_checkpoint  recompute blocks in the backward pass to save memory
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (256, 192),
        patch: int = 16,
        dim: int = 1280,
        depth: int = 32,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.55,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise MoroError(f"The ViT's width {dim} is not divisible by its {num_heads} heads.")
        self.image_size = image_size
        self.grid = (image_size[0] // patch, image_size[1] // patch)
        self.out_channels = dim
        self.use_checkpoint = use_checkpoint
        self.patch_embed = PatchEmbed(dim, patch)
        # Slot 0 belonged to a class token; it is added to every patch.
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], dim))
        rates = [drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.ModuleList(VisionBlock(dim, num_heads, mlp_ratio, rate) for rate in rates)
        self.last_norm = nn.LayerNorm(dim, eps=1e-6)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, N, C), row-major, of normalised crops.

        images  (B, 3, H, W) at least as wide as `image_size`; its middle columns are used (of 256: 32 to 223)
        """
        height, width = self.image_size
        border = (images.shape[-1] - width) // 2
        if images.shape[-2] != height or border < 0:
            raise MoroError(
                f"The backbone needs crops of height {height} and width {width} or more, "
                f"got {tuple(images.shape[-2:])}; set dataset.crop_res to match."
            )
        x = self.patch_embed(images[..., border : border + width])
        x = x + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            if self.use_checkpoint and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.last_norm(x)
