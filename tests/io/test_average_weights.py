"""Averages of two checkpoints."""

from pathlib import Path

import pytest
import torch

from moro.errors import MoroError
from moro.io.weights import load_tensors, save_tensors
from scripts.average_weights import average


def test_an_average_lies_between(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "c")]
    for file, value in zip(files, (0.0, 4.0)):
        save_tensors(file, {"w": torch.full((3,), value), "n": torch.tensor(7)}, {"body_id": "x"})
    average(*files, share=0.25)
    tensors, metadata = load_tensors(files[2])
    assert metadata == {"body_id": "x"} and tensors["n"] == 7
    assert torch.equal(tensors["w"].float(), torch.ones(3))
    save_tensors(files[1], {"w": torch.ones(2)}, {})
    with pytest.raises(MoroError, match="same network"):
        average(*files, share=0.25)
    with pytest.raises(MoroError, match="between 0 and 1"):
        average(*files, share=2)
