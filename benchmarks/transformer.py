"""The masked transformer of stage 5 beside its plain twin (tests/mask_transformer/twin.py)."""

from dataclasses import dataclass
from functools import cache, partial

import roma
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks.harness import Options, Row, Run, Target
from benchmarks.tokenizer import OPEN, RELEASE, build, missing_tables
from models.backbones import build_backbone
from models.mask_transformer.attention import Rotary, TemporalAttention
from models.mask_transformer.build import build_mask_transformer, build_smoother
from models.mask_transformer.decoding import DecodingOptions, generate
from models.mask_transformer.losses import LossWeights, MoRoLoss
from models.mask_transformer.network import MaskTransformer
from models.mask_transformer.optimisation import build_optimizer
from models.mask_transformer.system import Batch, MoRoSystem
from moro.config import compose_config
from moro.geometry.trajectory import TrajectoryStats
from tests.mask_transformer.twin import plain_twin, temporal_attention

PASSES = 5
TOKENS = 88  # per frame of the motion encoder
DECODING = "5-step decoding to tokens"
TINY = (
    "model.dst_former.dim_feat=32",
    "model.dst_former.mdepth=1",
    "model.dst_former.ddepth=1",
    "model.backbone.out_HW=[2,2]",
    "model.backbone.out_C=16",
    "model.backbone.depth=1",
    "model.backbone.num_heads=2",
)


@dataclass(frozen=True)
class Setting:
    """Which network, and how many frames of one clip; tables: folder of SMPL-X's connection matrices."""

    quick: bool
    frames: int
    tables: str = ""
    vit: bool = False

    @property
    def tokenizer(self) -> tuple[str, str | None]:
        return (OPEN, None) if self.quick else (RELEASE, self.tables)


def rows(options: Options) -> list[Row]:
    quick, tables = options.quick, str(options.tables)
    skip = None if quick else missing_tables(options)
    short, long = (2, 3) if quick else (8, 60)
    found = []

    def gflop(frames: int) -> float | None:
        return None if quick else PASSES * pass_gflop(frames) + image_gflop()

    for frames in (short, long):
        prepare = partial(decode, Setting(quick, frames))
        found.append(
            Row(
                f"transformer.decode-{frames}", DECODING, f"width 1024, {frames} frames", prepare,
                Target(speedup=1.6), units=frames, tolerance=0.01, gflop=gflop(frames),
            )
        )  # fmt: skip
    found.append(
        Row(
            f"transformer.recover-{short}", "5-step decoding to meshes", f"width 1024, {short} frames",
            partial(recover, Setting(quick, short, tables)), Target(speedup=1.6), units=short,
            tolerance=0.01, skip=skip, gflop=gflop(short),  # a mesh is a thousandth of it
        )
    )  # fmt: skip
    lengths = (8, 16, 32) if quick else (250, 500, 1000)
    for frames in lengths:
        linear = Target(linear_to=f"transformer.temporal-{lengths[0]}") if frames == lengths[-1] else Target()
        found.append(
            Row(
                f"transformer.temporal-{frames}", "temporal attention", f"{TOKENS} tokens, {frames} frames",
                partial(attend, quick, frames), linear, twin=frames < lengths[-1], units=frames,
                tolerance=1e-5,
            )
        )  # fmt: skip
    for vit in (False, True) if options.vit else (False,):
        found.append(
            Row(
                f"transformer.train-{short}{'-vit' * vit}",
                f"training step of stage 5{', with ViT-H' * vit}", f"1 clip of {short} frames",
                partial(train, Setting(quick, short, tables, vit)),
                Target(speedup=2, mb=None if vit else 6000), tolerance=0.01, skip=skip,
                # a pass without gradient; one with, whose backward costs twice its forward
                gflop=None if quick or vit else short * (4 * pass_gflop(short) + image_gflop()),
            )
        )  # fmt: skip
    return found


def config(setting: Setting) -> DictConfig:
    """Stage 5 of the release preset; the open body's tokenizer if quick."""
    kind, folder = setting.tokenizer
    tokens = [] if kind == RELEASE else ["mesh_vq_vae/meshconv=open", "model.vqvae.num_tokens=54"]
    if folder:
        tokens.append(f"model.vqvae.meshconv.connection_folder={folder}")
    return compose_config("config", ["option=video_train", *tokens, *(TINY if setting.quick else ())])


# ------------------------------------------------------------------------------------- amount of arithmetic


def pass_gflop(frames: int) -> float:
    """Of motion encoder and decoder at release size, per frame; heads are left out."""
    joint, image = 87, 192
    last = layer_gflop(joint + image + 2, joint + 2, frames)
    return 4 * layer_gflop(joint + 1, joint + 1, frames) + layer_gflop(joint + image + 2, None, frames) + last


def layer_gflop(tokens: int, kept: int | None, frames: int, width: int = 1024, reach: int = 60) -> float:
    """Both streams of a layer that finishes `kept` of its tokens (default all), per frame."""
    kept = tokens if kept is None else kept
    square, mlp = width**2, 8 * width**2  # multiplications per token of a projection, of an MLP
    seen = sum(min(f + reach, frames - 1) - max(f - reach, 0) + 1 for f in range(frames)) / frames
    spatial = 2 * square * tokens + (2 * square + mlp + 2 * tokens * width) * kept
    temporal = 4 * square + mlp + 2 * seen * width  # per token
    return 2 * (2 * spatial + temporal * (kept + tokens)) / 1e9


def image_gflop(tokens: int = 193, width: int = 1024) -> float:
    """Of the image encoder's two layers, per frame."""
    return 2 * (2 * tokens * (12 * width**2 + 2 * tokens * width) + tokens * 1280 * width) / 1e9


# ----------------------------------------------------------------------------------------- temporal attention


def attend(quick: bool, frames: int, variant: str) -> Run:
    torch.manual_seed(0)
    dim = 32 if quick else 1024
    attention = TemporalAttention(dim, num_heads=8, attn_len=3 if quick else 60).eval()
    rotary = Rotary(attention.head_dim)
    x = torch.randn(1, frames, TOKENS, dim)

    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        ours = variant == "ours"
        return {"attended": attention(x, rotary) if ours else temporal_attention(attention, x)}

    return run


# --------------------------------------------------------------------------------------------------- decoding


@cache
def network(setting: Setting) -> MaskTransformer:
    torch.manual_seed(0)
    built = build_mask_transformer(config(setting).model).eval()
    built.load_codebook(torch.randn(built.num_codes, built.dst_former.dim_in))
    built.dst_former.set_trajectory_stats(TrajectoryStats(torch.zeros(9), torch.ones(9)))
    return built


def clip(setting: Setting) -> tuple[Tensor, Tensor]:
    """Image tokens (1, F, N, C) and boxes (1, F, 3)."""
    former, generator = network(setting).dst_former, torch.Generator().manual_seed(1)
    cond = torch.randn(
        1, setting.frames, former.num_image_tokens, former.img_embed.in_features, generator=generator
    )
    return cond, torch.tensor([0.05, -0.1, 0.4]).expand(1, setting.frames, 3)


def decode(setting: Setting, variant: str) -> Run:
    """From given image tokens, as in the test; masked tokens in five passes."""
    built, (cond, bbox) = network(setting), clip(setting)
    built = plain_twin(built) if variant == "plain" else built
    ids = torch.full((1, setting.frames, built.dst_former.num_tokens), built.mask_id)

    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        return {"ids": generate(built, ids, cond, bbox, options=DecodingOptions(PASSES)).ids}

    return run


def recover(setting: Setting, variant: str) -> Run:
    """To meshes: the predicted one; the original decodes the true, masked and sampled tokens as well."""
    system, batch = stage5(setting, variant).eval(), training_batch(setting)
    del batch["mesh"]
    unused = torch.zeros(1, setting.frames, system.vqvae.num_tokens, dtype=torch.int64)

    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        found = system.recover(batch)
        if variant == "plain":
            for _ in range(3):
                system.decode_tokens(system.mask_transformer.embed(unused))
        return {"ids": found.ids}

    return run


# -------------------------------------------------------------------------------------------------- training


@cache
def stage5(setting: Setting, variant: str) -> MoRoSystem:
    """The system of stage 5 on random weights; both variants share their parameters."""
    cfg, built = config(setting), network(setting)
    vqvae = build("ours", *setting.tokenizer)
    loss = MoRoLoss(
        "video", LossWeights(**cfg.model.loss), joint_regressor(vqvae.num_vertices), None, built.mask_id
    )
    if variant == "plain":
        built, vqvae = plain_twin(built), build("plain", *setting.tokenizer)
    torch.manual_seed(0)
    system = MoRoSystem(cfg, vqvae, backbone(setting), built, smoother(setting), loss, "benchmark")
    return system.train()


@cache
def backbone(setting: Setting) -> nn.Module | None:
    return build_backbone(config(setting).model.backbone) if setting.vit else None


@cache
def smoother(setting: Setting) -> nn.Module:
    return build_smoother(config(setting).model)


def joint_regressor(num_vertices: int) -> Tensor:
    """(22, V), rows sum to 1."""
    weights = torch.rand(22, num_vertices, generator=torch.Generator().manual_seed(3)) ** 8
    return weights / weights.sum(1, keepdim=True)


def training_batch(setting: Setting) -> Batch:
    """The keys of spec: models 0.4 for one clip: a body before a camera, no distribution in particular."""
    F, V = setting.frames, build("ours", *setting.tokenizer).num_vertices
    torch.manual_seed(2)
    mesh = 0.3 * torch.randn(1, F, V, 3)
    cond, bbox = clip(setting)
    batch = {
        "mesh": mesh,
        "local_joints": joint_regressor(V) @ mesh,
        "rotation": roma.random_rotmat((1, F)),
        "translation": torch.tensor([0.1, 0.2, 4.0]).expand(1, F, 1, 3),
        "bbox": bbox,
        "center": torch.full((1, F, 2), 500.0),
        "scale": torch.full((1, F), 2.0),
        "K": torch.tensor([[1000.0, 0, 500], [0, 1000, 500], [0, 0, 1]]).expand(1, F, 3, 3),
        "contact_label": torch.ones(1, F - 1, 4),
        "cond": cond,
    }
    if setting.vit:
        del batch["cond"]
        height = 16 * config(setting).model.backbone.out_HW[0]
        batch["crop_imgs"] = torch.randn(1, F, 3, height, height)
    return batch


def train(setting: Setting, variant: str) -> Run:
    """Tokens of the true mesh, two masked passes, losses, backward, AdamW; the rate is 0, so runs are alike.

    The original also decodes the predicted and the true tokens in every step, with gradients, for its
    metrics; ours does so every `trainer.log_every_n_steps`.
    """
    system, batch = stage5(setting, variant), training_batch(setting)
    optimizer = build_optimizer(system.parameters(), {"lr": 0.0, "weight_decay": 1e-4})["optimizer"]

    def run() -> dict[str, Tensor]:
        torch.manual_seed(4)
        optimizer.zero_grad(set_to_none=True)
        prepared = system.prepare(batch)
        output, tokens = system.masked_pass(prepared, "inference", training=True)
        mesh, frames = system.loss_mesh(prepared, output.logits)
        losses = system.loss(prepared, output, tokens.labels, mesh, frames, system.stats)
        if variant == "plain":
            embed = system.mask_transformer.embed
            predicted = system.decode_tokens(embed(output.logits.argmax(1)))
            system._scores(prepared, output, system._meshes(predicted, prepared))
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(system.parameters(), 1.0)
        optimizer.step()
        return {"loss": losses["loss"].detach(), "gradient": norm}

    return run
