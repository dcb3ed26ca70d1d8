"""scripts/open/train_all.sh: what is finished is not repeated, what has failed is not finished."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="a bash script")
SCRIPT = Path(__file__).parents[1] / "scripts/open/train_all.sh"
LONGER = "backbone_pretrain_longer"  # the same option once more
STAGES = ("backbone_pretrain", "image_pretrain", "video_pretrain", "pose_pretrain", "motion_pretrain")
# stands for python: notes its arguments, and fails where it is told to
PYTHON = '#!/bin/sh\necho "$@" >>calls.txt\ncase "$*" in *"option=$FAIL "*) exit 3;; esac\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder like the repository, with data and a finished tokenizer."""
    (tmp_path / "scripts/open").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "scripts/open")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    for file in ("datasets/open/motion/index.json", "exp/mesh_vqvae/mesh-vqvae-open-try/finished"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    return tmp_path


def train(place: Path, fail: str) -> tuple[int, set[str], str]:
    """Exit code, finished stages and all calls so far."""
    command = ["bash", "scripts/open/train_all.sh", "nowhere", "try"]
    env = os.environ | {"PYTHON": str(place / "python"), "FAIL": fail}
    code = subprocess.run(command, cwd=place, env=env, capture_output=True, timeout=60).returncode
    runs = (place / "exp/mask_transformer/MIMO-keypoints-try").glob("*/finished")
    return code, {run.parent.name for run in runs}, (place / "calls.txt").read_text()


@pytest.mark.parametrize("failing", STAGES)
def test_a_stage_that_fails_ends_its_chain(place: Path, failing: str) -> None:
    code, finished, calls = train(place, failing)
    assert code != 0 and failing not in finished and "option=video_train" not in calls
    later = STAGES[STAGES.index(failing) + 1 :]
    after = set(later) - ({"pose_pretrain", "motion_pretrain"} if failing in STAGES[:3] else set())
    assert not after & finished
    code, finished, calls = train(place, "nothing")  # once more
    assert code == 0 and finished == {*STAGES, LONGER, "video_train", "video_train_start"}
    runs = 2 + (failing == "backbone_pretrain")
    assert calls.count(f"option={failing} ") == runs and calls.count("option=video_train ") == 2


def test_finished_stages_are_not_repeated(place: Path) -> None:
    train(place, "nothing")
    before = (place / "calls.txt").read_text()
    code, _, calls = train(place, "nothing")
    assert code == 0 and calls.count("option=") == before.count("option=")


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_longer_run_starts_from_the_first_or_from_where_it_was(place: Path, interrupted: bool) -> None:
    run = place / "exp/mask_transformer/MIMO-keypoints-try"
    if interrupted:
        last = run / "backbone_pretrain_longer/checkpoints/last.ckpt"
        last.parent.mkdir(parents=True)
        last.touch()
    _, _, calls = train(place, "nothing")
    (call,) = (line for line in calls.splitlines() if "subtag=longer" in line)
    first = f"resume_ckpt={run.relative_to(place)}/backbone_pretrain/checkpoints/last.ckpt" in call
    assert first == ("resume_weights_only=true" in call) == ("resume=false" in call) == (not interrupted)


def test_an_interrupted_stage_goes_on(place: Path) -> None:
    last = place / "exp/mask_transformer/MIMO-keypoints-try/pose_pretrain/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    _, _, calls = train(place, "nothing")
    resumed = {line.split("option=")[1].split()[0] for line in calls.splitlines() if "resume=true" in line}
    assert resumed == {"pose_pretrain"}
