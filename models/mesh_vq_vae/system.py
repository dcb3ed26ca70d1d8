"""Training of the mesh tokenizer: losses, logged terms, optimiser, checkpoints (spec: models 1.7, 1.8)."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from models.distributed import log_weight, mean_over_processes, means_over_processes, steps_fused
from models.mesh_vq_vae.data.meshes import MeshMaker
from models.mesh_vq_vae.network import MeshVQVAE, Reconstruction, check_connection, tokenizer_tensors
from models.mesh_vq_vae.quantiser import perplexity
from moro.errors import MoroError
from moro.geometry.alignment import similarity_align
from moro.io.weights import METADATA_KEY, load_strict

_MM = 1000.0
CENTER_BATCHES = 16  # the mean mesh need not be exact


class TokenizerSystem(pl.LightningModule):
    """Reconstruction of body meshes through the tokenizer.

    network       in the state dict as `mesh_vqvae.*`, and nothing else is
    meshes        makes the meshes of a batch; not saved
    loss_weights  of commitment, ortho, entropy, v2v, j2j; a term of weight 0 is logged only
    optim         lr, weight_decay, lr_scheduler (see `rate_factor`; None: constant rate)
    seed          of what the quantiser draws
    """

    def __init__(self, network: MeshVQVAE, meshes: MeshMaker, loss_weights: Mapping[str, float],
                 optim: Mapping[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.mesh_vqvae = network
        self.meshes = meshes
        self.loss_weights, self.optim, self.seed = loss_weights, optim, seed
        body = meshes.reference
        if body.num_vertices != network.num_vertices:
            raise MoroError(f"Body {body.body_id} has {body.num_vertices} vertices, the connection matrices "
                            f"{network.num_vertices}; let dataset.model_type and connection_folder agree.")

    def forward(self, mesh: Tensor) -> Reconstruction:
        return self.mesh_vqvae(mesh)

    def on_fit_start(self) -> None:
        """The mean mesh of the first batches, if the network wants one and has none yet."""
        center = self.mesh_vqvae.center
        if center is not None and not center.any():
            loader = self.trainer.datamodule.train_dataloader()
            batches = [self.transfer_batch_to_device(batch, self.device, 0)
                       for batch in itertools.islice(loader, CENTER_BATCHES)]
            mean = torch.stack([self.meshes(batch).mean(0) for batch in batches]).mean(0)
            center.copy_(mean_over_processes(mean))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + self.global_step)
        terms, _ = self._step("train", batch, generator)
        return terms["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict:
        """Returns `target` and `prediction`, meshes (B, V, 3), for callbacks that draw."""
        return self._step("val", batch, loader=dataloader_idx)[1]

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict:
        return self._step("test", batch, loader=dataloader_idx)[1]

    def on_validation_start(self) -> None:
        self._count_codes(self.trainer.num_val_batches)

    def on_test_start(self) -> None:
        self._count_codes(self.trainer.num_test_batches)

    def _count_codes(self, loaders: list[Any]) -> None:
        """Perplexity is no mean over batches: of each loader's set the codes are counted."""
        num_codes = getattr(self.mesh_vqvae.vq_vae, "num_codes", 0)
        self.usage = nn.ModuleList(CodeUsage(num_codes) for _ in loaders).to(self.device)

    def _step(self, stage: str, batch: dict[str, Tensor], generator: torch.Generator | None = None,
              loader: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mesh = self.meshes(batch)  # made here, on the training device, where it is cheapest
        output = self.mesh_vqvae(mesh, generator)
        terms = self.terms(mesh, output)
        if stage == "test":
            terms["pa_error"] = _distance(similarity_align(output.mesh, mesh), mesh) * _MM
            continuous = self.mesh_vqvae.decode(output.latents, quantize=False)
            terms["unquantised_v2v_error"] = _distance(continuous, mesh) * _MM  # what is not the codebook's
        values: dict[str, Any] = {name: value.detach() for name, value in terms.items()}
        if stage == "train":
            values = means_over_processes(values)
        elif output.quantised.indices.numel():
            usage = self.usage[loader]
            usage.update(output.quantised.indices)
            del values["perplexity"]  # named: Lightning looks for it only among the first run's metrics
            self.log(f"{stage}/perplexity", usage, metric_attribute=f"usage.{loader}", batch_size=len(mesh))
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(named, batch_size=log_weight(len(mesh)), sync_dist=stage != "train")
        return terms, {"target": mesh, "prediction": output.mesh}

    def terms(self, mesh: Tensor, output: Reconstruction) -> dict[str, Tensor]:
        """Logged terms and `loss`, () tensors; errors in millimetres, losses in metres."""
        regressor = self.meshes.reference.joint_regressor  # (22, V)
        v2v = _distance(output.mesh, mesh)
        j2j = _distance(regressor @ output.mesh, regressor @ mesh)
        q = output.quantised
        losses = {"commitment": q.commitment_loss, "ortho": q.ortho_loss, "entropy": q.entropy_loss,
                  "v2v": v2v, "j2j": j2j}
        # a term of weight 0 stays out of the graph: its backward pass would cost time for nothing
        loss = sum(w * losses[name] for name, w in self.loss_weights.items() if w and name in losses)
        return {
            "loss": loss,
            "commitment_loss": q.commitment_loss, "ortho_loss": q.ortho_loss, "entropy_loss": q.entropy_loss,
            "v2v_error": v2v * _MM, "j2j_error": j2j * _MM,
            "perplexity": q.perplexity, "coverage": q.coverage,
        }

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.mesh_vqvae.parameters() if p.requires_grad]  # all but the codebook
        optimizer = torch.optim.AdamW(parameters, lr=self.optim["lr"], betas=(0.9, 0.99),
                                      weight_decay=self.optim["weight_decay"],
                                      fused=steps_fused(self) or None)
        schedule = self.optim.get("lr_scheduler")
        if schedule is None:
            return optimizer
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda count: rate_factor(count, total, schedule))
        return [optimizer], [{"scheduler": scheduler, "interval": schedule.get("interval", "step")}]

    def metadata(self) -> dict[str, str]:
        """What a tokenizer file says of itself."""
        body = self.meshes.reference
        return {"connection_hash": self.mesh_vqvae.connection_hash, "body_id": body.body_id,
                "body_sha256": body.sha256}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = self.metadata()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """MoroError for weights of another network, body or connection tables."""
        self.load_weights(checkpoint["state_dict"], checkpoint.get(METADATA_KEY, {}), "The checkpoint")

    def load_weights(self, tensors: dict[str, Tensor], metadata: Mapping[str, str], where: str) -> None:
        """Load the tokenizer's weights strictly, after comparing body and connection tables (if stated)."""
        check_connection(metadata, self.mesh_vqvae.connection_hash, where)
        own = self.metadata()
        for key, what in (("body_id", "body"), ("body_sha256", "body file")):
            if metadata.get(key, own[key]) != own[key]:
                raise MoroError(f"{where} was trained on the {what} {metadata[key][:16]}, here it is "
                                f"{own[key][:16]}; set dataset.model_type and bm_path to its body.")
        load_strict(self.mesh_vqvae, tokenizer_tensors(tensors, where), where)


class CodeUsage(Metric):
    """Perplexity of the codes used in a whole data set, whatever its batches and processes."""

    counts: Tensor  # (1, K), or (Q, K) of a chain of Q quantisers

    def __init__(self, num_codes: int) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.add_state("counts", torch.zeros(1, num_codes), dist_reduce_fx="sum")

    def update(self, indices: Tensor) -> None:
        """indices (B, J), or (B, J, Q)"""
        stages = indices[..., None] if indices.ndim == 2 else indices
        counted = [torch.bincount(stage.flatten(), minlength=self.num_codes) for stage in stages.unbind(-1)]
        self.counts = self.counts + torch.stack(counted)

    def compute(self) -> Tensor:
        return perplexity(self.counts).mean()


def rate_factor(step: int, total: int, schedule: Mapping[str, Any]) -> float:
    """Learning rate at a step, relative to `optim.lr`.

    schedule  name "multistep" (times gamma at each of `milestones`) or "cosine" (falls to gamma at the last
              step), both after a linear rise over warmup_steps. With interval "epoch" `step` and the
              milestones count epochs, as in the original (spec: models 1.7)
    Raises MoroError for other names and intervals, and for an interval of epochs that does not fit the rest.
    """
    warmup = int(schedule.get("warmup_steps", 0))
    interval = schedule.get("interval", "step")
    if interval not in ("step", "epoch"):
        raise MoroError(f"optim.lr_scheduler.interval must be step or epoch, not {interval}.")
    if interval == "epoch" and (warmup or schedule.get("name", "multistep") != "multistep"):
        raise MoroError(
            "optim.lr_scheduler.interval=epoch is for multistep without warmup_steps; set it to step."
        )
    if step < warmup:
        return (step + 1) / warmup
    kind, gamma = schedule.get("name", "multistep"), float(schedule["gamma"])
    if kind == "multistep":
        return gamma ** sum(step >= milestone for milestone in schedule["milestones"])
    if kind == "cosine":
        progress = min((step - warmup) / max(total - warmup, 1), 1.0)
        return gamma + (1 - gamma) * 0.5 * (1 + math.cos(math.pi * progress))
    raise MoroError(f"optim.lr_scheduler.name must be multistep or cosine, not {kind}.")


def _distance(points: Tensor, target: Tensor) -> Tensor:
    """Mean Euclidean distance of (B, N, 3) and (B, N, 3)."""
    return torch.linalg.vector_norm(points - target, dim=-1).mean()
