"""Two processes on the CPU give what one process with the same global batch gives."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.mask_transformer.draws import draws_of, uniform
from tests.scale.cases import CASES

pytestmark = pytest.mark.timeout(900)
Results = dict[str, dict[str, Any]]
PROCESSES = 2


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Iterator[tuple[Results, list[Results]]]:
    """Results of one process (this one), and of each of two; both run at the same time."""
    folder = tmp_path_factory.mktemp("ddp")
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.scale.cases", str(folder), str(rank), str(PROCESSES)],
            cwd=repository, env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(PROCESSES)
    ]  # fmt: skip
    try:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        single = {name: case(folder, 1) for name, case in CASES.items()}
        torch.set_num_threads(threads)
        for child in children:
            output = child.communicate(timeout=850)[0]
            assert child.returncode == 0, output[-4000:]
        yield single, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]
    finally:
        for child in children:
            child.kill()


def test_codebooks_are_one(runs: tuple[Results, list[Results]]) -> None:
    single, several = runs
    for result in several:
        assert result["quantiser"].keys() == single["quantiser"].keys()
        for name, value in single["quantiser"].items():
            torch.testing.assert_close(result["quantiser"][name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", ["tokenizer", "motion", "video", "fsdp"])
def test_losses_and_metrics(runs: tuple[Results, list[Results]], case: str) -> None:
    single, several = runs
    expected = single[case]
    assert len(expected["terms"]) == 4 and len(expected["val"]) > 5
    for result in several:
        for found, wanted in zip(result[case]["terms"], expected["terms"], strict=True):
            found.pop("train/acc", None)  # of the masked tokens of each process, then averaged
            assert found == pytest.approx({name: wanted[name] for name in found}, rel=2e-4, abs=1e-5)
        assert result[case]["val"] == pytest.approx(expected["val"], rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("case", ["tokenizer", "motion", "video", "fsdp"])
def test_weights(runs: tuple[Results, list[Results]], case: str) -> None:
    single, several = runs
    for number, result in enumerate(several):
        if case == "fsdp" and number > 0:
            assert not result[case]["state"]  # put together in the first process only
            continue
        assert result[case]["state"].keys() == single[case]["state"].keys()
        for name, value in single[case]["state"].items():
            torch.testing.assert_close(result[case]["state"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_the_tokenizer_is_tested_on_every_mesh_once(runs: tuple[Results, list[Results]]) -> None:
    single, several = runs
    for result in several:
        assert result["tokenizer"]["test"] == pytest.approx(single["tokenizer"]["test"], rel=2e-4)


def test_fsdp_spreads_the_vit_and_resumes(runs: tuple[Results, list[Results]]) -> None:
    single, several = runs
    whole = single["fsdp"]["size"]
    assert sum(result["fsdp"]["size"] for result in several) < 1.1 * whole  # a little padding
    assert len(single["fsdp"]["resumed"]) == 2  # steps 5 and 6
    for result in several:
        for found, wanted in zip(result["fsdp"]["resumed"], single["fsdp"]["resumed"], strict=True):
            assert found["train/loss"] == pytest.approx(wanted["train/loss"], rel=2e-4)


def test_draws_belong_to_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uniform((6, 3), draws_of([1, 2], 6).samples)
    monkeypatch.setattr("models.mask_transformer.draws.world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("models.mask_transformer.draws.process_rank", lambda rank=rank: rank)
        assert torch.equal(uniform((3, 3), draws_of([1, 2], 3).samples), whole[rank::2])
        assert torch.equal(uniform((1, 3), draws_of([1, 2], 1, first=2).samples), whole[4 + rank][None])
    assert not torch.equal(uniform((3, 3), draws_of([1, 3], 3).samples), whole[1::2])
