"""Regressors and vertex maps: both kinds of file, and what is wrong with one in a sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moro.errors import MoroError
from moro.io.regressor_files import read_matrix

MATRIX = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])


def test_both_kinds_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", MATRIX.double().numpy())
    torch.save(MATRIX, tmp_path / "b.pt")
    torch.save(MATRIX.to_sparse(), tmp_path / "c.pt")
    found = [read_matrix(tmp_path / name) for name in ("a.npy", "b.pt", "c.pt")]
    assert found[2].is_sparse and all(matrix.dtype == torch.float32 for matrix in found)
    assert all(torch.equal(matrix.to_dense(), MATRIX) for matrix in found)


def test_what_is_no_matrix_is_refused(tmp_path: Path) -> None:
    for name in ("a.npy", "a.pt"):
        with pytest.raises(MoroError, match=f"{name} not found"):
            read_matrix(tmp_path / name)
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(MoroError, match=f"{name} cannot be read"):
            read_matrix(tmp_path / name)
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    torch.save({"matrix": MATRIX}, tmp_path / "a.pt")
    torch.save(MATRIX[0], tmp_path / "b.pt")
    for name in ("a.npy", "a.pt", "b.pt"):
        with pytest.raises(MoroError, match=f"{name} (cannot be read|holds no matrix)"):
            read_matrix(tmp_path / name)
