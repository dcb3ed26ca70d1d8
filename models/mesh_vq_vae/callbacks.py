"""Callbacks of the tokenizer's training."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm


class StepProgress(Callback):
    """One bar over all training steps, with the time left (Lightning's own bar starts anew each epoch).

    names  logged terms shown behind it, by their short name
    """

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self._bar: tqdm | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            total = int(trainer.estimated_stepping_batches)
            self._bar = tqdm(total=total, initial=trainer.global_step, desc="training", unit="step",
                             dynamic_ncols=True, file=sys.stderr, mininterval=1.0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any,
                           batch: Any, batch_idx: int) -> None:
        if self._bar is None:
            return
        if trainer.global_step % trainer.log_every_n_steps == 0:  # reading a value waits for the device
            known = trainer.callback_metrics
            shown = {short: known[name].item() for name, short in self.names.items() if name in known}
            self._bar.set_postfix({short: f"{value:.3g}" for short, value in shown.items()}, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule,
                     exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


