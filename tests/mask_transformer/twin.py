"""Plain twin of the networks: each formula of spec: models 2 and 3 as written, computed as the original does.

Attention forms its whole matrix of scores (frames x frames in time, with a mask built row by row), every
layer finishes every token, the two streams are weighed by a product with both of them side by side. The
parameters are those of our modules.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.vit import VisionAttention, VisionTransformer
from models.mask_transformer.attention import ROTARY_BASE, Attention, SpatialAttention, TemporalAttention
from models.mask_transformer.blocks import Block, DSTFormer, SpatialFormer
from models.mask_transformer.network import (
    Decoding,
    ImageEncoding,
    MaskTransformer,
    MotionEncoding,
    MotionImageTransformer,
)
from moro.geometry.camera import weak_to_translation
from moro.geometry.rotation import matrix_to_rot6d, rot6d_to_matrix


def temporal_attention(attention: TemporalAttention, x: Tensor) -> Tensor:
    """x (B, F, J, C) -> (B, F, J, C), with F x F scores."""
    B, F, J, C = x.shape
    q, k, v = split_heads(attention, x).permute(3, 0, 2, 4, 1, 5)  # (B, F, J, 3, H, D) -> 3 x (B, J, H, F, D)
    q, k = rotated(q), rotated(k)
    far = torch.ones(F, F, dtype=torch.bool)
    for frame in range(F):
        far[frame, max(0, frame - attention.attn_len) : frame + attention.attn_len + 1] = False
    scores = (q @ k.mT * scale_of(attention)).masked_fill(far, -torch.inf)
    attended = scores.softmax(-1) @ v
    return attention.proj(attended.permute(0, 3, 1, 2, 4).reshape(B, F, J, C))  # back to (B, F, J, H*D)


def spatial_attention(attention: SpatialAttention, x: Tensor) -> Tensor:
    """x (B, F, J, C) -> (B, F, J, C), all tokens of a frame among each other."""
    B, F, J, C = x.shape
    q, k, v = split_heads(attention, x).permute(3, 0, 1, 4, 2, 5)  # (B, F, J, 3, H, D) -> 3 x (B, F, H, J, D)
    attended = (q @ k.mT * scale_of(attention)).softmax(-1) @ v
    return attention.proj(attended.transpose(2, 3).reshape(B, F, J, C))  # (B, F, H, J, D) -> (B, F, J, H*D)


def split_heads(attention: Attention, x: Tensor) -> Tensor:
    """(B, F, J, C) -> (B, F, J, 3, heads, D)."""
    return attention.qkv(x).unflatten(-1, (3, attention.num_heads, attention.head_dim))


def scale_of(attention: Attention) -> float:
    return attention.head_dim**-0.5 if attention.scale is None else attention.scale


def rotated(x: Tensor) -> Tensor:
    """x (..., F, D): frame f turned by f * base^(-2j / D) in each pair of channels (2j, 2j + 1)."""
    F, D = x.shape[-2:]
    frame, channel = torch.arange(F, dtype=torch.float64), torch.arange(0, D, 2, dtype=torch.float64)
    angle = frame[:, None] * ROTARY_BASE ** (-channel / D)  # (F, D/2)
    cos, sin = (wave.repeat_interleave(2, dim=-1).to(x) for wave in (angle.cos(), angle.sin()))  # (F, D)
    u, v = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-v, u), dim=-1).flatten(-2) * sin


def run_block(block: Block, x: Tensor) -> Tensor:
    """Pre-norm residual block on (B, F, J, C)."""
    for kind in block.order.replace("st", "s t").replace("ts", "t s").split():
        attention, norm1, norm2, mlp = (
            getattr(block, f"{part}_{kind}") for part in ("attn", "norm1", "norm2", "mlp")
        )
        attend = spatial_attention if kind == "s" else temporal_attention
        x = x + attend(attention, norm1(x))
        x = x + mlp(norm2(x))
    return x


def run_former(former: DSTFormer, x: Tensor) -> Tensor:
    """All layers on (B, F, J, C), every token to the end."""
    for layer, (block_st, block_ts) in enumerate(zip(former.blocks_st, former.blocks_ts)):
        x_st, x_ts = run_block(block_st, x), run_block(block_ts, x)
        if former.fuse:
            share = former.ts_attn[layer](torch.cat((x_st, x_ts), dim=-1)).softmax(-1)
            x = x_st * share[..., :1] + x_ts * share[..., 1:]
        else:
            x = (x_st + x_ts) / 2
    return x


def run_spatial_former(former: SpatialFormer, x: Tensor) -> Tensor:
    """PyTorch's own encoder layers on each frame."""
    frames = x.flatten(0, 1)  # (B, F, N, C) -> (B*F, N, C)
    for layer in former.transformer["layers"]:
        frames = nn.TransformerEncoderLayer.forward(layer, frames)
    return frames.view_as(x)


class PlainTransformer(MotionImageTransformer):
    """The three networks; see `plain_twin`."""

    def encode_motion(self, tokens: Tensor, cano_traj: Tensor) -> MotionEncoding:
        J = self.num_tokens
        x = torch.cat((self.m_token_embed(tokens), self.m_traj_embed(cano_traj)[:, :, None]), dim=2)
        x = run_former(self.m_transformer, x + self.m_pos_enc)
        return MotionEncoding(x[:, :, :J], x[:, :, J:], self.m_traj_regressor(x[:, :, J]))

    def encode_image(self, cond: Tensor, bbox: Tensor) -> ImageEncoding:
        N = self.num_image_tokens
        x = torch.cat((self.img_embed(cond) + self.img_pos_enc, self.img_bbox_embed(bbox)[:, :, None]), dim=2)
        run = run_former if self.img_temporal else run_spatial_former
        x = run(self.img_transformer, x)
        weak = self.img_traj_regressor(x[:, :, N])
        return ImageEncoding(
            x[:, :, :N], weak, rot6d_to_matrix(weak[..., :6]), weak_to_translation(weak, bbox)
        )

    def decode(self, motion: MotionEncoding | None, image: ImageEncoding) -> Decoding:
        """Tokens in the order of the specification: pose, image, canonical trajectory, camera."""
        J, N = self.num_tokens, self.num_image_tokens
        camera = torch.cat((matrix_to_rot6d(image.rotation), image.translation.squeeze(2)), dim=-1)
        camera = self.d_traj_embed(camera)[:, :, None]
        if motion is None:
            B, F, _, C = camera.shape
            pose, trajectory = camera.new_zeros(B, F, J, C), camera.new_zeros(B, F, 1, C)
        else:
            pose, trajectory = motion.pose, motion.trajectory
        place = self.d_pos_enc
        positions = (place[:, :, :J], place[:, :, J : J + 1].expand(-1, -1, N, -1), place[:, :, J + 1 :])
        x = torch.cat((pose, image.features, trajectory, camera), dim=2) + torch.cat(positions, dim=2)
        x = run_former(self.d_transformer, x)
        pose6d = self.d_traj_regressor(x[:, :, J + N + 1])
        return Decoding(
            self.d_pose_regressor(x[:, :, :J]).permute(0, 3, 1, 2),
            rot6d_to_matrix(pose6d[..., :6]),
            pose6d[:, :, None, 6:],
            self.d_contact_regressor(x[:, :, J + N]),
            pose6d[..., :6],
        )


def plain_twin(network: MaskTransformer) -> MaskTransformer:
    """The same network, with the same parameter tensors, computed plainly."""
    former = copy.copy(network.dst_former)
    former.__class__ = PlainTransformer
    twin = copy.copy(network)
    twin._modules = {**network._modules, "dst_former": former}
    return twin


def vision_transformer(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens (B, N, C) of normalised crops (B, 3, H, W), with explicit attention (spec: models 2)."""
    border = (images.shape[-1] - vit.image_size[1]) // 2
    x = vit.patch_embed(images[..., border : images.shape[-1] - border])
    x = x + vit.pos_embed[:, 1:] + vit.pos_embed[:, :1]
    for block in vit.blocks:
        x = x + vision_attention(block.attn, block.norm1(x))
        x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
    return vit.last_norm(x)


def vision_attention(attention: VisionAttention, x: Tensor) -> Tensor:
    B, N, C = x.shape
    qkv = attention.qkv(x).view(B, N, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, N, 3, H, D) -> 3 x (B, H, N, D)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, C))
