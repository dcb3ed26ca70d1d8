"""The masked transformer: motion encoder, image encoder and decoder (spec: models 3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.mask_transformer.blocks import DSTFormer, Mlp, SpatialFormer
from moro.errors import MoroError
from moro.geometry.camera import weak_to_translation
from moro.geometry.precision import full_precision
from moro.geometry.rotation import matrix_to_rot6d, rot6d_to_matrix
from moro.geometry.trajectory import TrajectoryStats

TASKS = ("motion", "image", "video")
RELEASE_WIDTH = 1024
NEARBY = 1.7  # of queries and keys: the own frame has twice the weight of the next one


class ImageEncoding(NamedTuple):
    """What the image encoder knows of each frame; cut by ImageEncoding(*(t[:, a:b] for t in encoding))."""

    features: Tensor  # (B, F, N, C)
    weak: Tensor  # (B, F, 9)        6D rotation, log scale, tx, ty
    rotation: Tensor  # (B, F, 3, 3)     coarse, body → camera
    translation: Tensor  # (B, F, 1, 3)     coarse, pelvis in camera, metres


class MotionEncoding(NamedTuple):
    """What the motion encoder makes of tokens and trajectory."""

    pose: Tensor  # (B, F, J, C)
    trajectory: Tensor  # (B, F, 1, C)
    cano_traj: Tensor | None  # (B, F, 9)  predicted canonical trajectory, normalised


class Decoding(NamedTuple):
    """What the decoder predicts."""

    logits: Tensor  # (B, K, F, J)   a view of (B, F, J, K) memory: permute(0, 2, 3, 1) is free
    rotation: Tensor  # (B, F, 3, 3)   body → camera
    translation: Tensor  # (B, F, 1, 3)   pelvis in camera, metres
    contact: Tensor  # (B, F, 4|6)    logits
    rotation6d: Tensor  # (B, F, 6)      `rotation` as it left the head, not yet orthonormal


class TransformerOutput(NamedTuple):
    """One forward pass; None where the task has no such output (spec: models 3.6)."""

    logits: Tensor  # (B, K, F, J), see Decoding.logits
    cano_input: Tensor | None = None  # (B, F, 9)     trajectory the motion encoder was given, normalised
    cano_traj: Tensor | None = None  # (B, F, 9)     predicted trajectory, normalised
    contact: Tensor | None = None  # (B, F, 4|6)   logits
    weak: Tensor | None = None  # (B, F, 9)
    rotation_coarse: Tensor | None = None  # (B, F, 3, 3)  body → camera
    translation_coarse: Tensor | None = None  # (B, F, 1, 3)  metres
    rotation: Tensor | None = None  # (B, F, 3, 3)
    translation: Tensor | None = None  # (B, F, 1, 3)
    rotation6d: Tensor | None = None  # (B, F, 6), see Decoding
    image: ImageEncoding | None = None
    motion: MotionEncoding | None = None


def sine_encoding(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed position encoding of a grid, row-major (spec: models 3.4).

    returns  (rows * columns, dim): dim / 2 channels for the row, then dim / 2 for the column
    """
    if dim % 2:
        raise MoroError(f"The sine position encoding needs an even width, got {dim}; change dim_feat.")
    channels = torch.arange(dim // 2, dtype=torch.float64)
    rate = 10000 ** (2 * torch.div(channels, 2, rounding_mode="floor") / (dim // 2))

    def axis(count: int) -> Tensor:
        position = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1e-6) * 2 * math.pi
        angle = position[:, None] / rate  # (count, dim/2)
        return torch.where(channels % 2 == 0, angle.sin(), angle.cos())

    y = axis(rows)[:, None].expand(-1, columns, -1)
    x = axis(columns)[None].expand(rows, -1, -1)
    return torch.cat((y, x), dim=-1).flatten(0, 1).float()  # (rows, columns, dim) -> (rows*columns, dim)


class MotionImageTransformer(nn.Module):
    """Motion encoder (m_*), image encoder (img_*) and decoder (d_*); see spec: models 3.1 for the names.

    task               motion: m_* only; image: img_* and d_*; video: all
    num_tokens         J, tokens per mesh;  dim_in: their width;  dim_out: K, number of codes
    backbone_HW        grid of image tokens, N = H * W;  dim_backbone_feat: their width
    dim_feat           C;  mdepth, idepth, ddepth: layers of the three parts
    dim_contact        4 feet, or 6 with the hands
    motion_drop        video only: hide the motion encoder from the decoder
    image_drop         probability to hide the image features from the decoder, per training step
    learnable_pe       learned positions in motion encoder and decoder, else sine
    img_temporal       image encoder along time as well
    linear_regress     linear trajectory and contact heads, else two layers
    attn_len           half-width of the temporal attention band, frames
    aligned            there is one image token for each mesh token, and the decoder adds it to that instead
                       of listing image tokens for mesh tokens to find; the camera reads each image token with
                       weights of its own, as the heads did that the backbone was trained under
    skip_unread        do not finish the decoder's image tokens, which nobody reads (same result)
    use_checkpoint     compute blocks of motion encoder and decoder again in the backward pass (less memory)
    Raises MoroError if sizes do not fit together.
    """

    def __init__(
        self,
        task: str,
        num_tokens: int,
        dim_in: int,
        dim_out: int,
        dim_backbone_feat: int = 1280,
        backbone_HW: Sequence[int] = (16, 12),
        dim_feat: int = 1024,
        dim_cano_traj: int = 9,
        dim_cam_traj: int = 9,
        dim_contact: int = 4,
        mdepth: int = 4,
        idepth: int = 2,
        ddepth: int = 2,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        att_fuse: bool = True,
        motion_drop: bool = False,
        image_drop: float = 0.0,
        learnable_pe: bool = True,
        img_temporal: bool = False,
        linear_regress: bool = True,
        attn_len: int = 60,
        aligned: bool = False,
        skip_unread: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise MoroError(f"model.task is '{task}'; choose one of {', '.join(TASKS)}.")
        self.task, self.num_tokens, self.dim_in, self.dim_out = task, num_tokens, dim_in, dim_out
        self.num_image_tokens = math.prod(backbone_HW)
        if aligned and self.num_image_tokens != num_tokens:
            raise MoroError(
                f"dst_former.aligned wants one image token for each of the {num_tokens} mesh tokens, "
                f"backbone_HW gives {self.num_image_tokens}; set model.backbone.out_HW=[1,{num_tokens}], or "
                "dst_former.aligned=false for a backbone of images."
            )
        self.motion_drop, self.image_drop = motion_drop, image_drop
        self.aligned, self.skip_unread = aligned, skip_unread
        self.img_temporal = img_temporal
        self.trajectory_stats: TrajectoryStats | None = None
        self._frozen: list[nn.Module] = []
        self.dim_feat = C = dim_feat
        shared = {"num_heads": num_heads, "mlp_ratio": mlp_ratio, "drop_rate": drop_rate}
        dual = {
            **shared,
            "qkv_bias": qkv_bias,
            "qk_scale": qk_scale,
            "attn_drop_rate": attn_drop_rate,
            "attn_len": attn_len,
            "fuse": att_fuse,
            "use_checkpoint": use_checkpoint,
        }

        def head(dim: int) -> nn.Module:
            return nn.Linear(C, dim) if linear_regress else Mlp(C, C, dim, drop_rate)

        if task in ("motion", "video"):
            self.m_token_embed = nn.Linear(dim_in, C)
            self.m_traj_embed = nn.Linear(dim_cano_traj, C)
            self._add_positions("m_pos_enc", num_tokens + 1, C, learnable_pe)
            self.m_transformer = DSTFormer(C, mdepth, **dual)
            self.m_pose_regressor = nn.Linear(C, dim_out)
            self.m_traj_regressor = head(dim_cano_traj)
            self.m_contact_regressor = head(dim_contact)
        if task in ("image", "video"):
            self.img_embed = nn.Linear(dim_backbone_feat, C)
            self.img_bbox_embed = nn.Linear(3, C)
            if aligned:
                self.img_camera_embed = nn.Linear(num_tokens * dim_backbone_feat, C)
            self.register_buffer("img_pos_enc", sine_encoding(*backbone_HW, C), persistent=False)
            self.img_transformer = (
                DSTFormer(C, idepth, **dual) if img_temporal else SpatialFormer(C, idepth, **shared)
            )
            self.img_traj_regressor = head(dim_cam_traj)
            self.d_traj_embed = nn.Linear(dim_cam_traj, C)
            self._add_positions("d_pos_enc", num_tokens + 3, C, learnable_pe)
            self.d_transformer = DSTFormer(C, ddepth, **dual)
            self.d_pose_regressor = nn.Linear(C, dim_out)
            self.d_traj_regressor = head(dim_cam_traj)
            self.d_contact_regressor = head(dim_contact)
        self._initialise()

    def _add_positions(self, name: str, count: int, dim: int, learnable: bool) -> None:
        if learnable:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, count, dim)))
        else:
            self.register_buffer(name, sine_encoding(1, count, dim)[None, None], persistent=False)

    def _initialise(self) -> None:
        """Truncated normal of 0.02 at the released width of 1024 (spec: models 3.3).

        A narrower network needs larger weights for signals of the same size: with 0.02 at width 128, nothing
        of the image reaches the camera head for hundreds of steps.
        """
        std = 0.02 * math.sqrt(RELEASE_WIDTH / self.dim_feat)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name in ("m_pos_enc", "d_pos_enc"):
            if isinstance(getattr(self, name, None), nn.Parameter):
                nn.init.trunc_normal_(getattr(self, name), std=std)

    # Trajectory statistics and freezing

    def set_trajectory_stats(self, stats: TrajectoryStats) -> None:
        """Statistics that normalise the canonical input; needed for task video, not in the state dict."""
        self.trajectory_stats = stats.validate()

    def freeze(
        self, everything: bool = False, motion: bool = False, image: bool = False, spatial: bool = False
    ) -> None:
        """Take parts out of training: no gradient, and eval mode for good (spec: models 3.11).

        motion   all of m_*          image  the image encoder (the decoder stays trainable)
        spatial  spatial attention of image encoder and decoder
        """
        prefixes = ("m_",) * motion + ("img_",) * image
        for name, parameter in self.named_parameters():
            if everything or name.startswith(prefixes):
                parameter.requires_grad_(False)
        self._frozen += [m for name, m in self.named_children() if everything or name.startswith(prefixes)]
        if spatial:
            for name, module in self.named_modules():
                if name.startswith(("img_", "d_")) and name.endswith((".attn_s", ".self_attn")):
                    self._frozen.append(module.requires_grad_(False))
        self.train(self.training)

    def train(self, mode: bool = True) -> "MotionImageTransformer":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @torch.no_grad()
    def join_motion(self, gain: float) -> None:
        """Put the motion encoder before a decoder that has learned with zeros in its place (stages 3 and 4).

        Such a decoder tells its pose tokens apart by their positions alone. Features of full size drown
        these, and it would have to learn to read the image anew. So they are multiplied by `gain` (the
        encoder's own predictions stay: it normalises what every layer reads), and what they are when all is
        masked and nothing moves is taken out of the decoder's positions, where these are learned.
        """
        self._scale_motion(gain)
        self._look_nearby()
        if isinstance(self.d_pos_enc, nn.Parameter):
            J = self.num_tokens
            empty = self.m_token_embed.weight.new_zeros(1, 1, J, self.dim_in)
            rest = self.encode_motion(empty, empty.new_zeros(1, 1, self.m_traj_embed.in_features))
            self.d_pos_enc[:, :, :J] -= rest.pose
            self.d_pos_enc[:, :, J + 1] -= rest.trajectory[:, :, 0]

    def _look_nearby(self) -> None:
        """The decoder's temporal attention, which single frames have taught nothing, starts local.

        As initialised it would mix all frames in reach evenly. A common part of queries and keys, turned by
        their rotary positions, favours the nearest frames.
        """
        for block in (*self.d_transformer.blocks_st, *self.d_transformer.blocks_ts):
            bias = block.attn_t.qkv.bias
            if bias is not None:
                bias[: 2 * self.dim_feat] += NEARBY

    def _scale_motion(self, gain: float) -> None:
        blocks = [*self.m_transformer.blocks_st, *self.m_transformer.blocks_ts]
        ends = (end for b in blocks for end in (b.attn_s.proj, b.attn_t.proj, b.mlp_s.fc2, b.mlp_t.fc2))
        for layer in (self.m_token_embed, self.m_traj_embed, *ends):
            layer.weight.mul_(gain)
            layer.bias.mul_(gain)
        self.m_pos_enc.mul_(gain)
        heads = (self.m_pose_regressor, self.m_traj_regressor, self.m_contact_regressor)
        readers = [head.fc1 if isinstance(head, Mlp) else head for head in heads]
        for layer in (*readers, *getattr(self.m_transformer, "ts_attn", ())):
            layer.weight.div_(gain)

    # The three sub-networks

    def encode_motion(self, tokens: Tensor, cano_traj: Tensor) -> MotionEncoding:
        """Motion encoder (spec: models 3.5).

        tokens     (B, F, J, dim_in)  token embeddings, zeros (or the learned row) where masked
        cano_traj  (B, F, 9)          normalised canonical trajectory
        """
        J = self.num_tokens
        if tokens.shape[2] != J:
            raise MoroError(f"The network was built for {J} tokens per frame, got {tokens.shape[2]}.")
        x = torch.cat((self.m_token_embed(tokens), self.m_traj_embed(cano_traj)[:, :, None]), dim=2)
        x = self.m_transformer(x + self.m_pos_enc)  # (B, F, J+1, C)
        trajectory = x[:, :, J:]
        return MotionEncoding(
            x[:, :, :J], trajectory, self._regress(trajectory[:, :, 0], self.m_traj_regressor)
        )

    def encode_image(self, cond: Tensor, bbox: Tensor) -> ImageEncoding:
        """Image encoder (spec: models 3.5); frames are independent unless `img_temporal`.

        cond  (B, F, N, dim_backbone_feat)
        bbox  (B, F, 3)  box centre and side over focal length
        """
        N = self.num_image_tokens
        if cond.shape[2] != N:
            raise MoroError(f"backbone_HW asks for {N} image tokens per frame, got {cond.shape[2]}.")
        image = self.img_embed(cond) + self.img_pos_enc
        camera = self.img_bbox_embed(bbox)
        if self.aligned:
            camera = camera + self.img_camera_embed(cond.flatten(2))  # (B, F, N, C) -> (B, F, N*C)
        x = torch.cat((image, camera[:, :, None]), dim=2)  # (B, F, N+1, C)
        x = self.img_transformer(x)
        weak = self._regress(x[:, :, N], self.img_traj_regressor)
        return ImageEncoding(
            x[:, :, :N], weak, rot6d_to_matrix(weak[..., :6]), weak_to_translation(weak, bbox)
        )

    def decode(self, motion: MotionEncoding | None, image: ImageEncoding) -> Decoding:
        """Decoder (spec: models 3.5).

        motion  None: zeros in the slots of pose and canonical trajectory
        """
        J, features = self.num_tokens, image.features
        camera = torch.cat((matrix_to_rot6d(image.rotation), image.translation.squeeze(2)), dim=-1)
        camera = self.d_traj_embed(camera)[:, :, None]  # (B, F, 9) -> (B, F, 1, C)
        if motion is None:
            pose = camera.new_zeros(()).expand(*camera.shape[:2], J, camera.shape[-1])
            trajectory = torch.zeros_like(camera)
        else:
            pose, trajectory = motion.pose, motion.trajectory
        # The order of tokens does not matter inside; those that are read come first, the image tokens last.
        if self.aligned:
            parts = (pose + features, trajectory, camera)
        else:
            parts = (pose, trajectory, camera, features)
        x = torch.cat(parts, dim=2)
        x = x + self._decoder_positions(x.shape[2] - J - 2)
        x = self.d_transformer(x, keep=J + 2 if self.skip_unread else None)
        pose, trajectory, camera = x[:, :, :J], x[:, :, J], x[:, :, J + 1]
        pose6d = self._regress(camera, self.d_traj_regressor)  # (B, F, 9)
        return Decoding(
            _code_axis_second(self.d_pose_regressor(pose)),
            rot6d_to_matrix(pose6d[..., :6]),
            pose6d[:, :, None, 6:],
            self.d_contact_regressor(trajectory),
            pose6d[..., :6],
        )

    @staticmethod
    @full_precision
    def _regress(features: Tensor, head: nn.Module) -> Tensor:
        """Trajectories in float32 even under autocast, see `full_precision`."""
        return head(features.float())

    def _decoder_positions(self, num_image_tokens: int) -> Tensor:
        """(1, 1, J + 2 + N, C): pose, canonical trajectory, camera, and one position for all image tokens."""
        J, table = self.num_tokens, self.d_pos_enc
        image = table[:, :, J : J + 1].expand(-1, -1, num_image_tokens, -1)
        return torch.cat((table[:, :, :J], table[:, :, J + 1 :], image), dim=2)

    # Forward by task

    def canonical_input(self, rotation: Tensor, translation: Tensor) -> Tensor:
        """Normalised canonical trajectory (B, F, 9) of camera poses, detached (spec: models 3.6).

        rotation (B, F, 3, 3), translation (B, F, 1, 3) in metres
        """
        if self.trajectory_stats is None:
            raise MoroError(
                "The trajectory statistics are not set; "
                "give amass_cum_traj.pkl or a checkpoint that carries them."
            )
        return self.trajectory_stats.encode(rotation.detach().float(), translation.detach().float())

    def forward(
        self,
        tokens: Tensor | None = None,
        cond: Tensor | None = None,
        bbox: Tensor | None = None,
        *,
        image: ImageEncoding | None = None,
        cano_input: Tensor | None = None,
        cano_target: Tensor | None = None,
    ) -> TransformerOutput:
        """One pass of the task (spec: models 3.6).

        tokens       (B, F, J, dim_in)  motion, video
        cond, bbox   see `encode_image`; or `image`, an encoding made before (image, video)
        cano_input   (B, F, 9) normalised: the noisy trajectory (motion), or that of the previous pass (video;
                     default the coarse camera trajectory)
        cano_target  (B, F, 9) stands in for the prediction if `motion_drop`
        """
        if self.task == "motion":
            return self._forward_motion(tokens, cano_input)
        image = self.encode_image(cond, bbox) if image is None else image
        if self.task == "image":
            decoding = self.decode(None, image)
            return TransformerOutput(**self._camera_outputs(image, decoding), contact=decoding.contact)
        if cano_input is None:
            cano_input = self.canonical_input(image.rotation, image.translation)
        motion = None if self.motion_drop else self.encode_motion(tokens, cano_input)
        decoding = self.decode(motion, self._drop_image(image))
        return TransformerOutput(
            **self._camera_outputs(image, decoding),
            cano_input=cano_input,
            cano_traj=cano_target if motion is None else motion.cano_traj,
            contact=decoding.contact,
            motion=motion,
        )

    @staticmethod
    def _camera_outputs(image: ImageEncoding, decoding: Decoding) -> dict[str, Tensor | ImageEncoding]:
        return {
            "logits": decoding.logits,
            "weak": image.weak,
            "rotation_coarse": image.rotation,
            "translation_coarse": image.translation,
            "rotation": decoding.rotation,
            "translation": decoding.translation,
            "rotation6d": decoding.rotation6d,
            "image": image,
        }

    def _forward_motion(self, tokens: Tensor, cano_input: Tensor) -> TransformerOutput:
        motion = self.encode_motion(tokens, cano_input)
        return TransformerOutput(
            logits=_code_axis_second(self.m_pose_regressor(motion.pose)),
            cano_input=cano_input,
            cano_traj=motion.cano_traj,
            contact=self.m_contact_regressor(motion.trajectory[:, :, 0]),
            motion=motion,
        )

    def _drop_image(self, image: ImageEncoding) -> ImageEncoding:
        if self.training and self.image_drop > 0 and torch.rand(()) < self.image_drop:
            return without_features(image)
        return image


def without_features(image: ImageEncoding) -> ImageEncoding:
    """The same encoding with nothing to see; the coarse camera stays."""
    return image._replace(features=torch.zeros_like(image.features))


def _code_axis_second(logits: Tensor) -> Tensor:
    """(B, F, J, K) -> (B, K, F, J), a view."""
    return logits.permute(0, 3, 1, 2)


class MaskTransformer(nn.Module):
    """Token table and network; state dict `dst_former.*` and `token_emb.weight` (spec: models 3.1, 3.2).

    The table holds the codebook and, last, the row of the mask token.
    opt_token  learn the mask row (the codebook never changes); otherwise it is zero
    """

    def __init__(self, dst_former: MotionImageTransformer, opt_token: bool = False) -> None:
        super().__init__()
        self.dst_former = dst_former
        self.token_emb = nn.Embedding(dst_former.dim_out + 1, dst_former.dim_in)
        nn.init.zeros_(self.token_emb.weight)
        self.token_emb.weight.requires_grad_(opt_token)

    @property
    def num_codes(self) -> int:
        return self.token_emb.num_embeddings - 1

    @property
    def mask_id(self) -> int:
        """Id of the mask token, one past the last code."""
        return self.num_codes

    @property
    def codebook(self) -> Tensor:
        """Embeddings (num_codes, dim) of the codes; they are not trained here."""
        return self.token_emb.weight[:-1].detach()

    @torch.no_grad()
    def load_codebook(self, codebook: Tensor, mask_row: Tensor | None = None) -> None:
        """Fill the table.

        codebook  (num_codes, dim)
        mask_row  (dim,) of an earlier stage; default zeros, or truncated normal of 0.02 if learned
        Raises MoroError if the sizes differ.
        """
        table = self.token_emb.weight
        if codebook.shape != table[:-1].shape:
            raise MoroError(
                f"The tokenizer's codebook is {tuple(codebook.shape)}, the transformer was built for "
                f"{tuple(table[:-1].shape)}; check model.vqvae.num_embeddings and embedding_dim."
            )
        table[:-1] = codebook
        if mask_row is not None:
            table[-1] = mask_row
        elif table.requires_grad:
            nn.init.trunc_normal_(table[-1:], std=0.02)
        else:
            table[-1] = 0

    def embed(self, ids: Tensor) -> Tensor:
        """ids (*,) in [0, num_codes] -> (*, dim); only the mask row gets a gradient."""
        table = self.token_emb.weight
        if table.requires_grad:
            table = torch.cat((table[:-1].detach(), table[-1:]))
        return nn.functional.embedding(ids, table)

    def forward(
        self,
        ids: Tensor | None = None,
        cond: Tensor | None = None,
        bbox: Tensor | None = None,
        *,
        image: ImageEncoding | None = None,
        cano_input: Tensor | None = None,
        cano_target: Tensor | None = None,
    ) -> TransformerOutput:
        """As `MotionImageTransformer.forward`, on ids (B, F, J) with `mask_id` where masked."""
        tokens = None if ids is None or self.dst_former.task == "image" else self.embed(ids)
        return self.dst_former(
            tokens, cond, bbox, image=image, cano_input=cano_input, cano_target=cano_target
        )
