"""The body's landmarks put where the detector reads them.

Joints and points of the skin are not what BlazePose was taught: it sees hips 5 cm above the hip joints, and
ankles 2 cm above theirs. The differences are fixed in the axes of the limbs and were measured on 219 rendered
people (scripts/open/measure_landmarks.py on a body built without them; docs/data_open.md).
"""

import numpy as np

from moro.body.refinement import holder_of
from moro.body.skeleton import BODY_JOINT_NAMES, LANDMARK_NAMES, MIRROR_LANDMARKS

# Metres in T-pose, of the left side and the mid line: x to the left, y up, z forward.
OFFSETS = {
    "nose": (0, 0.005, -0.012), "left_eye_inner": (-0.003, 0, -0.005), "left_eye": (-0.007, -0.002, -0.009),
    "left_eye_outer": (-0.010, -0.002, -0.010), "left_ear": (-0.028, 0.007, 0.035),
    "left_mouth": (-0.006, 0.005, -0.005), "left_shoulder": (-0.005, 0.014, -0.005),
    "left_elbow": (-0.008, 0.002, 0.007), "left_wrist": (0.013, -0.006, 0),
    "left_pinky": (-0.002, -0.005, 0.023), "left_index": (-0.011, -0.011, -0.017),
    "left_thumb": (-0.007, 0.018, -0.045), "left_hip": (0, 0.055, 0.004),
    "left_knee": (-0.002, -0.010, -0.005), "left_ankle": (0.004, 0.021, 0.004),
    "left_heel": (0.002, 0.002, 0.025), "left_foot_index": (0.007, 0.003, -0.031),
}  # fmt: skip
RIGID = 0.9  # weight of a limb's joint from which on a vertex counts as part of it
SHAPE = 0.3  # how much less an error of the offset at one sigma of a beta counts than one at the mean shape
SMALL = 0.003  # metres of error that a row's numbers, 1 in the square, are worth


def moved_to_readings(
    regressor: np.ndarray,
    template: np.ndarray,
    shapedirs: np.ndarray,
    weights: np.ndarray,
    mirror: np.ndarray,
) -> np.ndarray:
    """Landmark rows (33, V) whose points lie where the detector reads them; they still sum to 1.

    To each row small numbers are added that sum to 0 over the limb's vertices and give the offset.
    """
    moved = np.array(regressor, dtype=np.float64)
    for name, offset in OFFSETS.items():
        row, limb = LANDMARK_NAMES.index(name), holder_of(name)
        if BODY_JOINT_NAMES[limb] == "neck":  # what holds the face is the head
            limb = BODY_JOINT_NAMES.index("head")
        rigid = np.flatnonzero(weights[:, limb] > RIGID)
        directions = SHAPE * shapedirs[rigid].reshape(len(rigid), -1)  # (n, 3, B) -> (n, 3B)
        conditions = np.concatenate((np.ones((len(rigid), 1)), template[rigid], directions), axis=1).T
        wanted = np.zeros(len(conditions))
        wanted[1:4] = offset
        added = np.zeros(len(template))
        added[rigid] = conditions.T @ np.linalg.solve(
            conditions @ conditions.T + SMALL**2 * np.eye(len(conditions)), wanted
        )
        added[rigid] -= added[rigid].mean()
        opposite = MIRROR_LANDMARKS[row]
        if opposite == row:
            moved[row] += (added + added[mirror]) / 2
        else:
            moved[row] += added
            moved[opposite] += added[mirror]
    return moved
