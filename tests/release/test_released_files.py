"""Files laid out like the released ones, at full size, through the doors by which the programs take them in.

The networks are on the meta device and the files hold no numbers: what is tested is names, shapes and what
else lies in a Lightning checkpoint. Values are compared small in tests/io and tests/mask_transformer.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from models.backbones.human_fov import load_human_fov
from models.mask_transformer.build import load_weights
from models.mask_transformer.system import MoRoSystem
from models.mesh_vq_vae.network import load_mesh_vqvae
from moro.errors import MoroError
from moro.io.weights import load_strict, load_tensors
from tests.release.keys import placeholders, released

pytestmark = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")


def lightning_file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """All that Lightning writes, with the configuration objects that weights_only=True refuses."""
    options = {"model": {"task": "video", "lr": "${optim.lr}"}, "optim": {"lr": 1e-5}, "paths": [Path("x")]}
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}
    content: dict[str, Any] = {
        "epoch": 3,
        "global_step": 60_000,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": tensors,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint": {"dirpath": Path("checkpoints"), "best_k_models": {}}},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 1e-5, "params": [0]}]}],
        "lr_schedulers": [{"_step_count": 5, "milestones": [2000]}],
        "hparams_name": "cfg",
        "hyper_parameters": OmegaConf.create(options),
        "datamodule_hyper_parameters": argparse.Namespace(root=Path("datasets"), sizes=(256, 256)),
    }
    torch.save(content, path)
    return path


def video_train() -> dict[str, torch.Tensor]:
    return {
        **placeholders(released("video_train")),
        **placeholders(released("body_model"), "bm_neutral.bm."),
    }


def test_last_stage(release_system: MoRoSystem, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lightning_file(tmp_path / "last.ckpt", video_train())
    with pytest.raises(Exception, match="weights_only|Weights only"):
        torch.load(path, weights_only=True)
    with caplog.at_level(logging.INFO):
        assert load_weights(release_system, path) == {}
    assert "ignored 14 body model tensors" in caplog.text
    assert release_system.stats is None  # they come from amass_cum_traj.pkl


def test_every_fault_of_the_last_stage_is_named(release_system: MoRoSystem, tmp_path: Path) -> None:
    tensors = video_train()
    del tensors["smoother.alpha"], tensors["backbone.model.blocks.31.mlp.fc2.bias"]
    tensors["mask_transformer.token_emb.weight"] = torch.zeros(512, 9)
    tensors["discriminator.weight"] = torch.zeros(1)
    with pytest.raises(MoroError) as caught:
        load_weights(release_system, lightning_file(tmp_path / "last.ckpt", tensors))
    for fault in (
        "2 missing (backbone.model.blocks.31.mlp.fc2.bias, smoother.alpha)",
        "1 unexpected (discriminator.weight)",
        "1 misshapen (mask_transformer.token_emb.weight (512, 9) instead of (513, 9))",
    ):
        assert fault in str(caught.value)


def test_tokenizer(
    release_config: Callable[[str], DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = release_config("video_train").model.vqvae
    tensors = {
        **placeholders(released("tokenizer"), "mesh_vqvae."),
        **placeholders(released("body_model"), "bm_neutral.bm."),
        "bm_neutral.joint_regressor": torch.zeros(22, 9383),
    }
    with torch.device("meta"), caplog.at_level(logging.INFO):
        load_mesh_vqvae(lightning_file(tmp_path / "tokenizer.ckpt", tensors), cfg)
    assert "ignored 15 body model tensors" in caplog.text
    del tensors["mesh_vqvae.vq_vae._ema_w"]
    with pytest.raises(MoroError, match=r"1 missing \(vq_vae._ema_w\)"), torch.device("meta"):
        load_mesh_vqvae(lightning_file(tmp_path / "tokenizer.ckpt", tensors), cfg)


def test_backbone(release_system: MoRoSystem, tmp_path: Path) -> None:
    path = tmp_path / "vit_pose_hmr2.pth"
    torch.save(placeholders(released("vit")), path)
    load_strict(release_system.backbone.model, load_tensors(path)[0], str(path))
    torch.save(placeholders(released("vit"), "backbone."), path)
    with pytest.raises(MoroError, match=r"389 missing .*389 unexpected \(backbone"):
        load_strict(release_system.backbone.model, load_tensors(path)[0], str(path))


def test_human_fov(tmp_path: Path) -> None:
    path = tmp_path / "cam_model_cleaned.ckpt"
    torch.save({"state_dict": placeholders(released("human_fov"))}, path)
    with torch.device("meta"):
        assert not load_human_fov(path).training
        torch.save({"state_dict": placeholders(released("hrnet"), "backbone.")}, path)
        with pytest.raises(MoroError, match=r"6 missing \(fc1.bias, fc1.weight, fc2.bias"):
            load_human_fov(path)
