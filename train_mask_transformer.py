"""Train, validate or test the masked transformer.

    python train_mask_transformer.py option=video_train tag=mine [preset=open] [key=value ...]
    python train_mask_transformer.py option=[inference,video_train] tag=release data=egobody

Every key is explained in configs/config.yaml; the stages and their order in the README.
"""

import logging
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger

from models.distributed import build_trainer
from models.mask_transformer.build import (
    RunPaths,
    build_lifting,
    build_system,
    choose_checkpoint,
    load_weights,
    provide_stats,
    resolve_paths,
)
from models.mask_transformer.callbacks import training_callbacks
from models.mask_transformer.data.module import MotionDataModule
from models.mask_transformer.pictures import ClipPictures, picture_folder
from models.mask_transformer.results import ResultsWriter, result_folder
from models.mask_transformer.system import MoRoSystem
from moro.body.loading import load_body_model
from moro.config import hydra_main
from moro.errors import MoroError

log = logging.getLogger(__name__)


@hydra_main(config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    cfg, paths = resolve_paths(cfg)
    modes = {"train": train, "val": validate, "test": test}
    if cfg.mode not in modes:
        raise MoroError(f"mode is '{cfg.mode}'; choose train, val or test")
    modes[cfg.mode](cfg, paths, MotionDataModule(cfg))


def train(cfg: DictConfig, paths: RunPaths, data: MotionDataModule) -> None:
    checkpoint = cfg.resume_ckpt or paths.last
    if cfg.model.task == "backbone":
        if cfg.trainer.strategy == "fsdp":
            raise MoroError("trainer.strategy=fsdp has nothing to spread in backbone_pretrain; leave it out")
        fit(cfg, paths, build_lifting(cfg, checkpoint if cfg.resume_weights_only else None), data, checkpoint)
        return
    system = build_system(cfg, initialise=not cfg.resume)
    if cfg.resume or cfg.resume_weights_only:
        log.info("resuming %s from %s", "weights" if cfg.resume_weights_only else "the run", checkpoint)
        written_by_us = load_weights(system, checkpoint, strict=cfg.resume)
        if cfg.resume and not written_by_us:  # the optimiser's state and the step count come with fit
            raise MoroError(
                f"{checkpoint} is of the original code, whose optimiser state does not fit here; go on from "
                "its weights with resume_weights_only=true"
            )
    provide_stats(system, cfg, data)
    if cfg.compile:
        system.compile_blocks(cfg.compile)
    fit(cfg, paths, system, data, checkpoint)


def fit(cfg: DictConfig, paths: RunPaths, system: pl.LightningModule, data: MotionDataModule,
        checkpoint: str | Path) -> None:
    callbacks = training_callbacks(paths.checkpoints, cfg.checkpoint_every)
    trainer = make_trainer(cfg, paths, callbacks=callbacks)
    trainer.fit(system, data, ckpt_path=checkpoint if cfg.resume else None, weights_only=True)


def validate(cfg: DictConfig, paths: RunPaths, data: MotionDataModule) -> None:
    system = with_weights(cfg, choose_checkpoint(cfg, paths), data)
    make_trainer(cfg, paths).validate(system, data)


def test(cfg: DictConfig, paths: RunPaths, data: MotionDataModule) -> None:
    system = with_weights(cfg, choose_checkpoint(cfg, paths), data)
    folder = result_folder(paths.stage, cfg)
    callbacks: list[pl.Callback] = []
    if cfg.model.test.save_result:
        callbacks.append(ResultsWriter(folder, cfg.dataset.overlap_len, cfg))
    if cfg.model.test.visualize:
        if cfg.model.task != "motion":
            raise MoroError("model.test.visualize draws task motion; use it with option=motion_pretrain")
        pictures = picture_folder(paths.stage, cfg)
        body = load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type)
        callbacks.append(ClipPictures(pictures, body.faces))
        log.info("pictures: %s", pictures)
    make_trainer(cfg, paths, callbacks=callbacks, devices=1).test(system, data)
    log.info("results: %s", folder)


def with_weights(cfg: DictConfig, checkpoint: str, data: MotionDataModule) -> MoRoSystem:
    system = build_system(cfg, initialise=False)
    load_weights(system, checkpoint)
    provide_stats(system, cfg, data)
    return system


def make_trainer(cfg: DictConfig, paths: RunPaths, **options: object) -> pl.Trainer:
    """Lightning's Trainer with our loggers."""
    settings = {"default_root_dir": str(paths.stage), "logger": loggers(cfg, paths), **cfg.trainer, **options}
    return build_trainer(find_unused=True, **settings)  # some heads get no gradient in some tasks


def loggers(cfg: DictConfig, paths: RunPaths) -> list[Logger]:
    """A table of numbers (logs/version_<n>/metrics.csv) always, Weights & Biases if asked for."""
    chosen: list[Logger] = [CSVLogger(str(paths.stage), name="logs")]
    if cfg.wandb:
        try:
            from pytorch_lightning.loggers import WandbLogger

            name = "-".join(part for part in (cfg.name, cfg.benchmark) if part)
            chosen.append(WandbLogger(name, project=cfg.wandb_project, entity=cfg.wandb_entity))
        except ModuleNotFoundError as error:
            raise MoroError("wandb=true needs the package: pip install wandb") from error
    return chosen


if __name__ == "__main__":
    main()
