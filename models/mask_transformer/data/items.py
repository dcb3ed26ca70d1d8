"""Steps that turn body parameters into one sample; shared by all data sets of the masked transformer.

Parameters → local mesh (spec: data 2.2) → another frame (2.3) → contact labels (2.4), box condition. The
canonical trajectory is made by the training system from `rotation` and `translation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from moro.body.model import BodyModel, BodyOutput
from moro.errors import MoroError
from moro.geometry.camera import bbox_condition
from moro.geometry.contact import contact_labels
from moro.geometry.frames import transform_root
from moro.geometry.rotation import rotvec_to_matrix


@dataclass(frozen=True)
class BodyParameters:
    """Matrices global_orient (F, 3, 3), body_pose (F, 21, 3, 3), betas (F, B), transl (F, 3)."""

    global_orient: Tensor
    body_pose: Tensor
    betas: Tensor
    transl: Tensor


@dataclass(frozen=True)
class LocalBody:
    """A body about its own pelvis and where it is: x = rotation · x_local + translation (spec: data 2.2).

    mesh (F, V, 3), None if the person comes from a motion cache · local_joints (F, 22, 3) · root_pos
    (F, 1, 3) pelvis of the body at zero translation · rotation (F, 3, 3) · translation (F, 1, 3) pelvis ·
    output: the body model's own answer (not moved)
    """

    mesh: Tensor | None
    local_joints: Tensor
    root_pos: Tensor
    rotation: Tensor
    translation: Tensor
    output: BodyOutput

    def place(self, points: Tensor) -> Tensor:
        """Points of `output` (F, N, 3) in the frame of rotation and translation."""
        return (points - self.root_pos) @ self.rotation.mT + self.translation

    def joints(self) -> Tensor:
        """(F, 22, 3) in the frame of rotation and translation."""
        return self.local_joints @ self.rotation.mT + self.translation

    def moved(self, transform: Tensor) -> "LocalBody":
        """The same body seen from another frame; transform (4, 4) or (F, 4, 4) (spec: data 2.3)."""
        rotation, translation = transform_root(self.rotation, self.translation, transform)
        return replace(self, rotation=rotation, translation=translation)


def parameters_from_arrays(arrays: Mapping[str, np.ndarray]) -> BodyParameters:
    """Parameter tensors from numpy arrays (spec: data 2.1).

    arrays  transl (F, 3), global_orient (F, 3), betas (F, >= B), body_pose (F, 63), rotations as axis-angle
    Raises MoroError if one is missing or their lengths differ.
    """
    missing = [key for key in ("transl", "global_orient", "betas", "body_pose") if key not in arrays]
    if missing:
        raise MoroError(f"Body parameters lack {', '.join(missing)}; this is not the expected kind of file.")
    tensors = {key: torch.as_tensor(np.asarray(arrays[key], dtype=np.float32)) for key in arrays}
    frames = len(tensors["transl"])
    pose = tensors["body_pose"][:, :63]
    if len(pose) != frames or len(tensors["global_orient"]) != frames or len(tensors["betas"]) != frames:
        raise MoroError("Body parameters differ in their number of frames; the file is damaged.")
    return BodyParameters(
        global_orient=rotvec_to_matrix(tensors["global_orient"]),
        body_pose=rotvec_to_matrix(pose.reshape(frames, 21, 3)),  # (F, 63) -> (F, 21, 3)
        betas=tensors["betas"],
        transl=tensors["transl"],
    )


def local_body(body: BodyModel, parameters: BodyParameters) -> LocalBody:
    """One call of the body model without orientation and translation (spec: data 2.2)."""
    with torch.no_grad():
        output = body(body_pose=parameters.body_pose, betas=parameters.betas[:, : body.num_betas])
    root = output.joints[:, :1]  # (F, 1, 3)
    return LocalBody(
        mesh=output.vertices - root,
        local_joints=output.joints - root,
        root_pos=root,
        rotation=parameters.global_orient,
        translation=parameters.transl[:, None] + root,
        output=output,
    )


def body_entries(
    item: LocalBody,
    world_joints: Tensor,
    contact_threshold: float = 0.3,
    contact_hand: bool = False,
) -> dict[str, Tensor]:
    """Batch entries every data set has (spec: models 0.4).

    world_joints  (F, 22, 3)  in a frame at rest relative to the ground, for the contact labels
    `offset` is one zero per frame instead of one per vertex: nothing but sums reads it.
    """
    meshes = {} if item.mesh is None else {"mesh": item.mesh}
    entries = {
        **meshes,
        "local_joints": item.local_joints,
        "offset": torch.zeros(len(item.local_joints), 1, 3),
        "root_pos": item.root_pos,
        "rotation": item.rotation,
        "translation": item.translation,
    }
    if len(world_joints) > 1:
        entries["contact_label"] = contact_labels(world_joints, contact_threshold, contact_hand)
    return entries


def camera_entries(
    K: Tensor,
    center: Tensor,
    scale: Tensor,
    cam2world: Tensor,
    world2cano: Tensor,
    origin: Tensor | None = None,
) -> dict[str, Tensor]:
    """Batch entries of data seen by a static camera (spec: data 4.4).

    K (3, 3), center (F, 2), scale (F,), cam2world and world2cano (4, 4); origin: see `bbox_condition`
    """
    frames = len(center)
    K = K.expand(frames, 3, 3)
    return {
        "K": K,
        "center": center.float(),
        "scale": scale.float(),
        "bbox": bbox_condition(center, scale, K, origin).float(),
        "cam2world": cam2world.expand(frames, 4, 4),
        "world2cano": world2cano[None],
    }
