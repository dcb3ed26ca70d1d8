"""A training item of EgoBody beside the same item built step by step, as the original's loader does."""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.harness import Options, Row, Run, Target
from models.mask_transformer.data.egobody import EgoBodyDataset
from models.mask_transformer.data.module import build_dataset
from moro.config import compose_config
from moro.geometry.image import IMAGE_MEAN, IMAGE_STD
from moro.synth.worlds import BODIES, WorldSize, make_world
from tests.data.twin import GREY_LEVEL, plain_egobody

LARGEST = (1 - min(IMAGE_MEAN)) / min(IMAGE_STD)  # value of a normalised crop


def rows(options: Options) -> list[Row]:
    frames, world = 4 if options.quick else 24, str(options.work / "world")
    return [
        Row(
            f"data.egobody-{frames}", "training item of EgoBody", f"{frames} frames, 1920x1080",
            partial(item, world, frames), Target(), files=partial(write_world, world, frames),
            units=frames, tolerance=GREY_LEVEL / LARGEST,
        )
    ]  # fmt: skip


def write_world(folder: str, frames: int) -> None:
    make_world("egobody", Path(folder), 0, WorldSize(frames, 1), Path("body_models"))


def item(folder: str, frames: int, variant: str) -> Run:
    """An item whose clip gets a body-part crop; the rest of it is the same for every clip.

    On one thread, as in a worker of the loader, whose neighbours have the other cores.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset = training_set(Path(folder), frames)

    def run() -> dict[str, Tensor]:
        rng = np.random.default_rng(0)
        made = plain_egobody(dataset, 0, rng) if variant == "plain" else dataset.item(0, rng)
        return {key: value for key, value in made.items() if isinstance(value, Tensor)}

    return run


def training_set(folder: Path, frames: int) -> EgoBodyDataset:
    cfg = compose_config(
        "config",
        ["data=egobody", f"dataset.clip_len={frames}", "dataset.overlap_len=0", "mode=train",
         f"dataset.bm_path={folder / BODIES}", "dataset.extreme_crop_aug_prob=1.0"],
    )  # fmt: skip
    OmegaConf.set_struct(cfg, False)
    cfg.dataset.dataset_root = str(folder / "EgoBody")
    return build_dataset(cfg, "train")
