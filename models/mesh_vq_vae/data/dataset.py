"""Body parameters for the tokenizer: files, batches and their sampling (spec: data 3)."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from models.distributed import shard_of
from moro.errors import MoroError

GENDERS = ("neutral", "male", "female")  # the batch holds positions in this list
_POSE_SIZE = 63


class BodyParameters(Dataset[dict[str, Tensor]]):
    """Poses and shapes of npz files, one after another (spec: data 3.1); indexed by whole batches.

    paths      files with pose_body (N, 63), root_orient (N, 3), betas (N, >= num_betas), gender (N)
    num_betas  shape coefficients used
    item       for a tensor of indices (B,): pose_body (B, 21, 3), root_orient (B, 3) axis-angle, radians;
               betas (B, num_betas); gender (B,) int64, position in GENDERS
    sizes      samples per file
    MoroError: no such file, fields missing or misshapen, numbers that are not finite, unknown genders.
    """

    def __init__(self, paths: Sequence[str | Path], num_betas: int) -> None:
        files = [_read(Path(path), num_betas) for path in paths]
        if not files:
            raise MoroError("No data file for the tokenizer; set dataset.train_path, val_path, test_path.")
        self.sizes = [len(file["gender"]) for file in files]
        self._fields = {name: torch.cat([file[name] for file in files]) for name in files[0]}

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: values[indices] for name, values in self._fields.items()}

    @property
    def genders(self) -> list[str]:
        """The genders that occur."""
        return [GENDERS[i] for i in self._fields["gender"].unique().tolist()]


class WeightedBatches(Sampler[Tensor]):
    """Batches drawn with replacement; what is drawn at a step depends on seed and step alone.

    So an interrupted run goes on with the very batches it would have had (spec: models 8.2, 24), and several
    processes together draw the batch that one process would with their batch sizes added up.

    sizes       samples per file; within a file all are equally likely
    weights     "balanced" (all files equally likely), one per file, or None (by size) (spec: data 3.3)
    batch_size  per process; one epoch has total // (batch_size * processes) batches
    rank        of this process, of `processes`: it takes its share of each batch
    step        tells the number of batches drawn so far, asked at the start of each epoch
    MoroError: fewer samples than a batch, weights that do not fit.
    """

    def __init__(self, sizes: Sequence[int], weights: str | Sequence[float] | None, batch_size: int,
                 seed: int = 0, rank: int = 0, processes: int = 1,
                 step: Callable[[], int] = lambda: 0) -> None:
        self.sizes = torch.tensor(sizes)
        self.first = torch.cumsum(self.sizes, 0) - self.sizes  # (files,) index of each file's first sample
        self.weights = _file_weights(sizes, weights)
        self.batch_size, self.seed, self.rank, self.step = batch_size, seed, rank, step
        self.whole = batch_size * processes
        if batch_size < 1 or sum(sizes) < self.whole:
            raise MoroError(f"{sum(sizes)} training samples do not fill a batch of {self.whole}; "
                            "set dataset.batch_size lower.")

    def __len__(self) -> int:
        return int(self.sizes.sum()) // self.whole

    def __iter__(self) -> Iterator[Tensor]:
        start = self.step()
        for step in range(start, start + len(self)):
            yield self.draw(step)

    def draw(self, step: int) -> Tensor:
        """Indices (batch_size,) of one step."""
        entropy = np.random.SeedSequence([self.seed, step, 0]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(entropy[0] >> np.uint64(1)))
        file = torch.multinomial(self.weights, self.whole, replacement=True, generator=generator)
        place = torch.rand(self.whole, generator=generator, dtype=torch.float64)
        chosen = self.first[file] + (place * self.sizes[file]).long()  # (batch_size * processes,)
        return chosen[self.rank * self.batch_size :][: self.batch_size]


class SequentialBatches(Sampler[Tensor]):
    """Every index once, in order; the last batch may be short. Of n processes each takes every n-th index.

    MoroError: fewer indices than processes.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.batches = torch.tensor(shard_of(size, rank, processes)).split(batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


def _file_weights(sizes: Sequence[int], weights: str | Sequence[float] | None) -> Tensor:
    if weights is None:
        return torch.tensor(sizes, dtype=torch.float64)
    if weights == "balanced":
        return torch.ones(len(sizes), dtype=torch.float64)
    if isinstance(weights, str) or len(weights) != len(sizes) or min(weights) < 0 or sum(weights) <= 0:
        raise MoroError(f"dataset.weights must be balanced, null or one weight for each of the {len(sizes)} "
                        f"training files, got {weights}.")
    return torch.tensor(list(weights), dtype=torch.float64)


def _read(path: Path, num_betas: int) -> dict[str, Tensor]:
    """Fields of one file as float32 tensors."""
    if not path.is_file():
        raise MoroError(f"Tokenizer data not found: {path} does not exist; make it with the preprocess "
                        "scripts, or correct dataset.train_path, val_path or test_path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            raw = {name: file[name] for name in ("pose_body", "root_orient", "betas", "gender")}
    except KeyError as error:
        raise MoroError(f"{path} lacks {error}; make it again with the preprocess scripts.") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MoroError(f"{path} is not a readable npz of plain arrays ({error}); make it again.") from error
    N = len(raw["gender"])
    if not N:
        raise MoroError(f"{path} holds no samples; make it again from more motions.")
    for name, width in (("pose_body", _POSE_SIZE), ("root_orient", 3), ("betas", None)):
        shape = raw[name].shape
        fits = len(shape) == 2 and shape[0] == N and (shape[1] == width if width else shape[1] >= num_betas)
        if not fits:
            wanted = width or f">= {num_betas}"
            raise MoroError(f"{name} in {path} has shape {shape}, not ({N}, {wanted}); make the file again.")
        if not np.isfinite(raw[name]).all():
            raise MoroError(f"{name} in {path} holds numbers that are not finite; make the file again.")
    return {
        "pose_body": torch.from_numpy(raw["pose_body"].astype(np.float32)).view(N, -1, 3),  # (N, 21, 3)
        "root_orient": torch.from_numpy(raw["root_orient"].astype(np.float32)),
        "betas": torch.from_numpy(raw["betas"][:, :num_betas].astype(np.float32)),
        "gender": _gender_codes(raw["gender"], path),
    }


def _gender_codes(genders: np.ndarray, path: Path) -> Tensor:
    """(N,) strings or bytes → (N,) int64."""
    names, inverse = np.unique(genders, return_inverse=True)
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
    unknown = sorted(set(names) - set(GENDERS))
    if unknown:
        raise MoroError(f"{path} has the gender {unknown[0]!r}; only {', '.join(GENDERS)} are known.")
    return torch.tensor([GENDERS.index(name) for name in names], dtype=torch.int64)[torch.from_numpy(inverse)]
