"""Checkpoints to safetensors and back."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from moro.errors import MoroError
from moro.io.weights import METADATA_KEY, load_tensors
from scripts.convert_checkpoint import convert


def test_round_trip_keeps_tensors_and_metadata(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 4), "n": torch.tensor(7)}
    source = tmp_path / "last.ckpt"
    licensed = {"bm_neutral.bm.v_template": torch.zeros(2, 3)}
    content = {"state_dict": tensors | licensed, METADATA_KEY: {"body_id": "open-3001"}}
    torch.save({**content, "hyper_parameters": OmegaConf.create({"a": 1})}, source)
    convert(source, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "back.ckpt")
    found, metadata = load_tensors(tmp_path / "back.ckpt")
    assert metadata == {"body_id": "open-3001"} and found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value)


def test_half_is_half_and_unknown_endings_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "w.pt"
    torch.save({"w": torch.randn(100)}, source)
    convert(source, tmp_path / "h.safetensors", half=True)
    assert (tmp_path / "h.safetensors").stat().st_size < 400
    with pytest.raises(MoroError, match="must end in"):
        convert(source, tmp_path / "w.onnx")
    with pytest.raises(MoroError, match="--half is for"):
        convert(source, tmp_path / "w.ckpt", half=True)


def test_only_a_part_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "w.pt"
    torch.save({"backbone.w": torch.ones(2), "heads.w": torch.ones(3)}, source)
    convert(source, tmp_path / "part.safetensors", only="backbone.")
    assert set(load_tensors(tmp_path / "part.safetensors")[0]) == {"backbone.w"}
    with pytest.raises(MoroError, match="no tensor whose name begins with 'head_'"):
        convert(source, tmp_path / "none.safetensors", only="head_")
    assert not (tmp_path / "none.safetensors").exists()
