"""Small worlds in the formats of the video data sets, made once per session."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from scipy.ndimage import binary_dilation

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.module import build_dataset
from moro.config import compose_config
from moro.geometry.image import IMAGE_MEAN, IMAGE_STD
from moro.render.raster import rasterise
from moro.synth.worlds import BODIES, WorldSize, make_world
from scripts.preprocess import process_egobody_bbox, process_prox_bbox

FRAMES = 5


@dataclass(frozen=True)
class World:
    """A written world and the configuration that reads it."""

    root: Path
    cfg: DictConfig

    def build(self, split: str = "test", root: Path | None = None, **dataset: Any) -> ClipDataset:
        """The data set of a split; `compat` and `debug` belong to the root of the configuration."""
        top = {key: dataset.pop(key) for key in ("compat", "debug") if key in dataset}
        changes = {**top, "dataset": {"dataset_root": str(root or self.root), **dataset}}
        return build_dataset(OmegaConf.merge(self.cfg, changes), split)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def world(tmp_path_factory, repository: Path) -> Callable[[str], World]:
    """World of a format by name, with boxes, made when first asked for. Never write into it."""
    out = tmp_path_factory.mktemp("worlds")

    @functools.cache
    def of(name: str) -> World:
        root = make_world(name, out, 0, WorldSize(FRAMES, 2), repository / "body_models")
        arguments = ["--root", str(root), "--jobs", "1"]
        if name == "egobody":
            process_egobody_bbox.main(arguments)
        if name == "prox":
            process_prox_bbox.main(arguments)
        cfg = compose_config(
            "config", [f"data={name}", f"dataset.bm_path={out / BODIES}", "dataset.clip_len=3"]
        )
        OmegaConf.set_struct(cfg, False)
        cfg.dataset.overlap_len = 1
        return World(root, cfg)

    return of


def picture_of(item: dict[str, Any], frame: int) -> np.ndarray:
    """(256, 256, 3) the crop of one frame, 0 to 255."""
    crop = item["crop_imgs"][frame].movedim(0, -1).numpy()
    return 255 * (crop * np.array(IMAGE_STD) + np.array(IMAGE_MEAN))


def crop_camera(item: dict[str, Any], frame: int) -> torch.Tensor:
    """(3, 3) K of the crop."""
    side = 200 * item["scale"][frame]
    K = item["K"][frame].clone()
    K[:2, 2] -= item["center"][frame] - side / 2
    K[:2] *= 256 / side
    return K


@pytest.fixture(scope="session")
def silhouette() -> Callable[..., tuple[float, float]]:
    """Share of the person's (orange) pixels that the labelled mesh covers, and of the mesh's upper half that
    is orange; a pixel of tolerance."""

    def compare(item: dict[str, Any], faces: torch.Tensor, frame: int) -> tuple[float, float]:
        picture = picture_of(item, frame)
        orange = picture[..., 0] - picture[..., 2] > 50
        vertices = item["mesh"][frame] @ item["rotation"][frame].T + item["translation"][frame]
        mesh = rasterise(vertices, faces, crop_camera(item, frame), (256, 256)).face_ids().numpy() >= 0
        rows = np.flatnonzero(mesh.any(1))
        upper = mesh.copy()
        upper[(rows[0] + rows[-1]) // 2 :] = False
        covered = (orange & binary_dilation(mesh)).sum() / orange.sum()
        return covered, (upper & binary_dilation(orange)).sum() / upper.sum()

    return compare
