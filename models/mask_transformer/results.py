"""Windows put together again and written as `results.pkl` (spec: models 6.3, 6.4; data 6)."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from models.mask_transformer.system import Batch, Recovered
from moro.io.atomic import atomic_path
from moro.io.results import write_results

_log = logging.getLogger(__name__)

# ------------------------------------------------------------------------------------------------- stitching


def stitch_windows(windows: Sequence[np.ndarray], overlap: int) -> np.ndarray:
    """Frames of a sequence from windows that share `overlap` frames with their neighbours (spec: models 6.3).

    windows  in order, each (F_i, *); the last may be shorter
    returns  (L, *): each half of an overlap is taken from the window in which it lies farther inside.
             A window with nothing beyond its overlap is left out.
    """
    windows = [window for n, window in enumerate(windows) if n == 0 or len(window) > overlap]
    starts = np.cumsum([0, *(len(window) - overlap for window in windows[:-1])])
    dtype = np.result_type(*(window.dtype for window in windows))  # names may differ in length
    stitched = np.empty((starts[-1] + len(windows[-1]), *windows[0].shape[1:]), dtype)
    for start, window in zip(starts, windows):  # later windows overwrite from the middle of the overlap on
        skip = overlap // 2 if start else 0
        stitched[start + skip : start + len(window)] = window[skip:]
    return stitched


# ---------------------------------------------------------------------------------------------- the callback


def result_folder(stage: Path, cfg: DictConfig, dataset_name: str | None = None) -> Path:
    """`<stage>/result_<dataset>/<mode>_<timesteps>_<topk>` (spec: models 6.4)."""
    name = mode_name(cfg)
    if cfg.model.test.generate.topk > 1:
        name += f"_{int(time.time())}"  # sampled results differ from run to run
    return stage / f"result_{dataset_name or cfg.dataset.name}" / name


def mode_name(cfg: DictConfig) -> str:
    """`<mode>_<timesteps>_<topk>`, how results were decoded."""
    generate = cfg.model.test.generate
    return f"{cfg.model.mode}_{generate.timesteps}_{generate.topk}"


class ResultsWriter(Callback):
    """Collects the windows of each sequence and writes `<folder>/<seq_name>/results.pkl`.

    folder   result_folder(...)
    overlap  `dataset.overlap_len`
    cfg      written beside the sequences as config.yaml, interpolations and all; None: not
    Windows must come in order; a sequence is written when the next begins. Nothing is for task motion.
    """

    def __init__(self, folder: Path, overlap: int, cfg: DictConfig | None = None) -> None:
        self.folder, self.overlap, self.cfg = folder, overlap, cfg
        self.written: list[Path] = []
        self._name: str | None = None
        self._windows: list[dict[str, Any]] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.cfg is not None:
            with atomic_path(self.folder / "config.yaml") as temporary:
                temporary.write_text(OmegaConf.to_yaml(self.cfg))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        rows = [row for batch, recovered in outputs for row in self.rows(batch, recovered, batch_idx)]
        for _, sequence, window in sorted(rows, key=lambda row: row[0]):
            self.add(sequence, window)

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.flush()

    on_predict_epoch_end = on_test_epoch_end

    def rows(
        self, batch: Batch, recovered: Recovered, batch_idx: int
    ) -> list[tuple[int, str, dict[str, Any]]]:
        """Place in the batch, sequence and arrays of each clip."""
        if recovered.output.rotation is None:
            return []
        vertices = recovered.vertices.float().cpu().numpy()
        contact = None if recovered.contact is None else (recovered.contact > 0).float().cpu().numpy()
        names = frame_names(batch, len(vertices))
        places = batch.get("rows", range(len(vertices)))
        sequences = batch.get("seq_name") or [f"clip_{batch_idx:05d}_{place}" for place in places]
        return [
            (
                place,
                sequences[row],
                {
                    "verts": vertices[row],
                    "contact": None if contact is None else contact[row],
                    "names": None if names is None else np.array(names[row]),
                },
            )
            for row, place in enumerate(places)
        ]

    def add(self, sequence: str, window: dict[str, Any]) -> None:
        """The next window: verts (F, V, 3), contact (F, C) or None, names (F,) or None."""
        if sequence != self._name:
            self.flush()
            self._name = sequence
        self._windows.append(window)

    def flush(self) -> None:
        """Write the sequence collected so far."""
        if not self._windows:
            return
        parts = {
            key: None
            if self._windows[0][key] is None
            else stitch_windows([window[key] for window in self._windows], self.overlap)
            for key in ("verts", "contact", "names")
        }
        path = self.folder / self._name / "results.pkl"
        if parts["names"] is None:  # no images
            parts["names"] = [f"{frame:06d}" for frame in range(len(parts["verts"]))]
        write_results(path, parts["names"], parts["verts"], parts["contact"])
        self.written.append(path)
        _log.info("%s: %d frames", path, len(parts["verts"]))
        self._windows, self._name = [], None


def frame_names(batch: Batch, num_clips: int) -> list[list[str]] | None:
    """Base names of the images, [batch][frame]; None where a data set has no images."""
    paths = batch.get("img_paths")  # [frame][batch] after collation
    if paths is None:
        return None
    return [[Path(names[row]).name for names in paths] for row in range(num_clips)]
