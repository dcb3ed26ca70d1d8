"""What the release preset's training costs on paper: FLOPs and bytes op by op, and hours on H100s from them.

    python -m benchmarks.flops [--stages video_train ...]

Our own training code runs at full size on meta tensors, which have shapes but no numbers; every operation it
starts, forward and backward, is counted: FLOPs by torch.utils.flop_counter's formulas, bytes as what it reads
and writes. Time is the sum over operations of the larger of FLOPs / speed and bytes / bandwidth. Nothing is
measured here: the speeds are ASSUMED fractions of the data sheet's. docs/scaling.md says what is left out.
"""

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from models.backbones import build_backbone
from models.mask_transformer.build import build_mask_transformer, build_smoother
from models.mask_transformer.losses import LossWeights, MoRoLoss
from models.mask_transformer.system import MoRoSystem
from models.mesh_vq_vae.graph_conv import FullyConvAE
from models.mesh_vq_vae.network import MeshVQVAE
from models.mesh_vq_vae.quantiser import make_quantiser
from moro.config import compose_config
from moro.geometry.trajectory import TrajectoryStats

STAGES = ("pose_pretrain", "motion_pretrain", "image_pretrain", "video_pretrain", "video_train")
GPUS = (1, 8, 64)
JOINTS, KEYPOINTS = 22, 17
FLOAT = 4  # bytes
OPTIMISER_PASSES = 10  # AdamW reads p, g, m, v and writes p, m, v; clipping reads g twice and writes it

# Connection tables of the release (spec: models 1.1): points in, points out, most neighbours, valid pairs.
TABLES = {
    "_pool0": (9383, 9383, 31, 65611), "_pool1": (9383, 2618, 41, 50880), "_pool2": (2618, 2618, 24, 27692),
    "_pool3": (2618, 546, 59, 17796), "_pool4": (546, 546, 28, 7764), "_pool5": (546, 87, 84, 3731),
    "_pool6": (87, 87, 34, 1221), "_unpool6": (87, 87, 34, 1221), "_unpool5": (87, 546, 17, 3731),
    "_unpool4": (546, 546, 28, 7764), "_unpool3": (546, 2618, 15, 17796), "_unpool2": (2618, 2618, 24, 27692),
    "_unpool1": (2618, 9383, 17, 50880), "_unpool0": (9383, 9383, 31, 65611),
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """One GPU and its links: the data sheet's numbers times the fraction we assume to get of them."""

    float32: float = 0.6 * 67e12  # FLOP/s, without TF32 (torch's default)
    bfloat16: float = 0.5 * 989e12  # FLOP/s, dense
    memory: float = 0.7 * 3.35e12  # bytes/s
    within_node: float = 0.7 * 450e9  # bytes/s and direction, NVLink
    between_nodes: float = 0.7 * 50e9  # bytes/s and GPU, 400 Gb/s
    gpus_per_node: int = 8


H100 = Machine()


# ------------------------------------------------------------------------------------------------- counting


@dataclass
class Cost:
    """Of some operations; seconds by precision of training ("32", "bf16-mixed")."""

    flops: float = 0.0
    bytes: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: {"32": 0.0, "bf16-mixed": 0.0})

    def __add__(self, other: "Cost") -> "Cost":
        seconds = {kind: value + other.seconds[kind] for kind, value in self.seconds.items()}
        return Cost(self.flops + other.flops, self.bytes + other.bytes, seconds)

    def __mul__(self, factor: float) -> "Cost":
        seconds = {kind: value * factor for kind, value in self.seconds.items()}
        return Cost(self.flops * factor, self.bytes * factor, seconds)


class Counter(TorchDispatchMode):
    """Counts every operation; those within `full_precision` stay float32 in mixed precision."""

    def __init__(self, machine: Machine = H100) -> None:
        super().__init__()
        self.machine, self.cost, self.depth = machine, Cost(), 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        returned = func._schema.returns
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returned)
        if not is_view and "empty" not in func.__name__:
            self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        formula = FORMULAS.get(func._overloadpacket) or flop_registry.get(func._overloadpacket)
        flops = float(formula(*args, **kwargs, out_val=out)) if formula else 0.0
        moved = float(sum(tensor.numel() * tensor.element_size() for tensor in _tensors((args, kwargs, out))))
        machine = self.machine
        seconds = {"32": max(flops / machine.float32, moved / machine.memory)}
        seconds["bf16-mixed"] = seconds["32"]
        if self.depth == 0:  # half the bytes
            seconds["bf16-mixed"] = max(flops / machine.bfloat16, moved / 2 / machine.memory)
        self.cost = self.cost + Cost(flops, moved, seconds)

    @contextlib.contextmanager
    def full_precision(self, *_: Any, enabled: bool = False, **__: Any) -> Iterator[None]:
        """Stands in for torch.autocast, which does not know meta tensors; ours only ever switch it off."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def take(self) -> Cost:
        """What was counted since the last call."""
        cost, self.cost = self.cost, Cost()
        return cost


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Stands in for torch's attention, which on meta tensors writes out what fused kernels never do."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return attention(q, k, v, dropout_p, is_causal, scale=scale)[0]


@contextlib.contextmanager
def counting(counter: Counter) -> Iterator[None]:
    """What runs within is counted."""
    patches = {
        "torch.autocast": counter.full_precision,
        "torch.nn.functional.scaled_dot_product_attention": fused_attention,
    }
    with contextlib.ExitStack() as stack:
        for name, replacement in patches.items():
            stack.enter_context(mock.patch(name, replacement))
        stack.enter_context(counter)
        yield


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _mix(weight: Tensor, indices: Tensor, *_: Any, **__: Any) -> int:
    return 2 * indices.numel() * weight.shape[1]


def _mix_backward(grad: Tensor, weight: Tensor, indices: Tensor, *_: Any, **__: Any) -> int:
    return 2 * indices.numel() * weight.shape[1]


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten._embedding_bag: _mix,
    torch.ops.aten._embedding_bag_forward_only: _mix,
    torch.ops.aten._embedding_bag_per_sample_weights_backward: _mix_backward,
}


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Bytes kept for the backward pass, parameters not counted."""

    def __init__(self, module: nn.Module) -> None:
        self.storages: dict[int, Any] = {}
        own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                self.storages[storage._cdata] = storage
            return tensor

        super().__init__(pack, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


# ------------------------------------------------------------------------------------------------ the system


def connection_tables() -> dict[str, np.ndarray]:
    """Tables of the release's sizes; who is whose neighbour is made up."""
    rng = np.random.default_rng(0)
    return {name: _table(rng, *sizes) for name, sizes in TABLES.items()}


def _table(rng: np.random.Generator, points: int, rows: int, most: int, pairs: int) -> np.ndarray:
    table = np.zeros((rows, 1 + 2 * most), np.int32)
    table[:, 1::2], table[:, 2::2] = points, -1
    table[:, 0] = pairs // rows + (np.arange(rows) < pairs % rows)
    for row, count in zip(table, table[:, 0]):
        row[1 : 1 + 2 * count : 2] = rng.integers(0, points, count)
    return table


def build_tokenizer(vqvae: DictConfig) -> MeshVQVAE:
    """On meta tensors."""
    graph = vqvae.meshconv
    autoencoder = FullyConvAE(
        connection_tables(), graph.connection_layer_lst, graph.channel_lst, graph.weight_num_lst,
        graph.residual_rate_lst, initial=graph.initial_connection_fn, chunk_size=graph.chunk_size,
        use_checkpoint=graph.use_checkpoint,
    )  # fmt: skip
    quantiser = make_quantiser(vqvae.num_quantizer, vqvae.num_embeddings, vqvae.embedding_dim)
    return MeshVQVAE(autoencoder, quantiser).to("meta")


def build_system(cfg: DictConfig) -> MoRoSystem:
    """As the stage begins, on meta tensors."""
    vqvae = build_tokenizer(cfg.model.vqvae)
    with torch.device("meta"):
        network = build_mask_transformer(cfg.model)
        images = cfg.model.task != "motion"
        backbone = build_backbone(cfg.model.backbone, pretrained=False) if images else None
        smoother = build_smoother(cfg.model)
        loss = MoRoLoss(
            cfg.model.task, LossWeights(**cfg.model.loss), torch.zeros(JOINTS, vqvae.num_vertices),
            torch.zeros(KEYPOINTS, vqvae.num_vertices), network.mask_id,
            use_transl=cfg.model.use_transl or cfg.model.task != "image",
        )  # fmt: skip
        stats = TrajectoryStats(torch.zeros(9), torch.ones(9))
    network.dst_former.trajectory_stats = stats
    system = MoRoSystem(cfg, vqvae, backbone, network, smoother, loss, "release").train()
    system._trainer = SimpleNamespace(global_step=0)
    return system


def make_batch(cfg: DictConfig, vertices: int) -> dict[str, Tensor]:
    """Of the shapes of spec: models 0.4."""
    B, F = cfg.dataset.batch_size, cfg.dataset.clip_len
    shapes = {
        "mesh": (B, F, vertices, 3), "local_joints": (B, F, JOINTS, 3), "rotation": (B, F, 3, 3),
        "translation": (B, F, 1, 3), "bbox": (B, F, 3), "K": (B, F, 3, 3), "center": (B, F, 2),
        "scale": (B, F), "crop_imgs": (B, F, 3, *cfg.dataset.crop_res), "contact_label": (B, F - 1, 4),
        "j2d": (B, F, KEYPOINTS, 3),
    }  # fmt: skip
    if F == 1:
        del shapes["contact_label"]
    if cfg.model.task != "image" or cfg.model.use_transl:
        del shapes["j2d"]
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


# ----------------------------------------------------------------------------------------------- the stages


@dataclass(frozen=True)
class Stage:
    """One stage of training, per step and GPU."""

    name: str
    batch: str
    steps: int
    trained: int  # parameters
    frozen: int
    forward: Cost
    backward: Cost
    saved: float  # bytes kept for the backward pass, float32

    def update(self, machine: Machine = H100) -> float:
        """Seconds of clipping and optimiser."""
        return OPTIMISER_PASSES * FLOAT * self.trained / machine.memory

    def exchange(self, gpus: int, machine: Machine = H100) -> float:
        """Seconds of the all-reduce of the gradients (float32), if nothing hid it."""
        link = machine.within_node if gpus <= machine.gpus_per_node else machine.between_nodes
        return 2 * (gpus - 1) / gpus * FLOAT * self.trained / link

    def step(self, precision: str, gpus: int = 1) -> float:
        """Seconds of a step; the backward pass hides the exchange as far as it lasts."""
        forward, backward = self.forward.seconds[precision], self.backward.seconds[precision]
        return forward + max(backward, self.exchange(gpus)) + self.update()

    def hours(self, precision: str, gpus: int) -> float:
        """For as many samples as the published run sees, the batch per GPU unchanged."""
        return self.step(precision, gpus) * self.steps / gpus / 3600


def count_stage(name: str) -> Stage:
    """A training step of the release preset, averaged over its masking modes."""
    cfg = compose_config("config", [f"option={name}", "model.backbone.chunk_size=0"])  # as on a large GPU
    system = build_system(cfg)
    shares = mode_shares(cfg)
    forward, backward, saved = Cost(), Cost(), 0.0
    for mode, share in shares.items():
        counted = count_step(system, make_batch(cfg, system.vqvae.num_vertices), mode)
        forward, backward = forward + counted[0] * share, backward + counted[1] * share
        saved = max(saved, counted[2])
    trained = sum(p.numel() for p in system.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in system.parameters()) - trained
    batch = f"{cfg.dataset.batch_size} x {cfg.dataset.clip_len}"
    return Stage(name, batch, cfg.trainer.max_steps, trained, frozen, forward, backward, saved)


def mode_shares(cfg: DictConfig) -> dict[str, float]:
    """Masking modes of the stage and how often each is drawn."""
    modes = cfg.model.mask_scheme[-1][1].split("+")
    weights = [cfg.model.scheme_prob[mode] for mode in modes]
    return {mode: weight / sum(weights) for mode, weight in zip(modes, weights)}


def count_step(system: MoRoSystem, batch: dict[str, Tensor], mode: str) -> tuple[Cost, Cost, float]:
    """Forward and backward of `MoRoSystem.training_step`, without logging, and bytes saved in between."""
    system.zero_grad()
    counter, saved = Counter(), Saved(system)
    with counting(counter):
        with saved:
            batch = system.prepare(batch)
            output, tokens = system.masked_pass(batch, mode, training=True)
            mesh, frames = system.loss_mesh(batch, output.logits)
            with system.full_precision():
                loss = system.loss(batch, output, tokens.labels, mesh, frames, system.stats)["loss"]
        forward = counter.take()
        backward_in_two(counter, loss, output, system.smoother)
    return forward, counter.take(), saved.bytes


def backward_in_two(counter: Counter, loss: Tensor, output: Any, smoother: nn.Module | None) -> None:
    """First through losses and tokenizer, which are float32 at any precision, then through the networks."""
    edges = [value for value in output if isinstance(value, Tensor) and value.requires_grad]
    parameters = [] if smoother is None else list(smoother.parameters())
    with counter.full_precision():
        grads = torch.autograd.grad(loss, [*edges, *parameters], retain_graph=True, allow_unused=True)
    reached = [(edge, grad) for edge, grad in zip(edges, grads) if grad is not None]
    torch.autograd.backward(*(list(part) for part in zip(*reached, strict=True)))


def count_tokenizer() -> Stage:
    """A training step of the tokenizer; the posing of the body model is left out."""
    cfg = compose_config("mesh_vq_vae/config")
    vqvae = build_tokenizer(cfg.model.vqvae)
    counter, saved = Counter(), Saved(vqvae)
    mesh = torch.empty(cfg.dataset.batch_size, vqvae.num_vertices, 3, device="meta")
    with counting(counter), counter.full_precision():
        with saved:
            latents = vqvae.fully_conv_ae.encode(mesh)
            vqvae.vq_vae.encode(latents)
            loss = (vqvae.fully_conv_ae.decode(latents) - mesh).norm(dim=-1).mean()
        forward = counter.take()
        loss.backward()
    trained = sum(p.numel() for p in vqvae.parameters() if p.requires_grad)
    batch = f"{cfg.dataset.batch_size} x 1"
    return Stage("tokenizer", batch, cfg.trainer.max_steps, trained, 0, forward, counter.take(), saved.bytes)


# -------------------------------------------------------------------------------------------------- the table


def rows(stage: Stage) -> list[str]:
    """Cells of the table."""
    total = stage.forward + stage.backward
    state = 4 * FLOAT * stage.trained + FLOAT * stage.frozen  # weights, gradients, two moments
    cells = [
        stage.name, stage.batch, f"{stage.steps // 1000}k", f"{stage.trained / 1e6:.0f}",
        f"{total.flops / 1e12:.2f}", f"{total.bytes / 1e9:.0f}", f"{state / 1e9:.1f}",
        f"{stage.saved / 1e9:.1f}",
    ]  # fmt: skip
    for precision in ("32", "bf16-mixed"):
        cells.append(f"{stage.step(precision) * 1e3:.0f}")
        cells += [f"{stage.hours(precision, gpus):.1f}" for gpus in GPUS]
    return cells


HEAD = (
    "stage", "clips x frames", "steps", "trained, M", "TFLOP", "GB moved", "state, GB", "saved, GB",
    *(cell for kind in ("fp32", "bf16") for cell in (f"{kind}: ms", *(f"h on {gpus}" for gpus in GPUS))),
)  # fmt: skip


def table(stages: Sequence[Stage]) -> str:
    """Markdown; the last line adds up the hours."""
    lines = [HEAD, ["---"] * len(HEAD), *map(rows, stages)]
    total = [""] * len(HEAD)
    total[0] = "all"
    for place, precision in ((9, "32"), (13, "bf16-mixed")):
        for offset, gpus in enumerate(GPUS):
            total[place + offset] = f"{math.fsum(stage.hours(precision, gpus) for stage in stages):.1f}"
    return "\n".join("| " + " | ".join(line) + " |" for line in [*lines, total])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", nargs="+", default=["tokenizer", *STAGES])
    names = parser.parse_args().stages
    print(table([count_tokenizer() if name == "tokenizer" else count_stage(name) for name in names]))


if __name__ == "__main__":
    main()
