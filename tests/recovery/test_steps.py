"""What a demo run keeps, and when it counts as made by the same settings."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from models.recovery.options import check_demo, low_precision
from models.recovery.steps import (
    clear_outputs,
    finish,
    is_finished,
    keys_of,
    load_motion,
    result_files,
    save_motion,
)
from moro.body.fitting import BodyFit
from moro.config import compose_config
from moro.errors import MoroError


@functools.cache
def defaults() -> DictConfig:
    return compose_config("demo", ["preset=open", "demo.fit_body=null"])


def config(*words: str) -> DictConfig:
    return OmegaConf.merge(defaults(), OmegaConf.from_dotlist(list(words)))


def test_keys_follow_what_each_step_depends_on(tmp_path: Path) -> None:
    video, weights = tmp_path / "v.mp4", tmp_path / "w.safetensors"
    video.write_bytes(b"video")
    weights.write_bytes(b"weights")

    def changed(*words: str) -> str:
        new = keys_of(config(*words), video, weights)
        return "".join(name[0] for name in ("tracks", "motion", "results")
                       if getattr(new, name) != getattr(before, name))  # fmt: skip

    before = keys_of(config(), video, weights)
    assert changed() == changed("demo.name=x", "demo.output_path=y", "demo.device=cpu") == ""
    assert changed("demo.render=false", "demo.gender=female") == "r"
    assert changed("demo.focal_length=900") == changed("model.test.generate.timesteps=3") == "mr"
    assert changed("demo.refine=false") == "mr"
    assert changed("demo.precision=bf16") == changed("dataset.overlap_len=60") == "mr"
    assert changed("demo.max_people=1") == "tmr"
    os.utime(weights, ns=(1, 1))  # weights of the same name are others now
    assert changed() == "mr"
    video.write_bytes(b"another video")
    assert changed() == "tmr"


def test_finished_and_cleared(tmp_path: Path) -> None:
    assert not is_finished(tmp_path, "a")
    finish(tmp_path, "a", {"frames": 3})
    assert is_finished(tmp_path, "a") and not is_finished(tmp_path, "b")
    (tmp_path / "demo.json").write_text("[]")
    assert not is_finished(tmp_path, "a")
    ours = ["result.mp4", "id0/results.pkl", "id0/motion.npz", "id1/motion.glb", "config.yaml"]
    others = ["notes.txt", "ideas/motion.npz", "intermediate/tracks.npz"]
    for name in ours + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = [str(file.relative_to(tmp_path)) for file in result_files(tmp_path)]
    assert listed == ["id0/motion.npz", "id0/results.pkl", "id1/motion.glb", "result.mp4"]
    clear_outputs(tmp_path, keep_results=True)
    assert (tmp_path / "id0/results.pkl").exists() and not (tmp_path / "demo.json").exists()
    assert [file.name for file in result_files(tmp_path)] == ["results.pkl"]
    clear_outputs(tmp_path, keep_results=False)
    assert not (tmp_path / "id0").exists() and not (tmp_path / "id1").exists()
    assert all((tmp_path / name).exists() for name in others)


def test_motion_is_kept_whole(tmp_path: Path) -> None:
    file = tmp_path / "fits.npz"
    assert load_motion(file, tmp_path, "k") is None
    for name in ("id0", "id1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.pkl").touch()
    shapes = ((5, 3), (5, 21, 3), (5, 22, 3), (10,), (5, 3), (5,), (5, 22, 3), (5, 4, 3))
    fits = [BodyFit(*(torch.randn(shape) for shape in shapes)) for _ in range(2)]
    save_motion(file, fits, 1234.5, "k")
    again, focal = load_motion(file, tmp_path, "k")
    assert focal == 1234.5 and len(again) == 2
    assert torch.equal(again[1].points, fits[1].points) and torch.equal(again[0].betas, fits[0].betas)
    assert load_motion(file, tmp_path, "other") is None
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert load_motion(file, tmp_path, "k") is None
    file.write_bytes(whole)
    (tmp_path / "id1/results.pkl").unlink()
    assert load_motion(file, tmp_path, "k") is None


@pytest.mark.parametrize(
    "word, told",
    [
        ("max_people=0", "max_people=0 must be"),
        ("max_people=-1", "max_people=-1 must be"),
        ("max_people=1.5", "max_people=1.5 must be"),
        ("focal_length=abc", "focal_length=abc must be"),
        ("focal_length=-5", "focal_length=-5 must be"),
        ("focal_length=.nan", "focal_length=nan must be"),
        ("device=typo", "device=typo"),
        ("device='cuda:99'", "no such device"),
        ("device=meta", "no such device"),
        ("precision=16", "precision=16 is not offered"),
        ("tracker=typo", "unknown tracker"),
        ("fit_body=typo", "demo.fit_body=typo"),
    ],
)
def test_senseless_values_are_refused(word: str, told: str) -> None:
    with pytest.raises(MoroError, match=told):
        check_demo(config(f"demo.{word}"))


def test_sensible_values() -> None:
    check_demo(config("demo.max_people=2", "demo.focal_length=1200.5", "demo.device=cpu"))
    assert not low_precision(32) and low_precision("bf16-mixed") and low_precision("bf16")
    assert np.isclose(config("model.dst_former.attn_len=30").dataset.overlap_len, 60)
    assert config().demo.tracker == "blazepose"
