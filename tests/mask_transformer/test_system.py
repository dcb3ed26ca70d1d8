"""The Lightning system on a small world: steps, schedules, modes, freezing, resume, test."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from models.mask_transformer import pictures
from models.mask_transformer.build import build_placement
from models.mask_transformer.callbacks import training_callbacks
from models.mask_transformer.data.mixed import MixedDataset
from models.mask_transformer.data.module import ResumableSampler, collate
from models.mask_transformer.noise import add_noise, noise_level
from models.mask_transformer.optimisation import build_scheduler
from models.mask_transformer.pictures import ClipPictures, picture_folder
from models.mask_transformer.placement import LandmarkPlacement
from models.mask_transformer.results import ResultsWriter
from models.mask_transformer.system import MoRoSystem, Recovered, equal_lengths
from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.geometry.smoothing import smooth_rotations
from moro.io.results import read_results
from moro.io.scenes import read_image
from tests.mask_transformer.fake_data import (
    SPHERE,
    TOKENS,
    FakeClips,
    FakeDataModule,
    joint_regressor,
    small_config,
    small_system,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors are tiny here; more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


STAGES = ("pose_pretrain", "motion_pretrain", "image_pretrain", "video_pretrain", "video_train")


def loss_of(system, batch, output, tokens, mesh, frames):
    codebook = system.mask_transformer.codebook
    return system.loss(batch, output, tokens.labels, mesh, frames, system.stats, codebook)


def make(stage: str, *overrides: str) -> tuple[MoRoSystem, FakeDataModule]:
    cfg = small_config(stage, *overrides)
    system, data = small_system(cfg), FakeDataModule(cfg)
    if system.needs_stats:
        system.set_trajectory_stats(data.trajectory_stats())
    return system, data


def trainer(system: MoRoSystem, **options: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return pl.Trainer(**{**system.cfg.trainer, **quiet, **options})


def first_batch(data: FakeDataModule, split: str = "val") -> dict:
    return collate([data.datasets(split)[0][index] for index in range(2)])


# ----------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_and_validates(stage: str) -> None:
    system, data = make(stage)
    before = {name: value.clone() for name, value in system.named_parameters()}
    run = trainer(system)
    run.fit(system, data)
    assert run.global_step == 4
    assert all(torch.isfinite(torch.as_tensor(value)) for value in run.callback_metrics.values())
    for mode in system.cfg.model.mode_list:
        assert f"val/{mode}_loss_ce" in run.callback_metrics and f"val/{mode}_mpjpe" in run.callback_metrics
    changed = {name for name, value in system.named_parameters() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith(("vqvae.", "mask_transformer.token_emb")) for name in changed)
    if stage == "video_train":
        assert not any(name.startswith(("backbone.", "mask_transformer.dst_former.img_")) for name in changed)
        assert any(name.startswith("smoother.") for name in changed)
        assert not system.backbone.training and not system.vqvae.training


def test_loss_falls() -> None:
    """The small network fits one batch."""
    system, data = make("video_train", "optim.lr=0.01", "model.mask_scheme=[[-1,full]]", "~optim.scheduler")
    system.train()
    batch = first_batch(data)
    optimizer = system.configure_optimizers()["optimizer"]
    system._trainer = None
    losses = []
    for _ in range(25):
        prepared = system.prepare(batch)
        output, tokens = system.masked_pass(prepared, "full", training=True)
        mesh, frames = system.differentiable_mesh(output.logits)
        loss = loss_of(system, prepared, output, tokens, mesh, frames)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("mode", ["random", "inference"])
def test_masked_pass(mode: str) -> None:
    system, data = make("video_train", "model.prob_rid=0.0")
    batch = system.prepare(first_batch(data))
    assert batch["ids"].shape == (2, 6, TOKENS) and batch["cond"].shape[:2] == (2, 6)
    output, tokens = system.masked_pass(batch, mode, training=True)
    mask_id = system.mask_transformer.mask_id
    hidden = tokens.ids == mask_id
    assert torch.equal(hidden, tokens.labels != mask_id) and hidden.any()
    assert torch.equal(tokens.labels[hidden], batch["ids"][hidden])
    assert output.logits.shape == (2, mask_id, 6, TOKENS)
    if mode == "inference":  # the second pass starts from the camera trajectory the first one decoded
        first = system(batch, torch.full_like(batch["ids"], mask_id), system.encode_image(batch))
        expected = system.stats.encode(first.rotation, first.translation).detach()
        torch.testing.assert_close(output.cano_input, expected)
        predicted = first.logits.argmax(1)
        assert torch.equal(tokens.ids[~hidden], predicted[~hidden])


def test_expected_tokens_are_decoded() -> None:
    one_pass = "model.test.generate.timesteps=1"
    system, data = make("video_train", "model.test.generate.expectation=true", one_pass)
    batch = first_batch(data)
    recovered = system.eval().recover(batch)
    logits = recovered.output.logits.permute(0, 2, 3, 1)
    with torch.no_grad():
        mesh = system.decode_tokens(logits.softmax(-1) @ system.mask_transformer.codebook)
    torch.testing.assert_close(recovered.local_mesh, mesh)
    assert not torch.allclose(mesh, system.decode_tokens(system.mask_transformer.embed(recovered.ids)))


def test_tokens_and_headings_are_smoothed_in_time() -> None:
    system, data = make("video_train", "model.test.generate.expectation=true")
    batch = first_batch(data)
    rough = system.eval().recover(batch)
    system.cfg.model.test.smooth = 2.0
    smooth = system.recover(batch)
    torch.testing.assert_close(smooth.rotation, smooth_rotations(rough.rotation, 2.0))
    trembling = [found.local_mesh.diff(n=2, dim=1).abs().mean() for found in (smooth, rough)]
    assert trembling[0] < 0.7 * trembling[1]


def test_mesh_frames_are_a_run_of_neighbours() -> None:
    system, data = make("video_train", "model.loss.mesh_frames=3")
    batch = system.prepare(first_batch(data))
    output, _ = system.masked_pass(batch, "full", training=True)
    mesh, frames = system.differentiable_mesh(output.logits)
    assert mesh.shape == (2, 3, len(SPHERE.vertices), 3) and frames.stop - frames.start == 3


def test_no_mesh_between_predicted_ones() -> None:
    system, data = make("video_train", "model.loss.mesh_every=3")
    batch = system.prepare(first_batch(data))
    output, tokens = system.masked_pass(batch, "full", training=True)
    for step, predicted in ((0, False), (1, False), (2, True), (5, True)):
        system._trainer = type("T", (), {"global_step": step})()
        mesh, frames = system.loss_mesh(batch, output.logits)
        losses = loss_of(system, batch, output, tokens, mesh, frames)
        assert (mesh is not None) == ("loss_v3d_local" in losses) == predicted
        assert losses["loss"].requires_grad  # the camera learns in every step


def test_temperature_schedule() -> None:
    system, _ = make("video_train", "trainer.max_steps=100", "model.temp_end_ratio=0.5")
    system.train()
    for step, expected in ((0, 1.0), (25, 0.505), (50, 0.01), (90, 0.01)):
        system._trainer = type("T", (), {"global_step": step})()
        assert math.isclose(system.temperature(), expected, abs_tol=1e-6)
    system.eval()
    assert system.temperature() == 0.5


def test_missing_statistics_are_explained() -> None:
    cfg = small_config("video_train")
    with pytest.raises(MoroError, match="trajectory statistics are missing"):
        small_system(cfg).prepare(first_batch(FakeDataModule(cfg)))


def test_not_finite_loss_is_explained() -> None:
    system, data = make("pose_pretrain", "model.loss.lambda_ce=1e40")
    with pytest.raises(MoroError, match="not finite"):
        trainer(system).fit(system, data)


def test_mixed_precision() -> None:
    system, data = make("video_train")
    run = trainer(system, precision="bf16-mixed", max_steps=2, limit_val_batches=1)
    run.fit(system, data)
    assert all(torch.isfinite(torch.as_tensor(value)) for value in run.callback_metrics.values())


# -------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("stage", ["motion_pretrain", "video_train"])
def test_resume_is_exact(stage: str, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch and resumed = never stopped, to the last bit."""
    options = ("trainer.max_steps=6", "trainer.limit_val_batches=0", "trainer.val_check_interval=100")

    def fit(folder: Path, steps: int, checkpoint: Path | None = None) -> MoRoSystem:
        system, data = make(stage, *options)
        callbacks = training_callbacks(folder, every_n_steps=100)[:1]
        run = trainer(system, enable_checkpointing=True, callbacks=callbacks, max_steps=steps)
        run.fit(system, data, ckpt_path=checkpoint, weights_only=True)
        assert run.global_step == steps
        return system

    whole = fit(tmp_path / "whole", 6)
    fit(tmp_path / "part", 3)
    resumed = fit(tmp_path / "rest", 6, tmp_path / "part" / "last.ckpt")
    for (name, expected), (_, value) in zip(whole.state_dict().items(), resumed.state_dict().items()):
        assert torch.equal(value, expected), name
    assert torch.equal(resumed.stats.mean, whole.stats.mean)


def test_sampler_goes_on_where_it_stopped() -> None:
    data = list(range(10))
    sampler = ResumableSampler(data, seed=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    rest = ResumableSampler(data, seed=1, skip=4)
    rest.set_epoch(2)
    assert list(rest) == whole[4:] and len(rest) == 10
    assert sorted(index for _, index in whole) == data and {epoch for epoch, _ in whole} == {2}
    assert list(rest) == whole  # the next epochs are whole again
    shares = [list(ResumableSampler(data, seed=1, rank=rank, world_size=2)) for rank in (0, 1)]
    assert sorted(index for share in shares for _, index in share) == data


def test_mixed_plan() -> None:
    cfg = small_config("video_train")
    members = [FakeClips(cfg, "train", size=30), FakeClips(cfg, "train", size=10)]
    mixed = MixedDataset(members, [0.5, 0.5], seed=3)
    assert len(mixed) == 40
    plan = mixed._plan(0)
    assert (plan[:, 0] == 0).sum() == 20 and len(set(plan[plan[:, 0] == 0, 1])) == 20  # no repeats: enough
    assert (plan[:, 0] == 1).sum() == 20  # with repeats
    assert not np.array_equal(plan, mixed._plan(1)) and np.array_equal(plan, mixed._draw_plan(0))
    assert mixed[(1, 7)]["seq_name"] == mixed[(1, 7)]["seq_name"]
    with pytest.raises(MoroError, match="one per sub_datasets"):
        MixedDataset(members, [1.0])


# ---------------------------------------------------------------------------------------------------- test


@pytest.mark.parametrize("frames", [6, 15])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_test_run_writes_whole_sequences(frames: int, batch_size: int, tmp_path: Path) -> None:
    words = ["dataset.overlap_len=2", "model.mode=inference", f"dataset.batch_size={batch_size}"]
    system, data = make("video_train", *words)
    data.frames = frames
    writer = ResultsWriter(tmp_path, 2, system.cfg)
    run = trainer(system, callbacks=[writer])
    run.test(system, data, verbose=False)
    assert [path.parent.name for path in writer.written] == ["seq0", "seq1"]
    content = read_results(writer.written[1])
    assert content["verts"].shape == (1, frames, len(SPHERE.vertices), 3)
    assert content["frame_name"][0].tolist() == [f"{frame:05d}.jpg" for frame in range(frames)]
    assert "test/gmpjpe" in run.callback_metrics
    assert OmegaConf.load(tmp_path / "config.yaml").name == system.cfg.name
    if batch_size == 3:  # the same as one by one
        single_system, single_data = make("video_train", *words, "dataset.batch_size=1")
        single_data.frames = frames
        single = ResultsWriter(tmp_path / "single", 2)
        trainer(single_system, callbacks=[single]).test(single_system, single_data, verbose=False)
        expected = read_results(single.written[1])
        np.testing.assert_allclose(content["verts"], expected["verts"], atol=1e-4)


@pytest.mark.parametrize("stage", ["motion_pretrain", "video_pretrain"])
def test_test_runs_of_other_tasks(stage: str, tmp_path: Path) -> None:
    system, data = make(stage, "model.mode=full")
    writer = ResultsWriter(tmp_path, 0)
    run = trainer(system, callbacks=[writer])
    run.test(system, data, verbose=False)
    assert "test/mpjpe" in run.callback_metrics
    assert bool(writer.written) == (stage == "video_pretrain")  # nothing is stored for task motion


def test_pictures_of_motion_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame of every clip, input to truth from left to right."""
    monkeypatch.setattr(pictures, "SIZE", (180, 320))
    system, data = make("motion_pretrain", "model.mode=random", "+trainer.limit_test_batches=1")
    folder = picture_folder(tmp_path, system.cfg)
    assert folder == tmp_path / "vis_random_0.2_5_0.03_2.0"
    callback = ClipPictures(folder, torch.from_numpy(SPHERE.faces))
    trainer(system, callbacks=[callback]).test(system, data, verbose=False)
    written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert written == [f"clip_{clip:03d}/vis_{frame:02d}.png" for clip in range(2) for frame in range(6)]
    picture = read_image(folder / written[0]).astype(int)
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    seen = {
        "input": (red - blue > 90) & (green - blue > 30),
        "masked": (red - green > 40) & (blue - green > 40),
        "prediction": (blue - red > 40) & (green - red > 10),
        "truth": picture.min(-1) > 253,
    }
    columns = [np.flatnonzero(pixels.any(0)).mean() for pixels in seen.values()]
    assert columns == sorted(columns)


def test_recover_without_ground_truth() -> None:
    system, data = make("video_train", "model.mode=inference")
    batch = {key: value for key, value in first_batch(data).items() if key in ("landmarks", "bbox")}
    system.eval()
    found = system.recover(batch)
    assert found.vertices.shape == (2, 6, len(SPHERE.vertices), 3)
    assert int(found.ids.max()) < system.mask_transformer.mask_id
    expected = found.local_mesh @ found.rotation.mT + found.translation
    torch.testing.assert_close(found.vertices, expected)


def test_bodies_are_put_on_the_landmarks() -> None:
    system, data = make("video_train", "model.mode=inference")
    batch = first_batch(data)
    place = LandmarkPlacement(joint_regressor(33), joint_regressor(22))
    pose = batch["mesh"][:, 2:5], batch["rotation"]
    off = batch["translation"] + 0.5
    found = place(batch, *pose, off, None, slice(2, 5))
    assert found.shape == off.shape and (found - batch["translation"])[:, 2:5].norm(dim=-1).max() < 0.05
    before = system.eval().recover(batch)
    system.placement = place
    after = system.recover(batch)
    assert not place.state_dict() and not torch.allclose(after.translation, before.translation)
    expected = after.local_mesh @ after.rotation.mT + after.translation
    torch.testing.assert_close(after.vertices, expected)

    def off_by(recovered: Recovered) -> float:
        pixels = project(joint_regressor(33) @ recovered.vertices, batch["K"])
        seen = batch["landmarks"][..., :2] * 100 + batch["center"][..., None, :]
        return float((pixels - seen).norm(dim=-1).mean())

    assert off_by(after) < off_by(before)


def test_only_bodies_with_landmarks_can_be_placed(repository: Path) -> None:
    cfg = small_config("video_train", "model.test.place=true")
    body = load_body_model(repository / "body_models", "open")
    assert build_placement(cfg, body) is not None
    cfg.model.test.place = False
    assert build_placement(cfg, body) is None
    cfg.model.test.place, body.landmark_regressor = True, None
    with pytest.raises(MoroError, match="model.test.place"):
        build_placement(cfg, body)


def test_equal_lengths_cuts_the_padding() -> None:
    cfg = small_config("video_train", "dataset.clip_len=6", "dataset.overlap_len=2")
    clips = FakeClips(cfg, "test", frames=9)  # windows of 6 and 5 frames
    samples = [clips[index] for index in range(3)]
    parts = list(equal_lengths(collate(samples)))
    assert [part["rows"] for part in parts] == [[1], [0, 2]]
    for part in parts:
        for place, row in enumerate(part["rows"]):
            for key in ("mesh", "contact_label", "bbox", "K"):
                torch.testing.assert_close(part[key][place], samples[row][key])
            assert [names[place] for names in part["img_paths"]] == samples[row]["img_paths"]
            assert part["seq_name"][place] == samples[row]["seq_name"]


# ----------------------------------------------------------------------------------- noise and scheduler


def test_noise_schedule() -> None:
    schedule = {"schedule": [-1, 0.3, 0.6], "transl": [0.0, 0.01, 0.03], "rot": [0.0, 1.0, 2.0]}
    levels = {0: (0.0, 0.0), 299: (0.0, 0.0), 300: (0.01, 1.0), 599: (0.01, 1.0), 600: (0.03, 2.0)}
    for step, level in levels.items():
        assert noise_level(schedule, step, 1000) == level
    assert noise_level(None, 0, 1) == (0.0, 0.0)
    with pytest.raises(MoroError, match="at most 0"):
        noise_level({**schedule, "schedule": [0.1, 0.3, 0.6]}, 0, 1000)


def test_noise_has_the_stated_size() -> None:
    torch.manual_seed(0)
    rotation, translation = torch.eye(3).expand(50, 40, 3, 3), torch.zeros(50, 40, 1, 3)
    noisy, moved = add_noise(rotation, translation, 0.03, 2.0)
    assert math.isclose(float(moved.std()), 0.03, rel_tol=0.05)
    angles = torch.rad2deg(torch.linalg.matrix_norm(noisy - rotation) / math.sqrt(2))
    assert math.isclose(float(angles.square().mean().sqrt()), 2.0 * math.sqrt(3), rel_tol=0.05)
    assert torch.equal(add_noise(rotation, translation, 0.0, 0.0)[0], rotation)


def rates(spec: dict, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, OmegaConf.create(spec))
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_scheduler_of_the_configuration() -> None:
    cfg = small_config("video_train", "trainer.max_steps=30", "optim.warmup_steps=10", "optim.lr=1.0")
    found = rates(OmegaConf.to_container(cfg.optim.scheduler, resolve=True), 31)
    expected = [0.01 + 0.099 * step for step in range(10)]
    expected += [0.1 + 0.45 * (1 + math.cos(math.pi * step / 20)) for step in range(21)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "ExponentialLR", "args": {"gamma": 0.5}},
        {
            "name": "ChainedScheduler",
            "schedulers": [
                {"name": "ConstantLR", "args": {"factor": 0.5, "total_iters": 2}},
                {"name": "StepLR", "args": {"step_size": 1, "gamma": 0.5}},
            ],
        },
        {
            "name": "ChainedScheduler",
            "schedulers": [
                {
                    "name": "SequentialLR",
                    "milestones": [2],
                    "schedulers": [
                        {"name": "ConstantLR", "args": {"factor": 0.5, "total_iters": 9}},
                        {"name": "ExponentialLR", "args": {"gamma": 0.5}},
                    ],
                },
            ],
        },
    ],
)
def test_scheduler_grammar(spec: dict) -> None:
    found = rates(spec, 4)
    if spec["name"] == "ExponentialLR":
        assert found == [1, 0.5, 0.25, 0.125]
    elif len(spec["schedulers"]) == 2:
        assert found == [0.5, 0.25, 0.25, 0.125]
    else:
        assert found == [0.5, 0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "Nothing"},
        {"name": "os"},
        {"name": "StepLR", "args": {"x": 1}},
        {"name": "SequentialLR"},
        {
            "name": "SequentialLR",
            "milestones": [1],
            "schedulers": [
                {"name": "ConstantLR"},
                {"name": "ChainedScheduler", "schedulers": [{"name": "ConstantLR"}]},
            ],
        },
    ],
)
def test_bad_schedulers(spec: dict) -> None:
    with pytest.raises(MoroError, match="optim.scheduler"):
        rates(spec, 1)
