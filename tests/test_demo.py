"""The demo on small videos: bad input ends in one sentence, good input in the files of the README."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.recovery import pipeline
from models.recovery.pipeline import Outcome, own_names, recover_videos, summarise, videos_of
from moro.config import compose_config
from moro.errors import MoroError
from moro.io.results import read_results
from moro.video.reader import open_video
from moro.video.writer import VideoWriter

DETECTOR = "downloads/blazepose/pose_landmark_full.tflite"
SAMPLE = "downloads/sports2d.mp4"
WEIGHTS = "ckpt/open/video_train.safetensors"


class Workplace:
    """A folder that has what the repository ships, linked; runs `demo.py` in it."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository
        for name in ("body_models", "downloads", "ckpt"):
            (folder / name).symlink_to(repository / name)

    def demo(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, str(self.repository / "demo.py"), *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            timeout=280,
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, output[-4000:]
        return output

    def refused(self, *arguments: str) -> str:
        """The one sentence with which the demo refuses something."""
        output = self.demo(*arguments, status=1)
        assert "Traceback" not in output, output[-4000:]
        return output.strip().splitlines()[-1]


@pytest.fixture
def workplace(tmp_path: Path, repository: Path) -> Workplace:
    for needed in (DETECTOR, WEIGHTS):
        if not (repository / needed).is_file():
            pytest.skip(f"{needed} is missing (make fetches the detector; the weights are shipped)")
    return Workplace(tmp_path, repository)


def nobody(seed: int = 0) -> list[np.ndarray]:
    """Twelve frames without a person."""
    ramp = np.roll(np.linspace(0, 255, 160, dtype=np.uint8), seed)
    return [np.repeat(np.broadcast_to(ramp, (120, 160))[..., None], 3, axis=2)] * 12


def write_video(path: Path, frames: list[np.ndarray], fps: float = 30.0) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, fps, (width, height)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_a_video_without_a_person(workplace: Workplace, tmp_path: Path) -> None:
    video = write_video(tmp_path / "empty.mp4", nobody())
    assert "no person" in workplace.refused("preset=open", f"demo.video_path={video}")


def test_a_truncated_video(workplace: Workplace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "whole.mp4", list(rng.integers(0, 255, (10, 64, 64, 3), np.uint8)))
    half = tmp_path / "half.mp4"
    half.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert "half.mp4" in workplace.refused("preset=open", f"demo.video_path={half}")


def test_an_empty_folder(workplace: Workplace, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert "images" in workplace.refused("preset=open", f"demo.video_path={tmp_path / 'images'}")


def test_missing_video_path_and_weights(workplace: Workplace, tmp_path: Path) -> None:
    assert "demo.video_path" in workplace.refused("preset=open")
    video = write_video(tmp_path / "v.mp4", [np.zeros((64, 64, 3), np.uint8)] * 4)
    message = workplace.refused("preset=open", f"demo.video_path={video}", "model.ckpt_path=nowhere.ckpt")
    assert "nowhere.ckpt" in message


def test_a_folder_that_cannot_be_written(workplace: Workplace, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", nobody())
    (tmp_path / "taken").touch()
    message = workplace.refused("preset=open", f"demo.video_path={video}", "demo.output_path=taken/here")
    assert "taken" in message


def test_a_misspelt_key(workplace: Workplace) -> None:
    assert "demo.video_path" in workplace.refused("preset=open", "demo.video_pth=x.mp4")


def test_the_release_preset_names_every_missing_file(workplace: Workplace, tmp_path: Path) -> None:
    """Both demo commands of the original: with and without option=demo."""
    video = write_video(tmp_path / "v.mp4", [np.zeros((64, 64, 3), np.uint8)] * 4)
    for option in ([], ["option=demo"]):
        message = workplace.refused(*option, f"demo.video_path={video}", "demo.focal_length=1000")
        for needed in ("SMPLX_NEUTRAL.npz", "smplx_ConnectionMatrices", "last.ckpt", "preset=open"):
            assert needed in message


@pytest.fixture
def sample(repository: Path) -> Path:
    """A real clip with people in it."""
    path = repository / SAMPLE
    if not path.is_file():
        pytest.skip(f"{SAMPLE} is missing (make fetches it)")
    return path


def test_image_folder_to_motion_files(workplace: Workplace, tmp_path: Path, sample: Path) -> None:
    """Real frames of a person as an image folder: every file of the README, then a second run in no time."""
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for index, frame in enumerate(open_video(sample).frames(0, 24)):
        Image.fromarray(frame).save(images / f"{index:04d}.jpg")
    command = ("preset=open", f"demo.video_path={images}", "demo.name=test", "demo.focal_length=1500")
    workplace.demo(*command)
    stage = tmp_path / "exp/mask_transformer/MIMO-keypoints-release/video_train"
    folder = stage / "result_demo_test/inference_1_1"
    report = json.loads((folder / "demo.json").read_text())
    assert report["frames"] == 24 and report["people"]
    for name in report["people"]:
        with np.load(folder / name / "motion.npz", allow_pickle=False) as motion:
            assert motion["poses"].shape == (24, 165)
            assert np.isfinite(motion["trans"]).all()
        assert (folder / name / "motion.glb").stat().st_size > 10_000
        results = read_results(folder / name / "results.pkl")
        assert results["frame_name"][0].tolist() == [f"{index:04d}.jpg" for index in range(24)]
        assert results["verts"].shape[:2] == (1, 24)
    video = open_video(folder / "result.mp4")
    assert video.num_frames == 24
    assert (folder / "config.yaml").is_file() and not list(folder.rglob("*.npy"))
    assert "nothing to do" in workplace.demo(*command)
    output = workplace.demo(*command, "demo.npz_only=true")  # goes on from the motion
    assert "fit within" not in output and "weights" in output
    assert not list(folder.rglob("*.glb")) and not (folder / "result.mp4").exists()
    assert len(list(folder.glob("id*/motion.npz"))) == len(report["people"])


# ---------------------------------------------------------------------------------------------- many videos


def test_what_counts_as_many_videos(tmp_path: Path) -> None:
    images, videos, listed = tmp_path / "images", tmp_path / "videos", tmp_path / "list.txt"
    for folder in (images, videos):
        folder.mkdir()
    for name in ("images/0.jpg", "videos/b.MOV", "videos/a.mp4", "videos/.hidden.mp4", "videos/notes.md"):
        (tmp_path / name).touch()
    listed.write_text("# clips\nvideos/a.mp4\n\nimages\nvideos/a.mp4\n")
    assert videos_of(images) is None and videos_of(videos / "a.mp4") is None
    assert videos_of(tmp_path / "nowhere.txt") is None
    assert [video.name for video in videos_of(videos)] == ["a.mp4", "b.MOV"]
    assert videos_of(listed) == [Path("videos/a.mp4"), Path("images")]
    listed.write_text("# nothing\n")
    with pytest.raises(MoroError, match="names no video"):
        videos_of(listed)
    listed.write_bytes("vidéo.mp4".encode("latin-1"))
    with pytest.raises(MoroError, match="UTF-8"):
        videos_of(listed)


def test_names_of_results_differ() -> None:
    videos = [Path(name) for name in ("x/a.mp4", "x/a.mov", "y/a.mp4", "y/b.mp4")]
    assert own_names(videos) == ["x-a.mp4", "x-a.mov", "y-a.mp4", "b"]


def test_one_failure_does_not_stop_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loads, seen = [], []

    def recover(cfg: object, load: object) -> Outcome:
        seen.append((cfg.demo.video_path, cfg.demo.name, cfg.demo.output_path))
        load("weights")
        if "bad" in cfg.demo.video_path:
            raise MoroError("it is bad.")
        if "worse" in cfg.demo.video_path:
            raise RuntimeError("out of memory")
        return Outcome(Path(cfg.demo.video_path), "done", tmp_path)

    monkeypatch.setattr(pipeline, "recover_video", recover)
    monkeypatch.setattr(pipeline, "check_files", lambda *_: None)
    monkeypatch.setattr(pipeline, "choose_checkpoint", lambda *_: None)
    monkeypatch.setattr(pipeline, "load_system", lambda *arguments: loads.append(arguments))
    cfg = compose_config("demo", ["preset=open", "demo.name=day1", "demo.output_path=out"])
    outcomes = recover_videos(cfg, [Path(name) for name in ("bad.mp4", "worse.mp4", "good.mp4")])
    assert [outcome.state for outcome in outcomes] == ["failed", "failed", "done"]
    assert [outcome.reason for outcome in outcomes] == ["it is bad.", "RuntimeError: out of memory", ""]
    assert seen[2] == ("good.mp4", "day1_good", "out/good") and len(loads) == 1
    with pytest.raises(MoroError, match="2 of 3 videos failed"):
        summarise(outcomes)
    summarise(outcomes[2:])


def test_a_folder_of_videos(workplace: Workplace, tmp_path: Path, sample: Path) -> None:
    """One with a person, one without, one that is no video; what is done is not done again."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a_broken.mp4").write_bytes(b"no video")
    write_video(videos / "b_empty.mp4", nobody())
    write_video(videos / "c_person.mp4", list(open_video(sample).frames(100, 112)))
    command = ("preset=open", f"demo.video_path={videos}", "demo.npz_only=true", "demo.max_people=1")
    output = workplace.demo(*command, status=1)
    assert "Traceback" not in output
    assert "3 videos: 1 done, 0 skipped (done before), 2 failed" in output
    assert "a_broken.mp4" in output and "no person" in output
    stage = tmp_path / "exp/mask_transformer/MIMO-keypoints-release/video_train"
    assert list((stage / "result_demo_c_person").rglob("motion.npz"))
    assert "3 videos: 0 done, 1 skipped (done before), 2 failed" in workplace.demo(*command, status=1)
