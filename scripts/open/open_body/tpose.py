"""From the artist's A-pose to a T-pose, by rotations that are the same for every shape."""

import numpy as np
from scipy.spatial.transform import Rotation

from scripts.open.open_body.source import INDEX, JOINTS, MIRROR, NUM_JOINTS, PARENTS

MIX = 0.5  # share of dual quaternion skinning; the rest is linear


def _unit(vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, float)
    return vector / np.linalg.norm(vector)


def _turn(axis: str, degrees: float) -> np.ndarray:
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()


def _about(axis: np.ndarray, degrees: float) -> np.ndarray:
    return Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()


def shortest_rotation(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) that takes one direction to another by the shortest way."""
    start, end = _unit(start), _unit(end)
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis)
    if sine < 1e-9:
        return np.eye(3)
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, start @ end)).as_matrix()


def tpose_rotations(joints: np.ndarray) -> np.ndarray:
    """Global rotation (55, 3, 3) of each joint from A- to T-pose, symmetric.

    joints  (55, 3) of the mean adult in A-pose
    """
    rotations = np.repeat(np.eye(3)[None], NUM_JOINTS, 0)
    rotations[INDEX["left_collar"]] = _turn("z", 10)
    _turn_left_arm(rotations, joints)
    _turn_left_leg(rotations, joints)
    reflection = np.diag([-1.0, 1, 1])
    for name, joint in INDEX.items():
        if name.startswith("right"):
            rotations[joint] = reflection @ rotations[MIRROR[joint]] @ reflection
    return rotations


def _turn_left_arm(rotations: np.ndarray, joints: np.ndarray) -> None:
    """Arm along +x, elbow hinging forwards, palm down, fingers straight; the thumb follows the wrist."""

    def bone(start: str, end: str) -> np.ndarray:
        return joints[INDEX[f"left_{end}"]] - joints[INDEX[f"left_{start}"]]

    upper, lower = bone("shoulder", "elbow"), bone("elbow", "wrist")
    to_upper, to_lower, to_hand = (_unit(v) for v in ([1, -0.10, -0.07], [1, 0.02, -0.02], [1, -0.02, 0.0]))
    shoulder = shortest_rotation(upper, to_upper)
    hinge = shoulder @ np.cross(upper, lower)
    wanted = np.cross(to_upper, [0, 0, 1.0])
    hinge, wanted = (v - to_upper * (v @ to_upper) for v in (hinge, wanted))
    sine = np.cross(_unit(hinge), _unit(wanted)) @ to_upper
    shoulder = _about(to_upper, np.degrees(np.arctan2(sine, _unit(hinge) @ _unit(wanted)))) @ shoulder
    elbow = shortest_rotation(shoulder @ lower, to_lower) @ shoulder

    wrist = shortest_rotation(elbow @ bone("wrist", "middle1"), to_hand) @ elbow
    palm = wrist @ np.cross(bone("wrist", "index1"), bone("wrist", "pinky1"))
    palm = _unit(palm - to_hand * (palm @ to_hand))
    palm = palm if palm[1] < 0 else -palm
    down = np.array([0, -1.0, 0])
    pronation = np.degrees(np.arctan2(np.cross(palm, down) @ to_hand, palm @ down))
    wrist = _about(to_hand, pronation) @ wrist
    elbow = _about(to_lower, pronation * 0.5) @ elbow  # half of the pronation happens in the forearm
    for name, rotation in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist)):
        rotations[INDEX[f"left_{name}"]] = rotation

    for finger, yaw in (("index", 8), ("middle", 1), ("ring", -6), ("pinky", -14)):
        direction = _turn("y", -yaw) @ np.array([1, -0.02, 0])
        rotation = wrist
        for knuckle in (1, 2, 3):
            if knuckle < 3:  # the last phalanx has no end point and keeps the chain straight
                phalanx = bone(f"{finger}{knuckle}", f"{finger}{knuckle + 1}")
                rotation = shortest_rotation(rotation @ phalanx, direction) @ rotation
            rotations[INDEX[f"left_{finger}{knuckle}"]] = rotation
    for knuckle in (1, 2, 3):
        rotations[INDEX[f"left_thumb{knuckle}"]] = wrist


def _turn_left_leg(rotations: np.ndarray, joints: np.ndarray) -> None:
    """Leg straight down, the foot turned out a little."""

    def bone(start: str, end: str) -> np.ndarray:
        return joints[INDEX[f"left_{end}"]] - joints[INDEX[f"left_{start}"]]

    hip = shortest_rotation(bone("hip", "knee"), [0.03, -1, -0.02])
    knee = shortest_rotation(hip @ bone("knee", "ankle"), [-0.03, -1, -0.06]) @ hip
    foot = bone("ankle", "foot")
    ankle = _turn("y", np.degrees(np.arctan2(0.12, 1) - np.arctan2(foot[0], foot[2])))
    for name, rotation in (("hip", hip), ("knee", knee), ("ankle", ankle), ("foot", ankle)):
        rotations[INDEX[f"left_{name}"]] = rotation


def forward_kinematics(rotations: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Joint positions (*, 55, 3) for global rotations (*, 55, 3, 3) of a rest skeleton (*, 55, 3)."""
    positions = [rest[..., 0, :]]
    for joint in range(1, NUM_JOINTS):
        parent = PARENTS[joint]
        bone = np.einsum(
            "...ab,...b->...a", rotations[..., parent, :, :], rest[..., joint, :] - rest[..., parent, :]
        )
        positions.append(positions[parent] + bone)
    return np.stack(np.broadcast_arrays(*positions), -2)


def global_rotations(local: np.ndarray) -> np.ndarray:
    """Global from parent-relative rotations, both (*, 55, 3, 3)."""
    rotations = [local[..., 0, :, :]]
    for joint in range(1, NUM_JOINTS):
        rotations.append(rotations[PARENTS[joint]] @ local[..., joint, :, :])
    return np.stack(rotations, -3)


def skin(
    vertices: np.ndarray, rest: np.ndarray, rotations: np.ndarray, weights: np.ndarray, posed: np.ndarray
) -> np.ndarray:
    """Half linear, half dual quaternion skinning (V, 3): keeps volume at twisted and strongly bent joints.

    vertices (V, 3) and rest (55, 3) joints at rest; rotations (55, 3, 3) global; posed (55, 3) joints
    """
    shift = posed - np.einsum("jab,jb->ja", rotations, rest)
    linear = np.einsum("vj,jab,vb->va", weights, rotations, vertices, optimize=True) + weights @ shift
    real = Rotation.from_matrix(rotations).as_quat()[:, [3, 0, 1, 2]]
    for joint in range(1, NUM_JOINTS):
        if real[joint] @ real[PARENTS[joint]] < 0:  # stay in the parent's hemisphere
            real[joint] *= -1
    dual = 0.5 * _quaternion_product(np.concatenate([np.zeros((NUM_JOINTS, 1)), shift], 1), real)
    b, e = weights @ real, weights @ dual
    norm = np.linalg.norm(b, axis=1, keepdims=True)
    b, e = b / norm, e / norm
    moved = 2 * _quaternion_product(e, b * [1, -1, -1, -1])[:, 1:]
    turned = vertices + 2 * np.cross(b[:, 1:], np.cross(b[:, 1:], vertices) + b[:, :1] * vertices)
    return (1 - MIX) * linear + MIX * (turned + moved)


def _quaternion_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product, scalar part first."""
    w1, x1, y1, z1 = np.moveaxis(a, -1, 0)
    w2, x2, y2, z2 = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        -1,
    )


def is_right(joint: int) -> bool:
    """Whether a joint is on the right side (its data is the left one's mirror image)."""
    return JOINTS[joint].startswith("right")
