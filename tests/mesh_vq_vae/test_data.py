"""Tokenizer data: files, sampling, meshes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from roma import rotvec_to_rotmat

from models.mesh_vq_vae.data.dataset import GENDERS, BodyParameters, SequentialBatches, WeightedBatches
from models.mesh_vq_vae.data.meshes import MeshMaker
from moro.body.model import BodyModel
from moro.errors import MoroError
from tests.mesh_vq_vae.conftest import make_small_body


def write_file(path: Path, size: int, seed: int = 0, **changes: np.ndarray | None) -> Path:
    """A tokenizer npz of `size` random samples; `changes` replace fields, None leaves one out."""
    random = np.random.default_rng(seed)
    fields = {
        "pose_body": 0.3 * random.standard_normal((size, 63)),
        "root_orient": random.standard_normal((size, 3)), "betas": random.standard_normal((size, 16)),
        "gender": np.array(["neutral"] * size),
        "name": np.array([f"motion{i}" for i in range(size)]),
    } | changes
    np.savez(path, **{k: v for k, v in fields.items() if v is not None})
    return path


def test_files_are_joined_and_fetched_by_batches(tmp_path: Path) -> None:
    genders = np.array(["male", "female", "neutral", "male"])
    one = write_file(tmp_path / "a.npz", 4, gender=genders)
    other = write_file(tmp_path / "b.npz", 3, seed=1, gender=np.array([b"female"] * 3))
    data = BodyParameters([one, other], num_betas=10)
    batch = data[torch.tensor([5, 0])]
    assert data.sizes == [4, 3] and len(data) == 7 and data.genders == ["neutral", "male", "female"]
    assert {k: (tuple(v.shape), v.dtype) for k, v in batch.items()} == {
        "pose_body": ((2, 21, 3), torch.float32), "root_orient": ((2, 3), torch.float32),
        "betas": ((2, 10), torch.float32), "gender": ((2,), torch.int64)}
    raw = np.load(other)
    np.testing.assert_allclose(batch["pose_body"][0].flatten(), raw["pose_body"][1], rtol=1e-6)
    assert [GENDERS[i] for i in batch["gender"]] == ["female", "male"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"gender": np.array(["other"] * 4)}, "has the gender 'other'"),
    ({"pose_body": np.zeros((4, 69))}, r"pose_body in .* has shape \(4, 69\)"),
    ({"pose_body": np.zeros((3, 63))}, r"pose_body in .* has shape \(3, 63\)"),
    ({"betas": np.zeros((4, 8))}, r"not \(4, >= 10\)"),
    ({"betas": np.full((4, 10), np.nan)}, "not finite"),
    ({"root_orient": None}, "lacks"),
    ({"gender": np.array(["male"] * 4, dtype=object)}, "not a readable npz of plain arrays"),
])
def test_bad_files_are_named(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    with pytest.raises(MoroError, match=message):
        BodyParameters([write_file(tmp_path / "bad.npz", 4, **changes)], 10)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="does not exist"):
        BodyParameters([tmp_path / "none.npz"], 10)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(MoroError, match="not a readable npz"):
        BodyParameters([tmp_path / "text.npz"], 10)
    with pytest.raises(MoroError, match="No data file"):
        BodyParameters([], 10)


@pytest.mark.parametrize(("weights", "share"), [("balanced", 0.5), (None, 0.1), ([3, 1], 0.75)])
def test_files_are_drawn_by_their_weights(weights: str | list[float] | None, share: float) -> None:
    batches = WeightedBatches([10, 90], weights, batch_size=50, seed=3)
    drawn = torch.cat([batches.draw(step) for step in range(200)])
    assert len(batches) == 2 and drawn.min() == 0 and drawn.max() == 99
    assert (drawn < 10).float().mean() == pytest.approx(share, abs=0.02)
    within = torch.bincount(drawn[drawn < 10], minlength=10).float()
    assert (within / within.mean() - 1).abs().max() < 0.35  # all samples of a file are equally likely


def test_batches_depend_on_seed_and_step_alone() -> None:
    steps = {"now": 0}
    batches = WeightedBatches([40], None, 8, seed=1, step=lambda: steps["now"])
    first = list(batches)
    steps["now"] = 3  # as if resumed in the middle of the epoch
    resumed = list(batches)
    assert all(torch.equal(a, b) for a, b in zip(first[3:], resumed[:2], strict=True))
    assert not torch.equal(batches.draw(0), WeightedBatches([40], None, 8, seed=2).draw(0))
    shares = [WeightedBatches([40], None, 4, seed=1, rank=rank, processes=2) for rank in range(2)]
    assert torch.equal(torch.cat([share.draw(5) for share in shares]), batches.draw(5))
    assert [len(share) for share in shares] == [len(batches)] * 2


@pytest.mark.parametrize(("weights", "batch_size"), [("equal", 4), ([1.0], 4), ([-1.0, 2.0], 4), (None, 30)])
def test_impossible_sampling_is_refused(weights: str | list[float] | None, batch_size: int) -> None:
    with pytest.raises(MoroError):
        WeightedBatches([10, 10], weights, batch_size)


def test_every_test_sample_is_seen_once_over_all_processes() -> None:
    parts = [torch.cat(list(SequentialBatches(23, 4, rank, 3))) for rank in range(3)]
    assert torch.cat(parts).sort().values.tolist() == list(range(23))
    with pytest.raises(MoroError, match="cannot be shared by 3 processes"):
        SequentialBatches(2, 4, 0, 3)


def test_meshes_follow_gender_and_canonical_frame(tmp_path: Path, small_body: BodyModel) -> None:
    genders = np.array(["male", "neutral", "male", "neutral"])
    data = BodyParameters([write_file(tmp_path / "a.npz", 4, gender=genders)], 10)
    batch = data[torch.arange(4)]
    bodies = {"neutral": small_body, "male": make_small_body(height=2.0)}
    for canonical in (True, False):
        meshes = MeshMaker(bodies, canonical=canonical)(batch)
        for i, gender in enumerate(genders):
            orient = None if canonical else rotvec_to_rotmat(batch["root_orient"][i])
            output = bodies[gender](rotvec_to_rotmat(batch["pose_body"][i]), batch["betas"][i], orient)
            torch.testing.assert_close(meshes[i], output.vertices - output.joints[:1], rtol=1e-4, atol=1e-5)
    centred = MeshMaker(bodies, normalize=True)(batch)
    torch.testing.assert_close(centred.mean(1), torch.zeros(4, 3), atol=1e-5, rtol=0)
