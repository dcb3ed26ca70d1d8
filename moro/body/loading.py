"""Body model files: SMPL, SMPL-H, SMPL-X as officially distributed, and the open bodies' compact file."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from moro.body.model import BodyData, BodyModel
from moro.body.skeleton import JOINT_NAMES, VERTEX_JOINT_IDS
from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.io.pickles import load_pickle

OPEN_TYPES = ("open", "open_fine")

_SOURCES = {
    "smpl": "SMPL comes from https://smpl.is.tue.mpg.de",
    "smplh": "SMPL-H comes from https://mano.is.tue.mpg.de",
    "smplx": "SMPL-X comes from https://smpl-x.is.tue.mpg.de",
}

# SMPL under the names of its own download; elsewhere it is kept as SMPL_<GENDER>.
_SMPL_DOWNLOADS = {
    "neutral": "basicmodel_neutral_lbs_10_207_0_v1.1.0",
    "male": "basicmodel_m_lbs_10_207_0_v1.1.0",
    "female": "basicmodel_f_lbs_10_207_0_v1.1.0",
}

_REQUIRED = ("v_template", "f", "weights", "J_regressor", "kintree_table", "shapedirs", "posedirs")
_OPTIONAL = (
    "joint_names",
    "J_template",
    "J_shapedirs",
    "vertex_joints",
    "lmk_faces_idx",
    "lmk_bary_coords",
    "landmark_regressor",
    "beta_limit",
    "mirror_vertices",
)


def load_body_model(
    bm_path: str | Path, model_type: str, gender: str = "neutral", num_betas: int = 10
) -> BodyModel:
    """Load `<bm_path>/<type>/<TYPE>_<GENDER>.npz` (or `.pkl`) (spec: data 1.1, 1.2).

    model_type  smpl, smplh, smplx, open or open_fine
    gender      neutral, male or female; the open bodies have one file, used for every gender
    num_betas   shape directions to keep; missing ones are zero
    raises      MoroError if the file is missing, damaged or does not fit the model type
    """
    path = _find_file(Path(bm_path), model_type, gender)
    raw = load_pickle(path) if path.suffix == ".pkl" else read_npz(path, _REQUIRED + _OPTIONAL)
    if not isinstance(raw, dict):
        raise MoroError(f"{path} is not a body model: expected a dictionary of arrays")
    data = _to_body_data(raw, path, model_type, num_betas)
    body_vertices = len(data.v_template) if data.body_vertices is None else len(data.body_vertices)
    sex = "" if model_type in OPEN_TYPES or gender == "neutral" else f"{gender}-"
    return BodyModel(
        data, f"{model_type}-{sex}{body_vertices}", hashlib.sha256(path.read_bytes()).hexdigest()
    )


def _find_file(root: Path, model_type: str, gender: str) -> Path:
    if model_type not in (*JOINT_NAMES, *OPEN_TYPES):
        raise MoroError(
            f"unknown model_type {model_type!r}; use one of {', '.join((*JOINT_NAMES, *OPEN_TYPES))}"
        )
    if gender not in ("neutral", "male", "female"):
        raise MoroError(f"unknown gender {gender!r}; use neutral, male or female")
    sex = "NEUTRAL" if model_type in OPEN_TYPES else gender.upper()
    stem = root / model_type / f"{model_type.upper()}_{sex}"
    candidates = [stem.with_suffix(".npz"), stem.with_suffix(".pkl")]
    if model_type == "smpl":
        candidates.append(stem.with_name(f"{_SMPL_DOWNLOADS[gender]}.pkl"))
    for path in candidates:
        if path.is_file():
            return path
    if model_type in OPEN_TYPES:
        raise MoroError(
            f"body model {stem}.npz not found; it is part of the repository, set bm_path to that folder"
        )
    raise MoroError(
        f"body model {stem}.npz (or .pkl) not found; {_SOURCES[model_type]} (free registration), "
        "put it there under that name; preset=open needs no such file"
    )


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the named arrays of an npz (absent ones are left out), making the compact form dense.

    Arrays that are not named are never touched: official files carry pickled extras (`joint2num`).
    raises MoroError if the file is damaged or a named array would have to be unpickled
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names if name in file.files}
            for name in names:
                if f"{name}.counts" in file.files:
                    parts = {
                        part: file[f"{name}.{part}"] for part in ("counts", "indices", "values", "shape")
                    }
                    arrays[name] = _to_dense(**parts)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise MoroError(
            f"cannot read body model {path}: {error}; the file may be damaged or incomplete"
        ) from error
    return arrays


def write_compact(path: str | Path, arrays: Mapping[str, np.ndarray], sparse: tuple[str, ...]) -> None:
    """Write a compressed npz; the arrays named in `sparse` are stored as row counts, indices and values."""
    stored: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        stored |= (
            {f"{name}.{part}": value for part, value in _to_sparse(array).items()}
            if name in sparse
            else {name: array}
        )
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **stored)


def _to_sparse(array: np.ndarray) -> dict[str, np.ndarray]:
    """Rows are all dimensions but the last (posedirs: one row per vertex coordinate)."""
    matrix = array.reshape(-1, array.shape[-1])
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix))
    return {
        "counts": counts.astype(np.min_scalar_type(counts.max())),
        "indices": columns.astype(np.min_scalar_type(matrix.shape[1])),
        "values": matrix[rows, columns],
        "shape": np.array(array.shape, np.int32),
    }


def _to_dense(counts: np.ndarray, indices: np.ndarray, values: np.ndarray, shape: np.ndarray) -> np.ndarray:
    rows = np.repeat(np.arange(len(counts)), counts)
    dense = np.zeros((len(counts), int(shape[-1])), np.float32)
    dense[rows, indices] = values
    return dense.reshape(shape)


def _to_body_data(raw: dict[str, Any], path: Path, model_type: str, num_betas: int) -> BodyData:
    family = "smplx" if model_type in OPEN_TYPES else model_type
    arrays = _checked_arrays(raw, path, len(JOINT_NAMES[family]))
    V = len(arrays["v_template"])
    parents = arrays["kintree_table"][0].astype(np.int64).tolist()
    parents[0] = -1  # official files hold 2**32 - 1 here
    has_landmarks = "lmk_faces_idx" in arrays and "lmk_bary_coords" in arrays
    weights = arrays["weights"]
    return BodyData(
        v_template=arrays["v_template"],
        f=arrays["f"].astype(np.int64),
        weights=weights / weights.sum(1, keepdims=True),
        J_regressor=arrays["J_regressor"],
        parents=parents,
        shapedirs=_keep_betas(arrays["shapedirs"], num_betas),
        posedirs=arrays["posedirs"],
        joint_names=tuple(arrays.get("joint_names", JOINT_NAMES[family])),
        body_vertices=largest_component(arrays["f"], V) if model_type == "smplx" else None,
        J_template=arrays.get("J_template"),
        J_shapedirs=_keep_betas(arrays["J_shapedirs"], num_betas) if "J_shapedirs" in arrays else None,
        vertex_joints=arrays.get("vertex_joints", VERTEX_JOINT_IDS.get(V)),
        lmk_faces_idx=arrays["lmk_faces_idx"].astype(np.int64) if has_landmarks else None,
        lmk_bary_coords=arrays["lmk_bary_coords"] if has_landmarks else None,
        landmark_regressor=arrays.get("landmark_regressor"),
        beta_limit=_keep_betas(arrays["beta_limit"], num_betas) if "beta_limit" in arrays else None,
        mirror_vertices=arrays.get("mirror_vertices"),
    )


def _checked_arrays(raw: dict[str, Any], path: Path, num_joints: int) -> dict[str, np.ndarray]:
    """Known arrays, dense, with shapes that fit together and the model type's number of joints."""
    missing = [name for name in _REQUIRED if raw.get(name) is None]
    if missing:
        raise MoroError(f"body model {path} lacks {', '.join(missing)}; is it the right file?")
    arrays = {
        name: raw[name].toarray() if scipy.sparse.issparse(raw[name]) else np.asarray(raw[name])
        for name in _REQUIRED + _OPTIONAL
        if raw.get(name) is not None
    }
    V, J = len(arrays["v_template"]), arrays["weights"].shape[-1]
    expected = {
        "v_template": (V, 3),
        "weights": (V, num_joints),
        "J_regressor": (num_joints, V),
        "kintree_table": (2, num_joints),
        "posedirs": (V, 3, 9 * (num_joints - 1)),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise MoroError(
                f"body model {path}: {name} is {arrays[name].shape}, expected {shape} ({J} joints found)"
            )
    if arrays["shapedirs"].shape[:2] != (V, 3) or arrays["f"].ndim != 2 or arrays["f"].max() >= V:
        raise MoroError(f"body model {path}: shapedirs or faces do not fit its {V} vertices")
    return arrays


def _keep_betas(array: np.ndarray, num_betas: int) -> np.ndarray:
    """The first `num_betas` entries of the last axis, zero-padded if the file has fewer (spec: data 1.2)."""
    kept = array[..., :num_betas]
    missing = num_betas - kept.shape[-1]
    return np.concatenate((kept, np.zeros((*kept.shape[:-1], missing))), axis=-1) if missing else kept


def largest_component(faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """Vertex ids of the largest connected surface: SMPL-X without its eyeballs (spec: data 1.2)."""
    faces = faces.astype(np.int64)
    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]]))
    graph = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(num_vertices, num_vertices))
    _, label = connected_components(graph, directed=False)
    return np.flatnonzero(label == np.bincount(label).argmax())
