"""Train or test the mesh tokenizer.

python train_mesh_vqvae.py [preset=open] [resume=true] [mode=test] [key=value ...]
"""

import logging
import os
import warnings
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger

from models.distributed import build_trainer
from models.mesh_vq_vae.callbacks import StepProgress
from models.mesh_vq_vae.data.meshes import MeshMaker
from models.mesh_vq_vae.data.module import TokenizerData
from models.mesh_vq_vae.network import build_mesh_vqvae
from models.mesh_vq_vae.system import TokenizerSystem
from moro.body.loading import load_body_model
from moro.config import hydra_main
from moro.errors import MoroError
from moro.io.weights import load_tensors, save_tensors

NUM_BETAS = 10
SHOWN = {"train/loss": "loss", "train/v2v_error": "mm", "train/coverage": "codes", "val/v2v_error": "val mm"}
logger = logging.getLogger(__name__)


@hydra_main(config_path="configs/mesh_vq_vae", config_name="config")
def main(cfg: DictConfig) -> None:
    folder = Path("exp/mesh_vqvae") / cfg.name
    last = folder / "checkpoints" / "last.ckpt"
    training = cfg.mode == "train"
    # Lightning cannot know that our sampler continues at the step it left off
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
    if cfg.mode not in ("train", "test"):
        raise MoroError(f"mode must be train or test, not {cfg.mode}.")
    if training and cfg.resume and not last.is_file():
        raise MoroError(f"resume=true, but {last} does not exist; start with resume=false.")

    data = make_data(cfg)
    system = make_system(cfg, data, ("train", "val", "test") if training else ("test",))
    trainer = make_trainer(cfg, folder)
    if training:
        trainer.fit(system, data, ckpt_path=last if cfg.resume else None, weights_only=True)
        trainer.save_checkpoint(last)
        weights = folder / "tokenizer.safetensors"
        if trainer.is_global_zero:
            save_tensors(weights, system.mesh_vqvae.state_dict(), system.metadata(), half=True)
            logger.info("trained tokenizer: %s and %s", last, weights)
    else:
        path = Path(cfg.ckpt_path or last)
        system.load_weights(*load_tensors(path), str(path))
    trainer.test(system, data)


def make_data(cfg: DictConfig) -> TokenizerData:
    data = cfg.dataset
    return TokenizerData(
        data.train_path, data.val_path, data.test_path, num_betas=NUM_BETAS, batch_size=data.batch_size,
        num_workers=min(data.num_workers, os.cpu_count() or 1), weights=data.weights, seed=cfg.seed,
    )


def make_system(cfg: DictConfig, data: TokenizerData, splits: tuple[str, ...]) -> TokenizerSystem:
    genders = data.genders(splits)
    bodies = {g: load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type, g, NUM_BETAS) for g in genders}
    meshes = MeshMaker(bodies, cfg.dataset.canonical, cfg.dataset.normalize)
    network = build_mesh_vqvae(cfg.model.vqvae)
    return TokenizerSystem(network, meshes, OmegaConf.to_container(cfg.loss),
                           OmegaConf.to_container(cfg.optim, resolve=True), cfg.seed)


def make_trainer(cfg: DictConfig, folder: Path) -> pl.Trainer:
    arguments = OmegaConf.to_container(cfg.trainer, resolve=True)
    if arguments.get("strategy") == "fsdp":
        raise MoroError("trainer.strategy=fsdp is for the masked transformer; the tokenizer has 7 million "
                        "parameters, leave the strategy out.")
    callbacks: list[pl.Callback] = [
        ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=cfg.checkpoint_every,
                        save_top_k=1, save_last=True, enable_version_counter=False),
    ]
    if arguments.pop("enable_progress_bar", True):
        callbacks.append(StepProgress(SHOWN))
    return build_trainer(logger=make_loggers(cfg, folder), callbacks=callbacks, enable_progress_bar=False,
                         enable_model_summary=False, **arguments)


def make_loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    if cfg.wandb:
        try:
            from pytorch_lightning.loggers import WandbLogger

            loggers.append(WandbLogger(name=cfg.name, project=cfg.wandb_project, entity=cfg.wandb_entity,
                                       save_dir=folder))
        except ImportError as error:
            raise MoroError("wandb=true needs the package wandb: pip install wandb.") from error
    return loggers


if __name__ == "__main__":
    main()
