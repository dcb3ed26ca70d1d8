"""Generated motions: key poses joined in sensible orders, grounded, with their feet in place.

Used beside captured motion for what that lacks, and alone by tests and a newcomer's first training run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from moro.body.skeleton import global_rotations
from moro.synth import keyposes
from moro.synth.keyposes import SUPPORTS, KeyPose
from moro.synth.skeleton import JOINT_INDEX, joint_positions, rest_offsets, y_up_to_z_up

FPS = 30.0


@dataclass(frozen=True)
class MotionClip:
    """A motion in the z-up world at 30 frames per second.

    local_pose (F, 22, 3, 3)  parent-relative rotations, root row body → world
    pelvis     (F, 3)         metres, at zero betas
    """

    name: str
    family: str
    local_pose: Tensor
    pelvis: Tensor

    def __len__(self) -> int:
        return len(self.local_pose)


Key = tuple[float, KeyPose]  # seconds to get there, pose


# ---- scripts: which pose follows which -----------------------------------------------------------


def _hold(rng: np.random.Generator, pose: KeyPose, low: float = 0.3, high: float = 1.5) -> list[Key]:
    """Stay about `pose`: small changes of trunk and head."""
    spine = tuple(angle + rng.normal(0, 4) for angle in pose.spine)
    head = tuple(angle + rng.normal(0, 6) for angle in pose.head)
    return [(rng.uniform(low, high), replace(pose, spine=spine, head=head))]


def _there_and_back(*names: str) -> Callable[[np.random.Generator], list[Key]]:
    """Standing, through the named poses (each held), and the same way back."""

    def script(rng: np.random.Generator) -> list[Key]:
        start = keyposes.stand(rng)
        path = [keyposes.POSES[name](rng) for name in names]
        keys: list[Key] = [(0.0, start), *_hold(rng, start)]
        for pose in path:
            keys += [(rng.uniform(0.7, 1.8), pose), *_hold(rng, pose, 0.4, 2.0)]
        for pose in reversed(path[:-1]):
            keys.append((rng.uniform(0.7, 1.8), pose))
        end = keyposes.stand(rng)
        return [*keys, (rng.uniform(0.7, 1.8), end), *_hold(rng, end)]

    return script


def _stay(name: str) -> Callable[[np.random.Generator], list[Key]]:
    """One pose for some seconds while arms, trunk and head move."""

    def script(rng: np.random.Generator) -> list[Key]:
        pose = keyposes.POSES[name](rng)
        keys: list[Key] = [(0.0, pose)]
        for _ in range(rng.integers(3, 6)):
            arms = {side: keyposes.arm(rng) for side in ("left_arm", "right_arm") if rng.random() < 0.6}
            spine = tuple(angle + rng.normal(0, spread) for angle, spread in zip(pose.spine, (9, 5, 12)))
            keys += _hold(rng, replace(pose, **arms, spine=spine), 0.5, 1.6)
        return keys

    return script


def _repeat(name: str) -> Callable[[np.random.Generator], list[Key]]:
    """Standing and the named pose in turn, as in an exercise or when loading a shelf."""

    def script(rng: np.random.Generator) -> list[Key]:
        start = keyposes.stand(rng)
        keys: list[Key] = [(0.0, start)]
        for _ in range(rng.integers(2, 5)):
            keys += [(rng.uniform(0.5, 1.3), keyposes.POSES[name](rng)), (rng.uniform(0.5, 1.3), start)]
        return keys

    return script


def _walk(rng: np.random.Generator) -> list[Key]:
    """Steps of one length and pace, straight or along a bend."""
    length, pace = rng.uniform(0.3, 1.25), rng.uniform(0.42, 0.75)
    bend = rng.choice([0.0, rng.normal(0, 12)])  # degrees per step
    keys: list[Key] = []
    for step in range(rng.integers(6, 14)):
        for half, pose in enumerate(keyposes.stride(rng, length, step % 2 == 0, bend * step)):
            keys.append((pace / 2, replace(pose, turn=pose.turn + 0.5 * bend * half)))
    return keys


# family -> (script, whether the poses flow into each other instead of coming to rest)
SCRIPTS: dict[str, tuple[str, Callable[[np.random.Generator], list[Key]], bool]] = {
    "sit_stand": ("sit", _there_and_back("sit"), False),
    "seated": ("sit", _stay("sit"), False),
    "squats": ("crouch/kneel", _repeat("squat"), False),
    "bends": ("reach/manipulate", _repeat("bend"), False),
    "reaches": ("reach/manipulate", _repeat("reach"), False),
    "gestures": ("stand/idle/gesture", _stay("stand"), False),
    "half_kneel": ("crouch/kneel", _there_and_back("half_kneel"), False),
    "kneel": ("crouch/kneel", _there_and_back("half_kneel", "kneel"), False),
    "kneeling": ("crouch/kneel", _stay("kneel"), False),
    "all_fours": ("floor/acrobatics", _there_and_back("half_kneel", "kneel", "all_fours"), False),
    "sit_floor": ("sit floor", _there_and_back("squat", "sit_floor"), False),
    "floor_seated": ("sit floor", _stay("sit_floor"), False),
    "lie_back": ("lie", _there_and_back("squat", "sit_floor", "lie_back"), False),
    "lie_front": ("lie", _there_and_back("half_kneel", "kneel", "all_fours", "lie_front"), False),
    "lie_side": ("lie", _there_and_back("squat", "sit_floor", "lie_side"), False),
    "lying": ("lie", _stay("lie_back"), False),
    "walk": ("walk", _walk, True),
}


# ---- from key poses to motion --------------------------------------------------------------------


def generate_clips(seed: int, count: int, body: "torch.nn.Module") -> list[MotionClip]:
    """`count` random motions of 3 to 20 seconds, kinds in turn; the same seed gives the same clips.

    body  a body model (`moro.body`): its rest joints and its vertices put the motion on the floor
    """
    kinds = list(SCRIPTS)
    clips = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        kind = kinds[index % len(kinds)]
        clips.append(_generate(rng, f"gen_{kind}_{seed}_{index:04d}", kind, body))
    return clips


def _generate(rng: np.random.Generator, name: str, kind: str, body: "torch.nn.Module") -> MotionClip:
    family, script, flows = SCRIPTS[kind]
    keys = script(rng)
    local, flat, support = interpolate_keys(keys, flows)
    local = level_feet(local, flat)
    offsets = body_offsets(body)
    height = -lowest_vertex(body, local)  # (F,) pelvis height that puts the lowest vertex on the floor
    path = anchored_path(local, offsets, support)  # (F, 2) along x and z
    height = torch.from_numpy(gaussian_filter1d(height.numpy(), 1.5, mode="nearest"))
    pelvis = torch.stack([path[:, 0], height, path[:, 1]], dim=-1)  # (F, 3), Y up
    turn = y_up_to_z_up()
    local[:, 0] = turn @ local[:, 0]
    return MotionClip(name, family, local, pelvis @ turn.T)


def interpolate_keys(keys: list[Key], flows: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Frames between key poses.

    Minimum-jerk timing (each key is a rest) or, with `flows`, one cubic spline through the rotation vectors.
    Returns rotations (F, 22, 3, 3), how level each foot is kept (F, 2), support weights (F, 5).
    """
    times = np.cumsum([seconds for seconds, _ in keys])
    first, last = (times[1], times[-2]) if flows else (times[0], times[-1])  # a spline swings at its ends
    frames = np.arange(first, last, 1 / FPS)
    rotations = torch.stack([pose.matrices() for _, pose in keys])  # (N, 22, 3, 3)
    segment = np.clip(np.searchsorted(times, frames, side="right") - 1, 0, len(keys) - 2)
    x = np.clip((frames - times[segment]) / np.maximum(times[segment + 1] - times[segment], 1e-6), 0, 1)
    eased = torch.from_numpy(x**3 * (10 - 15 * x + 6 * x**2)).float()  # minimum jerk
    low = torch.from_numpy(segment)
    if flows:
        vectors = roma.rotmat_to_rotvec(rotations).numpy()  # (N, 22, 3)
        vectors[:, 0] = roma.rotmat_to_rotvec(rotations[:1, 0].mT @ rotations[:, 0]).numpy()
        local = roma.rotvec_to_rotmat(torch.from_numpy(CubicSpline(times, vectors)(frames)).float())
        local[:, 0] = rotations[0, 0] @ local[:, 0]
    else:
        step = roma.rotmat_to_rotvec(rotations[low].mT @ rotations[low + 1])  # (F, 22, 3)
        local = rotations[low] @ roma.rotvec_to_rotmat(step * eased[:, None, None])
    flat = torch.stack([pose.flat_feet() for _, pose in keys])
    support = torch.tensor([pose.support for _, pose in keys], dtype=torch.float32)
    return local, _blend(flat, low, eased), _blend(support, low, eased)


def _blend(values: Tensor, low: Tensor, share: Tensor) -> Tensor:
    return values[low] * (1 - share[:, None]) + values[low + 1] * share[:, None]


def level_feet(local: Tensor, flat: Tensor, limit: float = 0.8) -> Tensor:
    """Turn the ankles so that the soles are level, by the share `flat` (F, 2), at most `limit` radians.

    local (F, 22, 3, 3), Y up -> (F, 22, 3, 3)
    """
    local = local.clone()
    rotations = global_rotations(local)
    for column, side in enumerate(("left", "right")):
        shin = rotations[:, JOINT_INDEX[f"{side}_knee"]]
        ahead = shin @ local[:, JOINT_INDEX[f"{side}_ankle"]]
        heading = torch.atan2(ahead[:, 0, 2], ahead[:, 2, 2])  # of the foot's +Z axis
        level = roma.rotvec_to_rotmat(torch.stack([0 * heading, heading, 0 * heading], dim=-1))
        own = local[:, JOINT_INDEX[f"{side}_ankle"]]
        step = roma.rotmat_to_rotvec(own.mT @ shin.mT @ level)  # (F, 3)
        size = step.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        step = step * (size.clamp(max=limit) / size) * flat[:, column, None]
        local[:, JOINT_INDEX[f"{side}_ankle"]] = own @ roma.rotvec_to_rotmat(step)
    return local


def anchored_path(local: Tensor, offsets: Tensor, support: Tensor) -> Tensor:
    """(F, 2) pelvis path on the floor (x, z; Y up) that keeps the supporting joints in place.

    support  (F, 5)  weights of SUPPORTS: between two frames the pelvis moves against their mean motion;
                     unequal weights are sharpened, so that in a step one foot hands over to the other at once
    """
    joints = joint_positions(global_rotations(local), offsets, torch.zeros(len(local), 3))
    anchors = joints[:, [JOINT_INDEX[name] for name in SUPPORTS]][..., [0, 2]]  # (F, 5, 2)
    weights = ((support[1:] + support[:-1]) / 2) ** 6
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    velocity = -(weights[..., None] * (anchors[1:] - anchors[:-1])).sum(dim=1)  # (F-1, 2)
    return torch.cat([torch.zeros(1, 2), velocity.cumsum(dim=0)])


def body_offsets(body: "torch.nn.Module") -> Tensor:
    """(22, 3) joint minus parent of the body's rest pose at zero betas; row 0 is the pelvis."""
    with torch.no_grad():
        rest = body(body_pose=torch.eye(3).expand(1, 21, 3, 3), betas=torch.zeros(1, body.num_betas))
    return rest_offsets(rest.joints[0])


def lowest_vertex(body: "torch.nn.Module", local: Tensor, axis: int = 1, chunk: int = 128) -> Tensor:
    """(F,) coordinate along `axis` of the lowest vertex relative to the pelvis, for poses (F, 22, 3, 3)."""
    lowest = []
    with torch.no_grad():
        for part in local.split(chunk):
            out = body(body_pose=part[:, 1:], betas=torch.zeros(1, body.num_betas).expand(len(part), -1),
                       global_orient=part[:, 0])  # fmt: skip
            lowest.append(out.vertices[..., axis].amin(dim=-1) - out.joints[:, 0, axis])
    return torch.cat(lowest)
