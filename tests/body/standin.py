"""Small bodies with the key names, joint counts and array kinds of the official files."""

import numpy as np
import trimesh

from moro.body.skeleton import BODY_PARENTS, JOINT_NAMES

NUM_EYE_VERTICES = 12


def parents_of(model_type: str) -> list[int]:
    parents = list(BODY_PARENTS)
    for name in JOINT_NAMES[model_type][len(parents) :]:
        names = JOINT_NAMES[model_type]
        side = name.split("_")[0]
        if side not in ("left", "right") or "eye" in name:
            parents.append(names.index("head"))
        elif name[-1] in "23":
            parents.append(names.index(f"{name[:-1]}{int(name[-1]) - 1}"))
        else:
            parents.append(names.index(f"{side}_wrist"))
    return parents


def official_arrays(model_type: str, num_shapes: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """An ellipsoid, for SMPL-X with two loose eyeballs at the end, and random but valid model arrays."""
    rng = np.random.default_rng(seed)
    sphere = trimesh.creation.icosphere(subdivisions=2)
    vertices, faces = np.array(sphere.vertices) * [0.3, 0.9, 0.2], np.array(sphere.faces)
    if model_type == "smplx":
        eye = trimesh.creation.icosphere(subdivisions=0)
        for x in (-0.03, 0.03):
            faces = np.concatenate([faces, eye.faces + len(vertices)])
            vertices = np.concatenate([vertices, eye.vertices * 0.01 + [x, 0.8, 0.1]])
    V, J = len(vertices), len(JOINT_NAMES[model_type])
    weights = rng.random((V, J)) ** 8
    regressor = rng.random((J, V)) ** 8
    parents = np.array(parents_of(model_type))
    parents[0] = 2**32 - 1
    return {
        "v_template": vertices,
        "f": faces.astype(np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.stack([parents, np.arange(J)]).astype(np.uint32),
        "shapedirs": rng.normal(0, 0.01, (V, 3, num_shapes)),
        "posedirs": rng.normal(0, 0.002, (V, 3, 9 * (J - 1))),
    }


def official_smplx_arrays() -> dict[str, np.ndarray]:
    """With the surface landmarks and the pickled extras of the official npz."""
    rng = np.random.default_rng(1)
    barycentric = rng.random((51, 3))
    return official_arrays("smplx", num_shapes=400) | {
        "lmk_faces_idx": rng.integers(0, 100, 51),
        "lmk_bary_coords": barycentric / barycentric.sum(1, keepdims=True),
        "joint2num": np.array({"Pelvis": 0}, dtype=object),
        "part2num": np.array({"Pelvis": 0}, dtype=object),
    }
