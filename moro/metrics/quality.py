"""Plausibility of a motion without ground truth (spec: data 8.2 jitter, 8.5).

Joints are (*, F, J, 3) in metres at `FPS`, in SMPL order, in the world frame where a floor is concerned.
"""

from torch import Tensor

from moro.metrics.errors import FPS, MILLIMETRES

LEFT_ANKLE, LEFT_FOOT, RIGHT_ANKLE, RIGHT_FOOT = 7, 10, 8, 11
SKATING_SPEED = 0.10  # m/s
ANKLE_HEIGHT, FOOT_HEIGHT = 0.15, 0.10  # metres above the floor, below which a foot could stand
PENETRATION = 0.05  # metres below the floor


def jitter(points: Tensor) -> Tensor:
    """Mean third difference, 10 m/s³: (*, F-3)."""
    return points.diff(n=3, dim=-3).norm(dim=-1).mean(-1) * FPS**3 / 10


def acceleration(points: Tensor) -> Tensor:
    """Mean magnitude of the acceleration, m/s²: (*, F-2)."""
    return points.diff(n=2, dim=-3).norm(dim=-1).mean(-1) * FPS**2


def skating_ratio(joints: Tensor, floor: float, up: int = 1) -> Tensor:
    """Whether both feet slide over the floor, frame by frame: (*, F-1) of 0 and 1.

    floor  height of the floor, metres
    up     axis that points up (1: y-up)
    A foot slides if ankle and toes are near the floor and both faster than 0.1 m/s along it.
    """
    horizontal = [axis for axis in range(3) if axis != up]
    speed = joints[..., horizontal].diff(dim=-3).norm(dim=-1) * FPS  # (*, F-1, J)
    height = joints[..., :-1, :, up] - floor
    sliding = [
        (speed[..., ankle] > SKATING_SPEED)
        & (speed[..., foot] > SKATING_SPEED)
        & (height[..., ankle] < ANKLE_HEIGHT)
        & (height[..., foot] < FOOT_HEIGHT)
        for ankle, foot in ((LEFT_ANKLE, LEFT_FOOT), (RIGHT_ANKLE, RIGHT_FOOT))
    ]
    return (sliding[0] & sliding[1]).to(joints.dtype)


def penetration_depth(joints: Tensor, floor: float, up: int = 1) -> Tensor:
    """Mean depth of the feet below the floor, mm: (*, F)."""
    return -_foot_height(joints, floor, up).clamp(max=0).mean(-1) * MILLIMETRES


def penetration_ratio(joints: Tensor, floor: float, up: int = 1) -> Tensor:
    """Share of feet more than 5 cm below the floor, %: (*, F)."""
    return (_foot_height(joints, floor, up) < -PENETRATION).to(joints.dtype).mean(-1) * 100


def _foot_height(joints: Tensor, floor: float, up: int) -> Tensor:
    return joints[..., [LEFT_FOOT, RIGHT_FOOT], up] - floor  # (*, F, 2)
