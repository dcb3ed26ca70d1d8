"""Matrices beside the body models: joints of a mesh, one mesh from another (spec: data 1.1)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moro.errors import MoroError


def read_matrix(path: str | Path) -> Tensor:
    """(M, N) float32, dense or sparse as in the file, of an .npy file or a torch file (.pt).

    Raises MoroError if it is missing, damaged or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            matrix = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            matrix = torch.load(path, map_location="cpu", weights_only=True)
        matrix = matrix.float()
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; see docs/files.md for where it comes from") from error
    except Exception as error:  # a damaged or foreign file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MoroError(f"{path} cannot be read ({reason}); fetch it again") from error
    if matrix.ndim != 2:
        raise MoroError(f"{path} holds no matrix; fetch it again")
    return matrix
