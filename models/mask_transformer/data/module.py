"""From a data set's name to loaders (spec: data 4.8, 4.9)."""

import importlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from models.distributed import shard_of
from models.mask_transformer.data.base import NOT_PER_FRAME, ClipDataset
from models.mask_transformer.data.mixed import MixedDataset
from moro.errors import MoroError
from moro.geometry.trajectory import STATISTICS_CLIP_LENGTH, TrajectoryStats, stats_from_clips

_log = logging.getLogger(__name__)

# Module below models.mask_transformer.data with build(cfg, split), by dataset.name.
FORMATS = {
    "amass": "amass",
    "bedlam": "bedlam",
    "egobody": "egobody",
    "coco": "image",
    "h36m": "image",
    "mpi_inf_3dhp": "image",
    "mpii": "image",
    "rich": "rich",
    "prox": "prox",
    "open": "open_motion",
}
SPLITS = ("train", "val", "test")
TEST_ONLY = ("rich", "prox")
NO_VALIDATION = ("h36m", "mpi_inf_3dhp")  # members of a mixture without a validation split (spec: data 4.3)


def build_dataset(cfg: DictConfig, split: str) -> Dataset:
    """The data set `cfg.dataset.name` (not mixed) of one split (spec: data 4.9).

    split  train | val | test
    Raises MoroError for an unknown name; what a format's files lack, its own module says.
    """
    name = cfg.dataset.name
    if name not in FORMATS:
        raise MoroError(f"unknown dataset.name '{name}'; choose one of {', '.join((*FORMATS, 'mixed'))}")
    module = importlib.import_module(f"models.mask_transformer.data.{FORMATS[name]}")
    return module.build(cfg, split)


def member_config(cfg: DictConfig, name: str) -> DictConfig:
    """Configuration of one member of a mixture: its own name, its own folder."""
    changes = {"dataset": {"name": name, "dataset_root": cfg.dataset.roots.get(name)}}
    return OmegaConf.merge(cfg, changes)


class ResumableSampler(DistributedSampler):
    """Shuffled (epoch, index) pairs of this process; the first `skip` of the first pass are left out.

    The order depends on seed and epoch only, so a resumed run goes on with the sample it stopped at.
    """

    def __init__(
        self, dataset: Dataset, seed: int, rank: int = 0, world_size: int = 1, skip: int = 0
    ) -> None:
        super().__init__(dataset, world_size, rank, shuffle=True, seed=seed, drop_last=world_size > 1)
        self.skip = skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skip, self.skip = self.skip, 0
        for index in list(super().__iter__())[skip:]:
            yield self.epoch, index


class MotionDataModule(pl.LightningDataModule):
    """Loaders of the data set(s) named in the configuration.

    Training is shuffled and drops the last partial batch; validation has one loader per member of a mixture;
    test keeps the order. Results do not depend on `num_workers`.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self._members: list[Dataset] = []  # all that were made, for the report

    def datasets(self, split: str) -> list[Dataset]:
        """The members that have this split.

        Raises one MoroError with what all of them lack.
        """
        dataset = self.cfg.dataset
        if dataset.name != "mixed":
            if split == "train" and dataset.name in TEST_ONLY:
                raise MoroError(f"{dataset.name} has no training split; use mode=test or another data=")
            return self._built([self.cfg], split)
        names = list(dataset.sub_datasets or [])
        if not names:
            raise MoroError("dataset.name=mixed needs dataset.sub_datasets, e.g. [egobody, bedlam]")
        if split != "train":
            names = [name for name in names if name not in NO_VALIDATION]
        return self._built([member_config(self.cfg, name) for name in names], split)

    def _built(self, configs: list[DictConfig], split: str) -> list[Dataset]:
        members, problems = [], []
        for cfg in configs:
            try:
                members.append(build_dataset(cfg, split))
            except MoroError as error:
                problems.append(str(error).rstrip("."))
        if problems:
            raise MoroError("; ".join(problems))
        self._members += members
        return members

    def teardown(self, stage: str) -> None:
        """At the end of a run: how many images could not be read."""
        for member in self._members:
            if (reader := getattr(member, "reader", None)) is not None and (report := reader.report()):
                _log.warning("%s: %s", type(member).__name__, report)

    def trajectory_stats(self) -> TrajectoryStats:
        """Statistics of open motion where that is trained on, else of AMASS (spec: models 3.7, data 2.5).

        Raises MoroError if AMASS is not there.
        """
        cfg = self.cfg
        if cfg.dataset.name == "open":
            return stats_from_clips(self._training_set().trajectory_clips())
        cfg = cfg if cfg.dataset.name == "amass" else member_config(cfg, "amass")
        root = Path(cfg.dataset.dataset_root or cfg.dataset.roots.amass)
        if not root.is_dir():
            raise MoroError(
                f"the trajectory statistics are needed, but neither {cfg.model.trajectory_stats} nor AMASS "
                f"at {root} is there; put the file there (scripts/compute_trajectory_stats.py makes it where "
                "AMASS is), or use a checkpoint that carries them"
            )
        whole = OmegaConf.merge(cfg, {"debug": False, "dataset": {"clip_len": STATISTICS_CLIP_LENGTH}})
        return stats_from_clips(build_dataset(whole, "train").trajectory_clips())

    def train_dataloader(self) -> DataLoader:
        dataset, trainer = self._training_set(), self.trainer
        sampler = ResumableSampler(
            dataset,
            self.cfg.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if len(sampler) < self.cfg.dataset.batch_size:
            raise MoroError(
                f"the training set has {len(sampler)} samples, less than dataset.batch_size="
                f"{self.cfg.dataset.batch_size}; lower it or check the data folder"
            )
        # of a resumed run; after whole epochs the next one starts afresh
        batches = len(sampler) // self.cfg.dataset.batch_size
        sampler.skip = self._finished_batches() % batches * self.cfg.dataset.batch_size
        return self._loader(dataset, "num_workers", sampler=sampler, drop_last=True)

    def val_dataloader(self) -> list[DataLoader]:
        return [self._sequential(dataset) for dataset in self.datasets("val")]

    def test_dataloader(self) -> list[DataLoader]:
        return [self._sequential(dataset) for dataset in self.datasets("test")]

    predict_dataloader = test_dataloader

    def _sequential(self, dataset: Dataset) -> DataLoader:
        """Every sample once, in one process or another."""
        share = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader(dataset, "num_workers_val", sampler=shard_of(len(dataset), *share))

    def _training_set(self) -> ClipDataset:
        members = self.datasets("train")
        if self.cfg.dataset.name != "mixed":
            return members[0]
        return MixedDataset(members, self.cfg.dataset.probs, self.cfg.seed)

    def _finished_batches(self) -> int:
        """Batches of the running epoch that a resumed run has already seen."""
        if self.trainer is None:
            return 0
        # not `completed`: checkpoints are written before a batch counts as that
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.processed

    def _loader(self, dataset: Dataset, workers_key: str, **options: Any) -> DataLoader:
        processes = self.trainer.num_devices if self.trainer else 1  # of this machine
        workers = min(self.cfg.dataset[workers_key], max(1, (os.cpu_count() or 1) // processes))
        return DataLoader(
            dataset,
            batch_size=self.cfg.dataset.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            generator=torch.Generator().manual_seed(self.cfg.seed),  # leaves the global one alone
            **options,
        )


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Default collation; shorter clips, of a sequence's end, are padded.

    A padded batch has the key `lengths` (B,): real frames of each clip. Padding repeats the last frame.
    """
    lengths = [_num_frames(sample) for sample in samples]
    longest = max(lengths)
    if len(set(lengths)) > 1:
        samples = [_pad(sample, length, longest) for sample, length in zip(samples, lengths)]
    batch = torch.utils.data.default_collate(samples)
    if len(set(lengths)) > 1:
        batch["lengths"] = torch.tensor(lengths)
    return batch


def _num_frames(sample: dict[str, Any]) -> int:
    """Clip length, from a key every sample has."""
    for key in ("rotation", "bbox", "center"):
        if key in sample:
            return len(sample[key])
    raise MoroError("a data set gave a sample without rotation, bbox and center; it cannot be used here")


def _pad(sample: dict[str, Any], length: int, longest: int) -> dict[str, Any]:
    """Per-frame entries repeated at the end; entries of pairs of frames (contact_label) with zeros."""
    padded, missing = {}, longest - length
    for key, value in sample.items():
        if key not in NOT_PER_FRAME:
            value = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
            if key == "contact_label":
                value = torch.cat((value, value.new_zeros(missing, value.shape[1])))
            elif isinstance(value, torch.Tensor) and value.ndim and len(value) == length:
                value = torch.cat((value, value[-1:].expand(missing, *value.shape[1:])))
            elif isinstance(value, list) and len(value) == length:
                value = value + value[-1:] * missing
        padded[key] = value
    return padded
