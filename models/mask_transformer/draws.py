"""Random numbers that belong to a sample: the same in whatever batch and process it comes.

Each sample has a generator of its own, so that several processes draw for a batch what one process would.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from models.distributed import process_rank, world_size

Source = Generator | Sequence[Generator] | None  # for the whole batch; one for each sample; torch's own


class Draws(NamedTuple):
    """Where the random numbers of a batch come from; generators on the CPU."""

    batch: Generator | None = None  # what concerns the whole batch; the same in all processes
    samples: Source = None  # what concerns each sample


def draws_of(numbers: Sequence[int], rows: int, first: int = 0) -> Draws:
    """Generators for a batch of `rows` samples, seeded by `numbers` and each sample's place.

    first  samples this process has had before in the same pass
    Samples are taken to be dealt out to the processes one by one, as our samplers do.
    """
    places = [(first + row) * world_size() + process_rank() for row in range(rows)]
    return Draws(seeded(*numbers, -1), [seeded(*numbers, place) for place in places])


def seeded(*numbers: int) -> Generator:
    """A generator on the CPU whose stream depends on all `numbers`."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return Generator().manual_seed(seed)


def uniform(shape: Sequence[int], source: Source, device: torch.device | str = "cpu") -> Tensor:
    """Uniform [0, 1) numbers (B, ...), drawn where the generator lives, then moved to `device`."""
    if isinstance(source, Sequence):
        return torch.stack([torch.rand(tuple(shape[1:]), generator=g) for g in source]).to(device)
    where = "cpu" if source is None else source.device
    return torch.rand(tuple(shape), generator=source, device=where).to(device)


def normal_like(tensor: Tensor, source: Source) -> Tensor:
    """Standard normal numbers, as many as `tensor` (B, ...) has."""
    if isinstance(source, Sequence):
        return torch.stack([torch.randn(row.shape, generator=g) for row, g in zip(tensor, source)]).to(tensor)
    where = tensor.device if source is None else source.device
    return torch.randn(tensor.shape, generator=source, device=where).to(tensor)


def exponential_like(tensor: Tensor, source: Source) -> Tensor:
    """Exponential numbers like `tensor` (B, ...); drawn on its device, for there may be millions."""
    numbers = torch.empty_like(tensor)
    if not isinstance(source, Sequence):
        return numbers.exponential_(generator=source)
    for row, generator in zip(numbers, source):
        seed = int(torch.randint(2**62, (), generator=generator))
        row.exponential_(generator=Generator(tensor.device).manual_seed(seed))
    return numbers
