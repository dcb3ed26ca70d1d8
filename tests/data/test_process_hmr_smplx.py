"""SMPL labels of images to SMPL-X (spec: data 5.4)."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.geometry.rotation import rotvec_to_matrix
from moro.synth.worlds import BODIES, WorldSize, make_world
from scripts.preprocess import process_hmr_smplx


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    out = tmp_path_factory.mktemp("labels")
    make_world("coco", out, 0, WorldSize(3, 1), repository / "body_models")
    return out


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    """Labels of a set's own that a test may damage; those of SMPL-X are yet to be made."""
    (tmp_path / "coco").mkdir()
    shutil.copy(world / "coco" / "coco.npz", tmp_path / "coco")
    return tmp_path


def run(root: Path, bodies: Path, *more: str) -> dict[str, np.ndarray]:
    arguments = ["--root", str(root), "--bm_path", str(bodies), "--jobs", "1", *more]
    process_hmr_smplx.main(arguments)
    with np.load(root / "coco" / "coco_smplx.npz", allow_pickle=False) as file:
        return dict(file)


def joints(labels: dict[str, np.ndarray], bodies: Path) -> torch.Tensor:
    """(N, 22, 3) in the camera."""
    rotations = rotvec_to_matrix(torch.from_numpy(labels["pose"][:, :66]).unflatten(1, (22, 3)))
    shape, transl = (torch.from_numpy(labels[key]) for key in ("shape", "global_t"))
    return load_body_model(bodies, "smplx")(rotations[:, 1:], shape, rotations[:, 0], transl).joints


def test_the_converted_body_is_the_same(world: Path, copy: Path) -> None:
    converted = run(copy, world / BODIES)
    with np.load(world / "coco" / "coco_smplx.npz") as file:
        true = dict(file)
    assert {key: array.shape for key, array in converted.items() if key != "state"} == {
        key: array.shape for key, array in true.items()
    }
    kept = [key for key in true if key not in ("pose", "shape", "global_t")]
    assert "part" in kept and all((converted[key] == true[key]).all() for key in kept)
    assert not converted["pose"][:, 66:].any()
    error = (joints(converted, world / BODIES) - joints(true, world / BODIES)).norm(dim=-1)
    assert error.mean() < 0.003 and error.max() < 0.015


def test_an_interrupted_run_goes_on(
    world: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def convert(pose: np.ndarray, betas: np.ndarray, transl: np.ndarray, *bodies) -> dict[str, np.ndarray]:
        calls.append(len(pose))
        if len(calls) == 3:
            raise KeyboardInterrupt
        pose = np.pad(pose, ((0, 0), (0, 93)))
        return {"pose": pose, "shape": betas, "global_t": transl, "vertex_error": np.zeros(len(pose))}

    monkeypatch.setattr(process_hmr_smplx, "convert", convert)
    monkeypatch.setattr(process_hmr_smplx, "CHUNK", 2)
    with pytest.raises(KeyboardInterrupt):
        run(copy, world / BODIES)
    assert len(list((copy / "coco" / ".coco_smplx.parts").glob("0*.npz"))) == 2
    converted = run(copy, world / BODIES)
    assert calls == [2, 2, 2, 2] and len(converted["pose"]) == 6  # only the third is made again
    with np.load(copy / "coco" / "coco.npz") as file:
        assert (converted["pose"][:, :72] == file["pose"]).all()
    assert not (copy / "coco" / ".coco_smplx.parts").exists()
    run(copy, world / BODIES)
    assert len(calls) == 4  # it is there
    run(copy, world / BODIES, "--force", "--datasets", "coco")
    assert len(calls) == 7
    os.utime(copy / "coco" / "coco.npz", (1e9, 1e9))  # another file of the same images
    run(copy, world / BODIES)
    assert len(calls) == 10


def test_labels_without_translation_and_with_objects(
    world: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = copy / "coco" / "coco.npz"
    with np.load(path) as file:
        fields = {key: file[key] for key in file.files if key != "global_t"}
    np.savez(path, **fields, strange=np.array([{}, None], object))

    def convert(pose: np.ndarray, betas: np.ndarray, transl: np.ndarray, *bodies) -> dict[str, np.ndarray]:
        return {"pose": pose, "shape": betas, "global_t": transl, "vertex_error": betas}

    monkeypatch.setattr(process_hmr_smplx, "convert", convert)
    converted = run(copy, world / BODIES)
    assert "global_t" not in converted and "strange" not in converted and "strange is left out" in caplog.text


def test_bad_input(world: Path, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="no SMPL labels at .*mpii.npz"):
        run(copy, world / BODIES, "--datasets", "mpii")
    with pytest.raises(MoroError, match="no SMPL labels at"):
        run(tmp_path / "nowhere", world / BODIES)
    bodies = tmp_path / "bodies"
    for kind in ("smpl", "smplx"):
        shutil.copytree(world / BODIES / kind, bodies / kind)
    (bodies / "smpl" / "SMPL_NEUTRAL.npz").rename(bodies / "smpl" / "SMPL_MALE.npz")
    with pytest.raises(MoroError, match="SMPL_NEUTRAL.npz .* not found"):
        run(copy, bodies)
    (bodies / "smpl" / "SMPL_MALE.npz").rename(bodies / "smpl" / "SMPL_NEUTRAL.npz")
    with pytest.raises(MoroError, match="smpl2smplx_deftrafo_setup.pkl not found"):
        run(copy, bodies)
    path = copy / "coco" / "coco.npz"
    with np.load(path) as file:
        fields = dict(file)
    np.savez(path, **(fields | {"pose": fields["pose"][:, :66]}))
    with pytest.raises(MoroError, match="pose should be"):
        run(copy, bodies)
    path.write_bytes(b"damaged")
    with pytest.raises(MoroError, match="cannot read"):
        run(copy, bodies)
