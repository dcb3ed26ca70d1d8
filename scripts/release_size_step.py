"""Stage 5 at release size (width 1024, ViT-H): a decoding in five passes and an optimisation step, measured.

    python scripts/release_size_step.py --tables body_models/smplx_ConnectionMatrices

Prints the seconds of each part and the peak of resident memory up to its end, and fails above --limit. Clips
are made up, weights as initialised; the body is a stand-in with as many vertices as the tables ask for (9383
for SMPL-X's). Blocks are recomputed in the backward pass; any configuration key may be given behind the
options, e.g. model.dst_former.use_checkpoint=false to see what it takes without. Nothing is written.
"""

import argparse
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.mask_transformer.build import build_system
from models.mask_transformer.data.items import BodyParameters, body_entries, camera_entries, local_body
from models.mask_transformer.data.module import collate
from models.mask_transformer.system import Batch, MoRoSystem
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.topology import load_connection_matrices
from moro.config import compose_config
from moro.errors import ExitOnMoroError, MoroError
from moro.geometry.boxes import box_from_points
from moro.geometry.camera import project
from moro.geometry.trajectory import TrajectoryStats
from moro.synth.motions import MotionClip, generate_clips
from moro.synth.worlds.bodies import write_standin_bodies
from moro.synth.worlds.stage import look_at

FOCAL, SIZE = 1000.0, (1920, 1080)
IN_LITTLE_ROOM = (
    "model.dst_former.use_checkpoint=true",
    "model.vqvae.meshconv.use_checkpoint=true",
    "model.vqvae.meshconv.chunk_size=16",
)
GIGABYTE = 1e9


def main(argv: list[str] | None = None) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--tables", type=Path, default=Path("body_models/smplx_ConnectionMatrices"))
    parser.add_argument("--bm_path", type=Path, default=Path("body_models"), help="folder with the open body")
    parser.add_argument("--clips", type=int, default=2, help="of the training step")
    parser.add_argument("--frames", type=int, default=16, help="per clip; decoded is one clip")
    parser.add_argument("--limit", type=float, default=20.0, help="gigabytes of resident memory")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    with ExitOnMoroError(), tempfile.TemporaryDirectory() as folder:
        peaks = measure(args, Path(folder))
        if max(peaks) > args.limit:
            raise MoroError(f"{max(peaks):.1f} GB of memory were needed, more than {args.limit:g}")


def measure(args: argparse.Namespace, folder: Path) -> list[float]:
    """Build, decode, train; the peak of memory after each, in gigabytes."""
    peaks: list[float] = []
    with timed("build", peaks):
        tables = load_connection_matrices(args.tables)
        write_standin_bodies(folder, args.bm_path, len(tables["_pool0"]))
        cfg = configuration(args, folder)
        system = fresh_system(cfg)
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in system.named_children()}
    print(", ".join(f"{name} {count:,}" for name, count in parts.items() if count), "parameters")
    clips = made_up_clips(cfg, load_body_model(folder, "smplx"), args.clips, args.frames)
    with timed(f"decode 1 x {args.frames} frames, {system.decoding.timesteps} passes", peaks):
        system.eval()
        with torch.no_grad():
            recovered = system.recover(collate(clips[:1]))
    if not torch.isfinite(recovered.vertices).all():
        raise MoroError("the decoded meshes are not finite")
    del recovered
    with timed(f"train {args.clips} x {args.frames} frames, 1 step", peaks):
        loss = one_step(cfg, system, clips)
    print(f"loss {loss:.3f}")
    return peaks


@contextmanager
def timed(name: str, peaks: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    unit = 1 if sys.platform == "darwin" else 1024
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIGABYTE)
    print(f"{name}: {time.perf_counter() - start:.1f} s, peak {peaks[-1]:.2f} GB", flush=True)


def configuration(args: argparse.Namespace, bodies: Path) -> DictConfig:
    """Stage 5 of the release with the pass it takes longest for, and what the command line says."""
    given = (
        "option=video_train",
        f"dataset.bm_path={bodies}",
        f"model.vqvae.meshconv.connection_folder={args.tables}",
        "model.mask_scheme=[[-1,inference]]",
        "trainer.accelerator=cpu",
    )
    return compose_config("config", [*given, *IN_LITTLE_ROOM, *args.overrides])


def fresh_system(cfg: DictConfig) -> MoRoSystem:
    """Weights as initialised, statistics that change nothing."""
    torch.manual_seed(cfg.seed)
    system = build_system(cfg, initialise=False)
    system.mask_transformer.load_codebook(system.vqvae.get_codebook())
    system.set_trajectory_stats(TrajectoryStats(torch.zeros(9), torch.ones(9)))
    return system


def made_up_clips(cfg: DictConfig, body: BodyModel, count: int, frames: int) -> list[Batch]:
    """Samples of generated motion seen by one camera; noise for pictures."""
    motions = [clip for clip in generate_clips(cfg.seed, 6, body) if len(clip) >= frames]
    if not motions:
        raise MoroError(f"no generated motion has {frames} frames; give fewer with --frames")
    rng = np.random.default_rng(cfg.seed)
    return [_sample(cfg, body, motions[n % len(motions)], frames, rng) for n in range(count)]


def _sample(
    cfg: DictConfig, body: BodyModel, motion: MotionClip, frames: int, rng: np.random.Generator
) -> Batch:
    """Batch keys of spec: models 0.4 of the first frames of a motion."""
    pose, betas = motion.local_pose[:frames], torch.zeros(frames, body.num_betas)
    world2cam = look_at((0.0, -4.0, 1.2), (0.0, 0.0, 1.0))
    parameters = BodyParameters(pose[:, 0], pose[:, 1:], betas, motion.pelvis[:frames] - motion.pelvis[0])
    in_world = local_body(body, parameters)
    person = in_world.moved(world2cam)
    K = torch.tensor([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    center, scale = box_from_points(project(person.joints(), K.expand(frames, 3, 3)))
    crops = rng.standard_normal((frames, 3, *cfg.dataset.crop_res), np.float32)
    return {
        **body_entries(person, in_world.joints()),
        **camera_entries(K, center, scale, torch.linalg.inv(world2cam), torch.eye(4)),
        "crop_imgs": torch.from_numpy(crops),
    }


def one_step(cfg: DictConfig, system: MoRoSystem, clips: list[Batch]) -> float:
    """One step of the optimiser with all clips as the batch; returns the loss."""
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, precision=cfg.trainer.precision,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
    )  # fmt: skip
    trainer.fit(system, DataLoader(clips, batch_size=len(clips), collate_fn=collate))
    if trainer.global_step != 1:
        raise MoroError("the optimiser made no step")
    return float(trainer.callback_metrics["train/loss"])


if __name__ == "__main__":
    main()
