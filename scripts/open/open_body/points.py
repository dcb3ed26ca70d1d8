"""Surface points by geometric definition: the detector's landmarks and the vertex-picked joints.

Points are defined once, on the left side of the exterior surface in T-pose, and carried to each resolution.
"""

import numpy as np

from moro.body.skeleton import LANDMARK_NAMES, MIRROR_LANDMARKS, VERTEX_JOINT_NAMES
from scripts.open.open_body.source import INDEX, JOINTS
from scripts.open.open_body.surface import Surface, closest_on_surface


def define_points(vertices: np.ndarray, joints: np.ndarray, surface: Surface) -> dict[str, np.ndarray]:
    """Named points (3,) of the left side and the mid line.

    vertices (V, 3), joints (55, 3) of the mean adult in T-pose; `surface` must still know its closed holes
    """
    points = _face_points(vertices, surface)
    points |= _hand_points(vertices, joints, surface)
    points |= _foot_points(vertices, joints, surface)
    return points


def _followers(surface: Surface, *names: str) -> np.ndarray:
    """Vertices (n,) that follow mostly the named joints."""
    return np.flatnonzero(surface.weights[:, [INDEX[name] for name in names]].sum(1) > 0.5)


def _face_points(vertices: np.ndarray, surface: Surface) -> dict[str, np.ndarray]:
    """Nose tip, corners and middle of the closed eye, corner of the mouth, middle of the ear."""
    head = _followers(surface, "head", "jaw")
    eye = next(vertices[loop] for loop in surface.loops if vertices[loop, 0].mean() > 0.01)
    mouth = next(vertices[loop] for loop in surface.loops if abs(vertices[loop, 0].mean()) < 0.01)
    left = vertices[head][vertices[head, 0] > 0]
    ear = left[left[:, 0] > left[:, 0].max() - 0.008]  # the widest 8 mm of the head are the auricle
    return {
        "nose": vertices[head][vertices[head, 2].argmax()],
        "left_eye_inner": eye[eye[:, 0].argmin()],
        "left_eye": eye.mean(0),
        "left_eye_outer": eye[eye[:, 0].argmax()],
        "left_mouth": mouth[mouth[:, 0].argmax()],
        "left_ear": 0.5 * (ear.min(0) + ear.max(0)),
    }


def _hand_points(vertices: np.ndarray, joints: np.ndarray, surface: Surface) -> dict[str, np.ndarray]:
    """Knuckles seen from above (the palm faces down), and finger tips."""
    fingers = [name for name in JOINTS if name.startswith("left_") and name[-1] in "123"]
    hand = _followers(surface, "left_wrist", *fingers)
    points = {}
    knuckles = {"left_index_knuckle": "left_index1", "left_pinky_knuckle": "left_pinky1",
                "left_thumb_knuckle": "left_thumb3"}  # fmt: skip
    for name, joint in knuckles.items():
        centre = joints[INDEX[joint]]
        above = vertices[hand][vertices[hand, 1] > centre[1]]
        points[name] = above[np.linalg.norm((above - centre)[:, [0, 2]], axis=1).argmin()]
    for finger in ("thumb", "index", "middle", "ring", "pinky"):
        last, before = joints[INDEX[f"left_{finger}3"]], joints[INDEX[f"left_{finger}2"]]
        tip = _followers(surface, f"left_{finger}3")
        points[f"left_{finger}_tip"] = vertices[tip][((vertices[tip] - last) @ (last - before)).argmax()]
    return points


def _foot_points(vertices: np.ndarray, joints: np.ndarray, surface: Surface) -> dict[str, np.ndarray]:
    """Tips of the first and last toe, and the hindmost point of the heel."""
    foot = vertices[_followers(surface, "left_ankle", "left_foot")]
    ball = joints[INDEX["left_foot"]]
    inner, outer = foot[foot[:, 0] < ball[0]], foot[foot[:, 0] > ball[0] + 0.025]
    low = foot[foot[:, 1] < foot[:, 1].min() + 0.04]
    return {
        "left_big_toe": inner[inner[:, 2].argmax()],
        "left_small_toe": outer[(6 * outer[:, 0] + outer[:, 2]).argmax()],
        "left_heel": low[low[:, 2].argmin()],
    }


# Where each landmark comes from: a point above, or a joint of the skeleton.
LANDMARK_POINTS = {
    "nose": "nose", "left_eye_inner": "left_eye_inner", "left_eye": "left_eye",
    "left_eye_outer": "left_eye_outer",
    "left_ear": "left_ear", "left_mouth": "left_mouth", "left_pinky": "left_pinky_knuckle",
    "left_index": "left_index_knuckle", "left_thumb": "left_thumb_knuckle", "left_heel": "left_heel",
    "left_foot_index": "left_big_toe",
}  # fmt: skip


def landmark_regressor(
    points: dict[str, np.ndarray], template: np.ndarray, surface: Surface, joint_regressor: np.ndarray
) -> np.ndarray:
    """Rows (33, V) that sum to 1: joints by their regressor, the rest by barycentric surface points."""
    regressor = np.zeros((len(LANDMARK_NAMES), len(template)))
    for row, name in enumerate(LANDMARK_NAMES):
        if name in INDEX:
            regressor[row] = joint_regressor[INDEX[name]]
        elif name in LANDMARK_POINTS:
            point = points[LANDMARK_POINTS[name]][None]
            regressor[row] = closest_on_surface(point, template, surface.faces)[0].toarray()[0]
    for row, name in enumerate(LANDMARK_NAMES):
        if name.startswith("right") and name not in INDEX:
            regressor[row] = regressor[MIRROR_LANDMARKS[row]][surface.mirror]
        elif MIRROR_LANDMARKS[row] == row:
            regressor[row] = 0.5 * (regressor[row] + regressor[row][surface.mirror])
    return regressor / regressor.sum(1, keepdims=True)


def vertex_joints(points: dict[str, np.ndarray], template: np.ndarray, surface: Surface) -> np.ndarray:
    """Vertex ids (21,) of SMPL-X's vertex-picked joints, the right ones by symmetry."""
    ids = np.zeros(len(VERTEX_JOINT_NAMES), np.int64)
    for i, name in enumerate(VERTEX_JOINT_NAMES):
        left = name.replace("right", "left")
        point = points[left] if left in points else points[f"{left}_tip"]
        vertex = np.linalg.norm(template - point, axis=1).argmin()
        ids[i] = surface.mirror[vertex] if name.startswith("right") else vertex
    return ids
