"""Training of a backbone beforehand: single frames to 3D, without tokens and transformer (docs/design.md 3).

The original starts from a ViT trained for human mesh recovery. This is the same for backbones that have no
such weights: linear heads on the conditioning tokens predict the body as the crop shows it.
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.base import Backbone
from models.distributed import log_weight, means_over_processes, steps_fused
from models.mask_transformer.optimisation import build_optimizer
from moro.geometry.alignment import similarity_align
from moro.geometry.camera import translation_to_weak, view_rotation
from moro.geometry.rotation import matrix_to_rot6d, rot6d_to_matrix
from moro.io.weights import METADATA_KEY

NUM_JOINTS = 22
# Name, size and weight of what is predicted; lengths in metres.
TARGETS = {
    "local": (NUM_JOINTS * 3, 5.0),  # joints in the body's own frame
    "viewed": (NUM_JOINTS * 3, 5.0),  # joints as turned in the crop
    "rotation": (6, 1.0),  # body → view direction
    "weak": (3, 1.0),  # log scale, tx, ty
}
STANDING = 0.3  # weight of the feet's contact with the ground


class TokenHead(nn.Module):
    """What the decoder's first attention can do: each mesh token looks at fixed conditioning tokens.

    If they are `aligned` (see MotionImageTransformer), each looks at its own. So the backbone puts what a
    mesh token needs where one look finds it. Predicted is the embedding of the code; logits are a linear
    function of it, and cost the most of all.
    """

    def __init__(
        self,
        num_cond: int,
        dim: int,
        num_tokens: int,
        dim_code: int,
        aligned: bool = False,
        num_heads: int = 4,
    ) -> None:
        super().__init__()
        self.looks = None if aligned else nn.Parameter(torch.randn(num_heads, num_tokens, num_cond) * 0.5)
        self.place = nn.Parameter(torch.randn(num_tokens, dim) * 0.5)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim_code))

    def forward(self, cond: Tensor) -> Tensor:
        """cond (B, F, N, C) → embeddings (B, F, J, D), in units of the codebook's deviation."""
        if self.looks is not None:
            # (B, F, N, C) -> (B, F, h, N, C/h)
            heads = cond.unflatten(-1, (len(self.looks), -1)).movedim(-2, 2)
            # (B, F, h, J, C/h) -> (B, F, J, h, C/h) -> (B, F, J, C)
            cond = (self.looks.softmax(-1) @ heads).movedim(2, -2).flatten(-2)
        return self.mlp(cond + self.place)  # (B, F, J, D)


class LiftingSystem(pl.LightningModule):
    """A backbone under small heads; in the checkpoint as `backbone.*`, `heads.*` and `token_head.*`.

    Where the batch has token ids, their embeddings in the codebook (K, D) are a target as well (None: there
    is no tokenizer yet, and no ids); where it has `standing` (B, F, 4|6), so is that.
    """

    def __init__(self, cfg: DictConfig, backbone: Backbone, codebook: Tensor | None) -> None:
        super().__init__()
        self.cfg, self.backbone = cfg, backbone
        codes = None if codebook is None else _of_unit_deviation(codebook.detach())
        self.register_buffer("codes", codes, persistent=False)
        num_cond = math.prod(cfg.model.backbone.out_HW)
        features = num_cond * backbone.out_channels
        self.heads = nn.ModuleDict({name: nn.Linear(features, size) for name, (size, _) in TARGETS.items()})
        self.heads["standing"] = nn.Linear(features, cfg.model.dst_former.dim_contact)
        self.token_head = TokenHead(
            num_cond,
            backbone.out_channels,
            cfg.model.num_tokens,
            cfg.model.dim_token,
            cfg.model.dst_former.aligned,
        )
        self.token_head.requires_grad_(codebook is not None)

    def forward(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Predictions (B, F, size) by name, and embeddings (B, F, J, D) of the mesh tokens."""
        cond = self.backbone(batch)
        features = cond.flatten(2)  # (B, F, N, C) -> (B, F, N*C)
        return {name: head(features) for name, head in self.heads.items()}, self.token_head(cond)

    @torch.no_grad()
    def targets(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """True values (B, F, size) by name; keys of spec: models 0.4, translation in front of the camera."""
        viewed = view_rotation(batch["bbox"]).mT @ batch["rotation"]
        joints = batch["local_joints"]
        return {
            "local": joints.flatten(2),
            "viewed": (joints @ viewed.mT).flatten(2),
            "rotation": matrix_to_rot6d(viewed),
            "weak": translation_to_weak(batch["translation"], batch["bbox"]),
        }

    def losses(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        (predictions, tokens), targets = self(batch), self.targets(batch)
        terms = {name: (predictions[name] - target).abs().mean() for name, target in targets.items()}
        loss = sum(TARGETS[name][1] * value for name, value in terms.items())
        if "ids" in batch:
            terms["token"] = (tokens - self.codes[batch["ids"]]).square().sum(-1).mean()
            loss = loss + terms["token"]
        if "standing" in batch:
            terms["standing"] = functional.binary_cross_entropy_with_logits(
                predictions["standing"], batch["standing"]
            )
            loss = loss + STANDING * terms["standing"]
        return {**terms, "loss": loss}, predictions

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        terms, _ = self.losses(batch)
        logged = means_over_processes({name: value.detach() for name, value in terms.items()})
        self.log("train/loss", logged.pop("loss"), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in logged.items()})
        return terms["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Losses, and joint errors in millimetres: turned as seen, and after Procrustes alignment."""
        terms, predictions = self.losses(batch)
        joints = batch["local_joints"]
        rotation = view_rotation(batch["bbox"]) @ rot6d_to_matrix(predictions["rotation"])
        local = predictions["local"].view_as(joints)
        errors = {
            "mpjpe": ((local @ rotation.mT) - joints @ batch["rotation"].mT).norm(dim=-1).mean() * 1000,
            "pa_mpjpe": (similarity_align(local, joints) - joints).norm(dim=-1).mean() * 1000,
        }
        logged = {f"val/{name}": value for name, value in {**terms, **errors}.items()}
        self.log_dict(logged, sync_dist=True, batch_size=log_weight(len(joints)))

    def configure_optimizers(self) -> dict[str, Any]:
        return build_optimizer(self.parameters(), self.cfg.optim, steps_fused(self))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = {"task": "backbone"}


def _of_unit_deviation(codebook: Tensor) -> Tensor:
    """(K, D) codes about their mean, of length 1 in the mean square."""
    centred = codebook - codebook.mean(0)
    return centred / centred.square().sum(-1).mean().sqrt()
