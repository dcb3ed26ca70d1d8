"""Hydra's multirun with the joblib launcher: runs side by side, each in its own folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moro.config import _check_sweep
from moro.errors import MoroError
from tests.mesh_vq_vae.test_data import write_file

pytestmark = pytest.mark.timeout(900)


def test_runs_side_by_side(tmp_path: Path, repository: Path) -> None:
    """Two tiny tokenizers, and a third that cannot be trained: it fails alone."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install -r requirements-dev.txt")
    (tmp_path / "body_models").symlink_to(repository / "body_models")
    data = write_file(tmp_path / "data.npz", 8)
    paths = [f"dataset.{split}_path=[{data}]" for split in ("train", "val", "test")]
    done = subprocess.run(
        [
            sys.executable, str(repository / "train_mesh_vqvae.py"), "-m", "preset=open", *paths,
            "dataset.batch_size=2,3,4000", "tag=batch_${dataset.batch_size}", "trainer.max_steps=2",
            "trainer.accelerator=cpu", "trainer.devices=1", "hydra/launcher=joblib",
            "hydra.launcher.n_jobs=2",
        ],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=850,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 1, output[-4000:]
    assert "error: 8 training samples do not fill a batch of 4000" in output
    runs = tmp_path / "exp" / "mesh_vqvae"
    for size in (2, 3):
        assert (runs / f"mesh-vqvae-open-batch_{size}" / "tokenizer.safetensors").is_file(), output[-4000:]


@pytest.mark.parametrize("words", [
    ["optim.lr=1e-3,1e-4", "tag=lr_${optim.lr}"], ["+tag=a,b"], ["option=pose_pretrain,motion_pretrain"],
    ["demo.video_path=a.mp4,b.mp4"],
])  # fmt: skip
def test_sweeps_with_a_folder_for_each_run(words: list[str]) -> None:
    _check_sweep(words)


@pytest.mark.parametrize("words", [["optim.lr=1e-3,1e-4"], ["tag=x", "optim.lr=1e-3,1e-4"], []])
def test_sweeps_into_one_folder_are_refused(words: list[str]) -> None:
    with pytest.raises(MoroError, match="give each its own tag"):
        _check_sweep(words)
