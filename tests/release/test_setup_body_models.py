"""Archives as the body models are distributed, made of small stand-ins, and what may be wrong with them."""

import io
import logging
import os
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
import trimesh

from moro.body.loading import load_body_model
from moro.body.topology import build_connection_matrices, load_connection_matrices, save_connection_matrices
from moro.errors import MoroError
from scripts import setup_body_models as script
from scripts.setup_body_models import set_up
from tests.body.standin import official_arrays, official_smplx_arrays

V, V_SMPLX = 162, 186
GENDERS = ("neutral", "male", "female")
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The stand-ins' sizes in the place of the official ones."""
    monkeypatch.setattr(script, "VERTICES", {"smplx": V_SMPLX, "smplh": V, "smpl": V})
    monkeypatch.setattr(script, "MESHED", V)
    monkeypatch.setattr(script, "NUM_MATRICES", 4)
    caplog.set_level(logging.INFO)


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def saved(tensor: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


WITH_EXTRAS = official_smplx_arrays()  # pickled ones among them
SMPLX = npz(WITH_EXTRAS | {"shapedirs": WITH_EXTRAS["shapedirs"][..., :16]})
SMPLH = npz(official_arrays("smplh"))
SMPL = pickle.dumps(official_arrays("smpl"), protocol=2)


def smplx_files() -> Files:
    return {
        "models/smplx/version.txt": b"1.1",
        **{f"models/smplx/SMPLX_{gender.upper()}.npz": SMPLX for gender in GENDERS},
        "models/smplx/SMPLX_NEUTRAL.pkl": b"the same once more",
    }


def smplh_files() -> Files:
    return {f"{gender}/model.npz": SMPLH for gender in GENDERS}


def smpl_files() -> Files:
    name = "SMPL_python_v.1.1.0/smpl/models/basicmodel_{}_lbs_10_207_0_v1.1.0.pkl"
    return {name.format(letter): SMPL for letter in ("m", "f", "neutral")}


def project_files(folder: Path) -> Files:
    sphere = trimesh.creation.icosphere(subdivisions=2)
    save_connection_matrices(folder, build_connection_matrices(sphere.faces, V, (42, 12)))
    index = torch.arange(V).expand(2, V)
    same = torch.sparse_coo_tensor(index, torch.ones(V), (V, V_SMPLX), check_invariants=True)
    joints = io.BytesIO()
    np.save(joints, np.full((17, V), 1 / V))
    return {
        **{f"smplx_ConnectionMatrices/{path.name}": path.read_bytes() for path in folder.iterdir()},
        "smplx2smpl_sparse.pt": saved(same),
        "smpl_neutral_J_regressor.pt": saved(torch.full((24, V), 1 / V)),
        "J_regressor_h36m.npy": joints.getvalue(),
    }


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Files, links: Mapping[str, str] | None = None) -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_all_archives_as_distributed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loose = tmp_path / "from_the_project_page"
    for name, content in project_files(tmp_path / "tables").items():
        (loose / name).parent.mkdir(parents=True, exist_ok=True)
        (loose / name).write_bytes(content)
    transfer = pickle.dumps({"mtx": scipy.sparse.eye(2, format="csr")})
    zipped(loose / "model_transfer.zip", {"transfer_data/smpl2smplx_deftrafo_setup.pkl": transfer})
    root = tmp_path / "body_models"
    sources = [
        zipped(tmp_path / "models_smplx_v1_1.zip", smplx_files()),
        tarred(tmp_path / "smplh.tar.xz", smplh_files()),
        zipped(tmp_path / "SMPL_python_v.1.1.0.zip", smpl_files()),
        loose,
    ]
    set_up(sources, root)
    expected = {f"smplx/SMPLX_{gender.upper()}.npz" for gender in GENDERS}
    expected |= {f"smplh/SMPLH_{gender.upper()}.npz" for gender in GENDERS}
    expected |= {f"smplx_ConnectionMatrices/_{kind}{n}.npy" for kind in ("pool", "unpool") for n in range(4)}
    expected |= {"smpl/SMPL_NEUTRAL.pkl", "smplx2smpl_sparse.pt", "smpl_neutral_J_regressor.pt"}
    assert everything_in(root) == expected | {"J_regressor_h36m.npy", "smpl2smplx_deftrafo_setup.pkl"}
    for model_type in ("smplx", "smplh", "smpl"):
        assert load_body_model(root, model_type).num_full_vertices == script.VERTICES[model_type]
    assert len(load_connection_matrices(root / "smplx_ConnectionMatrices")) == 8
    assert "12 of 12 parts" in caplog.text and "missing" not in caplog.text


def test_what_is_missing_is_listed_with_its_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    set_up([zipped(tmp_path / "x.zip", smplx_files())], tmp_path / "bm")
    assert "3 of 12 parts" in caplog.text
    listed = caplog.text.split("missing: ")[1:]
    assert f"{tmp_path}/bm/smplx_ConnectionMatrices/*.npy" in listed[0] and "mikeqzy.github.io" in listed[0]
    assert len(listed) == 9 and "SMPLX_NEUTRAL.pkl: " not in caplog.text
    assert any("SMPLH_MALE.npz" in entry and "https://mano.is.tue.mpg.de" in entry for entry in listed)


def test_paths_in_archives_decide_nothing(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b" / "body_models"
    evil = zipped(tmp_path / "evil.zip", {
        "../../../SMPLX_NEUTRAL.npz": SMPLX, "/etc/SMPLX_MALE.npz": SMPLX, "../smplx_female.npz/x": b"",
    })  # fmt: skip
    links = {"female/model.npz": "/etc/passwd", "smplh": ".."}
    set_up([evil, tarred(tmp_path / "evil.tar", {"../male/model.npz": SMPLH}, links)], root)
    assert everything_in(tmp_path) - {"evil.zip", "evil.tar"} == {
        f"a/b/body_models/{name}"
        for name in ("smplx/SMPLX_NEUTRAL.npz", "smplx/SMPLX_MALE.npz", "smplh/SMPLH_MALE.npz")
    }


def test_unfit_files_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "bm"
    set_up([zipped(tmp_path / "good.zip", smplx_files())], root)
    before = (root / "smplx/SMPLX_NEUTRAL.npz").read_bytes()
    bad = {
        "SMPLX_NEUTRAL.npz": npz(official_arrays("smplx") | {"weights": np.ones((3, 2))}),
        "SMPLX_MALE.npz": b"damaged",
        "SMPLH_MALE.npz": SMPLH,
        "smplh/female/model.npz": SMPLX,  # another model under the name
        "smplx_ConnectionMatrices/_pool0.npy": b"alone",
        "smpl_neutral_J_regressor.pt": saved(torch.ones(24, V)),
        "J_regressor_h36m.npy": b"nothing",
    }
    refused = "6 files were refused .*SMPLX_NEUTRAL.npz, .*SMPLX_MALE.npz, .*_pool0.npy.*J_regressor_h36m.npy"
    with pytest.raises(MoroError, match=refused):
        set_up([zipped(tmp_path / "bad.zip", bad)], root, force=True)
    assert "rows of sum 1" in caplog.text and ".setup-" not in caplog.text
    assert (root / "smplx/SMPLX_NEUTRAL.npz").read_bytes() == before
    assert everything_in(root) == {f"smplx/SMPLX_{g.upper()}.npz" for g in GENDERS} | {"smplh/SMPLH_MALE.npz"}
    assert not list(root.glob(".setup*"))


def test_other_topologies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "MESHED", 9383)
    monkeypatch.setattr(script, "VERTICES", {"smplx": 10475, "smplh": 6890, "smpl": V})
    files = {**smplx_files(), **smpl_files(), **project_files(tmp_path / "tables")}
    with pytest.raises(MoroError, match="5 files were refused"):
        set_up([zipped(tmp_path / "x.zip", files)], tmp_path / "bm")
    placed = {"smpl/SMPL_NEUTRAL.pkl", "smpl_neutral_J_regressor.pt", "J_regressor_h36m.npy"}
    assert everything_in(tmp_path / "bm") == placed


def test_pickles_run_nothing(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "owned"),)

    path = zipped(tmp_path / "x.zip", {"smpl/SMPL_NEUTRAL.pkl": pickle.dumps(Attack())})
    with pytest.raises(MoroError, match="refused .*SMPL_NEUTRAL"):
        set_up([path], tmp_path / "bm")
    assert not (tmp_path / "owned").exists()


def test_what_is_there_stays_and_other_models_are_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "bm"
    (root / "smplh").mkdir(parents=True)
    (root / "smplh/SMPLH_MALE.pkl").write_bytes(b"mine")
    other = {"smplx_locked_head/neutral/model.npz": SMPLX, "models_lockedhead/smplx/SMPLX_NEUTRAL.npz": SMPLX}
    sources = [
        tarred(tmp_path / "smplx_locked_head.tar.bz2", other),
        tarred(tmp_path / "dmpls.tar.xz", smplh_files()),
        zipped(tmp_path / "mano_v1_2.zip", {"mano_v1_2/models/SMPLH_male.pkl": b"other"}),
    ]
    set_up(sources, root)
    assert everything_in(root) == {"smplh/SMPLH_MALE.pkl"}
    assert (root / "smplh/SMPLH_MALE.pkl").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["x.zip", "x.tar.xz", "x.tar"])
def test_broken_archives(tmp_path: Path, name: str) -> None:
    path = (zipped if name == "x.zip" else tarred)(tmp_path / name, smplh_files() | smplx_files())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MoroError, match=f"cannot read .*{name}"):
        set_up([path], tmp_path / "bm")
    with pytest.raises(MoroError, match="nowhere.zip does not exist"):
        set_up([tmp_path / "nowhere.zip"], tmp_path / "bm")
    assert everything_in(tmp_path / "bm") == set()
