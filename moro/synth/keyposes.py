"""Key poses by anatomical angles, with random variation.

Motion capture that may be shared freely holds little sitting, kneeling, bending or lying. These poses,
interpolated (`moro.synth.motions`), fill that gap and are the whole training set of the tests. Angles are in
degrees: flexion brings a limb forward or a joint closed, abduction moves it away from the body's middle.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from moro.synth.skeleton import JOINT_INDEX, JOINT_NAMES

SUPPORTS = ("left_foot", "right_foot", "left_knee", "right_knee", "pelvis")


@dataclass(frozen=True)
class Leg:
    """Hip flexion, abduction (sideways when standing), yaw (outward; sideways when seated), knee, ankle."""

    hip: float = 0.0
    abduction: float = 2.0
    yaw: float = 4.0
    knee: float = 3.0
    ankle: float = 0.0
    flat: float = 1.0  # 1: the sole is kept level, whatever `ankle` says; 0: `ankle` counts


@dataclass(frozen=True)
class Arm:
    """Lowering below the horizontal (90 hangs), azimuth (0 sideways, 90 forward), twist about the arm, elbow;
    on top of these, a swing forward about the axis through both shoulders."""

    lower: float = 78.0
    azimuth: float = 10.0
    twist: float = 0.0
    elbow: float = 15.0
    swing: float = 0.0


@dataclass(frozen=True)
class KeyPose:
    """One pose. `pitch` / `roll` / `turn` tip the whole body forward / to its left / about the vertical."""

    left_leg: Leg = field(default_factory=Leg)
    right_leg: Leg = field(default_factory=Leg)
    left_arm: Arm = field(default_factory=Arm)
    right_arm: Arm = field(default_factory=Arm)
    pitch: float = 0.0
    roll: float = 0.0
    turn: float = 0.0
    spine: tuple[float, float, float] = (0.0, 0.0, 0.0)  # forward bend, side bend, twist, over three joints
    head: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the same, over neck and head
    support: tuple[float, ...] = (0.5, 0.5, 0.0, 0.0, 0.0)  # weights of SUPPORTS: what stays put on the floor

    def matrices(self) -> Tensor:
        """(22, 3, 3) float32 parent-relative rotations; the root row tips the body (Y up)."""
        local = np.tile(np.eye(3), (len(JOINT_NAMES), 1, 1))
        local[0] = _euler("YXZ", self.turn, self.pitch, -self.roll)
        for joint in ("spine1", "spine2", "spine3"):
            local[JOINT_INDEX[joint]] = _trunk(self.spine, 1 / 3)
        for joint in ("neck", "head"):
            local[JOINT_INDEX[joint]] = _trunk(self.head, 1 / 2)
        for side, sign, leg, arm in (
            ("left", 1, self.left_leg, self.left_arm),
            ("right", -1, self.right_leg, self.right_arm),
        ):
            local[JOINT_INDEX[f"{side}_hip"]] = _euler("YZX", sign * leg.yaw, sign * leg.abduction, -leg.hip)
            local[JOINT_INDEX[f"{side}_knee"]] = _euler("X", leg.knee)
            local[JOINT_INDEX[f"{side}_ankle"]] = _euler("X", -leg.ankle)
            local[JOINT_INDEX[f"{side}_collar"]] = _euler("Z", sign * max(0.0, -arm.lower) * 0.25)
            lower = sign * (-arm.lower - max(0.0, -arm.lower) * 0.25)  # the collar took a quarter of a raise
            shoulder = _euler("YZX", -sign * arm.azimuth, lower, arm.twist)
            local[JOINT_INDEX[f"{side}_shoulder"]] = _euler("X", -arm.swing) @ shoulder
            local[JOINT_INDEX[f"{side}_elbow"]] = _euler("Y", -sign * arm.elbow)
        return torch.from_numpy(local).float()

    def flat_feet(self) -> Tensor:
        """(2,) how far the left and right sole are kept level."""
        return torch.tensor([self.left_leg.flat, self.right_leg.flat])


def _euler(axes: str, *angles: float) -> np.ndarray:
    return Rotation.from_euler(axes, angles if len(axes) > 1 else angles[0], degrees=True).as_matrix()


def _trunk(angles: tuple[float, float, float], share: float) -> np.ndarray:
    forward, side, twist = (share * angle for angle in angles)
    return _euler("YXZ", twist, forward, -side)


# ---- poses; each takes numpy's generator and gives one random member of its kind -----------------


def arm(rng: np.random.Generator) -> Arm:
    """Any comfortable arm: hanging, raised, forward, bent."""
    kind = rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])
    if kind == 0:
        return Arm(rng.uniform(65, 85), rng.uniform(-20, 50), rng.uniform(-30, 30), rng.uniform(3, 40))
    if kind == 1:  # hand before the body
        return Arm(rng.uniform(30, 75), rng.uniform(10, 90), rng.uniform(-50, 50), rng.uniform(30, 130))
    if kind == 2:  # reaching out
        return Arm(rng.uniform(-40, 40), rng.uniform(0, 110), rng.uniform(-40, 40), rng.uniform(0, 60))
    return Arm(
        rng.uniform(-80, -20), rng.uniform(-10, 80), rng.uniform(-40, 40), rng.uniform(0, 110)
    )  # overhead


def hanging_arms(rng: np.random.Generator) -> dict[str, Arm]:
    """Both arms at the side."""
    lower, azimuth, elbow = rng.uniform(72, 84), rng.uniform(-5, 25), rng.uniform(5, 30)
    return {
        side: Arm(lower + rng.normal(0, 3), azimuth + rng.normal(0, 5), rng.normal(0, 12), elbow)
        for side in ("left_arm", "right_arm")
    }


def _legs(rng: np.random.Generator, spread: float = 2.0, **angles: float) -> dict[str, Leg]:
    base = replace(Leg(), **angles)
    return {
        side: replace(
            base,
            hip=base.hip + rng.normal(0, spread),
            yaw=base.yaw + rng.normal(0, 2 * spread),
            knee=max(0.0, base.knee + rng.normal(0, spread)),
        )
        for side in ("left_leg", "right_leg")
    }


def stand(rng: np.random.Generator) -> KeyPose:
    stance = _legs(rng, 1.0, abduction=rng.uniform(0, 8), yaw=rng.uniform(0, 12), knee=rng.uniform(1, 6))
    spine = (rng.normal(2, 4), rng.normal(0, 2), rng.normal(0, 4))
    return KeyPose(**stance, **hanging_arms(rng), spine=spine, head=_look(rng, 8))


def _look(rng: np.random.Generator, spread: float = 15) -> tuple[float, float, float]:
    return (rng.normal(3, spread), rng.normal(0, spread / 2), rng.normal(0, 1.5 * spread))


def sit(rng: np.random.Generator) -> KeyPose:
    """On a chair, stool or bench: thighs about level, soles on the floor; now and then with crossed legs."""
    pitch = rng.uniform(-20, 15)
    legs = _legs(
        rng,
        3,
        hip=rng.uniform(75, 98) + pitch,
        knee=rng.uniform(70, 105),
        abduction=0,
        yaw=rng.uniform(-4, 22),
    )
    if rng.random() < 0.2:
        side = rng.choice(["left_leg", "right_leg"])
        legs[side] = Leg(
            legs[side].hip + rng.uniform(10, 20), 0, rng.uniform(-22, -8), rng.uniform(60, 100), 0, 0
        )
    arms = {
        side: Arm(rng.uniform(45, 70), rng.uniform(40, 85), rng.normal(0, 15), rng.uniform(30, 80))
        for side in ("left_arm", "right_arm")
    }
    spine = (rng.uniform(-5, 25), rng.normal(0, 4), rng.normal(0, 8))
    return KeyPose(**legs, **arms, pitch=pitch, spine=spine, head=_look(rng))


def squat(rng: np.random.Generator) -> KeyPose:
    knee = rng.uniform(60, 135)
    pitch = rng.uniform(15, 35)
    legs = _legs(
        rng, 2, hip=knee * 0.75 + pitch, knee=knee, yaw=rng.uniform(5, 25), abduction=rng.uniform(0, 5)
    )
    spine = (rng.uniform(5, 30), rng.normal(0, 3), rng.normal(0, 5))
    return KeyPose(**legs, left_arm=arm(rng), right_arm=arm(rng), pitch=pitch, spine=spine, head=_look(rng))


def bend(rng: np.random.Generator) -> KeyPose:
    """Forward from the hips, as to pick something up or to look under a table."""
    pitch = rng.uniform(25, 80)
    knee = rng.uniform(2, 45)
    legs = _legs(rng, 2, hip=pitch + 0.5 * knee, knee=knee)
    arms = {
        side: Arm(rng.uniform(0, 70), rng.uniform(60, 100), rng.normal(0, 20), rng.uniform(0, 50))
        for side in ("left_arm", "right_arm")
    }
    spine = (rng.uniform(5, 45), rng.normal(0, 6), rng.normal(0, 12))
    return KeyPose(
        **legs, **arms, pitch=pitch, spine=spine, head=(rng.uniform(-35, 10), 0, rng.normal(0, 10))
    )


def reach(rng: np.random.Generator) -> KeyPose:
    """One hand far out: up, forward, sideways or down; the trunk follows."""
    base = stand(rng)
    hand = Arm(rng.uniform(-80, 50), rng.uniform(0, 115), rng.normal(0, 20), rng.uniform(0, 30))
    twist = rng.uniform(-35, 35)
    spine = (rng.uniform(-10, 25), rng.normal(0, 8), twist)
    side = rng.choice(["left_arm", "right_arm"])
    return replace(base, **{side: hand}, spine=spine, head=(rng.normal(0, 12), 0, twist / 2))


def half_kneel(rng: np.random.Generator) -> KeyPose:
    """One knee down."""
    pitch = rng.uniform(-5, 20)
    down = Leg(rng.uniform(-8, 12) + pitch, 0, rng.normal(0, 4), rng.uniform(85, 105), -35, 0)
    up = Leg(rng.uniform(80, 100) + pitch, 0, rng.uniform(0, 15), rng.uniform(80, 100), 0, 1)
    left_down = rng.random() < 0.5
    legs = {"left_leg": down, "right_leg": up} if left_down else {"left_leg": up, "right_leg": down}
    support = (0.0, 0.3, 0.7, 0.0, 0.0) if left_down else (0.3, 0.0, 0.0, 0.7, 0.0)
    spine = (rng.uniform(0, 25), rng.normal(0, 4), rng.normal(0, 8))
    return KeyPose(**legs, **_kneeling_arms(rng), pitch=pitch, spine=spine, head=_look(rng), support=support)


def kneel(rng: np.random.Generator) -> KeyPose:
    """Both knees down, upright or sitting back on the heels."""
    back = rng.choice([0.0, rng.uniform(0.3, 1.0)])
    pitch = rng.uniform(-5, 12) + 8 * back
    legs = _legs(
        rng, 2, hip=pitch + 65 * back, knee=92 + 55 * back, ankle=-rng.uniform(35, 55), flat=0, abduction=0
    )
    spine = (rng.uniform(0, 20), rng.normal(0, 4), rng.normal(0, 8))
    arms = _kneeling_arms(rng)
    return KeyPose(**legs, **arms, pitch=pitch, spine=spine, head=_look(rng), support=(0, 0, 0.5, 0.5, 0))


def _kneeling_arms(rng: np.random.Generator) -> dict[str, Arm]:
    if rng.random() < 0.4:
        return {"left_arm": arm(rng), "right_arm": arm(rng)}
    return {
        side: Arm(rng.uniform(45, 80), rng.uniform(20, 90), rng.normal(0, 15), rng.uniform(15, 80))
        for side in ("left_arm", "right_arm")
    }


def all_fours(rng: np.random.Generator) -> KeyPose:
    pitch = rng.uniform(75, 92)
    legs = _legs(rng, 4, hip=pitch + rng.uniform(-5, 10), knee=rng.uniform(80, 100), ankle=-40, flat=0)
    arms = {
        side: Arm(rng.uniform(-8, 8), 90 + rng.normal(0, 8), rng.normal(0, 10), rng.uniform(3, 25))
        for side in ("left_arm", "right_arm")
    }
    return KeyPose(
        **legs, **arms, pitch=pitch, spine=(rng.uniform(-10, 15), 0, 0), head=(rng.uniform(-40, 0), 0, 0),
        support=(0, 0, 0.5, 0.5, 0),
    )  # fmt: skip


def sit_floor(rng: np.random.Generator) -> KeyPose:
    """On the floor: legs out, knees up, or cross-legged; often leaning on the hands."""
    pitch = rng.uniform(-35, 5)
    kind = rng.choice(3)
    if kind == 0:
        legs = _legs(
            rng, 4, hip=85 + pitch, knee=rng.uniform(0, 20), ankle=-10, flat=0, yaw=rng.uniform(0, 15)
        )
    elif kind == 1:
        knee = rng.uniform(70, 120)
        legs = _legs(rng, 3, hip=85 + pitch + knee / 2, knee=knee, flat=1, yaw=rng.uniform(0, 12))
    else:
        legs = _legs(
            rng, 3, hip=95 + pitch, knee=rng.uniform(105, 125), ankle=-15, flat=0, yaw=rng.uniform(45, 60)
        )
    if pitch < -15:  # hands behind
        arms = {
            side: Arm(rng.uniform(60, 75), rng.uniform(-70, -40), 0, rng.uniform(0, 15))
            for side in ("left_arm", "right_arm")
        }
    else:
        arms = _kneeling_arms(rng)
    spine = (rng.uniform(0, 30), rng.normal(0, 4), rng.normal(0, 6))
    return KeyPose(**legs, **arms, pitch=pitch, spine=spine, head=_look(rng), support=(0, 0, 0, 0, 1.0))


def lie_back(rng: np.random.Generator) -> KeyPose:
    knee = rng.choice([rng.uniform(0, 15), rng.uniform(40, 110)])
    legs = _legs(rng, 4, hip=knee / 2, knee=knee, ankle=-25, flat=0, abduction=rng.uniform(0, 15))
    arms = {
        side: Arm(rng.uniform(20, 80), rng.uniform(-5, 20), rng.normal(0, 15), rng.uniform(0, 90))
        for side in ("left_arm", "right_arm")
    }
    return KeyPose(
        **legs, **arms, pitch=-rng.uniform(84, 92), spine=(rng.uniform(-2, 8), 0, 0),
        head=(rng.uniform(0, 15), 0, rng.normal(0, 20)), support=(0, 0, 0, 0, 1.0),
    )  # fmt: skip


def lie_front(rng: np.random.Generator) -> KeyPose:
    legs = _legs(rng, 3, hip=0, knee=rng.uniform(0, 15), ankle=-45, flat=0, abduction=rng.uniform(0, 15))
    arms = {
        side: Arm(rng.uniform(-60, 70), rng.uniform(-5, 25), rng.normal(0, 10), rng.uniform(10, 100))
        for side in ("left_arm", "right_arm")
    }
    return KeyPose(
        **legs, **arms, pitch=rng.uniform(86, 93), spine=(-rng.uniform(0, 10), 0, 0),
        head=(-rng.uniform(0, 30), 0, rng.normal(0, 30)), support=(0, 0, 0, 0, 1.0),
    )  # fmt: skip


def lie_side(rng: np.random.Generator) -> KeyPose:
    knee = rng.uniform(15, 90)
    legs = _legs(rng, 10, hip=knee * 0.7, knee=knee, ankle=-20, flat=0, abduction=0, yaw=0)
    arms = {
        side: Arm(rng.uniform(20, 60), rng.uniform(60, 95), rng.normal(0, 10), rng.uniform(40, 110))
        for side in ("left_arm", "right_arm")
    }
    roll = rng.choice([-1, 1]) * rng.uniform(82, 92)
    return KeyPose(
        **legs, **arms, roll=roll, spine=(rng.uniform(0, 25), 0, 0), head=(rng.uniform(0, 15), 0, 0),
        support=(0, 0, 0, 0, 1.0),
    )  # fmt: skip


def stride(rng: np.random.Generator, length: float, left_first: bool, turn: float) -> list[KeyPose]:
    """Two key poses of one step: foot contact, then the other foot passing. `length` 1 is a normal step."""
    lean, swing = rng.uniform(0, 5), rng.uniform(0.6, 1.2) * length
    front = Leg(25 * length, 1, 4, 4 + 4 * length, 0, 0.4)
    back = Leg(-17 * length, 1, 4, 12 * length, 0, 0.2)
    stance = Leg(4, 0, 4, 10, 0, 1.0)
    passing = Leg(18 * length, 2, 4, 55 * min(length, 1.2), 0, 0.3)
    forward, backward = _swinging_arm(20 * swing), _swinging_arm(-25 * swing)

    def pose(own: Leg, other: Leg, own_arm: Arm, other_arm: Arm, twist: float, support: float) -> KeyPose:
        legs = {"left_leg": own, "right_leg": other} if left_first else {"left_leg": other, "right_leg": own}
        arms = (
            {"left_arm": own_arm, "right_arm": other_arm}
            if left_first
            else {"left_arm": other_arm, "right_arm": own_arm}
        )
        sign = 1 if left_first else -1
        weights = (support, 1 - support, 0, 0, 0) if left_first else (1 - support, support, 0, 0, 0)
        return KeyPose(
            **legs, **arms, pitch=lean, turn=turn, spine=(2, 0, sign * twist), head=(0, 0, -sign * twist),
            support=weights,
        )  # fmt: skip

    middle = _swinging_arm(0.0)
    return [
        pose(front, back, backward, forward, 6 * swing, 0.5),
        pose(stance, passing, middle, middle, 0.0, 1.0),
    ]


def _swinging_arm(angle: float) -> Arm:
    """Hanging arm swung forward by `angle` degrees (negative: backward)."""
    return Arm(lower=80, azimuth=5, elbow=18 + max(0.0, angle), swing=angle)


POSES: dict[str, Callable[[np.random.Generator], KeyPose]] = {
    "stand": stand,
    "sit": sit,
    "squat": squat,
    "bend": bend,
    "reach": reach,
    "half_kneel": half_kneel,
    "kneel": kneel,
    "all_fours": all_fours,
    "sit_floor": sit_floor,
    "lie_back": lie_back,
    "lie_front": lie_front,
    "lie_side": lie_side,
}
