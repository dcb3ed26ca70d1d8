"""Limbs turned until the body's landmarks lie where a detector saw them (docs/design.md 4.1).

A network that has seen few motions damps wide and fast ones, though the image shows where the hands are. Each
frame is a small least-squares problem: small turns of the joints move the landmarks below them linearly; how
far a limb is turned, and nothing else, decides about depth.
"""

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
from moro.geometry.smoothing import smooth_in_time

# Joints that turn, and by how much they may, radians.
TURNS = {
    "pelvis": 0.1, "spine3": 0.1, "neck": 0.15, "hip": 0.35, "knee": 0.35, "ankle": 0.2, "shoulder": 0.4,
    "elbow": 0.4, "wrist": 0.2,
}  # fmt: skip
# The joint whose turn moves a landmark last; the first word found in its name decides.
HOLDERS = {
    "foot": "ankle", "shoulder": "spine3", "elbow": "shoulder", "wrist": "elbow", "pinky": "wrist",
    "index": "wrist", "thumb": "wrist", "hip": "pelvis", "knee": "hip", "ankle": "knee", "heel": "ankle",
}  # fmt: skip
SHIFT = 0.05  # metres the body may move
POINT_SIGMA = 0.03  # metres: landmark of the detector against that of the body
OUTLIER = 0.07  # metres: one so far off counts for half
DOUBT = 3  # power of the weights: landmarks of hidden limbs are guesses, and must not turn anything
ROUNDS = 3  # of reweighting
SMOOTH = 3.0  # frames: what the detector's trembling would do to the limbs
CHUNK = 256  # frames solved at once


def refine_by_landmarks(
    body: BodyModel, fit: BodyFit, rays: Tensor, weight: Tensor, points: np.ndarray | None = None
) -> BodyFit:
    """The fitted motion with its limbs where the landmarks were seen.

    rays     (T, 33, 2)  where they were seen: x / z and y / z of the camera the fit is in
    weight   (T, 33)     0 where unseen, up to 1
    points   as for `fit_body`
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
    pose = roma.rotvec_to_rotmat(torch.cat((fit.global_orient[:, None], fit.body_pose), dim=1))
    turned = roma.rotmat_to_rotvec(_turned(pose, turns))
    return moved(body, fit, turned, fit.transl + shift, points)


def _solve(points: Tensor, joints: Tensor, rays: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Turns of the joints (T, 22, 3), rotation vectors in the camera's axes, and shifts (T, 3), metres.

    A point p that is to lie on the ray r is off by n p for the normals n = (1, 0, -r_x) and (0, 1, -r_y). A
    turn u about a joint at j moves it by u x (p - j), which changes that by u ((p - j) x n).
    """
    held, moving, allowed = _chains()
    points, joints, rays, weight = (value.double() for value in (points, joints, rays, weight))
    (T, L), K = weight.shape, len(moving)
    one, zero = torch.ones_like(weight), torch.zeros_like(weight)
    normals = torch.stack(
        (torch.stack((one, zero, -rays[..., 0]), -1), torch.stack((zero, one, -rays[..., 1]), -1)), dim=2
    )  # (T, L, 2, 3)
    arms = points[:, :, None, None] - joints[:, None, None, moving]  # (T, L, 1, K, 3)
    levers = torch.linalg.cross(*torch.broadcast_tensors(arms, normals[:, :, :, None]))  # (T, L, 2, K, 3)
    levers = levers * torch.from_numpy(held).to(levers)[None, :, None, :, None]
    J = torch.cat((levers.flatten(3), normals), dim=-1).flatten(1, 2)  # (T, L, 2, 3K+3) -> (T, 2L, 3K+3)
    off = (points[:, :, None] * normals).sum(-1).flatten(1)  # (T, L, 2) -> (T, 2L) metres beside the ray
    bounds = torch.tensor([*np.repeat(allowed, 3), *[SHIFT] * 3]).to(J)
    solution = J.new_zeros(T, 3 * K + 3)
    for _ in range(ROUNDS):
        left = (off + (J @ solution[..., None])[..., 0]).unflatten(1, (L, 2))
        trust = weight / (1 + left.square().sum(-1) / OUTLIER**2) / POINT_SIGMA**2  # (T, L)
        scaled = J * trust.repeat_interleave(2, dim=1)[..., None]
        right = -(scaled.mT @ off[..., None])
        solution = torch.linalg.solve(scaled.mT @ J + torch.diag(bounds**-2), right)[..., 0]
    turns = J.new_zeros(T, len(BODY_JOINT_NAMES), 3)
    turns[:, moving] = solution[:, :-3].unflatten(1, (K, 3))
    return turns.float(), solution[:, -3:].float()


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


@lru_cache
def _chains() -> tuple[np.ndarray, list[int], np.ndarray]:
    """(33, K) which joint moves which landmark, numbers of the K joints, (K,) how far they may turn."""
    moving = [j for j, name in enumerate(BODY_JOINT_NAMES) if name.split("_")[-1] in TURNS]
    allowed = np.array([TURNS[BODY_JOINT_NAMES[j].split("_")[-1]] for j in moving])
    holders = []
    for name in LANDMARK_NAMES:
        side, *words = name.split("_")
        holder = next((HOLDERS[word] for word in words if word in HOLDERS), "neck")
        holders.append(BODY_JOINT_NAMES.index(holder if holder in BODY_JOINT_NAMES else f"{side}_{holder}"))
    return _above()[np.ix_(holders, moving)], moving, allowed
