"""Tokenizer files from generated AMASS, BEDLAM and MOYO folders."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from models.mesh_vq_vae.data.dataset import BodyParameters
from models.mesh_vq_vae.data.preprocess import amass, bedlam, common, moyo
from moro.errors import MoroError
from moro.synth.worlds import WorldSize, make_world


def write_amass(path: Path, frames: int, seed: int, gender: object = "neutral",
                **changes: object) -> np.ndarray:
    random = np.random.default_rng(seed)
    poses = random.standard_normal((frames, 165))
    fields = {"poses": poses, "betas": random.standard_normal(16), "gender": gender} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{k: v for k, v in fields.items() if v is not None})
    return poses


@pytest.fixture
def amass_root(tmp_path: Path) -> Path:
    root = tmp_path / "AMASS"
    write_amass(root / "CMU" / "01" / "walk_poses.npz", 100, 0)
    write_amass(root / "KIT" / "3" / "run_poses.npz", 57, 1, gender=np.bytes_("female"))
    write_amass(root / "CMU" / "01" / "neutral_stagei.npz", 10, 2, poses=None)
    (root / "CMU" / "02").mkdir()
    (root / "CMU" / "02" / "broken_poses.npz").write_bytes(b"not a zip")
    write_amass(root / "SFU" / "a" / "b_poses.npz", 60, 3)
    write_amass(root / "BMLhandball" / "a" / "b_poses.npz", 60, 3)
    write_amass(root / "SSM" / "a" / "b_poses.npz", 60, 4)
    return root


def test_frames_kept() -> None:
    assert common.kept_frames(100, 0.2, 10).tolist() == [20, 30, 40, 50, 60, 70]
    assert common.kept_frames(57, 0.2, 10).tolist() == [11, 21, 31, 41]
    assert common.kept_frames(2, 0.2, 10).tolist() == [0]


def test_amass(amass_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        amass.main(["--root", str(amass_root), "--output", str(out)])
    assert "10 samples of 2 files, 1 files without poses skipped" in caplog.text
    assert "broken_poses.npz" in caplog.text
    assert "split val is made without HumanEva, HDM05, MoSh" in caplog.text
    assert "of no split, not used: BMLhandball" in caplog.text
    train = np.load(out / "train.npz", allow_pickle=False)
    walk = np.load(amass_root / "CMU" / "01" / "walk_poses.npz")
    np.testing.assert_array_equal(train["pose_body"][:6], walk["poses"][20:80:10, 3:66])
    np.testing.assert_array_equal(train["root_orient"][:6], walk["poses"][20:80:10, :3])
    np.testing.assert_array_equal(train["betas"][:6], np.tile(walk["betas"][:10], (6, 1)))
    assert train["gender"].tolist() == ["neutral"] * 6 + ["female"] * 4
    assert train["name"][[0, 6]].tolist() == ["CMU/01/walk_poses", "KIT/3/run_poses"]
    assert sorted(p.name for p in out.iterdir()) == ["test.npz", "train.npz", "val.npz"]
    assert len(BodyParameters([out / "train.npz", out / "val.npz"], 10)) == 14


def test_an_interrupted_run_goes_on(amass_root: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    motions = amass.find_motions(amass_root, ("CMU", "KIT"))
    read: list[str] = []
    extract = common._extract

    def stops_at_the_second_motion(motion: common.Motion, *rest: object) -> common.Arrays | None:
        if "KIT" in motion.name and len(read) < 4:
            read.append("stopped")
            raise KeyboardInterrupt
        read.append(motion.name)
        return extract(motion, *rest)

    monkeypatch.setattr(common, "_extract", stops_at_the_second_motion)
    output = tmp_path / "train.npz"
    with pytest.raises(KeyboardInterrupt):
        common.build_split(motions, common.amass_fields, 0.2, 10, output)
    assert not output.exists()
    common.build_split(motions, common.amass_fields, 0.2, 10, output)
    assert read.count("CMU/01/walk_poses") == 1 and len(np.load(output)["gender"]) == 10
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_splits_stay_while_their_files_do(amass_root: Path, tmp_path: Path) -> None:
    """Files that are added or replaced count, even by older ones: archives keep their files' dates."""
    def run(*more: str) -> list[int]:
        amass.main(["--root", str(amass_root), "--output", str(tmp_path), *more])
        return [(tmp_path / f"{split}.npz").stat().st_mtime_ns for split in ("train", "val", "test")]

    first = run()
    assert run() == first
    added, replaced = amass_root / "SFU" / "a" / "c_poses.npz", amass_root / "SSM" / "a" / "b_poses.npz"
    write_amass(added, 60, 5)
    poses = write_amass(replaced, 60, 6)
    for file in (added, replaced):
        os.utime(file, (1e9, 1e9))
    second = run()
    assert second[0] == first[0] and len(np.load(tmp_path / "val.npz")["gender"]) == 8
    np.testing.assert_array_equal(np.load(tmp_path / "test.npz")["pose_body"], poses[12:48:10, 3:66])
    assert all(late > early for late, early in zip(run("--force"), second))


def test_bedlam(tmp_path: Path) -> None:
    poses = write_amass(tmp_path / "in" / "rp_aaron" / "1000" / "motion_seq.npz", 50, 0)
    bedlam.main(["--root", str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    train = np.load(tmp_path / "out" / "train.npz")
    np.testing.assert_array_equal(train["pose_body"], poses[10:40:10, 3:66])
    assert set(train["name"]) == {"rp_aaron-1000"}


def test_moyo(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    body = random.standard_normal((40, 63))
    for split in ("train", "val", "test"):
        path = tmp_path / "in" / split / "220923" / "yoga" / "Bridge.npz"
        path.parent.mkdir(parents=True)
        np.savez(path, pose_body=body, root_orient=body[:, :3], betas=random.standard_normal((1, 300)),
                 gender="neutral")
    moyo.main(["--root", str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    test = np.load(tmp_path / "out" / "test.npz")
    np.testing.assert_array_equal(test["pose_body"], body[4:36:5])
    assert test["betas"].shape == (7, 10) and set(test["name"]) == {"Bridge.npz"}


@pytest.mark.parametrize(("name", "script", "raw"), [
    ("AMASS_smplx", amass, "AMASS_raw"), ("MOYO", moyo, "MOYO_raw"),
    ("bedlam_animations", bedlam, "neutral_ground_truth_motioninfo"),
])
def test_files_of_a_small_world(name: str, script: ModuleType, raw: str, tmp_path: Path,
                                repository: Path) -> None:
    """What the scripts make of the released files is what the world holds; the loader reads it."""
    root = make_world(name, tmp_path, 0, WorldSize(recordings=1), repository / "body_models")
    script.main(["--root", str(tmp_path / raw), "--output", str(tmp_path / "out"), "--jobs", "2"])
    files = sorted(path.name for path in root.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "out").iterdir())
    for file in files:
        made, expected = (np.load(folder / file, allow_pickle=False) for folder in (tmp_path / "out", root))
        assert set(made.files) == {*expected.files, "state"}
        for key in expected.files:
            np.testing.assert_array_equal(made[key], expected[key])
    assert BodyParameters([root / file for file in files], 10).genders == ["neutral"]


def test_scripts_run_by_their_path(repository: Path, tmp_path: Path) -> None:
    path = repository / "models" / "mesh_vq_vae" / "data" / "preprocess" / "amass.py"
    command = [sys.executable, path, "--root", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "none is not a folder" in done.stderr


def test_an_empty_or_missing_root_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="is not a folder"):
        moyo.main(["--root", str(tmp_path / "none"), "--output", str(tmp_path)])
    with pytest.raises(MoroError, match="No motion for"):
        bedlam.main(["--root", str(tmp_path), "--output", str(tmp_path / "out")])
