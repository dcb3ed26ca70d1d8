"""The demo on small videos: bad input ends in one sentence, good input in the files of the README."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


def write_video(path: Path, frames: list[np.ndarray], fps: float = 30.0) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, fps, (width, height)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_a_video_without_a_person(workplace: Workplace, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 160, dtype=np.uint8)
    frame = np.repeat(np.broadcast_to(ramp, (120, 160))[..., None], 3, axis=2)
    video = write_video(tmp_path / "empty.mp4", [frame] * 12)
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


def test_a_misspelt_key(workplace: Workplace) -> None:
    assert "demo.video_path" in workplace.refused("preset=open", "demo.video_pth=x.mp4")


def test_the_release_preset_names_every_missing_file(workplace: Workplace, tmp_path: Path) -> None:
    """Both demo commands of the original: with and without option=demo."""
    video = write_video(tmp_path / "v.mp4", [np.zeros((64, 64, 3), np.uint8)] * 4)
    for option in ([], ["option=demo"]):
        message = workplace.refused(*option, f"demo.video_path={video}", "demo.focal_length=1000")
        for needed in ("SMPLX_NEUTRAL.npz", "smplx_ConnectionMatrices", "last.ckpt", "preset=open"):
            assert needed in message


def test_image_folder_to_motion_files(workplace: Workplace, tmp_path: Path, repository: Path) -> None:
    """Real frames of a person as an image folder: every file of the README, then a second run in no time."""
    sample = repository / SAMPLE
    if not sample.is_file():
        pytest.skip(f"{SAMPLE} is missing (make fetches it)")
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    for index, frame in enumerate(open_video(sample).frames(0, 24)):
        Image.fromarray(frame).save(images / f"{index:04d}.jpg")
    command = ("preset=open", f"demo.video_path={images}", "demo.name=test", "demo.focal_length=1500")
    workplace.demo(*command)
    stage = tmp_path / "exp/mask_transformer/MIMO-keypoints-release/video_train"
    folder = stage / "result_demo_test/inference_5_1"
    report = json.loads((folder / "demo.json").read_text())
    assert report["frames"] == 24 and report["people"]
    for name in report["people"]:
        with np.load(folder / name / "motion.npz", allow_pickle=False) as motion:
            assert motion["poses"].shape == (24, 165)
            assert np.isfinite(motion["trans"]).all()
        assert (folder / name / "motion.glb").stat().st_size > 10_000
        assert (folder / name / "results.pkl").stat().st_size > 10_000
    video = open_video(folder / "result.mp4")
    assert video.num_frames == 24
    assert "nothing to do" in workplace.demo(*command)
