"""What every data set of the masked transformer has in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from models.mask_transformer.data.reading import ImageReader
from moro.errors import MoroError

NOT_PER_FRAME = ("world2cano", "dist_coeffs")  # keys whose first dimension says nothing about frames


class ClipDataset(Dataset, ABC):
    """Samples drawn by index, with random numbers that depend on seed, epoch and index alone.

    So a run gives the same samples whatever the number of workers, and after a resume. The training sampler
    hands over (epoch, index) pairs; a plain index means epoch 0.
    """

    reader: ImageReader | None = None  # of data sets with images

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One sample: the batch keys of spec: models 0.4 without the batch dimension."""

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return self.sample(epoch, index, np.random.default_rng((self.seed, epoch, index)))

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """`item` in an epoch; overridden where more than the random numbers changes from epoch to epoch."""
        return self.item(index, rng)

    def trajectory_clips(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rotation (60, 3, 3) and translation (60, 1, 3) of all training clips, for the statistics.

        Raises MoroError where a data set has no true trajectories.
        """
        raise MoroError(
            f"{type(self).__name__} cannot give the trajectory statistics; set model.trajectory_stats to a "
            "file (scripts/compute_trajectory_stats.py makes one) or use a checkpoint that carries them"
        )
