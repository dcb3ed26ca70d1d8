"""Several data sets as one, each with its share (spec: data 4.8)."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from models.mask_transformer.data.base import ClipDataset
from moro.errors import MoroError


class MixedDataset(ClipDataset):
    """A plan of (member, index) pairs, drawn anew for every epoch.

    members  the data sets; all must give the same keys and shapes
    probs    their shares, normalised here; None: equal
    """

    def __init__(self, members: Sequence[ClipDataset], probs: Sequence[float] | None, seed: int = 0) -> None:
        super().__init__(seed)
        self.members = list(members)
        self.sizes = [len(member) for member in self.members]
        shares = np.ones(len(self.members)) if probs is None else np.asarray(probs, dtype=np.float64)
        if len(shares) != len(self.members) or (shares < 0).any() or shares.sum() <= 0:
            raise MoroError(
                f"dataset.probs must hold {len(self.members)} shares, one per sub_datasets entry, not {probs}"
            )
        self.counts = [round(share * sum(self.sizes)) for share in shares / shares.sum()]
        self._plan = functools.lru_cache(maxsize=2)(self._draw_plan)  # a worker may be an epoch ahead

    def __len__(self) -> int:
        return sum(self.counts)

    def _draw_plan(self, epoch: int) -> np.ndarray:
        """(len, 2): member and index; without replacement where a member has enough samples."""
        rng = np.random.default_rng((self.seed, epoch))
        parts = []
        for member, (size, count) in enumerate(zip(self.sizes, self.counts)):
            if count and not size:
                raise MoroError(f"{type(self.members[member]).__name__} has no samples; check its folder")
            chosen = rng.choice(size, count, replace=count > size) if count else np.zeros(0, np.int64)
            parts.append(np.stack((np.full(count, member), chosen), axis=1))
        return rng.permutation(np.concatenate(parts))

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Sample `index` of the epoch's plan.

        `rng` is of that place in the plan: a sample drawn twice in an epoch is augmented in two ways.
        """
        member, chosen = self._plan(epoch)[index]
        return self.members[member].sample(epoch, int(chosen), rng)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Sample `index` of the first epoch's plan."""
        return self.sample(0, index, rng)

    def trajectory_clips(self) -> Iterator[tuple[Tensor, Tensor]]:
        for member in self.members:
            yield from member.trajectory_clips()

    def __getstate__(self) -> dict[str, Any]:
        """For workers started by spawn: the cache stays behind."""
        return {key: value for key, value in self.__dict__.items() if key != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plan = functools.lru_cache(maxsize=2)(self._draw_plan)
