"""A small world for tests of the system: a sphere for a body, smooth random motion, everything in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import roma
import torch
import trimesh
from omegaconf import DictConfig
from torch import Tensor

from models.backbones import build_backbone
from models.mask_transformer.build import build_mask_transformer, build_smoother
from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.module import MotionDataModule
from models.mask_transformer.losses import LossWeights, MoRoLoss
from models.mask_transformer.system import MoRoSystem
from models.mesh_vq_vae.graph_conv import FullyConvAE
from models.mesh_vq_vae.network import MeshVQVAE
from models.mesh_vq_vae.quantiser import make_quantiser
from moro.body.topology import build_connection_matrices, connection_hash
from moro.config import compose_config
from moro.geometry.camera import bbox_condition, project
from moro.geometry.contact import contact_labels

TOKENS, CODES, WIDTH = 12, 16, 9
SPHERE = trimesh.creation.icosphere(subdivisions=2)  # 162 vertices
IMAGE = (640, 480)
SMALL = (
    f"model.vqvae.num_embeddings={CODES}",
    f"model.vqvae.num_tokens={TOKENS}",
    "model.gumbel=true",  # tokens as the original draws and decodes them
    "model.straight_through=true",
    "model.temp_end=0.01",
    "model.temp_test=0.5",
    "model.test.generate.expectation=false",
    "model.loss.mesh_every=1",
    "model.loss.mesh_frames=null",
    "model.dst_former.dim_feat=16",
    "model.dst_former.mdepth=1",
    "model.dst_former.ddepth=1",
    "model.dst_former.num_heads=2",
    "model.dst_former.attn_len=4",
    "model.backbone.out_C=8",
    "model.smoother.dim_hidden=4",
    "model.test.generate.timesteps=5",
    "dataset.batch_size=2",
    "dataset.clip_len=6",
    "dataset.num_workers=0",
    "dataset.num_workers_val=0",
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=4",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "optim.warmup_steps=2",
)
# of the last stage, where the open preset does otherwise
AS_PUBLISHED = (
    "model.backbone.freeze=true",
    "model.dst_former.freeze_image=true",
    "model.dst_former.freeze_motion=false",
    "model.dst_former.motion_gain=null",
    "model.test.smooth=0.",
)


def small_config(stage: str, *overrides: str) -> DictConfig:
    """A stage of the open preset in miniature; stages of single frames keep their clip length of 1."""
    small = [line for line in SMALL if stage == "video_train" or "clip_len" not in line]
    if stage == "motion_pretrain":
        small.append("dataset.clip_len=6")
    if stage == "video_train":
        small += AS_PUBLISHED
    return compose_config("config", ["preset=open", f"option={stage}", *small, *overrides])


def small_tokenizer(seed: int = 0) -> MeshVQVAE:
    torch.manual_seed(seed)
    tables = build_connection_matrices(SPHERE.faces, len(SPHERE.vertices), (42, TOKENS))
    names = ["pool0", "pool1", "pool2", "pool3", "unpool3", "unpool2", "unpool1", "unpool0"]
    autoencoder = FullyConvAE(
        tables, names, [4, 4, 4, WIDTH, 4, 4, 4, 3], [3, 0, 3, 3, 3, 3, 0, 3], [0, 1, 0, 0, 0, 0, 1, 0],
        initial="_pool0.npy",
    )  # fmt: skip
    quantiser = make_quantiser(1, CODES, WIDTH)
    return MeshVQVAE(autoencoder, quantiser, connection_hash(tables)).eval()


def joint_regressor(count: int = 22) -> Tensor:
    """(count, V), rows sum to 1."""
    weights = np.random.default_rng(count).random((count, len(SPHERE.vertices))) ** 8
    return torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()


def small_system(cfg: DictConfig, seed: int = 0) -> MoRoSystem:
    vqvae = small_tokenizer()
    torch.manual_seed(seed)
    network = build_mask_transformer(cfg.model)
    network.load_codebook(vqvae.get_codebook())
    backbone = None if cfg.model.task == "motion" else build_backbone(cfg.model.backbone)
    loss = MoRoLoss(
        cfg.model.task,
        LossWeights(**cfg.model.loss),
        joint_regressor(),
        joint_regressor(33),
        network.mask_id,
        use_transl=cfg.model.use_transl or cfg.model.task != "image",
        min_depth=0.1,
    )
    return MoRoSystem(cfg, vqvae, backbone, network, build_smoother(cfg.model), loss, "sphere-162")


class FakeClips(ClipDataset):
    """Spheres that swell and wander before a camera; sequences of `frames` frames, cut to windows in test."""

    def __init__(self, cfg: DictConfig, split: str, size: int = 8, frames: int | None = None) -> None:
        super().__init__(cfg.seed)
        self.split, self.size, self.clip_len = split, size, cfg.dataset.clip_len
        self.windows = [(sequence, 0, self.clip_len) for sequence in range(size)]
        if frames is not None:
            stride = self.clip_len - cfg.dataset.overlap_len
            starts = [s for s in range(0, frames, stride) if s == 0 or s + cfg.dataset.overlap_len < frames]
            ends = [min(start + self.clip_len, frames) for start in starts]
            self.windows = [(sequence, *window) for sequence in range(2) for window in zip(starts, ends)]

    def __len__(self) -> int:
        return len(self.windows)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        sequence, start, stop = self.windows[index]
        shift = rng.normal() * 0.1 if self.split == "train" else 0.0
        sample = _clip(torch.arange(start, stop) + 10 * sequence, shift)
        names = [f"images/{frame:05d}.jpg" for frame in range(start, stop)]
        return {**sample, "seq_name": f"seq{sequence}", "img_paths": names}

    def trajectory_clips(self) -> Iterator[tuple[Tensor, Tensor]]:
        for sequence in range(self.size):
            clip = _clip(torch.arange(60) + 10 * sequence, 0.0)
            yield clip["rotation"], clip["translation"]


def _clip(frames: Tensor, shift: float) -> dict[str, Tensor]:
    """Batch keys (spec: models 0.4) of the frames `frames` (F,)."""
    time = frames.float()[:, None] / 10
    points = torch.from_numpy(np.asarray(SPHERE.vertices)).float()
    mesh = points * (1 + 0.2 * torch.sin(time[..., None] + 3 * points))  # (F, V, 3)
    rotation = roma.rotvec_to_rotmat(torch.cat((time.sin(), time.cos(), 0.3 * time), dim=1))
    translation = torch.cat((time.sin() + shift, 0.2 * time.cos(), 6 + 0.1 * time), dim=1)[:, None]
    joints = joint_regressor() @ mesh
    K = torch.tensor([[500.0, 0, IMAGE[0] / 2], [0, 500, IMAGE[1] / 2], [0, 0, 1]]).expand(len(frames), 3, 3)
    world = mesh @ rotation.mT + translation
    pixels = project(joint_regressor(33) @ world, K)  # (F, 33, 2)
    center = project(translation, K)[:, 0]
    scale = torch.full((len(frames),), 1.0)
    landmarks = torch.cat(
        ((pixels - center[:, None]) / 100, torch.full((len(frames), 33, 2), 0.9)), dim=-1
    )
    sample = {
        "mesh": mesh,
        "local_joints": joints,
        "rotation": rotation,
        "translation": translation,
        "landmarks": landmarks,
        "center": center,
        "scale": scale,
        "K": K,
        "bbox": bbox_condition(center, scale, K),
    }
    if len(frames) > 1:
        sample["contact_label"] = contact_labels(joints @ rotation.mT + translation, 0.3)
    return sample


class FakeDataModule(MotionDataModule):
    """Loaders of FakeClips with the real sampler and collation."""

    def __init__(self, cfg: DictConfig, frames: int | None = None) -> None:
        super().__init__(cfg)
        self.frames = frames

    def datasets(self, split: str) -> list[ClipDataset]:
        return [FakeClips(self.cfg, split, frames=self.frames if split == "test" else None)]
