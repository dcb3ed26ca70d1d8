"""Which files a demo run needs, and one message for all that are missing (docs/files.md)."""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from models.mask_transformer.build import RunPaths
from moro.errors import MoroError

PROJECT = "the download folder linked from https://mikeqzy.github.io/MoRo"
DETECTOR = ("pose_detection.tflite", "pose_landmark_full.tflite")


def check_files(cfg: DictConfig, paths: RunPaths) -> None:
    """Raises MoroError naming every missing file, where it belongs and where it is to be had."""
    missing = [f"{path} ({source})" for path, source in required_files(cfg, paths) if not path.exists()]
    if not missing:
        return
    advice = "" if cfg.dataset.model_type == "open" else " preset=open needs no file under licence."
    raise MoroError(f"the demo lacks {len(missing)} of its files: {'; '.join(missing)}.{advice}")


def required_files(cfg: DictConfig, paths: RunPaths) -> Iterator[tuple[Path, str]]:
    """Each file or folder with where it comes from."""
    kind = str(cfg.dataset.model_type)
    body = Path(cfg.dataset.bm_path) / kind / f"{kind.upper()}_NEUTRAL.npz"
    body = body.with_suffix(".pkl") if body.with_suffix(".pkl").exists() else body  # as good
    shipped = "part of this repository"
    licensed = kind != "open"
    yield body, "SMPL-X v1.1, https://smpl-x.is.tue.mpg.de" if licensed else shipped
    yield Path(cfg.model.vqvae.meshconv.connection_folder), PROJECT if licensed else shipped
    if cfg.model.ckpt_path is not None:
        yield Path(cfg.model.ckpt_path), "model.ckpt_path"
    elif cfg.model.release_ckpt is None:
        yield paths.last, f"released weights, {PROJECT}"
        if cfg.model.trajectory_stats is not None and not paths.last.exists():  # our own weights carry them
            source = "trajectory statistics, computed from AMASS: docs/files.md"
            yield Path(cfg.model.trajectory_stats), source
    for name in DETECTOR:
        yield Path(cfg.demo.detector_folder) / name, "run: python scripts/fetch_demo_files.py"
