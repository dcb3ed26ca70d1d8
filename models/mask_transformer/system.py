"""The Lightning system: what happens to a batch in training, validation and test (spec: models 3-6)."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from models.backbones.base import Backbone
from models.backbones.vit import VisionBlock
from models.distributed import (
    log_weight,
    mean_over_processes,
    means_over_processes,
    shard_parameters,
    steps_fused,
)
from models.mask_transformer.blocks import Block, PostNormLayer
from models.mask_transformer.data.base import NOT_PER_FRAME
from models.mask_transformer.decoding import DecodingOptions, Generation, generate
from models.mask_transformer.draws import Draws, draws_of, seeded
from models.mask_transformer.evaluation import PredictedMeshes, motion_metrics
from models.mask_transformer.losses import MoRoLoss, code_loss, gumbel_tokens
from models.mask_transformer.masking import (
    MaskedTokens,
    corrupt,
    draw_mode,
    mask_ratio,
    remask,
    select_scheme,
    training_mask,
    validation_mask,
)
from models.mask_transformer.mirror import Mirror, Poses
from models.mask_transformer.network import ImageEncoding, MaskTransformer, TransformerOutput
from models.mask_transformer.noise import add_noise, noise_level
from models.mask_transformer.optimisation import build_optimizer
from models.mask_transformer.placement import LandmarkPlacement
from models.mask_transformer.tokens import TokensOnce
from models.mesh_vq_vae.network import MeshVQVAE
from moro.errors import MoroError
from moro.geometry.smoothing import smooth_in_time, smooth_rotations
from moro.geometry.trajectory import TrajectoryStats
from moro.io.weights import METADATA_KEY, own_tensors
from moro.metrics import token_accuracy

Batch = dict[str, Any]

MESHES_PER_PASS = 64  # frames decoded at once without gradient
UNSEEDED = Draws()
REPEATED = (VisionBlock, Block, PostNormLayer)
# Heads without a loss (spec: models 3.11). In task image contact has one where a batch says what stands; runs
# with trainer.strategy=fsdp do without, as they cannot know beforehand.
UNASKED = {
    "motion": (),
    "image": ("d_contact_regressor",),
    "video": ("m_pose_regressor", "m_contact_regressor"),
}


@dataclass(frozen=True)
class Recovered:
    """What a clip of frames is recovered to."""

    vertices: Tensor  # (B, F, V, 3)  camera frame, metres
    rotation: Tensor  # (B, F, 3, 3)  body → camera
    translation: Tensor  # (B, F, 1, 3)  pelvis in camera, metres
    contact: Tensor | None  # (B, F, 4|6)   logits; None in task image
    ids: Tensor  # (B, F, J)
    masked_ids: Tensor  # (B, F, J)  as decoding began
    confidence: Tensor  # (B, F, J)
    local_mesh: Tensor  # (B, F, V, 3)  without rotation, relative to the pelvis
    cano_input: Tensor | None  # (B, F, 9)  noisy trajectory, normalised; task motion only
    output: TransformerOutput  # of the last pass


class MoRoSystem(pl.LightningModule):
    """Tokenizer (frozen), backbone, masked transformer and smoother; names as in the released checkpoints.

    cfg                the whole configuration: `model`, `optim`, `trainer.max_steps`, `dataset.noise`, `seed`
    backbone           None in task motion
    smoother           None: token embeddings are decoded as they are
    loss               holds the regressors, as buffers outside the state dict
    body_id            name of the body the meshes belong to, kept in the checkpoint
    placement          None: recovered bodies stand where the network says
    mirror             None: a clip is looked at once
    """

    def __init__(
        self,
        cfg: DictConfig,
        vqvae: MeshVQVAE,
        backbone: Backbone | None,
        mask_transformer: MaskTransformer,
        smoother: nn.Module | None,
        loss: MoRoLoss,
        body_id: str,
        placement: LandmarkPlacement | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        super().__init__()
        self.cfg, self.task, self.body_id = cfg, str(cfg.model.task), body_id
        self.vqvae = vqvae.requires_grad_(False).eval()
        self.backbone = backbone
        self.mask_transformer = mask_transformer
        self.smoother = smoother
        self.loss = loss
        self.placement = placement
        self.mirror = mirror
        self.decoding = DecodingOptions(**cfg.model.test.generate)
        self.tokens_once = TokensOnce()
        self._validated = 0  # samples of the running validation that this process has had

    # ------------------------------------------------------------------------------- statistics, modes

    @property
    def stats(self) -> TrajectoryStats | None:
        """Normalisation of the canonical trajectory; kept in our checkpoints beside the state dict."""
        return self.mask_transformer.dst_former.trajectory_stats

    def set_trajectory_stats(self, stats: TrajectoryStats) -> None:
        self.mask_transformer.dst_former.set_trajectory_stats(stats)

    @property
    def needs_stats(self) -> bool:
        """Whether the task cannot do without statistics and none are set."""
        return self.task != "image" and self.stats is None

    def train(self, mode: bool = True) -> "MoRoSystem":
        super().train(mode)
        self.vqvae.eval()  # frozen parts stay in eval mode; backbone and transformer see to theirs
        return self

    # ---------------------------------------------------------------------------------- block by block

    def repeated_blocks(self) -> list[nn.Module]:
        """What backbone and transformer are made of: the units of sharding and of compilation."""
        return [module for module in self.modules() if isinstance(module, REPEATED)]

    def configure_model(self) -> None:
        """With trainer.strategy=fsdp parameters, gradients, optimiser state are spread over the processes.

        Such a run can be resumed only if every trained parameter gets a gradient; heads that nobody asks in
        this task are taken out of training.
        """
        if self.device_mesh is None:
            return
        if self.mask_transformer.token_emb.weight.requires_grad:
            raise MoroError("model.opt_token=true cannot be trained with trainer.strategy=fsdp; leave it out")
        former = self.mask_transformer.dst_former
        for name in UNASKED[self.task]:
            getattr(former, name).requires_grad_(False)
        if self.task == "motion" and self.cfg.dataset.clip_len == 1:
            former.m_contact_regressor.requires_grad_(False)
        outer = [module for module in (self.backbone, self.smoother, former) if module is not None]
        shard_parameters([*self.repeated_blocks(), *outer], self.device_mesh, {former: ["encode_image"]})

    def compile_blocks(self, backend: str) -> None:
        """torch.compile each block in place; names in checkpoints stay as they are."""
        for block in self.repeated_blocks():
            block.compile(backend=backend)

    # ------------------------------------------------------------------------------------ the pieces

    def full_precision(self) -> AbstractContextManager:
        """Meshes and geometry are computed in float32 even under mixed precision."""
        return torch.autocast(self.device.type, enabled=False)

    @torch.no_grad()
    def tokenise(self, mesh: Tensor) -> Tensor:
        """Local meshes (B, F, V, 3) to ids (B, F, J)."""
        with self.full_precision():
            meshes = mesh.float().flatten(0, 1)  # (B, F, V, 3) -> (B*F, V, 3)
            ids = torch.cat([self.vqvae.encode(chunk) for chunk in meshes.split(MESHES_PER_PASS)])
        return ids.unflatten(0, mesh.shape[:2])

    def decode_tokens(self, tokens: Tensor, frames: slice = slice(None), smooth: bool = True) -> Tensor:
        """Token embeddings (B, F, J, D) to local meshes (B, F', V, 3) of the frames `frames`.

        The smoother sees all frames; predicted tokens pass through it, true ones do not.
        """
        with self.full_precision():
            tokens = tokens.float()
            if smooth and self.smoother is not None:
                tokens = self.smoother(tokens)
            tokens = tokens[:, frames]
            B, F = tokens.shape[:2]
            flat = tokens.flatten(0, 1)  # (B, F', J, D) -> (B*F', J, D)
            chunks = [flat] if torch.is_grad_enabled() else flat.split(MESHES_PER_PASS)
            return torch.cat([self.vqvae.decode(c, quantize=False) for c in chunks]).unflatten(0, (B, F))

    def prepare(self, batch: Batch, testing: bool = False, draws: Draws = UNSEEDED) -> Batch:
        """The batch with `ids`, `cond` and the trajectories a task needs (spec: models 0.4).

        Raises MoroError if the trajectory statistics are needed and missing.
        """
        batch = dict(batch)
        if self.needs_stats:
            raise MoroError(
                "the trajectory statistics are missing; set model.trajectory_stats to amass_cum_traj.pkl "
                "(scripts/compute_trajectory_stats.py makes it) or use a checkpoint that carries them"
            )
        if "ids" in batch:  # from a motion cache
            pass
        elif "mesh" in batch:
            batch["ids"] = self.tokenise(batch["mesh"])
        else:
            shape = (*batch["bbox"].shape[:2], self.vqvae.num_tokens)
            batch["ids"] = torch.full(shape, self.mask_transformer.mask_id, device=self.device)
        if self.backbone is not None and "cond" not in batch:  # the demo hands it in, once per frame
            batch["cond"] = self.backbone(batch)
        if self.stats is not None and "rotation" in batch:
            batch["cano_traj_clean"] = self.stats.encode(batch["rotation"], batch["translation"])
        if self.task == "motion":
            batch["cano_traj_noisy"] = self.noisy_trajectory(batch, testing, draws)
        return batch

    def noisy_trajectory(self, batch: Batch, testing: bool, draws: Draws = UNSEEDED) -> Tensor:
        """(B, F, 9) normalised, from true poses with the noise of this step (spec: models 3.6)."""
        noise = self.cfg.dataset.noise
        if testing and noise is not None:
            level = (float(noise.test.transl), float(noise.test.rot))
        else:
            schedule = None if noise is None else noise.train
            level = noise_level(schedule, self.global_step, self.cfg.trainer.max_steps)
        noisy = add_noise(batch["rotation"], batch["translation"], *level, generator=draws.samples)
        return self.stats.encode(*noisy)

    def encode_image(self, batch: Batch) -> ImageEncoding | None:
        if self.task == "motion":
            return None
        return self.mask_transformer.dst_former.encode_image(batch["cond"], batch["bbox"])

    def forward(
        self, batch: Batch, ids: Tensor, image: ImageEncoding | None, cano_input: Tensor | None = None
    ) -> TransformerOutput:
        """One pass on `ids` (B, F, J), prepared batch and image encoding."""
        if self.task == "motion":
            cano_input = batch["cano_traj_noisy"]
        return self.mask_transformer(
            ids, image=image, cano_input=cano_input, cano_target=batch.get("cano_traj_clean")
        )

    # ------------------------------------------------------------------------- masked pass, two if need be

    def masked_pass(
        self, batch: Batch, mode: str, training: bool, draws: Draws = UNSEEDED
    ) -> tuple[TransformerOutput, MaskedTokens]:
        """Mask the true ids by `mode` and predict them (spec: models 4)."""
        model, ids = self.cfg.model, batch["ids"]
        image = self.encode_image(batch)
        if mode == "inference" and self.task == "video":
            tokens, cano_input = self._second_pass_input(batch, image, training, draws)
            return self(batch, tokens.ids, image, cano_input), tokens
        if training:
            mask = training_mask(mode, ids.shape, model.mask_tau, draws.samples, ids.device)
        else:
            mask = validation_mask(mode, ids.shape, model.mask_ratio, draws.samples, ids.device)
        partial = training and mode not in ("full", "inference")
        tokens = corrupt(
            ids,
            mask,
            self.mask_transformer.num_codes,
            prob_rid=model.prob_rid if partial else 0.0,
            prob_mid=model.prob_mid if partial else 1.0,
            full_label=model.full_label,
            generator=draws.samples,
        )
        return self(batch, tokens.ids, image), tokens

    @torch.no_grad()
    def _second_pass_input(
        self, batch: Batch, image: ImageEncoding, training: bool, draws: Draws
    ) -> tuple[MaskedTokens, Tensor]:
        """Predict everything once, hide the least certain again (spec: models 4.4)."""
        model, ids, mask_id = self.cfg.model, batch["ids"], self.mask_transformer.mask_id
        first = self(batch, torch.full_like(ids, mask_id), image)
        confidence, predicted = first.logits.permute(0, 2, 3, 1).float().softmax(-1).max(-1)  # (B, F, J)
        ratio = mask_ratio(len(ids), model.mask_tau, draws.samples) if training else model.mask_ratio
        hidden = remask(confidence, ratio)
        labels = ids if model.full_label else ids.masked_fill(~hidden, mask_id)
        cano_input = self.mask_transformer.dst_former.canonical_input(first.rotation, first.translation)
        return MaskedTokens(predicted.masked_fill(hidden, mask_id), labels), cano_input

    def loss_mesh(
        self, batch: Batch, logits: Tensor, draws: Draws = UNSEEDED
    ) -> tuple[Tensor | None, slice]:
        """The predicted mesh every `loss.mesh_every` steps, else None; and the frames the losses look at.

        Without a mesh they look at the true joints and train the camera alone, at a third of the cost of a
        step on CPU; the tokens are then trained by their labels.
        """
        if self.with_mesh():
            return self.differentiable_mesh(logits, draws)
        return None, self._mesh_frames(logits.shape[2], draws)

    def with_mesh(self) -> bool:
        """Whether the losses look at the predicted mesh in this training step."""
        return (self.global_step + 1) % self.cfg.model.loss.mesh_every == 0

    def differentiable_mesh(self, logits: Tensor, draws: Draws = UNSEEDED) -> tuple[Tensor, slice]:
        """Local meshes (B, F', V, 3) with gradient to the logits, and their frames (spec: models 5.1)."""
        model = self.cfg.model
        with self.full_precision():
            tokens = gumbel_tokens(
                logits.float(),
                self.mask_transformer.codebook,
                self.temperature(),
                gumbel=model.gumbel,
                straight_through=model.straight_through,
                generator=draws.samples,
            )
        frames = self._mesh_frames(tokens.shape[1], draws)
        return self.decode_tokens(tokens, frames), frames

    def _mesh_frames(self, num_frames: int, draws: Draws) -> slice:
        """All frames, or a random run of `loss.mesh_frames` neighbours."""
        wanted = self.cfg.model.loss.mesh_frames
        if wanted is None or wanted >= num_frames:
            return slice(0, num_frames)
        start = int(torch.randint(num_frames - wanted + 1, (), generator=draws.batch))
        return slice(start, start + wanted)

    def temperature(self) -> float:
        """Of the Gumbel softmax: cosine from temp_start to temp_end in training, temp_test otherwise."""
        model = self.cfg.model
        if not self.training:
            return model.temp_test
        share = min(1.0, self.global_step / (self.cfg.trainer.max_steps * model.temp_end_ratio))
        return model.temp_end + 0.5 * (model.temp_start - model.temp_end) * (1 + math.cos(math.pi * share))

    # ----------------------------------------------------------------------------------------- the steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        model = self.cfg.model
        draws = self._seed_step(batch_idx, len(batch["rotation"]))
        batch = self.prepare(batch, draws=draws)
        logged = (self.global_step + 1) % self.trainer.log_every_n_steps == 0
        if (logged or self.with_mesh()) and "mesh" not in batch:  # of a motion cache: what the tokens say
            batch["mesh"] = self.decode_tokens(self.mask_transformer.embed(batch["ids"]), smooth=False)
        mode = draw_mode(select_scheme(model.mask_scheme, self.global_step), model.scheme_prob, draws.batch)
        output, tokens = self.masked_pass(batch, mode, training=True, draws=draws)
        mesh, frames = self.loss_mesh(batch, output.logits, draws)
        with self.full_precision():
            losses = self.loss(
                batch, output, tokens.labels, mesh, frames, self.stats, self.mask_transformer.codebook
            )
        loss = mean_over_processes(losses["loss"].detach())
        self.log("train/loss", loss, prog_bar=True)
        if logged:
            if not torch.isfinite(loss):
                raise MoroError(
                    f"the loss is not finite at step {self.global_step}; lower optim.lr, or find the cause "
                    "with trainer.detect_anomaly=true"
                )
            metrics = self._metrics(batch, output, output.logits.argmax(1), tokens.labels)
            terms = means_over_processes({**losses, **metrics})
            terms["temperature"] = torch.tensor(self.temperature())
            self.log_dict({f"train/{name}": v.detach() for name, v in terms.items() if name != "loss"})
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        first = self._validated if batch_idx else 0
        self._validated = first + len(batch["rotation"])
        draws = draws_of([self.cfg.seed], len(batch["rotation"]), first)  # the same masks at every validation
        batch = self.prepare(batch, draws=draws)
        for mode in self.cfg.model.mode_list:
            output, tokens = self.masked_pass(batch, mode, training=False, draws=draws)
            logged = self._metrics(batch, output, output.logits.argmax(1), tokens.labels)
            logged["loss_ce"] = code_loss(
                output.logits, tokens.labels, self.mask_transformer.mask_id, self.cfg.model.loss.focal_gamma
            )
            self._log_epoch(logged, f"val/{mode}", len(batch["ids"]), separator="_")

    def test_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> list[tuple[Batch, Recovered]]:
        torch.manual_seed(self.cfg.seed + batch_idx)
        results = []
        for clips in equal_lengths(batch):
            recovered = self.recover(self.with_tokens(clips))
            results.append((clips, recovered))
            if "mesh" in clips:
                meshes = self._meshes(recovered.local_mesh, clips)
                logged = self._scores(clips, recovered.output, meshes)
                self._log_epoch(logged, "test/", len(recovered.ids), separator="")
        return results

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> list[tuple[Batch, Recovered]]:
        return [(clips, self.recover(self.with_tokens(clips))) for clips in equal_lengths(batch)]

    def on_test_start(self) -> None:
        self.tokens_once.forget()

    on_predict_start = on_test_start

    @torch.no_grad()
    def with_tokens(self, batch: Batch) -> Batch:
        """A single test clip of images with its `cond`; frames of the last clip are not seen again."""
        if "crop_imgs" not in batch or "img_paths" not in batch or len(batch["bbox"]) != 1:
            return batch
        paths, boxes = (names[0] for names in batch["img_paths"]), batch["bbox"][0].tolist()
        keys = [(*batch["seq_name"], path, *box) for path, box in zip(paths, boxes)]

        def make(frames: slice) -> Tensor:
            return self.backbone({"crop_imgs": batch["crop_imgs"][:, frames]})

        return {**batch, "cond": self.tokens_once.of(keys, make)}

    @torch.no_grad()
    def recover(self, batch: Batch, frames: slice = slice(None)) -> Recovered:
        """Body meshes in the camera (task motion: in the world) from a batch of equally long clips.

        `model.mode` says what is masked first: everything (inference, full), or part of the true tokens.
        Meshes are made of the frames `frames` only; the rest of what is returned is of all.
        (spec: models 6.1)
        """
        model = self.cfg.model
        batch = self.prepare(batch, testing=True)
        ids = batch["ids"]
        mask = validation_mask(model.mode, ids.shape, model.mask_ratio, device=ids.device)
        masked = ids.masked_fill(mask, self.mask_transformer.mask_id)
        mirrored = None
        if self.mirror is not None and mask.all():  # true tokens have no mirror image
            again = self.prepare(self.mirror.batch(batch), testing=True)
            mirrored = self._look(again, masked, frames)[1]  # first, as the logits of the other look are kept
        result, poses = self._look(batch, masked, frames)
        mesh, rotation, translation, contact = (
            poses if mirrored is None else self.mirror.mean(poses, mirrored)
        )
        with self.full_precision():
            if self.placement is not None:
                translation = self.placement(batch, mesh, rotation, translation, contact, frames)
            vertices = mesh @ rotation[:, frames].mT + translation[:, frames]
        return Recovered(
            vertices=vertices,
            rotation=rotation,
            translation=translation,
            contact=contact,
            ids=result.ids,
            masked_ids=masked,
            confidence=result.confidence,
            local_mesh=mesh,
            cano_input=batch.get("cano_traj_noisy"),
            output=result.output,
        )

    def _look(self, batch: Batch, masked: Tensor, frames: slice) -> tuple[Generation, Poses]:
        """Tokens generated for a prepared batch, and the poses they stand for, smoothed in time."""
        result = generate(
            self.mask_transformer,
            masked,
            image=self.encode_image(batch),
            cano_input=batch.get("cano_traj_noisy"),
            options=self.decoding,
        )
        sigma = self.cfg.model.test.smooth
        mesh = self.decode_tokens(smooth_in_time(result.tokens, sigma), frames)
        with self.full_precision():
            rotation, translation = self._final_poses(batch, result.output)
            rotation = smooth_rotations(rotation, sigma)
        contact = None if self.task == "image" else result.output.contact
        return result, Poses(mesh, rotation, translation, contact)

    def _final_poses(self, batch: Batch, output: TransformerOutput) -> tuple[Tensor, Tensor]:
        if self.task == "motion":
            start = batch["rotation"][:, :1], batch["translation"][:, :1]
            return self.stats.decode(output.cano_traj.float(), *start)
        return output.rotation.float(), output.translation.float()

    # ------------------------------------------------------------------------------- metrics and logging

    @torch.no_grad()
    def _metrics(
        self, batch: Batch, output: TransformerOutput, ids: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Metrics of one masked pass with predicted `ids` (B, F, J), and the share of right tokens."""
        mesh = self.decode_tokens(self._predicted(output.logits, ids))
        metrics = self._scores(batch, output, self._meshes(mesh, batch))
        metrics["acc"] = token_accuracy(ids, labels, self.mask_transformer.mask_id)
        return metrics

    def _predicted(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Embeddings (B, F, J, D) of a pass as `generate` would give them."""
        if not self.decoding.expectation:
            return self.mask_transformer.embed(ids)
        return logits.permute(0, 2, 3, 1).float().softmax(-1) @ self.mask_transformer.codebook

    def _scores(
        self, batch: Batch, output: TransformerOutput, meshes: PredictedMeshes
    ) -> dict[str, Tensor]:
        with self.full_precision():
            return motion_metrics(
                self.task,
                batch,
                output,
                meshes,
                self.loss.joint_regressor,
                self.stats,
                use_transl=self.cfg.model.use_transl or self.task != "image",
            )

    def _meshes(self, prediction: Tensor, batch: Batch) -> PredictedMeshes:
        """Predicted meshes beside those of the true tokens."""
        ids = batch["ids"] if "ids" in batch else self.tokenise(batch["mesh"])
        return PredictedMeshes(prediction, self.decode_tokens(self.mask_transformer.embed(ids), smooth=False))

    def _log_epoch(self, values: Mapping[str, Tensor], prefix: str, size: int, separator: str) -> None:
        named = {f"{prefix}{separator}{name}": value.float() for name, value in values.items()}
        self.log_dict(named, on_step=False, on_epoch=True, sync_dist=True, batch_size=log_weight(size))

    def _seed_step(self, batch_idx: int, rows: int) -> Draws:
        """Random numbers depend on seed, step, batch and sample alone, so that runs can be resumed.

        Those of layers (dropout, skipped branches) depend on the process instead of the sample.
        """
        numbers = (self.cfg.seed, self.global_step, batch_idx)
        torch.manual_seed(seeded(*numbers, self.global_rank).initial_seed())
        return draws_of(numbers, rows)

    # ---------------------------------------------------------------------------- optimiser, checkpoints

    def configure_optimizers(self) -> dict[str, Any]:
        return build_optimizer(self.parameters(), self.cfg.optim, steps_fused(self))

    def metadata(self) -> dict[str, str]:
        """What a weight file of ours says beside its tensors; plain strings."""
        known = self._fingerprint() | {"task": self.task}
        if self.stats is not None:
            known["trajectory_stats"] = json.dumps(
                {"mean": self.stats.mean.tolist(), "std": self.stats.std.tolist()}
            )
        return known

    def _fingerprint(self) -> dict[str, str]:
        """What must be as it was in training and cannot be seen from the shapes of the tensors."""
        former = self.cfg.model.dst_former
        return {
            "body_id": self.body_id,
            "connection_hash": self.vqvae.connection_hash,
            "num_heads": str(former.num_heads),
            "attn_len": str(former.attn_len),
        }

    def use_metadata(self, metadata: Mapping[str, str], where: str) -> None:
        """Take over the trajectory statistics.

        Raises MoroError if the file is for another body, other tables or another attention.
        """
        for key, mine in self._fingerprint().items():
            if metadata.get(key, mine) != mine:
                raise MoroError(
                    f"{where} was trained with {key} {metadata[key]}, this configuration has {mine}; use the "
                    "same preset (dataset.model_type, model.vqvae.meshconv.connection_folder, "
                    "model.dst_former)"
                )
        stats = read_stats(metadata)
        if stats is not None:
            self.set_trajectory_stats(stats)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = self.metadata()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "state_dict" in checkpoint:  # with fsdp Lightning has loaded it already
            checkpoint["state_dict"] = own_tensors(checkpoint["state_dict"], "the checkpoint")
        self.use_metadata(checkpoint.get(METADATA_KEY, {}), "the checkpoint")


def read_stats(metadata: Mapping[str, str]) -> TrajectoryStats | None:
    """The trajectory statistics a file of ours carries."""
    if "trajectory_stats" not in metadata:
        return None
    values = json.loads(metadata["trajectory_stats"])
    return TrajectoryStats(torch.tensor(values["mean"]), torch.tensor(values["std"])).validate()


def equal_lengths(batch: Batch) -> Iterator[Batch]:
    """Parts of a test batch whose clips have the same number of real frames, cut to it.

    A clip must not see padding, and the tokens to be masked are ranked over a whole clip. Parts have
    the key `rows`: which rows of the batch they are.
    """
    lengths = batch.get("lengths")
    if lengths is None:
        yield batch
        return
    longest = int(lengths.max())
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten().tolist()
        part = {key: _select(key, v, rows, length, longest) for key, v in batch.items() if key != "lengths"}
        yield {**part, "rows": rows}


def _select(key: str, value: Any, rows: list[int], length: int, longest: int) -> Any:
    """Rows of the batch, and the first `length` frames where the entry has frames."""
    if isinstance(value, Tensor):
        value = value[rows]
        if key == "contact_label":  # one for each pair of frames
            return value[:, : length - 1]
        per_frame = key not in NOT_PER_FRAME and value.ndim > 1 and value.shape[1] == longest
        return value[:, :length] if per_frame else value
    if isinstance(value, list) and len(value) == longest and isinstance(value[0], (list, tuple)):
        return [[names[row] for row in rows] for names in value[:length]]  # [frame][batch]
    return [value[row] for row in rows] if isinstance(value, (list, tuple)) else value
