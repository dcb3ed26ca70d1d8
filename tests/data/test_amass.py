"""AMASS: the 30 fps arrays, their making, clips of them, the trajectory statistics."""

import functools
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from models.mask_transformer.data import amass as module
from models.mask_transformer.data.amass import AmassDataset
from models.mask_transformer.data.module import MotionDataModule
from moro.body.model import BodyModel
from moro.config import compose_config
from moro.errors import MoroError
from moro.geometry.trajectory import TrajectoryStats, canonical_trajectory
from moro.io.amass_files import JOINTS, PARAMETERS, find_recordings, open_parameters
from moro.synth.worlds import BODIES
from moro.synth.worlds.motion_files import AMASS, FRAMES
from scripts import compute_trajectory_stats
from scripts.preprocess import process_amass

F = 30  # frames of a clip here: two from each of the recordings of 64
RECORDINGS = 2  # per subset
load_once = functools.cache(module.load_body_model)


@pytest.fixture(scope="module", autouse=True)
def _one_body() -> Iterator[None]:
    """Most of what a data set costs here is the reading of its body."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_body_model", load_once)
        yield


@pytest.fixture(scope="module")
def amass(world):
    return world("amass")


@pytest.fixture
def copy(amass, tmp_path: Path) -> Path:
    """A world of its own that a test may damage."""
    return shutil.copytree(amass.root, tmp_path / "AMASS")


def joints_of(item: dict) -> torch.Tensor:
    return item["local_joints"] @ item["rotation"].mT + item["translation"]


# ------------------------------------------------------------------------------------------------- clips


def test_items_have_the_keys_of_the_specification(amass) -> None:
    item = amass.build("train", clip_len=F)[0]
    shapes = {
        "mesh": (F, item["mesh"].shape[1], 3), "local_joints": (F, 22, 3), "offset": (F, 1, 3),
        "root_pos": (F, 1, 3), "rotation": (F, 3, 3), "translation": (F, 1, 3), "contact_label": (F - 1, 4),
    }  # fmt: skip
    assert {key: tuple(value.shape) for key, value in item.items()} == shapes
    assert all(value.dtype == torch.float32 for value in item.values())
    assert set(amass.build("train", clip_len=1)[0]) == set(shapes) - {"contact_label"}


def test_clips_lie_side_by_side_in_the_world(amass) -> None:
    dataset = amass.build("train", clip_len=F)
    assert len(dataset) == 3 * RECORDINGS * (FRAMES // F)  # CMU, HumanEva, SSM
    for clip in (0, 1, 5):
        recording, part = divmod(clip, 2)
        path = dataset.recordings[recording]
        joints = np.load(str(path).replace(PARAMETERS, JOINTS))[part * F : (part + 1) * F, :22]
        np.testing.assert_allclose(joints_of(dataset[clip]), joints, atol=2e-5)
    assert len(amass.build("train", clip_len=1)) == 3 * RECORDINGS * FRAMES
    assert len(amass.build("train", clip_len=FRAMES)) == 3 * RECORDINGS


def test_every_second_and_every_nth_clip(amass) -> None:
    single = {split: amass.build(split, clip_len=1, spacing=5) for split in ("val", "test")}
    assert len(single["val"]) == RECORDINGS * FRAMES // 2 and len(single["test"]) == 26  # of 128 every fifth
    every = AmassDataset(single["val"].recordings, single["val"].body, clip_len=1)
    assert torch.equal(single["val"][40]["rotation"], every[80]["rotation"])
    assert {path.parts[-3] for path in single["test"].recordings} == {"TotalCapture"}
    debug = amass.build("train", clip_len=F, debug=True)
    assert {path.parts[-3] for path in debug.recordings} == {"HumanEva"}


def test_test_clips_are_canonical(amass) -> None:
    """Spec: data 12.1, check 6."""
    item, plain = amass.build("test", clip_len=F)[1], amass.build("val", clip_len=F, spacing=1)
    joints = joints_of(item)
    assert joints[..., 2].min().abs() < 1e-5 and joints[0, 0, :2].abs().max() < 1e-5
    across = joints[0, 2] - joints[0, 1] + joints[0, 17] - joints[0, 16]
    assert across[0] > 0 and across[1].abs() < 1e-5
    source = AmassDataset(plain.recordings, plain.body, clip_len=F)[1]
    change = item["rotation"] @ source["rotation"].mT  # one turn about z for all frames
    assert (change - change[0]).abs().max() < 1e-5 and (change[0, 2, 2] - 1).abs() < 1e-5
    assert torch.equal(item["mesh"], source["mesh"])
    assert torch.equal(item["contact_label"], source["contact_label"])


def test_one_body_forward_per_item(amass, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, calls, forward = amass.build("test", clip_len=F), [], BodyModel.forward
    monkeypatch.setattr(BodyModel, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    dataset[0]
    assert len(calls) == 1


def test_bad_files_are_named(amass, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MoroError, match="AMASS not found"):
        amass.build("train", root=copy / "nowhere")
    with pytest.raises(MoroError, match="has dataset.clip_len=100 frames"):
        amass.build("train", clip_len=100)
    path = find_recordings(copy, ["CMU"])[0]
    rows = np.array(open_parameters(path))
    rows[3, 20] = np.nan
    np.save(path, rows)
    with pytest.raises(MoroError, match="not finite"):
        amass.build("train", root=copy, clip_len=F)[0]
    np.save(path, rows[:, :100])
    with pytest.raises(MoroError, match=r"float32\[64, 100\], not \(T, 178\)"):
        amass.build("train", root=copy)
    shutil.rmtree(copy / PARAMETERS / "CMU")
    with caplog.at_level("INFO"):
        amass.build("train", root=copy)
    said = {record.levelname: record.message for record in caplog.records if record.name == module.__name__}
    assert said["INFO"].endswith("split train: HumanEva, SSM")
    assert "without ACCAD, BMLhandball" in said["WARNING"] and "CMU" in said["WARNING"]


# ----------------------------------------------------------------------------------------- statistics


def true_statistics(dataset: AmassDataset) -> TrajectoryStats:
    """By numpy, from the joints files."""
    rows = []
    for path in dataset.recordings:
        pelvis = torch.from_numpy(np.load(str(path).replace(PARAMETERS, JOINTS)))[:60, None, 0]
        whole = AmassDataset([path], dataset.body, clip_len=60)[0]
        rows.append(canonical_trajectory(whole["rotation"][None], pelvis[None])[0].numpy())
    rows = np.concatenate(rows)
    return TrajectoryStats(torch.from_numpy(rows.mean(0)), torch.from_numpy(rows.std(0)))


@pytest.mark.parametrize("clip_len", [1, 60])
def test_statistics_are_those_of_sixty_frames(amass, clip_len: int) -> None:
    cfg = OmegaConf.merge(
        amass.cfg, {"debug": True, "dataset": {"clip_len": clip_len, "dataset_root": str(amass.root)}}
    )
    stats = MotionDataModule(cfg).trajectory_stats()  # of all subsets, with `debug` too
    expected = true_statistics(amass.build("train", clip_len=60))
    torch.testing.assert_close(stats.mean, expected.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stats.std, expected.std, atol=1e-5, rtol=1e-3)


def test_other_data_take_them_from_amass_or_say_what_is_missing(amass, tmp_path: Path) -> None:
    bodies = amass.root.parent / BODIES
    words = ["option=video_train", f"dataset.bm_path={bodies}", f"dataset.roots.amass={amass.root}"]
    stats = MotionDataModule(compose_config("config", words)).trajectory_stats()
    assert stats.std.min() > 0
    words[-1] = f"dataset.roots.amass={tmp_path / 'none'}"
    with pytest.raises(MoroError, match=r"neither .*amass_cum_traj.pkl nor AMASS at .*none is there"):
        MotionDataModule(compose_config("config", words)).trajectory_stats()


def test_the_script_writes_the_file(amass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "amass_preprocess" / "amass_cum_traj.pkl"
    bodies = amass.root.parent / BODIES
    words = [f"dataset.dataset_root={amass.root}", f"dataset.bm_path={bodies}"]
    monkeypatch.setattr(sys, "argv", ["compute", *words, f"model.trajectory_stats={target}"])
    compute_trajectory_stats.main()
    content = pickle.loads(target.read_bytes())
    assert {key: (value.shape, str(value.dtype)) for key, value in content.items()} == {
        "Mean": ((1, 1, 9), "float32"), "Std": ((1, 1, 9), "float32")
    }  # fmt: skip
    assert TrajectoryStats.load(target).std.min() > 0


# ------------------------------------------------------------------------------------- the 30 fps arrays


def arguments(amass, output: Path) -> list[str]:
    raw, bodies = amass.root.parent / "AMASS_raw", amass.root.parent / BODIES
    return ["--root", str(raw), "--output", str(output), "--bm_path", str(bodies), "--jobs", "1"]


def test_arrays_are_made_of_the_release(amass, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        process_amass.main(arguments(amass, tmp_path))
    assert f"{len(AMASS) * RECORDINGS}  written" in caplog.text
    expected = find_recordings(amass.root, AMASS)
    assert [path.relative_to(amass.root) for path in expected] == [
        path.relative_to(tmp_path) for path in find_recordings(tmp_path, AMASS)
    ]
    for path in expected:
        made = tmp_path / path.relative_to(amass.root)
        np.testing.assert_array_equal(np.load(made), np.load(path))
        joints = [Path(str(place).replace(PARAMETERS, JOINTS)) for place in (made, path)]
        np.testing.assert_array_equal(np.load(joints[0]), np.load(joints[1]))
    caplog.clear()
    made.unlink()  # an interrupted run has only some of them
    with caplog.at_level("INFO"):
        process_amass.main(arguments(amass, tmp_path))
    assert "1  written" in caplog.text and f"{len(expected) - 1}  already there" in caplog.text


def test_files_that_are_left_out(amass, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = next((amass.root.parent / "AMASS_raw" / "CMU").glob("*/motion*.npz"))
    with np.load(source) as file:
        fields = dict(file)
    changes = {
        "male": {"gender": "male"},
        "smplh": {"surface_model_type": "smplh"},
        "slow": {"mocap_frame_rate": 100.0},
        "short": {"pose_body": fields["pose_body"][:5]},
    }
    folder = tmp_path / "raw" / "CMU" / "01"
    folder.mkdir(parents=True)
    for name, change in changes.items():
        np.savez(folder / f"{name}.npz", **fields | change)
    (folder / "damaged.npz").write_bytes(b"no")
    words = arguments(amass, tmp_path / "out")
    words[1] = str(tmp_path / "raw")
    with caplog.at_level("INFO"), pytest.raises(MoroError, match="none of the 5 files"):
        process_amass.main(words)
    for reason in ("1  gender is not neutral", "1  surface_model_type is not smplx", "1  frame rate no mul",
                   "2  damaged or of another kind"):  # fmt: skip
        assert reason in caplog.text
    assert "short.npz" in caplog.text and "damaged.npz" in caplog.text
    words[1] = str(tmp_path / "none")
    with pytest.raises(MoroError, match="is not a folder"):
        process_amass.main(words)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("CMU/01/neutral_stagei", False), ("HDM05/bk/HDM_bk_01-01_stageii", True),
     ("HDM05/dg/HDM_dg_07-01_03_stageii", False), ("HDM05/dg/HDM_dg_07-02_stageii", True),
     ("BMLrub/rub1/0001_treadmill_slow_stageii", False), ("BMLrub/rub1/0002_normal_walk1_stageii", False),
     ("BMLrub/rub1/0003_sitting1_stageii", True), ("CMU/01/0001_treadmill_stageii", True)],
)  # fmt: skip
def test_recordings_that_rohm_leaves_out(name: str, kept: bool) -> None:
    assert process_amass.wanted(Path("AMASS") / f"{name}.npz") is kept


def test_steps() -> None:
    rates = [("CMU", 120.0), ("CMU", 30.0), ("SSM", 59.99), ("SSM", 60.5), ("SSM", 120.1)]
    assert [process_amass.step_of(*rate) for rate in rates] == [4, 1, 2, 2, 4]
    for rate in (100.0, 250.0, 15.0):
        with pytest.raises(process_amass.Unusable):
            process_amass.step_of("CMU", rate)
