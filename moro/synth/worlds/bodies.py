"""Stand-ins for the licensed body models: the open body under the names and array keys of the official files.

SMPL, SMPL-H and SMPL-X are one surface here (SMPL-X has eyeballs besides), so their parameters compare.

They load like the official ones but are other bodies: never compare numbers made with them to published ones.
"""

import pickle
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
import trimesh

from moro.body.loading import read_npz
from moro.body.skeleton import JOINT_NAMES, NUM_BODY_JOINTS
from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.synth.worlds.refine import refined

STATURE = {"NEUTRAL": 1.0, "MALE": 1.05, "FEMALE": 0.94}  # of the open body, so that genders differ
_NAMES = (
    "v_template", "f", "weights", "J_regressor", "kintree_table", "shapedirs", "posedirs",
    "J_template", "J_shapedirs", "vertex_joints",
)  # fmt: skip
_LENGTHS = ("v_template", "shapedirs", "posedirs", "J_template", "J_shapedirs")  # in metres
_EYES = tuple(JOINT_NAMES["smplx"].index(f"{side}_eye_smplhf") for side in ("left", "right"))
_NOT_IN_SMPLH = (NUM_BODY_JOINTS, *_EYES)  # jaw and eyes
_HEAD = JOINT_NAMES["smplx"].index("head")
_HANDS = tuple(JOINT_NAMES["smplx"].index(f"{side}_middle1") for side in ("left", "right"))
# Rows of the Human3.6M regressor, as the 2-D loss of image_pretrain reads them.
_H36M = (
    "pelvis", "left_hip", "left_knee", "left_ankle", "right_hip", "right_knee", "right_ankle", "spine2",
    "neck", "jaw", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow",
    "right_wrist",
)  # fmt: skip
_NOTE = "stand-in made of the open body; not an official model"


def write_standin_bodies(folder: Path, bm_path: Path, num_vertices: int | None = None) -> None:
    """Write smplx/SMPLX_*.npz, smplh/SMPLH_*.npz, smpl/SMPL_NEUTRAL.npz and more (spec: data 1.1).

    folder        where; files that exist are left alone
    bm_path       has open/OPEN_NEUTRAL.npz
    num_vertices  of the surface (default: the open body's); more lie on the same surface
    Also written, fitting these bodies: smplx2smpl_sparse.pt, smpl_neutral_J_regressor.pt,
    J_regressor_h36m.npy, smpl2smplx_deftrafo_setup.pkl.
    """
    path = bm_path / "open" / "OPEN_NEUTRAL.npz"
    if not path.is_file():
        raise MoroError(f"{path} not found; it is part of the repository, give its folder with --bm_path.")
    source = read_npz(path, _NAMES)
    source = source if num_vertices is None else refined(source, num_vertices)
    models = {"smplx": _with_eyeballs(source), "smplh": _without_face(source)}
    for model_type, arrays in models.items():
        for gender, stature in STATURE.items():
            target = folder / model_type / f"{model_type.upper()}_{gender}.npz"
            if not target.is_file():
                _write(target, arrays, stature)
    if not (folder / "smpl" / "SMPL_NEUTRAL.npz").is_file():
        _write(folder / "smpl" / "SMPL_NEUTRAL.npz", _without_fingers(source), STATURE["NEUTRAL"])
    _write_regressors(folder, models["smplx"], models["smplh"])
    _write_for_images(folder, source, len(models["smplx"]["v_template"]))


def _write(path: Path, arrays: dict[str, np.ndarray], stature: float) -> None:
    scaled = {key: arrays[key] * (stature if key in _LENGTHS else 1) for key in arrays}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **scaled, note=np.array(_NOTE))


def _with_eyeballs(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SMPL-X: two loose eyeballs after the body's vertices."""
    arrays = _official(source, np.arange(len(JOINT_NAMES["smplx"])))
    eye = trimesh.creation.icosphere(subdivisions=0)
    count, joints = len(eye.vertices), arrays["weights"].shape[1]
    for joint in _EYES:
        first = len(arrays["v_template"])
        weights = np.zeros((count, joints), np.float32)
        weights[:, joint] = 1
        added = {
            "v_template": eye.vertices * 0.012 + source["J_template"][joint],
            "f": eye.faces + first,
            "weights": weights,
            "shapedirs": np.broadcast_to(
                source["J_shapedirs"][joint], (count, *source["J_shapedirs"][0].shape)
            ),
            "posedirs": np.zeros((count, *arrays["posedirs"].shape[1:])),
        }
        for key, value in added.items():
            arrays[key] = np.concatenate([arrays[key], value]).astype(arrays[key].dtype)
        arrays["J_regressor"] = np.pad(arrays["J_regressor"], ((0, 0), (0, count)))
    return arrays


def _without_face(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SMPL-H: no jaw and eyes; what they moved moves with the head."""
    kept = np.setdiff1d(np.arange(len(JOINT_NAMES["smplx"])), _NOT_IN_SMPLH)
    arrays = _official(source, kept)
    arrays["weights"][:, _HEAD] += source["weights"][:, list(_NOT_IN_SMPLH)].sum(1)
    return arrays


def _without_fingers(source: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """SMPL: one joint for each hand; what the fingers moved moves with it."""
    kept = np.array([*range(NUM_BODY_JOINTS), *_HANDS])
    arrays = _official(source, kept)
    arrays["weights"][:, _HEAD] += source["weights"][:, list(_NOT_IN_SMPLH)].sum(1)
    for number, side in enumerate(("left", "right")):
        fingers = [
            joint
            for joint, name in enumerate(JOINT_NAMES["smplx"])
            if joint > max(_NOT_IN_SMPLH) and name.startswith(side) and joint not in _HANDS
        ]
        arrays["weights"][:, NUM_BODY_JOINTS + number] += source["weights"][:, fingers].sum(1)
    return arrays


def _official(source: dict[str, np.ndarray], joints: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays for some of the joints, in the official shapes."""
    parents = source["kintree_table"][0].astype(np.int64)
    new = {int(old): number for number, old in enumerate(joints)}
    kintree = np.array(
        [[new.get(int(parents[joint]), 2**32 - 1) for joint in joints], np.arange(len(joints))]
    )
    V = len(source["v_template"])
    correctives = source["posedirs"].reshape(V, 3, -1, 9)[:, :, joints[1:] - 1]  # (V, 3, J-1, 9)
    return {
        "v_template": source["v_template"].astype(np.float32),
        "f": source["f"].astype(np.uint32),
        "weights": source["weights"][:, joints].copy(),
        "J_regressor": source["J_regressor"][joints],
        "kintree_table": kintree.astype(np.uint32),
        "shapedirs": source["shapedirs"].astype(np.float32),
        "posedirs": correctives.reshape(V, 3, -1),  # (V, 3, J-1, 9) -> (V, 3, 9 (J-1))
        "J_template": source["J_template"][joints],
        "J_shapedirs": source["J_shapedirs"][joints],
        "vertex_joints": source["vertex_joints"],
    }


def _write_regressors(folder: Path, smplx: dict[str, np.ndarray], smplh: dict[str, np.ndarray]) -> None:
    rows, columns = len(smplh["v_template"]), len(smplx["v_template"])
    same = torch.arange(rows).expand(2, rows)
    hands = [JOINT_NAMES["smplh"].index(f"{side}_middle1") for side in ("left", "right")]
    tensors = {
        "smplx2smpl_sparse.pt": torch.sparse_coo_tensor(
            same, torch.ones(rows), (rows, columns), check_invariants=True
        ),
        "smpl_neutral_J_regressor.pt": torch.from_numpy(
            smplh["J_regressor"][[*range(NUM_BODY_JOINTS), *hands]].astype(np.float32)
        ),
    }
    for name, tensor in tensors.items():
        if not (folder / name).is_file():
            with atomic_path(folder / name) as temporary:
                torch.save(tensor, temporary)


def _write_for_images(folder: Path, source: dict[str, np.ndarray], num_smplx: int) -> None:
    """The Human3.6M regressor (17, V), and the map from SMPL to SMPL-X as its authors publish it."""
    V = len(source["v_template"])
    path = folder / "J_regressor_h36m.npy"
    if not path.is_file():
        rows = [JOINT_NAMES["smplx"].index(name) for name in _H36M]
        with atomic_path(path) as temporary:
            np.save(temporary, source["J_regressor"][rows].astype(np.float64))
    path = folder / "smpl2smplx_deftrafo_setup.pkl"
    if not path.is_file():
        same = scipy.sparse.eye_array(num_smplx, 2 * V, format="csr").tolil()
        same[V:] = 0  # eyeballs come from nowhere
        with atomic_path(path) as temporary:
            temporary.write_bytes(pickle.dumps({"mtx": scipy.sparse.csr_matrix(same)}, protocol=2))
