"""Which frames count, and moving points between camera and world."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moro.errors import MoroError

Z_UP_TO_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # (x, y, z) → (x, z, -y)


def move(points: Tensor, transform: NDArray) -> Tensor:
    """Points (F, N, 3) by a rigid transform (4, 4), old frame → new frame."""
    matrix = torch.as_tensor(transform).to(points)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def rows_of(names: Sequence[str], wanted: Sequence[str], source: str | Path) -> list[int]:
    """Place in `names` of each wanted name. MoroError, naming `source`, if one is not there."""
    place = {name: row for row, name in enumerate(names)}
    missing = [name for name in wanted if name not in place]
    if missing:
        raise MoroError(
            f"{source} lacks {len(missing)} of {len(wanted)} frames, the first is {missing[0]}; "
            "run the test on the whole sequence"
        )
    return [place[name] for name in wanted]


def bare(name: str) -> str:
    """Name of an image without its suffix; PROX's names have dots of their own."""
    for suffix in (".jpg", ".jpeg", ".png"):
        name = name.removesuffix(suffix)
    return name


def result_file(folder: Path, sequence: str) -> Path:
    """results.pkl of a sequence."""
    return folder / sequence / "results.pkl"


def require_results(folder: Path, sequences: Sequence[str]) -> None:
    """MoroError if a sequence has no results: a mean over the others would pass for one over all."""
    if not folder.is_dir():
        raise MoroError(f"--saved_data_dir {folder} not found; run the test that writes it first")
    missing = [name for name in sequences if not result_file(folder, name).is_file()]
    if missing:
        raise MoroError(
            f"{folder} has no results.pkl for {len(missing)} of {len(sequences)} sequences, the first is "
            f"{missing[0]}; run the test on all, or name one that is there"
        )
