"""Loaders for training, validation and test of the tokenizer (spec: data 3.3)."""

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from models.mesh_vq_vae.data.dataset import BodyParameters, SequentialBatches, WeightedBatches

Paths = str | Sequence[str]


class TokenizerData(pl.LightningDataModule):
    """One training loader over all files, one validation and test loader per file.

    Batches are of body parameters (see BodyParameters); the system turns them into meshes on its own device.
    Files are read when a loader is first asked for, those of training not at test.
    """

    def __init__(self, train_path: Paths, val_path: Paths, test_path: Paths, num_betas: int, batch_size: int,
                 num_workers: int = 0, weights: str | Sequence[float] | None = "balanced",
                 seed: int = 0) -> None:
        super().__init__()
        self.paths = {"train": _listed(train_path), "val": _listed(val_path), "test": _listed(test_path)}
        self.num_betas, self.batch_size, self.num_workers = num_betas, batch_size, num_workers
        self.weights, self.seed = weights, seed
        self._read: dict[tuple[str, ...], BodyParameters] = {}

    def genders(self, splits: Sequence[str]) -> list[str]:
        """Genders that occur in these splits ("train", "val", "test")."""
        sets = [self._dataset(self.paths["train"])] if "train" in splits else []
        sets += [self._dataset([path]) for split in splits if split != "train" for path in self.paths[split]]
        return sorted({gender for data in sets for gender in data.genders})

    def train_dataloader(self) -> DataLoader:
        data = self._dataset(self.paths["train"])
        trainer = self.trainer
        sampler = WeightedBatches(
            data.sizes, self.weights, self.batch_size, self.seed, trainer.global_rank, trainer.world_size,
            step=lambda: trainer.global_step * trainer.accumulate_grad_batches,
        )
        return self._loader(data, sampler)

    def val_dataloader(self) -> list[DataLoader]:
        return [self._sequential(path) for path in self.paths["val"]]

    def test_dataloader(self) -> list[DataLoader]:
        return [self._sequential(path) for path in self.paths["test"]]

    def _sequential(self, path: str) -> DataLoader:
        data = self._dataset([path])
        trainer = self.trainer
        sampler = SequentialBatches(len(data), self.batch_size, trainer.global_rank, trainer.world_size)
        return self._loader(data, sampler)

    def _loader(self, data: BodyParameters, sampler: Sampler[Tensor]) -> DataLoader:
        # batch_size=None: the sampler already yields whole batches, which the dataset fetches in one piece
        return DataLoader(data, sampler=sampler, batch_size=None, num_workers=self.num_workers,
                          persistent_workers=self.num_workers > 0)

    def _dataset(self, paths: Sequence[str]) -> BodyParameters:
        key = tuple(paths)
        if key not in self._read:
            self._read[key] = BodyParameters(paths, self.num_betas)
        return self._read[key]


def _listed(paths: Paths) -> list[str]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)
