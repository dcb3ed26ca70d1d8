"""Weight files: formats, strictness with every key named, no foreign code run."""

import argparse
import collections
import contextlib
import logging
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import nn

from moro.errors import MoroError
from moro.io.weights import METADATA_KEY, digest, load_strict, load_tensors, own_tensors, save_tensors


def weights() -> dict[str, torch.Tensor]:
    return {"a": torch.randn(3, 2), "count": torch.arange(4)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **options: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name, **options)


def test_safetensors_round_trip_with_metadata(tmp_path: Path) -> None:
    tensors = weights()
    save_tensors(tmp_path / "w.safetensors", tensors, {"body_id": "open-3001"})
    loaded, metadata = load_tensors(tmp_path / "w.safetensors")
    same(loaded, tensors)
    assert metadata == {"body_id": "open-3001"}


def test_half_precision_comes_back_as_float32(tmp_path: Path) -> None:
    tensors = weights()
    save_tensors(tmp_path / "w.safetensors", tensors, {}, half=True)
    loaded, _ = load_tensors(tmp_path / "w.safetensors")
    assert loaded["a"].dtype == torch.float32 and loaded["count"].dtype == torch.int64
    same(loaded, tensors, rtol=1e-3, atol=1e-4)


def test_checkpoint_and_plain_dictionary(tmp_path: Path) -> None:
    tensors = weights()
    torch.save({"state_dict": tensors, "epoch": 3, METADATA_KEY: {"body_id": "x"}}, tmp_path / "a.ckpt")
    torch.save(tensors, tmp_path / "b.pth")
    same(load_tensors(tmp_path / "a.ckpt")[0], tensors)
    same(load_tensors(tmp_path / "b.pth")[0], tensors)
    assert load_tensors(tmp_path / "a.ckpt")[1] == {"body_id": "x"}
    assert load_tensors(tmp_path / "b.pth")[1] == {}


class Evil:
    """Runs a command when unpickled the usual way."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("old_format", [False, True])
def test_foreign_objects_are_skipped_and_run_nothing(tmp_path: Path, old_format: bool) -> None:
    tensors = {**weights(), "p": nn.Parameter(torch.ones(2))}
    foreign = {"cfg": Path("x"), "evil": Evil(tmp_path / "owned")}
    content = {"state_dict": tensors, "hyper_parameters": foreign}
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not old_format)
    loaded, _ = load_tensors(tmp_path / "a.ckpt")
    same(loaded, {k: v.detach() for k, v in tensors.items()})
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("place", range(5))
def test_no_part_of_an_old_file_runs_anything(tmp_path: Path, place: int) -> None:
    """Torch's old format is several pickles in a row; each of them is an attack once."""
    torch.save(weights(), tmp_path / "good.pth", _use_new_zipfile_serialization=False)
    parts = []
    with (tmp_path / "good.pth").open("rb") as file:
        for _ in range(5):  # magic number, protocol, system, the object, its storages
            start = file.tell()
            for _ in pickletools.genops(file):
                pass
            end = file.tell()
            file.seek(start)
            parts.append(file.read(end - start))
        rest = file.read()
    parts[place] = pickle.dumps(Evil(tmp_path / "owned"), protocol=2)
    (tmp_path / "bad.pth").write_bytes(b"".join(parts) + rest)
    with contextlib.suppress(MoroError):  # the system's description may be anything
        load_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.filterwarnings("ignore:.*TorchScript")
def test_evil_in_the_place_of_tensors_and_scripts_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "owned")}, tmp_path / "a.ckpt")
    with pytest.raises(MoroError, match="holds no dictionary of weights"):
        load_tensors(tmp_path / "a.ckpt")
    torch.save({"state_dict": {**weights(), "b": Evil(tmp_path / "owned")}}, tmp_path / "b.ckpt")
    with pytest.raises(MoroError, match="holds no dictionary of weights"):
        load_tensors(tmp_path / "b.ckpt")
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pth")
    with pytest.raises(MoroError, match="TorchScript"):
        load_tensors(tmp_path / "script.pth")
    assert not (tmp_path / "owned").exists()


def test_configuration_objects_of_lightning_files(tmp_path: Path) -> None:
    """Objects of omegaconf, argparse, Lightning and the standard library, as files of others carry them."""
    tensors = weights()
    hyper = {
        "omegaconf": OmegaConf.create({"a": [1, {"b": "${a}"}], "c": None}),
        "argparse": argparse.Namespace(path=Path("x"), flag={1, 2}),
        "lightning": AttributeDict(lr=1e-4, nested=AttributeDict(x=1)),
        "standard": collections.defaultdict(list, a=[1]),
        "numpy": np.float64(1.5),
        "kind": collections.OrderedDict(device=torch.device("cpu"), dtype=torch.float16),
        "function": os.getcwd,
    }
    torch.save({"state_dict": tensors, "hyper_parameters": hyper, "epoch": 1}, tmp_path / "a.ckpt")
    same(load_tensors(tmp_path / "a.ckpt")[0], tensors)


def test_body_model_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    body = {"bm_neutral.bm.v_template": torch.zeros(3), "bm_neutral.joint_regressor": torch.zeros(2)}
    with caplog.at_level(logging.INFO):
        assert own_tensors({**weights(), **body}, "x.ckpt").keys() == weights().keys()
    assert "x.ckpt: ignored 2 body model tensors" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no weights here", pickle.dumps([1, 2], protocol=2)])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_damaged_files_are_one_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(MoroError, match="bad"):
        load_tensors(path)


def test_truncated_checkpoint_and_missing_file(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.ckpt")
    data = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(data[: len(data) // 2])
    with pytest.raises(MoroError, match="not a readable torch file"):
        load_tensors(tmp_path / "a.ckpt")
    with pytest.raises(MoroError, match="does not exist"):
        load_tensors(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "empty.ckpt")
    with pytest.raises(MoroError, match="no dictionary of weights"):
        load_tensors(tmp_path / "empty.ckpt")


def test_strict_loading_names_every_fault() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = module[0].bias.detach().clone()
    tensors = {"0.weight": torch.zeros(3, 3), "0.bias": torch.ones(3), "extra": torch.zeros(1)}
    with pytest.raises(MoroError) as caught:
        load_strict(module, tensors, "file.ckpt")
    message = str(caught.value)
    for part in ("file.ckpt does not fit this Sequential", "2 missing (1.bias, 1.weight)",
                 "1 unexpected (extra)", "1 misshapen (0.weight (3, 3) instead of (3, 2))"):
        assert part in message
    assert torch.equal(module[0].bias, before)
    load_strict(module, {k: torch.ones_like(v) for k, v in module.state_dict().items()}, "file.ckpt")
    assert module[1].bias.item() == 1


def test_equal_weights_have_one_digest() -> None:
    one = {"b": torch.tensor([-0.0, 1.0]), "a": torch.arange(3)}
    assert digest(one) == digest({"a": torch.arange(3), "b": torch.tensor([0.0, 1.0])})
    assert digest(one) != digest({**one, "a": torch.arange(3) + 1})
