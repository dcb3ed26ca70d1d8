"""Paths, checkpoints and what one stage hands to the next (spec: models 3.10, 3.11, 7.9)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from models.mask_transformer import build
from models.mask_transformer.build import (
    choose_checkpoint,
    load_weights,
    provide_stats,
    resolve_paths,
    save_weights,
)
from models.mask_transformer.system import MoRoSystem
from moro.config import compose_config
from moro.errors import MoroError
from moro.geometry.trajectory import TrajectoryStats
from moro.io.weights import load_tensors
from scripts.convert_checkpoint import convert
from tests.mask_transformer.fake_data import FakeDataModule, small_config, small_system

STATS = TrajectoryStats(torch.arange(9) / 10, torch.ones(9))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def saved(stage: str, path: Path, *overrides: str, seed: int = 1) -> MoRoSystem:
    """A stage's system with weights of its own, saved as Lightning does."""
    system = small_system(small_config(stage, *overrides), seed)
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    system.set_trajectory_stats(STATS)
    checkpoint = {"state_dict": system.state_dict()}
    system.on_save_checkpoint(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return system


def initialised(stage: str, *overrides: str) -> MoRoSystem:
    cfg, _ = resolve_paths(small_config(stage, *overrides))
    system = small_system(cfg, seed=2)
    build._initialise(system, cfg)
    return system


def stage_path(stage: str) -> Path:
    return Path("exp/mask_transformer/MIMO-keypoints-default") / stage / "checkpoints" / "last.ckpt"


# --------------------------------------------------------------------------------------------------- paths


def test_paths_of_a_stage() -> None:
    cfg, paths = resolve_paths(compose_config("config", ["option=video_train", "tag=x", "subtag=s"]))
    assert str(paths.stage) == "exp/mask_transformer/MIMO-vit-x/video_train_s"
    assert str(paths.last) == "exp/mask_transformer/MIMO-vit-x/video_train_s/checkpoints/last.ckpt"
    run = "exp/mask_transformer/MIMO-vit-x"
    assert cfg.model.motion_ckpt == f"{run}/motion_pretrain/checkpoints/last.ckpt"
    assert cfg.model.dst_former.motion_ckpt == cfg.model.motion_ckpt  # nested keys follow
    assert cfg.model.backbone.image_ckpt == f"{run}/video_pretrain/checkpoints/last.ckpt"


def test_paths_with_subtags_files_and_resume() -> None:
    words = ["option=video_train", "model.motion_subtag=a", "model.image_ckpt=some/file.ckpt"]
    cfg, _ = resolve_paths(compose_config("config", words))
    assert cfg.model.motion_ckpt.endswith("/motion_pretrain_a/checkpoints/last.ckpt")
    assert cfg.model.image_ckpt == "some/file.ckpt"
    for word in ("resume=true", "resume_weights_only=true", "mode=test"):
        cfg, _ = resolve_paths(compose_config("config", [*words, word]))
        assert cfg.model.motion_ckpt is None and cfg.model.image_ckpt is None
    cfg, paths = resolve_paths(compose_config("config", ["model.motion_ckpt=a.ckpt"]))  # no benchmark
    assert cfg.model.motion_ckpt == "a.ckpt" and str(paths.stage) == "exp/mask_transformer/MIMO-vit-default"


def test_choice_of_checkpoint() -> None:
    words = ["option=[inference,video_train]", "preset=open", "tag=release"]
    cfg, paths = resolve_paths(compose_config("config", words))
    with pytest.raises(MoroError, match="ckpt/open/video_train.safetensors and exp/"):
        choose_checkpoint(cfg, paths)
    paths.last.parent.mkdir(parents=True)
    paths.last.touch()
    assert choose_checkpoint(cfg, paths) == paths.last
    shipped = Path("ckpt/open/video_train.safetensors")
    shipped.parent.mkdir(parents=True)
    shipped.touch()
    assert choose_checkpoint(cfg, paths) == shipped
    cfg.tag = "mine"
    assert choose_checkpoint(cfg, paths) == paths.last
    cfg.model.ckpt_path = "nothing.ckpt"
    with pytest.raises(MoroError, match="no weights at nothing.ckpt"):
        choose_checkpoint(cfg, paths)


# ---------------------------------------------------------------------------------------------- hand-over


@pytest.mark.parametrize("compat", [False, True])
def test_last_stage_takes_from_both_branches(compat: bool) -> None:
    motion = saved("motion_pretrain", stage_path("motion_pretrain"))
    image = saved("video_pretrain", stage_path("video_pretrain"), seed=3)
    system = initialised("video_train", f"compat={str(compat).lower()}")
    fresh = small_system(system.cfg, seed=2).state_dict()
    state, from_motion, from_image = system.state_dict(), motion.state_dict(), image.state_dict()
    former = "mask_transformer.dst_former."
    for name, value in state.items():
        if name.startswith(former + "m_"):
            assert torch.equal(value, from_motion[name]), name
        elif name.startswith((former + "img_", former + "d_", "backbone.")):
            assert torch.equal(value, from_image[name]), name
        elif name.startswith("smoother."):  # the reference drops what stage 2 learned
            assert torch.equal(value, fresh[name] if compat else from_motion[name]), name
    assert torch.equal(system.stats.mean, STATS.mean)


def test_motion_stage_takes_the_poses() -> None:
    pose = saved("pose_pretrain", stage_path("pose_pretrain"))
    system = initialised("motion_pretrain")
    for name, value in pose.mask_transformer.dst_former.state_dict().items():
        assert torch.equal(system.mask_transformer.dst_former.state_dict()[name], value), name


def test_other_shapes_are_left_and_said(caplog: pytest.LogCaptureFixture) -> None:
    saved("motion_pretrain", stage_path("motion_pretrain"))
    saved("video_pretrain", stage_path("video_pretrain"))
    system = initialised("video_train", "dataset.contact_hand=true")
    assert system.mask_transformer.dst_former.m_contact_regressor.weight.shape[0] == 6
    assert "another shape" in caplog.text and "m_contact_regressor.weight" in caplog.text


def test_missing_and_foreign_stages_are_explained() -> None:
    with pytest.raises(MoroError, match="train that stage first"):
        initialised("motion_pretrain")
    saved("image_pretrain", stage_path("pose_pretrain"))
    with pytest.raises(MoroError, match="has nothing for"):
        initialised("motion_pretrain")
    content = torch.load(stage_path("pose_pretrain"), weights_only=True)
    content["moro"]["body_id"] = "smplx-9383"
    torch.save(content, stage_path("pose_pretrain"))
    with pytest.raises(MoroError, match="body_id smplx-9383"):
        initialised("motion_pretrain")


def test_frozen_parts() -> None:
    system = small_system(small_config("video_train"))
    trained = {name for name, value in system.named_parameters() if value.requires_grad}
    assert not any(name.startswith(("vqvae.", "backbone.")) for name in trained)
    assert not any("img_" in name or "token_emb." in name for name in trained)
    assert all(any(f".{part}_transformer." in name for name in trained) for part in "md")
    for flag, prefix in (("freeze_motion", "m_"), ("freeze_image", "img_"), ("freeze", "")):
        system = small_system(small_config("video_train", f"model.dst_former.{flag}=true"))
        parts = dict(system.mask_transformer.dst_former.named_parameters())
        assert not any(value.requires_grad for name, value in parts.items() if name.startswith(prefix))
    system = small_system(small_config("video_train", "model.opt_token=true"))
    assert system.mask_transformer.token_emb.weight.requires_grad


# -------------------------------------------------------------------------------------------- whole weights


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("half", [False, True])
def test_weights_round_trip(suffix: str, half: bool) -> None:
    source = saved("video_train", Path("a.ckpt"))
    path = Path("a.ckpt")
    if suffix == ".safetensors":
        path = Path("b.safetensors")
        convert(Path("a.ckpt"), path, half)
    target = small_system(small_config("video_train"), seed=5)
    load_weights(target, path)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if half else {"rtol": 0, "atol": 0}
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value, **tolerance)
    torch.testing.assert_close(target.stats.mean, STATS.mean)
    if suffix == ".safetensors":
        save_weights(target, "c.safetensors", half)
        assert load_tensors("c.safetensors")[1] == load_tensors(path)[1]


def test_released_layout_is_accepted() -> None:
    """Body model buffers inside a checkpoint are ignored, anything else unexpected is refused."""
    system = saved("video_train", Path("a.ckpt"))
    state = dict(system.state_dict())
    torch.save({"state_dict": {**state, "bm_neutral.bm.v_template": torch.zeros(3)}}, "released.ckpt")
    target = small_system(small_config("video_train"))
    load_weights(target, "released.ckpt")
    assert target.stats is None  # released files carry none
    torch.save({"state_dict": {**state, "other": torch.zeros(3)}}, "wrong.ckpt")
    with pytest.raises(MoroError, match="other"):
        load_weights(target, "wrong.ckpt")
    load_weights(target, "wrong.ckpt", strict=False)
    names = set(state)
    assert {name.split(".")[0] for name in names} == {"vqvae", "backbone", "mask_transformer", "smoother"}
    assert {"mask_transformer.token_emb.weight", "smoother.alpha", "vqvae.vq_vae._embedding.weight"} <= names


def test_other_tables_are_refused() -> None:
    saved("video_train", Path("a.ckpt"))
    target = small_system(small_config("video_train"))
    target.vqvae.connection_hash = "0" * 64
    with pytest.raises(MoroError, match="connection_hash"):
        load_weights(target, "a.ckpt")
    with pytest.raises(MoroError, match="attn_len"):
        load_weights(small_system(small_config("video_train", "model.dst_former.attn_len=7")), "a.ckpt")


def test_checkpoints_hold_plain_types_only() -> None:
    cfg = small_config("pose_pretrain", "trainer.max_steps=1", "trainer.limit_val_batches=0")
    system, data = small_system(cfg), FakeDataModule(cfg)
    provide_stats(system, cfg, data)  # from the clips: no file, no earlier stage
    assert system.stats is not None
    run = pl.Trainer(**cfg.trainer, logger=False, enable_model_summary=False, enable_checkpointing=False)
    run.fit(system, data)
    run.save_checkpoint("a.ckpt")
    content = torch.load("a.ckpt", weights_only=True)
    assert content["moro"]["body_id"] == "sphere-162" and "trajectory_stats" in content["moro"]
    target = small_system(cfg, seed=9)
    load_weights(target, "a.ckpt")
    torch.testing.assert_close(target.stats.std, system.stats.std)


def test_statistics_from_a_file_and_missing_ones() -> None:
    cfg = small_config("video_train", "model.trajectory_stats=stats.pkl", "mode=test")
    system, data = small_system(cfg), FakeDataModule(cfg)
    with pytest.raises(MoroError, match="not found at stats.pkl"):
        provide_stats(system, cfg, data)
    STATS.save("stats.pkl")
    provide_stats(system, cfg, data)
    torch.testing.assert_close(system.stats.mean, STATS.mean)
