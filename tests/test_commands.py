"""The README's commands with tiny sizes in a fresh folder: open data, tokenizer, backbone, five stages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STAGES = ("backbone_pretrain", "pose_pretrain", "motion_pretrain", "image_pretrain", "video_pretrain",
          "video_train")
TINY = [
    "preset=open",
    "tag=ci",
    "trainer.val_check_interval=2",
    "+trainer.limit_test_batches=1",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "checkpoint_every=2",
    "dataset.batch_size=2",
    "dataset.num_workers=0",
]
TOKENIZER = "exp/mesh_vqvae/mesh-vqvae-open-ci"
TRANSFORMER = "exp/mask_transformer/MIMO-keypoints-ci"


class Workplace:
    """A folder that looks like the repository to a user, with nothing in it that a run has written before."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository
        for name in ("body_models", "downloads"):
            (folder / name).symlink_to(repository / name)

    def run(self, script: str, *arguments: str, status: int = 0) -> str:
        """Output of `python <script> <arguments>`, after its exit status was checked."""
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(
            [sys.executable, str(self.repository / script), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, output[-4000:]
        return output


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("user"), repository)
    place.run("scripts/preprocess/process_mocap.py", "--generated", "40", "--output", "datasets/open")
    return place


@pytest.fixture(scope="module")
def tokenizer(workplace: Workplace) -> Path:
    workplace.run("train_mesh_vqvae.py", *TINY, "trainer.max_steps=2")
    return workplace.folder / TOKENIZER / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def stages(workplace: Workplace, tokenizer: Path) -> Path:
    """The backbone and all five stages, each taking up the one before by its own rules."""
    for stage in STAGES:
        workplace.run("train_mask_transformer.py", f"option={stage}", *tiny_stage(tokenizer, 2))
    return workplace.folder / TRANSFORMER


def tiny_stage(tokenizer: Path, steps: int) -> list[str]:
    return [
        *TINY,
        f"trainer.max_steps={steps}",
        f"model.vqvae.model_path={tokenizer}",
        "optim.warmup_steps=1",
        "model.dst_former.dim_feat=32",
        "model.backbone.weights=backbone_pretrain",
        "dataset.motions=8",
        "dataset.cache_variants=1",
        "dataset.draws=4",
    ]


def test_tokenizer_trains_resumes_and_is_tested(workplace: Workplace, tokenizer: Path) -> None:
    assert tokenizer.is_file()
    workplace.run("train_mesh_vqvae.py", *TINY, "trainer.max_steps=4", "resume=true")
    output = workplace.run("train_mesh_vqvae.py", *TINY, "mode=test")
    assert "v2v_error" in output


def test_the_stages_train_one_after_the_other(stages: Path) -> None:
    for stage in STAGES:
        assert (stages / stage / "checkpoints" / "last.ckpt").is_file(), stage
        assert list((stages / stage).rglob("metrics.csv")), stage


def test_a_stage_resumes(workplace: Workplace, tokenizer: Path, stages: Path) -> None:
    import torch

    workplace.run(
        "train_mask_transformer.py", "option=video_train", *tiny_stage(tokenizer, 4), "resume=true"
    )
    last = torch.load(stages / "video_train" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4


def test_a_trained_stage_is_validated(workplace: Workplace, tokenizer: Path, stages: Path) -> None:
    words = ("option=video_pretrain", *tiny_stage(tokenizer, 2), "mode=val")
    output = workplace.run("train_mask_transformer.py", *words)
    assert "val/" in output and "mpjpe" in output


@pytest.mark.parametrize("order", ["[inference,video_train]", "[video_train,inference]"])
def test_inference_in_either_order(workplace: Workplace, tokenizer: Path, stages: Path, order: str) -> None:
    workplace.run(
        "train_mask_transformer.py",
        f"option={order}",
        *tiny_stage(tokenizer, 2),
        "dataset.clip_len=64",
        "dataset.overlap_len=16",
        "dataset.motions=2",
    )
    assert list((stages / "video_train" / "result_open").rglob("results.pkl"))


def test_pictures_of_the_motion_branch(workplace: Workplace, tokenizer: Path, stages: Path) -> None:
    words = (*tiny_stage(tokenizer, 2), "dataset.batch_size=1", "dataset.clip_len=4")
    workplace.run("train_mask_transformer.py", "option=[motion_pretrain,visualize]", *words)
    folder = stages / "motion_pretrain" / "vis_random_0.2_1_0.03_2.0" / "clip_000"
    assert sorted(path.name for path in folder.iterdir()) == [f"vis_{frame:02d}.png" for frame in range(4)]


def test_a_misspelt_key_names_the_nearest(workplace: Workplace) -> None:
    output = workplace.run("train_mask_transformer.py", "option=video_train", "optim.lrr=1e-3", status=1)
    assert "optim.lr" in output and "Traceback" not in output


def test_a_missing_stage_is_named(workplace: Workplace, tokenizer: Path) -> None:
    output = workplace.run(
        "train_mask_transformer.py",
        "option=video_train",
        *tiny_stage(tokenizer, 2),
        "tag=nobody",
        status=1,
    )
    assert "motion_pretrain" in output and "Traceback" not in output
