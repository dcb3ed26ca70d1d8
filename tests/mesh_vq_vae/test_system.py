"""Training, resuming and files of the tokenizer, on a stand-in body with a tiny network."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from models.mesh_vq_vae.callbacks import StepProgress
from models.mesh_vq_vae.data.dataset import BodyParameters
from models.mesh_vq_vae.data.meshes import MeshMaker
from models.mesh_vq_vae.data.module import TokenizerData
from models.mesh_vq_vae.network import build_mesh_vqvae, load_mesh_vqvae
from models.mesh_vq_vae.system import TokenizerSystem, rate_factor
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.io.weights import load_tensors, save_tensors
from tests.mesh_vq_vae.conftest import make_small_body
from tests.mesh_vq_vae.test_data import write_file

LOSS = {"commitment": 0.25, "ortho": 0.0, "entropy": 0.0, "v2v": 1.0, "j2j": 0.0, "beta": 0.0, "pose": 0.0}
OPTIM = {"lr": 3e-3, "weight_decay": 1e-5, "lr_scheduler": {"milestones": [4], "gamma": 0.2}}


@pytest.fixture
def data(tmp_path: Path) -> TokenizerData:
    train = [write_file(tmp_path / f"train{i}.npz", 20, seed=i) for i in range(2)]
    other = [write_file(tmp_path / f"other{i}.npz", 5, seed=9 + i) for i in range(2)]
    return TokenizerData(train, other[:1], other, num_betas=10, batch_size=8, seed=5)


def make_system(cfg: DictConfig, body: BodyModel, **changes: Any) -> TokenizerSystem:
    pl.seed_everything(0, verbose=False)
    meshes = MeshMaker({"neutral": body})
    return TokenizerSystem(build_mesh_vqvae(cfg), meshes, LOSS, {**OPTIM, **changes}, seed=1)


def make_trainer(folder: Path, steps: int, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", logger=False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, check_val_every_n_epoch=None, val_check_interval=4,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=3, save_last=True), *callbacks],
    )


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    small_config: DictConfig, small_body: BodyModel, data: TokenizerData, tmp_path: Path
) -> None:
    whole = make_system(small_config, small_body)
    make_trainer(tmp_path / "whole", 13).fit(whole, data)
    half = make_system(small_config, small_body)
    make_trainer(tmp_path / "half", 7).fit(half, data)
    resumed = make_system(small_config, small_body)
    with torch.no_grad():
        resumed.mesh_vqvae.get_codebook().zero_()
    last = tmp_path / "half" / "last.ckpt"
    make_trainer(tmp_path / "half", 13).fit(resumed, data, ckpt_path=last, weights_only=True)
    states = [s.state_dict() for s in (whole, resumed)]
    assert all(name.startswith("mesh_vqvae.") for name in states[0])
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    assert any(not torch.equal(states[0][n], v) for n, v in half.state_dict().items())


def test_training_lowers_the_loss_and_logs_every_term(
    small_config: DictConfig, small_body: BodyModel, data: TokenizerData, tmp_path: Path
) -> None:
    schedule = {"name": "cosine", "gamma": 0.1, "warmup_steps": 5}
    system = make_system(small_config, small_body, lr_scheduler=schedule)
    trainer = make_trainer(tmp_path, 60, StepProgress({"train/loss": "loss"}))
    before = trainer.test(system, data, verbose=False)
    trainer.fit(system, data)
    terms = {"loss", "commitment_loss", "ortho_loss", "entropy_loss", "v2v_error", "j2j_error", "perplexity",
             "coverage"}
    assert {f"{stage}/{t}" for stage in ("train", "val") for t in terms} <= trainer.callback_metrics.keys()
    after = trainer.test(system, data, verbose=False)
    tested = terms | {"pa_error", "unquantised_v2v_error"}
    assert len(after) == 2 and {k.split("/")[1] for k in after[0]} == tested
    error = after[0]["test/v2v_error/dataloader_idx_0"]
    assert error < 0.5 * before[0]["test/v2v_error/dataloader_idx_0"]
    assert 0 < after[0]["test/unquantised_v2v_error/dataloader_idx_0"] != error
    assert 0 < after[1]["test/pa_error/dataloader_idx_1"] <= after[1]["test/v2v_error/dataloader_idx_1"]


def test_terms_are_what_they_say(small_config: DictConfig, small_body: BodyModel) -> None:
    system = make_system(small_config, small_body)
    system.loss_weights = {"commitment": 0.5, "v2v": 2.0, "j2j": 3.0}
    mesh = torch.randn(2, 120, 3)
    output = system(mesh)
    moved = output._replace(mesh=mesh + torch.tensor([0.003, 0.0, 0.004]))
    terms = system.terms(mesh, moved)
    assert terms["v2v_error"] == pytest.approx(5, rel=1e-3)
    assert terms["j2j_error"] == pytest.approx(5, rel=1e-3)
    commitment = output.quantised.commitment_loss.item()
    assert terms["loss"].item() == pytest.approx(0.5 * commitment + 5 * 0.005, rel=1e-3)


def test_learning_rate_falls_at_steps() -> None:
    schedule = {"milestones": [100, 150], "gamma": 0.2, "warmup_steps": 10}
    assert [rate_factor(s, 200, schedule) for s in (0, 9, 10, 99, 100, 150)] == pytest.approx(
        [0.1, 1, 1, 1, 0.2, 0.04])
    cosine = {"name": "cosine", "gamma": 0.1}
    assert [rate_factor(s, 200, cosine) for s in (0, 100, 200, 300)] == pytest.approx([1, 0.55, 0.1, 0.1])
    with pytest.raises(MoroError, match="multistep or cosine"):
        rate_factor(0, 10, {"name": "linear", "gamma": 1})


@pytest.mark.parametrize(("interval", "steps_to_fall"), [("step", 2), ("epoch", 10)])
def test_milestones_count_steps_or_epochs(
    small_config: DictConfig, small_body: BodyModel, data: TokenizerData, tmp_path: Path, interval: str,
    steps_to_fall: int,
) -> None:
    """An epoch of the data has 5 batches."""
    schedule = {"interval": interval, "milestones": [2], "gamma": 0.2}
    for steps, factor in ((steps_to_fall - 1, 1), (steps_to_fall, 0.2)):
        system = make_system(small_config, small_body, lr_scheduler=schedule)
        trainer = make_trainer(tmp_path, steps)
        trainer.fit(system, data)
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(factor * OPTIM["lr"])


@pytest.mark.parametrize("more", [{"interval": "batch"}, {"name": "cosine"}, {"warmup_steps": 3}])
def test_intervals_that_do_not_fit_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(MoroError, match=r"lr_scheduler.interval"):
        rate_factor(0, 10, {"interval": "epoch", "milestones": [2], "gamma": 0.2} | more)


@pytest.fixture
def checkpoint(small_config: DictConfig, small_body: BodyModel, data: TokenizerData, tmp_path: Path) -> Path:
    make_trainer(tmp_path / "run", 3).fit(make_system(small_config, small_body), data)
    return tmp_path / "run" / "last.ckpt"


def test_tokenizer_files_load_as_they_were_saved(
    small_config: DictConfig, small_body: BodyModel, checkpoint: Path, tmp_path: Path
) -> None:
    tensors, metadata = load_tensors(checkpoint)
    assert metadata["body_id"] == "tube-120" and len(metadata["connection_hash"]) == 64
    assert not any(name.startswith(("bm", "meshes")) for name in tensors)
    network = load_mesh_vqvae(checkpoint, small_config)
    assert not network.training
    mesh = torch.randn(3, 120, 3)
    save_tensors(tmp_path / "t.safetensors", network.state_dict(), metadata)
    again = load_mesh_vqvae(tmp_path / "t.safetensors", small_config)
    assert torch.equal(again.encode(mesh), network.encode(mesh))
    save_tensors(tmp_path / "half.safetensors", network.state_dict(), metadata, half=True)
    half = load_mesh_vqvae(tmp_path / "half.safetensors", small_config)
    ids = network.encode(mesh)
    torch.testing.assert_close(half.decode(ids), network.decode(ids), rtol=0.02, atol=0.02)
    # a released file also holds the body model and no metadata
    released = {"state_dict": {**tensors, "bm_neutral.joint_regressor": torch.zeros(2)}}
    torch.save(released, tmp_path / "released.ckpt")
    assert torch.equal(load_mesh_vqvae(tmp_path / "released.ckpt", small_config).encode(mesh), ids)
    # a checkpoint of the masked transformer carries its tokenizer
    carried = {f"vqvae.{name}": value for name, value in network.state_dict().items()}
    save_tensors(tmp_path / "stage.safetensors", {**carried, "token_emb.weight": torch.zeros(2)}, metadata)
    assert torch.equal(load_mesh_vqvae(tmp_path / "stage.safetensors", small_config).encode(mesh), ids)


def test_weights_of_another_network_body_or_graph_are_refused(
    small_config: DictConfig, small_body: BodyModel, checkpoint: Path, tmp_path: Path
) -> None:
    tensors, metadata = load_tensors(checkpoint)
    system = make_system(small_config, small_body)
    with pytest.raises(MoroError, match="other connection matrices"):
        system.load_weights(tensors, {**metadata, "connection_hash": "f" * 64}, "x.ckpt")
    with pytest.raises(MoroError, match="x.ckpt was trained on the body other-body, here it is tube-120"):
        system.load_weights(tensors, {**metadata, "body_id": "other-body"}, "x.ckpt")
    with pytest.raises(MoroError, match="body file"):
        system.load_weights(tensors, {**metadata, "body_sha256": "1" * 64}, "x.ckpt")
    del tensors["mesh_vqvae.vq_vae.code_count"]
    with pytest.raises(MoroError, match=r"1 missing \(vq_vae.code_count\)"):
        system.load_weights(tensors, metadata, "x.ckpt")


def test_sizes_that_do_not_fit_are_refused(small_config: DictConfig, small_body: BodyModel) -> None:
    small_config.num_tokens = 13
    with pytest.raises(MoroError, match="gives 12 tokens of 4 channels"):
        build_mesh_vqvae(small_config)
    small_config.num_tokens = 12
    body = make_small_body()
    body.num_vertices = 121
    with pytest.raises(MoroError, match="has 121 vertices"):
        make_system(small_config, body)


@pytest.mark.parametrize("num_quantizer", [0, 3])
def test_training_without_and_with_several_quantisers(
    small_config: DictConfig, small_body: BodyModel, data: TokenizerData, tmp_path: Path, num_quantizer: int
) -> None:
    small_config.num_quantizer = num_quantizer
    system = make_system(small_config, small_body)
    make_trainer(tmp_path / "run", 4).fit(system, data)
    mesh = torch.randn(2, 120, 3)
    if num_quantizer:
        ids = system.mesh_vqvae.eval().encode(mesh)
        assert ids.shape == (2, 12, 3) and system.mesh_vqvae.decode(ids).shape == mesh.shape


def test_mean_mesh_is_taken_from_the_data_and_kept(
    small_config: DictConfig, small_body: BodyModel, data: TokenizerData, tmp_path: Path
) -> None:
    small_config.center = True
    system = make_system(small_config, small_body)
    make_trainer(tmp_path / "run", 3).fit(system, data)
    center = system.mesh_vqvae.center
    meshes = system.meshes(BodyParameters(data.paths["train"], 10)[torch.arange(40)])
    rest = meshes.mean(0)
    assert (center - rest).abs().mean() < 0.3 * meshes.std(0).mean()  # of a sample of the data
    network = load_mesh_vqvae(tmp_path / "run" / "last.ckpt", small_config)
    assert torch.equal(network.center, center)
    latents = network.fully_conv_ae.encode(rest[None] - center)
    assert torch.equal(network.vq_vae.encode(latents), network.encode(rest[None]))
    ids = network.encode(rest[None])
    embeddings = network.get_codebook()[ids]
    assert torch.equal(network.decode(ids), network.fully_conv_ae.decode(embeddings) + center)
