"""Names and relations of the SMPL family's joints, vertex-picked joints and the 33 detector landmarks.

And rotations along it. All bodies share the first 22 joints (spec: data 1.2). "Left" is always the
person's left.
"""

import torch
from torch import Tensor

NUM_BODY_JOINTS = 22

BODY_JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip

HAND_JOINT_NAMES = tuple(
    f"{side}_{finger}{k}"
    for side in ("left", "right")
    for finger in ("index", "middle", "pinky", "ring", "thumb")
    for k in (1, 2, 3)
)

FACE_JOINT_NAMES = ("jaw", "left_eye_smplhf", "right_eye_smplhf")

JOINT_NAMES = {
    "smpl": BODY_JOINT_NAMES + ("left_hand", "right_hand"),
    "smplh": BODY_JOINT_NAMES + HAND_JOINT_NAMES,
    "smplx": BODY_JOINT_NAMES + FACE_JOINT_NAMES + HAND_JOINT_NAMES,
}

BODY_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)

# Limbs as drawn (spec: data 1.2), pairs of body joints.
LIMBS = (
    (15, 12), (12, 13), (13, 16), (16, 18), (18, 20), (12, 14), (14, 17), (17, 19), (19, 21), (12, 9), (9, 6),
    (6, 3), (3, 0), (0, 1), (1, 4), (4, 7), (7, 10), (0, 2), (2, 5), (5, 8), (8, 11),
)  # fmt: skip

# The 21 joints that are single vertices; they follow the skeleton joints in `full_joints` (spec: data 1.2).
VERTEX_JOINT_NAMES = (
    "nose", "right_eye", "left_eye", "right_ear", "left_ear",
    "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel",
    "left_thumb", "left_index", "left_middle", "left_ring", "left_pinky",
    "right_thumb", "right_index", "right_middle", "right_ring", "right_pinky",
)  # fmt: skip

# Their vertex ids by the number of vertices of the official meshes (SMPL and SMPL-H share theirs).
VERTEX_JOINT_IDS = {
    6890: (
        332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787,
        2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133,
    ),
    10475: (
        9120, 9929, 9448, 616, 6, 5770, 5780, 8846, 8463, 8474, 8635,
        5361, 4933, 5058, 5169, 5286, 8079, 7669, 7794, 7905, 8022,
    ),
}  # fmt: skip

# BlazePose's 33 landmarks.
LANDMARK_NAMES = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "left_mouth", "right_mouth", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index",
    "left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle", "left_heel", "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip


def mirror_indices(names: tuple[str, ...]) -> list[int]:
    """Index of each name's left/right counterpart (itself on the mid line)."""
    swap = {"left": "right", "right": "left"}
    counterparts = ["_".join(swap.get(word, word) for word in name.split("_")) for name in names]
    return [names.index(name) for name in counterparts]


MIRROR_JOINTS = tuple(mirror_indices(BODY_JOINT_NAMES))
MIRROR_LANDMARKS = tuple(mirror_indices(LANDMARK_NAMES))


def mirror_pose(body_pose: Tensor, global_orient: Tensor) -> tuple[Tensor, Tensor]:
    """Reflect a pose left to right: joints swap sides, axis-angle y and z change sign.

    body_pose      (*, 21, 3) or (*, 63)  axis-angle
    global_orient  (*, 3)                 axis-angle
    returns        the same shapes, for the body mirrored in the plane x = 0 of its frame
                   (the caller negates x of `transl`; exact for bodies whose pelvis lies at x = 0)
    """
    sign = body_pose.new_tensor((1.0, -1.0, -1.0))
    order = [joint - 1 for joint in MIRROR_JOINTS[1:]]
    joints = body_pose.reshape(*global_orient.shape[:-1], NUM_BODY_JOINTS - 1, 3)  # (*, 21, 3)
    mirrored = (joints[..., order, :] * sign).reshape(body_pose.shape)  # (*, 21, 3) or (*, 63)
    return mirrored, global_orient * sign


def global_rotations(local: Tensor) -> Tensor:
    """Rotations of all joints in the frame of the root's parent.

    local    (*, 22, 3, 3)  parent-relative rotations
    returns  (*, 22, 3, 3)
    """
    rotations: list[Tensor] = []
    for joint, parent in enumerate(BODY_PARENTS):
        own = local[..., joint, :, :]
        rotations.append(own if parent < 0 else rotations[parent] @ own)
    return torch.stack(rotations, dim=-3)


def local_rotations(rotations: Tensor) -> Tensor:
    """Inverse of `global_rotations`, (*, 22, 3, 3) -> (*, 22, 3, 3)."""
    parents = list(BODY_PARENTS[1:])
    relative = rotations[..., parents, :, :].transpose(-1, -2) @ rotations[..., 1:, :, :]
    return torch.cat([rotations[..., :1, :, :], relative], dim=-3)
