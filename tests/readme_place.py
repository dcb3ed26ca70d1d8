"""A folder as a user of the release has it: made-up data sets, stand-in body models, small weights.

The programs run in this process by the words of a command line, each in the folder and with its own output.
"""

import contextlib
import io
import logging
import os
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import OmegaConf

from models.backbones.vit import VisionTransformer
from moro.synth.worlds import BODIES, WorldSize, make_world
from moro.synth.worlds.bodies import write_standin_bodies

FRAMES = 6
PROGRAMS = ("train_mesh_vqvae.py", "train_mask_transformer.py", "demo.py", "eval_egobody.py", "eval_rich.py",
            "eval_prox.py", "configs", "models", "moro", "scripts", "downloads")  # fmt: skip
IMAGE_SETS = ("coco", "mpii", "h36m", "mpi_inf_3dhp")
VIT = {"out_C": 16, "depth": 1, "num_heads": 2}
TOKENIZER, TRANSFORMER = Path("datasets/mesh_vq_vae"), Path("datasets/mask_transformer")
RELEASED = Path("exp/mask_transformer/MIMO-vit-release/video_train/checkpoints/last.ckpt")


class Place:
    """The folder, and `run` for a command line in it."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        for name in PROGRAMS:
            (folder / name).symlink_to(repository / name)
        bodies = folder / "body_models"
        write_standin_bodies(bodies, repository / "body_models")
        tables = repository / "body_models" / "open" / "connection_matrices"
        (bodies / "smplx_ConnectionMatrices").symlink_to(tables)
        self._bodies = repository / "body_models"

    def __truediv__(self, path: str | Path) -> Path:
        return self.folder / path

    def world(self, out: Path, *formats: str, frames: int = FRAMES) -> None:
        """Data sets of some formats, with the body models of this folder."""
        (self / out).mkdir(parents=True, exist_ok=True)
        link = self / out / BODIES
        if not link.is_symlink():
            link.symlink_to(self / "body_models")
        for name in formats:
            make_world(name, self / out, 0, WorldSize(frames, 1), self._bodies)

    def remove(self, *patterns: str) -> None:
        """What the world has ready-made, so that the preprocessing must make it."""
        for pattern in patterns:
            found = list(self.folder.glob(pattern))
            assert found, pattern
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def run(self, command: str, *more: str, status: int = 0) -> str:
        """Output of `command` with `more` words behind it, after its exit status was checked."""
        words = shlex.split(command)
        assert words[0] == "python"
        output = io.StringIO()
        with _apart(self.folder, output):
            code = _execute([*words[1:], *more])
        assert code == status, f"{command}: {code}\n{output.getvalue()[-3000:]}"
        return output.getvalue()


def _execute(words: list[str]) -> int:
    """Exit status of `python <words>`; what a MoroError says is in the output."""
    by_name = words[0] == "-m"
    sys.argv = words[1:] if by_name else words
    try:
        if by_name:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


@contextlib.contextmanager
def _apart(folder: Path, output: io.StringIO) -> Iterator[None]:
    """Working directory, command line, streams and log handlers as a process of its own would have them."""
    before, argv, root = Path.cwd(), sys.argv, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    os.chdir(folder)
    root.handlers = []
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers = handlers
        root.setLevel(level)
        sys.argv = argv
        os.chdir(before)


def write_vit(path: Path) -> None:
    """A small ViT in the place of vit_pose_hmr2.pth."""
    torch.manual_seed(0)
    vit = VisionTransformer(dim=VIT["out_C"], depth=VIT["depth"], num_heads=VIT["num_heads"])
    path.parent.mkdir(parents=True)
    torch.save(vit.state_dict(), path)


def as_released(source: Path, target: Path) -> None:
    """A checkpoint of ours as the original publishes its own: no notes of ours, body model, configuration."""
    content = torch.load(source, weights_only=True)
    del content["moro"]
    content["state_dict"]["bm_neutral.bm.v_template"] = torch.zeros(3, 3)
    content["hyper_parameters"] = OmegaConf.create({"cfg": {"tag": "release"}})
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, target)
