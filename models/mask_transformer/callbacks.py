"""Callbacks of training: checkpoints and what is logged beside the losses."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, ModelCheckpoint


class NewestCheckpoint(ModelCheckpoint):
    """Every n steps: the newest as `step=<n>.ckpt` and `last.ckpt` (spec: models 3.12); also at the last step
    and when stopped by an error."""

    def __init__(self, folder: Path, every_n_steps: int) -> None:
        super().__init__(
            dirpath=folder,
            filename="{step}",
            every_n_train_steps=every_n_steps,
            save_top_k=1,
            save_last=True,
            save_on_exception=True,
            enable_version_counter=False,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        super().on_train_batch_end(trainer, *rest)
        finished = 0 < trainer.max_steps <= trainer.global_step
        if finished and self._last_global_step_saved != trainer.global_step and not trainer.fast_dev_run:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: by now Lightning counts the unfinished epoch as finished; a resumed run would skip it."""


class StepTime(Callback):
    """Logs how long a step takes on average, data included, as `train/seconds_per_step`."""

    def __init__(self) -> None:
        self._since: tuple[float, int] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step, now = trainer.global_step, time.perf_counter()
        if self._since is None:
            self._since = now, step
        elif step % trainer.log_every_n_steps == 0 and step > self._since[1]:
            pl_module.log("train/seconds_per_step", (now - self._since[0]) / (step - self._since[1]))
            self._since = now, step


def training_callbacks(checkpoints: Path, every_n_steps: int) -> list[Callback]:
    return [NewestCheckpoint(checkpoints, every_n_steps), LearningRateMonitor("step"), StepTime()]
