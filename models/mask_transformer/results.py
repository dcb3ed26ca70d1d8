"""Windows put together again and `results.pkl` (spec: models 6.3, 6.4; data 6)."""

import io
import logging
import pickle
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np
import pytorch_lightning as pl
from joblib import numpy_pickle
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from models.mask_transformer.system import Batch, Recovered
from moro.errors import MoroError
from moro.io.atomic import atomic_path

_log = logging.getLogger(__name__)

COMPRESSION = 3


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


# -------------------------------------------------------------------------------------------------- the file


def write_results(
    path: str | Path, frame_name: Sequence[str], verts: np.ndarray, contact: np.ndarray | None
) -> None:
    """Write results.pkl, whole or not at all (spec: models 6.4).

    frame_name  L image names
    verts       (L, V, 3)  camera frame, metres
    contact     (L, C)     0 or 1; None where the task has none (zeros are written)
    """
    contact = np.zeros((len(verts), 4)) if contact is None else contact
    content = {
        "frame_name": np.array(list(frame_name))[None],  # (1, L)
        "verts": np.asarray(verts, np.float32)[None],  # (1, L, V, 3)
        "contact": np.asarray(contact, np.float32)[None],  # (1, L, C)
    }
    with atomic_path(path) as temporary:
        joblib.dump(content, temporary, compress=COMPRESSION)


def read_results(path: str | Path) -> dict[str, np.ndarray]:
    """Read a joblib file of a dictionary of arrays, such as results.pkl, without running anything in it.

    returns  frame_name (1, L), verts (1, L, V, 3), contact (1, L, C), or whatever arrays the file has
    Raises MoroError if the file is missing, damaged or names anything but arrays and plain values.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _RestrictedArrays(path, _decompressed(file)).load()
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; run the test or the demo that writes it first") from error
    except (pickle.UnpicklingError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError,
            TypeError, zlib.error, MemoryError) as error:  # fmt: skip
        raise MoroError(f"{path} is not a readable result file ({error}); write it anew") from error
    if not isinstance(content, dict):
        raise MoroError(f"{path} holds no dictionary of arrays; give a results.pkl of MoRo")
    return content


def _decompressed(file: BinaryIO) -> BinaryIO:
    """joblib's compress=3 is one zlib stream; files without compression are read as well."""
    head = file.read(1)
    file.seek(0)
    if head == b"\x78":
        return io.BytesIO(zlib.decompress(file.read()))
    return io.BytesIO(file.read())


class _RestrictedArrays(numpy_pickle.NumpyUnpickler):
    """joblib's reader of arrays, which may name nothing but arrays."""

    _allowed = {
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
    }

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(str(path), file, ensure_native_byte_order=True)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which may not be loaded")
        return super().find_class(module, name)

    def load_build(self) -> None:
        """joblib reads an array where its wrapper is built, object arrays by a free unpickler: refused."""
        wrapper = self.stack[-2] if len(self.stack) > 1 else None
        state = self.stack[-1]
        if isinstance(wrapper, numpy_pickle.NumpyArrayWrapper):
            dtype = state.get("dtype") if isinstance(state, dict) else None
            if not isinstance(dtype, np.dtype) or dtype.hasobject:
                raise pickle.UnpicklingError("it has an array of objects")
            if state.get("subclass") is not np.ndarray:
                raise pickle.UnpicklingError("it has an array of an unknown kind")
        super().load_build()

    dispatch = numpy_pickle.NumpyUnpickler.dispatch.copy()
    dispatch[pickle.BUILD[0]] = load_build


# ---------------------------------------------------------------------------------------------- the callback


def result_folder(stage: Path, cfg: DictConfig, dataset_name: str | None = None) -> Path:
    """`<stage>/result_<dataset>/<mode>_<timesteps>_<topk>` (spec: models 6.4)."""
    generate = cfg.model.test.generate
    name = f"{cfg.model.mode}_{generate.timesteps}_{generate.topk}"
    if generate.topk > 1:
        name += f"_{int(time.time())}"  # sampled results differ from run to run
    return stage / f"result_{dataset_name or cfg.dataset.name}" / name


class ResultsWriter(Callback):
    """Collects the windows of each sequence and writes `<folder>/<seq_name>/results.pkl`.

    folder   result_folder(...)
    overlap  `dataset.overlap_len`
    cfg      written beside the sequences as config.yaml, interpolations and all; None: not
    Nothing is written for task motion. Windows must come in order; a sequence is written when the next
    begins.
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
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        rows = [row for batch, recovered in outputs for row in self.rows(batch, recovered)]
        for _, sequence, window in sorted(rows, key=lambda row: row[0]):
            self.add(sequence, window)

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.flush()

    on_predict_epoch_end = on_test_epoch_end

    def rows(self, batch: Batch, recovered: Recovered) -> list[tuple[int, str, dict[str, Any]]]:
        """Place in the batch, sequence and arrays of each clip; none for task motion."""
        if recovered.output.rotation is None:
            return []
        vertices = recovered.vertices.float().cpu().numpy()
        contact = None if recovered.contact is None else (recovered.contact > 0).float().cpu().numpy()
        names = frame_names(batch, len(vertices))
        places = batch.get("rows", range(len(vertices)))
        return [
            (
                place,
                batch["seq_name"][row],
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
