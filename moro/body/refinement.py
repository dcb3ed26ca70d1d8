"""Trunk and limbs turned until the body's landmarks lie where a detector saw them (docs/design.md 4.1).

A network that has seen few motions damps wide and fast ones, though the image shows where the hands are. Each
frame is a small least-squares problem: small turns of the joints move the landmarks below them linearly; how
far a limb is turned, and nothing else, decides about depth.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import roma
import torch
from torch import Tensor

from moro.body.fitting import BodyFit, moved
from moro.body.model import BodyModel
from moro.body.skeleton import (
    BODY_JOINT_NAMES,
    BODY_PARENTS,
    LANDMARK_NAMES,
    global_rotations,
    local_rotations,
)
from moro.errors import MoroError
from moro.geometry.contact import FEET, still, surely_standing
from moro.geometry.smoothing import smooth_in_time

# Joints that turn, and by how much they may, radians.
TURNS = {
    "pelvis": 0.2, "spine1": 0.1, "spine2": 0.1, "spine3": 0.1, "neck": 0.15, "hip": 0.3, "knee": 0.35,
    "ankle": 0.2, "shoulder": 0.35, "elbow": 0.4, "wrist": 0.2,
}  # fmt: skip
# The joint whose turn moves a landmark last; the first word found in its name decides.
HOLDERS = {
    "foot": "ankle", "shoulder": "spine3", "elbow": "shoulder", "wrist": "elbow", "pinky": "wrist",
    "index": "wrist", "thumb": "wrist", "hip": "pelvis", "knee": "hip", "ankle": "knee", "heel": "ankle",
}  # fmt: skip
SHIFT = 0.05  # metres the body may move
POINT_SIGMA = 0.02  # metres: landmark of the detector against that of the body
OUTLIER = 0.07  # metres: one so far off counts for a quarter, farther ones for next to nothing: behind other
# people the detector is sure of limbs that it reads somewhere else, and the network knows better
DOUBT = 3  # power of the weights: landmarks of hidden limbs are guesses, and must not turn anything
ROUNDS = 3  # of reweighting
SMOOTH = 3.0  # frames: what the detector's trembling would do to the limbs
CHUNK = 256  # frames solved at once
# Of the legs whose feet stand, radians; their feet may miss the place by FOOT_SIGMA metres.
LEG_TURNS = {"hip": 0.35, "knee": 0.35, "ankle": 0.35}
FOOT_SIGMA = 0.003
STANDING_BIAS = 0.7  # of contact's logits: a foot wrongly held bends a leg a little, one that slides is seen
LEG_ROUNDS = 2  # the turns are small, but not all of them


def refine_by_landmarks(
    body: BodyModel,
    fit: BodyFit,
    rays: Tensor,
    weight: Tensor,
    contact: Tensor | None = None,
    points: np.ndarray | None = None,
) -> BodyFit:
    """The fitted motion with its limbs where the landmarks were seen, and feet that stay where they stand.

    rays      (T, 33, 2)  where they were seen: x / z and y / z of the camera the fit is in
    weight    (T, 33)     0 where unseen, up to 1
    contact   (T, 4|6)    logits of feet's contact (hands do not count); None: nothing is known of it
    points    as for `fit_body`
    Raises MoroError if the body has no landmarks.
    """
    if body.landmark_regressor is None:
        raise MoroError(f"body {body.body_id} has no landmarks to be refined by; set demo.refine=false")
    parts = []
    for start in range(0, len(fit.transl), CHUNK):
        rows = slice(start, start + CHUNK)
        posed = fit.rebuild(body, rows)
        parts.append(_solve(posed.landmarks(), posed.joints, rays[rows], weight[rows] ** DOUBT))
    turns, shift = (smooth_in_time(torch.cat(column)[None], SMOOTH)[0] for column in zip(*parts, strict=True))
    refined = _moved(body, fit, turns, shift, points)
    return refined if contact is None else _planted(body, refined, contact, points)


def _planted(body: BodyModel, fit: BodyFit, contact: Tensor, points: np.ndarray | None) -> BodyFit:
    """Legs turned until feet that stand do not slide."""
    feet = list(FEET)
    logits = smooth_in_time(contact[None, :, : len(FEET)], SMOOTH)[0]
    standing = surely_standing(logits, STANDING_BIAS)
    wanted = fit.joints[:, feet] + still(fit.joints[:, feet], standing)
    for _ in range(LEG_ROUNDS):
        parts = [_turn_legs(*rows) for rows in zip(fit.joints.split(CHUNK), wanted.split(CHUNK), strict=True)]
        fit = _moved(body, fit, torch.cat(parts), torch.zeros_like(fit.transl), points)
    return fit


def _turn_legs(joints: Tensor, wanted: Tensor) -> Tensor:
    """Turns (T, 22, 3) of the legs that bring the feet among joints (T, 22, 3) to `wanted` (T, 4, 3)."""
    feet = list(FEET)
    moving, allowed = _movers(LEG_TURNS)
    joints = joints.double()
    normals = torch.eye(3).to(joints).expand(*wanted.shape[:2], 3, 3)
    held = _above()[np.ix_(feet, moving)]
    J = _jacobian(joints[:, feet], joints[:, moving], normals, held)[..., :-3]  # nothing is shifted
    trust = J.new_full(wanted.shape[:2], FOOT_SIGMA**-2)
    return _as_turns(_minimum(J, joints[:, feet] - wanted, trust, np.repeat(allowed, 3)), moving)


def _moved(body: BodyModel, fit: BodyFit, turns: Tensor, shift: Tensor, points: np.ndarray | None) -> BodyFit:
    """The fit after joints were turned (T, 22, 3) in the camera's axes and the body shifted (T, 3)."""
    pose = roma.rotvec_to_rotmat(torch.cat((fit.global_orient[:, None], fit.body_pose), dim=1))
    return moved(body, fit, roma.rotmat_to_rotvec(_turned(pose, turns)), fit.transl + shift, points)


def _solve(points: Tensor, joints: Tensor, rays: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Turns of the joints (T, 22, 3), rotation vectors in the camera's axes, and shifts (T, 3), metres.

    A point p that is to lie on the ray r is off by n p for the normals n = (1, 0, -r_x) and (0, 1, -r_y).
    """
    held, moving, allowed = _chains()
    points, joints, rays, weight = (value.double() for value in (points, joints, rays, weight))
    one, zero = torch.ones_like(weight), torch.zeros_like(weight)
    normals = torch.stack(
        (torch.stack((one, zero, -rays[..., 0]), -1), torch.stack((zero, one, -rays[..., 1]), -1)), dim=2
    )  # (T, L, 2, 3)
    J = _jacobian(points, joints[:, moving], normals, held)
    off = (points[:, :, None] * normals).sum(-1)  # (T, L, 2) metres beside the ray
    solution = J.new_zeros(len(J), J.shape[-1])
    for _ in range(ROUNDS):
        left = off + (J @ solution[..., None])[..., 0].view_as(off)
        trust = weight / (1 + left.square().sum(-1) / OUTLIER**2) ** 2 / POINT_SIGMA**2  # (T, L)
        solution = _minimum(J, off, trust, np.append(np.repeat(allowed, 3), [SHIFT] * 3))
    return _as_turns(solution[:, :-3], moving), solution[:, -3:].float()


def _jacobian(points: Tensor, joints: Tensor, normals: Tensor, held: np.ndarray) -> Tensor:
    """(T, L*R, 3K+3): what turns of K joints and a shift do to points, along R normals each.

    A turn u about a joint at j moves a point p by u x (p - j), which along n is u ((p - j) x n).
    points (T, L, 3), joints (T, K, 3), normals (T, L, R, 3), held (L, K) whether a joint moves a point
    """
    arms = points[:, :, None, None] - joints[:, None, None]  # (T, L, 1, K, 3)
    levers = torch.linalg.cross(*torch.broadcast_tensors(arms, normals[:, :, :, None]))  # (T, L, R, K, 3)
    levers = levers * torch.from_numpy(held).to(levers)[None, :, None, :, None]
    # (T, L, R, K, 3) -> (T, L, R, 3K+3) -> (T, L*R, 3K+3)
    return torch.cat((levers.flatten(3), normals), dim=-1).flatten(1, 2)


def _minimum(J: Tensor, off: Tensor, trust: Tensor, allowed: np.ndarray) -> Tensor:
    """(T, N) unknowns x, each about as large as `allowed` (N,): least squares of off (T, L, R) + J x.

    J (T, L*R, N), trust (T, L)
    """
    scaled = J * trust.repeat_interleave(off.shape[-1], dim=1)[..., None]
    right = -(scaled.mT @ off.flatten(1)[..., None])  # (T, L, R) -> (T, L*R, 1)
    prior = torch.diag(torch.from_numpy(allowed).to(J) ** -2)
    return torch.linalg.solve(scaled.mT @ J + prior, right)[..., 0]


def _as_turns(solution: Tensor, moving: list[int]) -> Tensor:
    """(T, 3K) of the joints that move as turns of all (T, 22, 3)."""
    turns = solution.new_zeros(len(solution), len(BODY_JOINT_NAMES), 3)
    turns[:, moving] = solution.unflatten(1, (len(moving), 3))
    return turns.float()


def _turned(local: Tensor, turns: Tensor) -> Tensor:
    """Local rotations (T, 22, 3, 3) after each joint was turned, and all below it with it."""
    above = torch.from_numpy(_above()).to(turns)
    turn = roma.rotvec_to_rotmat(above @ turns)  # the sum of what turns a joint, (22, 22) @ (T, 22, 3)
    return local_rotations(turn @ global_rotations(local))


@lru_cache
def _above() -> np.ndarray:
    """(22, 22) bool: row j has the joints from the root to joint j, itself included."""
    above = np.eye(len(BODY_PARENTS), dtype=bool)
    for joint, parent in enumerate(BODY_PARENTS[1:], start=1):
        above[joint] |= above[parent]
    return above


def _movers(turns: Mapping[str, float]) -> tuple[list[int], np.ndarray]:
    """Numbers of the K joints that may turn, and (K,) how far; turns are by name without the side."""
    kinds = [name.split("_")[-1] for name in BODY_JOINT_NAMES]
    moving = [joint for joint, kind in enumerate(kinds) if kind in turns]
    return moving, np.array([turns[kinds[joint]] for joint in moving])


@lru_cache
def _chains() -> tuple[np.ndarray, list[int], np.ndarray]:
    """(33, K) which joint moves which landmark, numbers of the K joints, (K,) how far they may turn."""
    moving, allowed = _movers(TURNS)
    return _above()[np.ix_([holder_of(name) for name in LANDMARK_NAMES], moving)], moving, allowed


def holder_of(landmark: str) -> int:
    """Number of the joint whose turn moves a landmark last."""
    side, *words = landmark.split("_")
    holder = next((HOLDERS[word] for word in words if word in HOLDERS), "neck")
    return BODY_JOINT_NAMES.index(holder if holder in BODY_JOINT_NAMES else f"{side}_{holder}")
