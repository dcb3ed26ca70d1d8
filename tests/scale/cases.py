"""Small training runs that give the same whatever the number of processes; as a program, one of them.

    python -m tests.scale.cases <folder> <rank> <processes>

The results of each process are written to <folder>/<rank>.pt.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor

from models.distributed import build_trainer, process_rank
from models.mask_transformer.callbacks import NewestCheckpoint
from models.mask_transformer.system import MoRoSystem
from models.mesh_vq_vae.data.meshes import MeshMaker
from models.mesh_vq_vae.data.module import TokenizerData
from models.mesh_vq_vae.network import build_mesh_vqvae
from models.mesh_vq_vae.quantiser import EMAQuantiser
from models.mesh_vq_vae.system import TokenizerSystem
from moro.body.topology import build_connection_matrices, save_connection_matrices
from tests.mask_transformer.fake_data import FakeClips, FakeDataModule, small_config, small_system
from tests.mesh_vq_vae.conftest import make_small_body
from tests.mesh_vq_vae.test_data import write_file

Result = dict[str, Any]
STEPS = 4
VIT = ("type=vit", "out_HW=[2,2]", "out_C=16", "depth=2", "num_heads=2", "weights=null", "chunk_size=0")


# ------------------------------------------------------------------------------------------------- quantiser


def quantiser(folder: Path, processes: int) -> Result:
    """Codebooks after three updates: enough rows for all codes and too few, both kinds of reset."""
    found = {}
    for codes in (8, 70):
        for reset in ("first", "random"):
            torch.manual_seed(0)
            module = EMAQuantiser(codes, 3, decay=0.5, reset=reset)
            for step in range(3):
                latents = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(step))
                share = latents.chunk(processes)[process_rank()]
                out = module(share, torch.Generator().manual_seed(step))
            found |= {f"{codes}/{reset}/{name}": value for name, value in module.state_dict().items()}
            found[f"{codes}/{reset}/perplexity"] = out.perplexity
    return found


# ------------------------------------------------------------------------------------------------- tokenizer


def tokenizer(folder: Path, processes: int) -> Result:
    """A few steps, validation at sizes that cannot be shared equally, and a test."""
    body = make_small_body()
    tables = build_connection_matrices(body.faces.numpy(), body.num_vertices, [40, 12])
    own = folder / f"tables_{processes}_{process_rank()}"
    save_connection_matrices(own, tables)
    cfg = OmegaConf.create({
        "num_embeddings": 16, "embedding_dim": 4, "decay": 0.9, "num_quantizer": 1, "shared_codebook": False,
        "num_tokens": 12, "reset": "random", "center": True,
        "meshconv": {
            "connection_folder": str(own), "initial_connection_fn": "_pool0.npy",
            "connection_layer_lst": [f"pool{i}" for i in range(4)] + [f"unpool{i}" for i in (3, 2, 1, 0)],
            "channel_lst": [6, 6, 8, 4, 8, 6, 6, 3], "weight_num_lst": [3, 0, 3, 3, 3, 3, 0, 3],
            "residual_rate_lst": [0, 1, 0, 0, 0, 0, 1, 0],
        },
    })
    files = [write_file(own / f"{size}.npz", size, seed=size) for size in (30, 20, 13, 9)]
    data = TokenizerData(files[:2], files[2:], files[2:3], num_betas=10, batch_size=8 // processes, seed=5)
    torch.manual_seed(0)
    weights = {"commitment": 0.25, "v2v": 1.0}
    optim = {"lr": 3e-3, "weight_decay": 1e-5}
    system = TokenizerSystem(build_mesh_vqvae(cfg), MeshMaker({"neutral": body}), weights, optim, seed=1)
    run = trainer(processes, STEPS)
    run.fit(system, data)
    found = outcome(run, system)
    return found | {"test": run.test(system, data, verbose=False)[0]}


# ----------------------------------------------------------------------------------------- transformer stages


class Clips(FakeClips):
    """With crops beside landmarks, and some people who nearly stand still, on all feet.

    Not quite: tokens of equal frames would be equally certain, and which are hidden a matter of rounding.
    """

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        sample = super().item(index, rng)
        if index % 3 == 1:
            sample |= {k: v[:1].lerp(v, 0.05) for k, v in sample.items() if torch.is_tensor(v)}
            if "contact_label" in sample:
                sample["contact_label"].fill_(1)
        images = torch.randn(len(sample["bbox"]), 3, 32, 32, generator=torch.Generator().manual_seed(index))
        return {**sample, "crop_imgs": images}


class Data(FakeDataModule):
    """Seven clips to validate on: no even number of processes shares them equally."""

    def datasets(self, split: str) -> list[FakeClips]:
        return [Clips(self.cfg, split, size=8 if split == "train" else 7)]


def motion(folder: Path, processes: int) -> Result:
    """Random masks of different size in each clip, noise on the trajectory."""
    noise = "dataset.noise={train: {schedule: [-1, 0.5], transl: [0.0, 0.05], rot: [0.0, 2.0]}}"
    return stage("motion_pretrain", processes, noise)[0]


def video(folder: Path, processes: int) -> Result:
    """Both passes of the inference scheme, Gumbel noise, the smoother, meshes of part of the clip."""
    words = ("model.mask_scheme=[[-1,inference+random]]", "model.loss.mesh_frames=3")
    return stage("video_train", processes, *words)[0]


def fsdp(folder: Path, processes: int) -> Result:
    """The ViT trained with its parameters spread over the processes; stopped and resumed."""
    strategy = {"strategy": "fsdp"} if processes > 1 else {}
    words = ["model.dst_former.aligned=false", *(f"model.backbone.{word}" for word in VIT)]
    callback = NewestCheckpoint(folder / f"fsdp_{processes}", every_n_steps=2)
    found, system = stage("video_pretrain", processes, *words, callbacks=(callback,), **strategy)
    size = sum(parameter.numel() for parameter in local_parameters(system.backbone))
    last = callback.last_model_path
    resumed = stage("video_pretrain", processes, *words, checkpoint=last, max_steps=6, **strategy)[0]
    return {**found, "resumed": resumed["terms"], "size": size}


def local_parameters(module: torch.nn.Module) -> list[Tensor]:
    return [getattr(parameter, "_local_tensor", parameter) for parameter in module.parameters()]


def stage(name: str, processes: int, *words: str, checkpoint: str | None = None,
          **options: Any) -> tuple[Result, MoRoSystem]:
    # the bias of the keys has no gradient; of what rounding leaves of that, Adam makes steps of full length
    words = (f"dataset.batch_size={4 // processes}", "model.dst_former.qkv_bias=false", *words)
    cfg = small_config(name, *words)
    system, data = small_system(cfg), Data(cfg)
    for module in system.modules():
        if hasattr(module, "drop_path"):
            module.drop_path = 0.0  # is drawn by process
    if system.needs_stats:
        system.set_trajectory_stats(data.trajectory_stats())
    run = trainer(processes, **{"max_steps": STEPS, "gradient_clip_val": 1.0, **options})
    run.fit(system, data, ckpt_path=checkpoint, weights_only=True)
    return outcome(run, system), system


# ------------------------------------------------------------------------------------------------- the runs


class Terms(pl.Callback):
    """What was logged at each training step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        logged = run.callback_metrics.items()
        self.steps.append({name: float(value) for name, value in logged if name.startswith("train/")})


def trainer(
    processes: int, max_steps: int, callbacks: tuple[pl.Callback, ...] = (), **options: Any
) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return build_trainer(
        find_unused=True, devices=processes, accelerator="cpu", max_steps=max_steps, log_every_n_steps=1,
        callbacks=[Terms(), *callbacks], enable_checkpointing=bool(callbacks), num_sanity_val_steps=0,
        check_val_every_n_epoch=None, val_check_interval=4, **quiet, **options,
    )  # fmt: skip


def outcome(run: pl.Trainer, system: pl.LightningModule) -> Result:
    """Logged training terms step by step, validation metrics, and the weights."""
    terms = next(callback for callback in run.callbacks if isinstance(callback, Terms)).steps
    metrics = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
    return {"terms": terms, "val": metrics, "state": run.strategy.lightning_module_state_dict()}


CASES: dict[str, Callable[[Path, int], Result]] = {
    case.__name__: case for case in (quantiser, tokenizer, motion, video, fsdp)
}


def main(folder: Path, rank: int, processes: int) -> None:
    # Lightning takes these for processes started by a cluster; a file, not a port, brings them together
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(processes)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=processes
    )
    torch.save({name: case(folder, processes) for name, case in CASES.items()}, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
