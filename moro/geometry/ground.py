"""The floor under people seen by a static camera, and the world frame that stands on it (spec: data 9.4).

The floor is the plane through the places where feet rest. Three things make that robust:

- a total-least-squares plane inside a seeded RANSAC, so that sliding or airborne feet do not count; of two
  floors the lower is taken, unless few feet touch it;
- a prior on the direction of up, since the contacts of a straight walk or of somebody standing still lie on a
  line or in a point and leave the tilt of the plane open. The prior is the mean direction from ankles to neck
  in frames where the person stands straight, else the camera's own up; data outweigh it wherever they say
  something. For a prior of width σ_a (radians) and contacts of height noise σ the most probable plane
  minimises  n·S·n / σ² + |n - up|² / σ_a²  over unit normals, S being the scatter of the contacts: the
  smallest eigenvector of S + (σ/σ_a)² (I - up upᵀ), in closed form;
- the normal's sign: it always points to the side on which the people are, up.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError

logger = logging.getLogger(__name__)

PELVIS, NECK = 0, 12
HIPS, KNEES, ANKLES, FEET = (1, 2), (4, 5), (7, 8), (10, 11)
CAMERA_UP = np.array([0.0, -1.0, 0.0])  # OpenCV axes: y points down
CONTACT_SPEED = 0.3  # m/s; 0.01 m per frame at 30 fps
SOLE_THICKNESS = 0.01  # m, points of a foot this close to its lowest one touch the floor with it
RESIDUAL = 0.05  # m, RANSAC inlier distance
BELOW = 2.0  # times RESIDUAL is how far an outlier below the floor may count: nobody stands in a hole
HEIGHT_NOISE = 0.03  # m, smallest noise of a contact's height that is believed
CELL = 0.25  # m, contacts nearer than this are one piece of evidence
SCORED_POINTS = 5000  # contacts by which candidate planes are judged; more would cost memory and say no more
BODY_UP_WIDTH = np.deg2rad(4.0)  # how well standing people tell up
CAMERA_UP_WIDTH = np.deg2rad(20.0)  # how level cameras usually are
FOOT_JOINT_HEIGHT = 0.025  # m, ball of the foot (joint) above the floor under it


@dataclass(frozen=True)
class Ground:
    """A floor plane in the camera frame, and the world frame on it.

    normal   (3,) unit vector, up, camera frame (OpenCV axes, metres)
    origin   (3,) a point of the floor: the foot of the perpendicular from the first root position
    source   "contacts", or "prior" when too few contacts were found and only the height is measured
    num_contacts  contact points that lie on the plane
    spread   (2,) standard deviation of those contacts along the two directions in the plane, metres

    The world is right-handed: z up, floor z = 0, origin below the first root, y the camera's viewing
    direction along the floor. `y_up=True` gives the same world as (x, z, -y): y up, the camera looking to -z.
    """

    normal: NDArray
    origin: NDArray
    source: str = "contacts"
    num_contacts: int = 0
    spread: tuple[float, float] = (0.0, 0.0)

    def cam2world(self, y_up: bool = False) -> NDArray:
        """(4, 4) float64, camera frame → world."""
        forward = np.array([0.0, 0.0, 1.0])
        ahead = forward - self.normal * (forward @ self.normal)
        if np.linalg.norm(ahead) < 1e-3:  # the camera looks straight down: its own up is then "ahead"
            ahead = CAMERA_UP - self.normal * (CAMERA_UP @ self.normal)
        ahead = ahead / np.linalg.norm(ahead)
        rotation = np.stack([np.cross(ahead, self.normal), ahead, self.normal])  # rows: x, y, z of the world
        if y_up:
            rotation = Z_UP_TO_Y_UP @ rotation
        transform = np.eye(4)
        transform[:3, :3], transform[:3, 3] = rotation, -rotation @ self.origin
        return transform

    def world2cam(self, y_up: bool = False) -> NDArray:
        """(4, 4) float64, world → camera frame."""
        cam2world = self.cam2world(y_up)
        transform = np.eye(4)
        transform[:3, :3] = cam2world[:3, :3].T
        transform[:3, 3] = self.origin
        return transform

    def height(self, points: NDArray) -> NDArray:
        """Height (*,) above the floor of camera-frame points (*, 3), metres."""
        return (np.asarray(points) - self.origin) @ self.normal


Z_UP_TO_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def fit_ground(
    joints: NDArray | Sequence[NDArray],
    soles: NDArray | Sequence[NDArray] | None = None,
    *,
    seen: NDArray | Sequence[NDArray] | None = None,
    fps: float = 30.0,
    seed: int = 0,
) -> Ground:
    """The floor under one or several people.

    joints  (T, J >= 22, 3) per person, camera frame, metres, SMPL order; a list for several people
    soles   (T, P, 3) per person: points of the soles (see `sole_vertices`); without them the two foot joints
            are used and the floor is put 2.5 cm below them
    seen    (T,) bool per person: frames not to be trusted are False; all are used if fewer than 3 are True
    fps     frames per second of the motion
    raises  MoroError when no person has a frame with finite joints
    """
    people = _people(joints, soles, seen)
    up, width = _prior_up([person.joints for person in people])
    points, groups = [], []
    for person in people:
        contact, stance = _contacts(person, up, fps)
        points.append(contact)
        groups.append(stance)
    points = np.concatenate(points)
    stances = sum(groups)
    normal, height, inliers = _fit_plane(points, stances, up, width, seed)
    source = "contacts" if inliers.sum() >= 3 else "prior"
    if source == "prior":
        logger.warning(
            "ground: only %d foot contacts were found; its tilt follows the people and the camera",
            len(points),
        )
    if soles is None:
        height -= FOOT_JOINT_HEIGHT
    root = people[0].joints[0, PELVIS]
    spread = (0.0, 0.0)
    if source == "contacts":
        used = points[inliers]
        flat = used - np.outer(used @ normal, normal)
        values = np.linalg.eigvalsh(np.cov(flat.T))
        spread = tuple(float(np.sqrt(max(v, 0))) for v in values[:0:-1])
    return Ground(normal, root - normal * (root @ normal - height), source, int(inliers.sum()), spread)


def sole_vertices(rest_vertices: NDArray, thickness: float = 0.012, per_foot: int = 12) -> NDArray:
    """Vertex ids (<= 2 per_foot,) spread over both soles of a body in its rest pose (y up, x to its left).

    rest_vertices (V, 3) metres; the soles are what lies within `thickness` of the lowest point of each side
    """
    chosen = []
    for side in (rest_vertices[:, 0] > 0, rest_vertices[:, 0] < 0):
        ids = np.flatnonzero(side)
        low = ids[rest_vertices[ids, 1] < rest_vertices[ids, 1].min() + thickness]
        plan = rest_vertices[low][:, [0, 2]]
        picked = [int(plan[:, 1].argmin())]  # the heel first, then always the farthest from all picked
        distance = np.full(len(plan), np.inf)
        while len(picked) < min(per_foot, len(plan)):
            distance = np.minimum(distance, np.linalg.norm(plan - plan[picked[-1]], axis=1))
            picked.append(int(distance.argmax()))
        chosen.append(low[picked])
    return np.sort(np.concatenate(chosen))


# ---------------------------------------------------------------------------------------------- evidence


@dataclass(frozen=True)
class _Person:
    """joints (T, J, 3), feet (T, P, 3); next_to (T - 1,): frame t and t + 1 are neighbours in time."""

    joints: NDArray
    feet: NDArray
    next_to: NDArray


def _people(
    joints: NDArray | Sequence, soles: NDArray | Sequence | None, seen: NDArray | Sequence | None
) -> list[_Person]:
    single = isinstance(joints, np.ndarray) and joints.ndim == 3
    joints = [joints] if single else list(joints)
    soles = [None] * len(joints) if soles is None else ([soles] if single else list(soles))
    seen = [None] * len(joints) if seen is None else ([seen] if single else list(seen))
    if not len(joints) == len(soles) == len(seen):
        raise MoroError("fit_ground: joints, soles and seen must have one entry per person.")
    people = []
    for number, (joint, sole, mask) in enumerate(zip(joints, soles, seen, strict=True)):
        joint = np.asarray(joint, np.float64)
        if joint.ndim != 3 or joint.shape[1] < 22 or joint.shape[2] != 3:
            raise MoroError(
                f"fit_ground: joints of person {number} must be (T, 22 or more, 3), got {joint.shape}."
            )
        feet = joint[:, list(FEET)] if sole is None else np.asarray(sole, np.float64)
        if feet.ndim != 3 or len(feet) != len(joint):
            raise MoroError(
                f"fit_ground: soles of person {number} must be ({len(joint)}, P, 3), got {feet.shape}."
            )
        finite = np.isfinite(joint).all((1, 2)) & np.isfinite(feet).all((1, 2))
        use = finite if mask is None else finite & np.asarray(mask, bool)
        frames = np.flatnonzero(use if use.sum() >= 3 else finite)
        if len(frames):
            people.append(_Person(joint[frames], feet[frames], np.diff(frames) == 1))
    if not people:
        raise MoroError(
            "fit_ground: no frame has finite joints; the ground needs at least one frame with a body."
        )
    return people


def _prior_up(joints: list[NDArray]) -> tuple[NDArray, float]:
    """Most likely up direction before looking at contacts, and its angular width in radians.

    A frame tells up if the person stands straight: thighs, shins and trunk in line. The median of the
    directions counts, so that a few falls do not tilt it. A hand-stand or a person lying stretched out would
    mislead, hence frames are used only within 60 degrees of the camera's up.
    """
    directions = []
    for person in joints:
        hips, knees, ankles = (person[:, list(pair)].mean(1) for pair in (HIPS, KNEES, ANKLES))
        trunk, thigh, shin = (_unit(v) for v in (person[:, NECK] - hips, hips - knees, knees - ankles))
        straight = np.minimum((trunk * thigh).sum(1), (thigh * shin).sum(1)) > np.cos(np.deg2rad(30))
        whole = _unit(person[:, NECK] - ankles)
        directions.append(whole[straight & (whole @ CAMERA_UP > 0.5)])
    directions = np.concatenate(directions)
    if not len(directions):
        return CAMERA_UP, CAMERA_UP_WIDTH
    return _unit(np.median(directions, axis=0)), BODY_UP_WIDTH


def _contacts(person: _Person, up: NDArray, fps: float) -> tuple[NDArray, int]:
    """Points (N, 3) of feet at rest on the floor, and the number of separate stances they come from.

    At rest: slower than CONTACT_SPEED; the camera is static. On the floor: not clearly above the lower foot
    at that moment. If fewer than 3 points rest (someone gliding, or one frame), the lowest of each frame.
    """
    feet = person.feet
    T, P, _ = feet.shape
    height = feet @ up
    lowest = height.min(1)
    speed = np.full((T, P), np.inf)
    if T > 1:
        step = np.linalg.norm(np.diff(feet, axis=0), axis=2) * fps
        step[~person.next_to] = np.inf
        speed[:-1] = step
        speed[1:] = np.minimum(speed[1:], step)  # a point rests if it does not move to one of its neighbours
    resting = (speed < CONTACT_SPEED) & (height < lowest[:, None] + RESIDUAL)
    # only what carries the weight of a foot: not the heel of a foot that stands on its toes
    to_foot = np.linalg.norm(feet[:, :, None] - person.joints[:, None, list(FEET)], axis=3).mean(0)  # (P, 2)
    for side in range(2):
        own = to_foot.argmin(1) == side
        if own.any():
            resting[:, own] &= height[:, own] < height[:, own].min(1, keepdims=True) + SOLE_THICKNESS
    if resting.sum() < 3:
        frames = np.arange(T)
        return feet[frames, height.argmin(1)], min(T, 3)
    points = feet[resting]
    # a foot that stays for a second is one piece of evidence, not thirty: count the cells touched
    cells = np.unique(np.round(points / CELL).astype(int), axis=0)
    return points, len(cells)


# ---------------------------------------------------------------------------------------------- plane


def _fit_plane(
    points: NDArray, stances: int, up: NDArray, width: float, seed: int, num_samples: int = 300
) -> tuple[NDArray, float, NDArray]:
    """Most probable plane x·normal = height: normal (3,), height, inliers (N,) bool.

    Candidates: planes through 3 random points, and planes of the prior tilt through 1; scored by truncated
    squared distances (of at most SCORED_POINTS) plus the price of leaving the prior, then refined on all
    their inliers.
    """
    rng = np.random.default_rng(seed)
    N = len(points)
    a, b, c = points[rng.integers(0, N, (num_samples, 3))].transpose(1, 0, 2)  # (S, 3) each
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    proper = length > 1e-6
    normals = normals[proper] / length[proper, None]
    normals *= np.where(normals @ up < 0, -1.0, 1.0)[:, None]
    normals = np.concatenate([normals, np.repeat(up[None], num_samples, 0)])
    anchors = np.concatenate([a[proper], points[rng.integers(0, N, num_samples)]])
    scored = points if N <= SCORED_POINTS else points[rng.choice(N, SCORED_POINTS, replace=False)]
    distance = scored @ normals.T - (anchors * normals).sum(1)  # (N', S')
    limit = np.where(distance < 0, BELOW, 1.0) * RESIDUAL
    _, cell, count = np.unique(np.round(scored / CELL), axis=0, return_inverse=True, return_counts=True)
    weight = 1 / count[cell.ravel()]  # (N',) standing still for long says no more than standing
    data = weight / weight.sum() @ np.minimum(np.abs(distance), limit) ** 2 * stances / HEIGHT_NOISE**2
    cost = data + ((normals - up) ** 2).sum(1) / width**2
    best = int(cost.argmin())
    normal, height = normals[best], float(anchors[best] @ normals[best])
    inliers = np.abs(points @ normal - height) < RESIDUAL
    for _ in range(10):
        normal, height = _most_probable_plane(points[inliers], stances, up, width)
        again = np.abs(points @ normal - height) < RESIDUAL
        if (again == inliers).all() or again.sum() < 3:
            break
        inliers = again
    return normal, height, inliers


def _most_probable_plane(points: NDArray, stances: int, up: NDArray, width: float) -> tuple[NDArray, float]:
    """Closed form of the module's docstring; the scatter counts stances, not points."""
    centre = points.mean(0)
    scatter = (points - centre).T @ (points - centre) / len(points)
    noise = max(HEIGHT_NOISE**2, float(np.linalg.eigvalsh(scatter)[0]))
    pull = noise / width**2 * (np.eye(3) - np.outer(up, up))
    normal = np.linalg.eigh(stances * scatter + pull)[1][:, 0]
    normal = normal if normal @ up > 0 else -normal
    return normal, float(centre @ normal)


def _unit(v: NDArray) -> NDArray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
