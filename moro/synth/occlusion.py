"""Which points of a person an observer cannot see: what is hidden, by which occluder, for how long."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moro.body.skeleton import BODY_JOINT_NAMES, LANDMARK_NAMES

FPS = 30.0
_LEG_WORDS = ("knee", "ankle", "heel", "foot")
_ARM_WORDS = ("elbow", "wrist", "pinky", "index", "thumb")


@dataclass(frozen=True)
class OcclusionRanges:
    """How often and how long. Shares are probabilities per clip; lengths in seconds.

    `clear` clips have no occlusion but truncation by the image border. The other shares are weights of the
    kind of an event; a clip of up to `every` has one to three, a longer one more that pass.
    """

    clear: float = 0.25
    limb: float = 0.25  # one arm or leg
    lower_body: float = 0.2  # hips and legs, as behind a table
    side: float = 0.15  # the left or right half
    whole: float = 0.15  # everything
    image_box: float = 0.25  # a rectangle in the image (furniture, a car): lower part of the picture
    pole: float = 0.15  # a vertical strip the person walks behind
    seconds: tuple[float, float] = (0.2, 2.5)  # log-uniform
    whole_clip: float = 0.2  # an event other than `whole` lasts the whole clip
    max_events: int = 3
    every: float = 2.0


@lru_cache
def point_groups(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Masks over named points: left_arm, right_arm, left_leg, right_leg, lower, left, right, all."""
    arms = np.array([any(word in name for word in _ARM_WORDS) for name in names])
    feet = np.array(["foot" in name for name in names])
    arms &= ~feet  # BlazePose's toe is called foot_index
    legs = np.array([any(word in name for word in _LEG_WORDS) for name in names])
    hips = np.array(["hip" in name or name == "pelvis" for name in names])
    left = np.array([name.startswith("left_") for name in names])
    right = np.array([name.startswith("right_") for name in names])
    return {
        "left_arm": arms & left,
        "right_arm": arms & right,
        "left_leg": legs & left,
        "right_leg": legs & right,
        "lower": legs | hips,
        "left": left,
        "right": right,
        "all": np.ones(len(names), dtype=bool),
    }


OBSERVED_NAMES = (*LANDMARK_NAMES, *BODY_JOINT_NAMES)  # the order of the points below


def sample_occlusion(
    points: np.ndarray,
    image_size: tuple[int, int],
    rng: np.random.Generator,
    ranges: OcclusionRanges | None = None,
) -> np.ndarray:
    """Hidden points of a clip.

    points   (F, 33 + 22, 2)  pixels: the landmarks, then the body joints
    returns  (F, 33 + 22) bool, True where something stands in front (the image border is not counted)
    """
    ranges = ranges or OcclusionRanges()
    frames = len(points)
    hidden = np.zeros(points.shape[:2], dtype=bool)
    if rng.random() < ranges.clear:
        return hidden
    groups = point_groups(OBSERVED_NAMES)
    weights = np.array(
        [ranges.limb, ranges.lower_body, ranges.side, ranges.whole, ranges.image_box, ranges.pole]
    )
    events = int(rng.integers(1, ranges.max_events + 1))
    length = max(1.0, frames / (FPS * ranges.every))
    for number in range(round(events * length)):
        kinds = weights if number < events else weights[:4]  # what stands still in the image is there once
        kind = rng.choice(len(kinds), p=kinds / kinds.sum())
        if kind >= 4:
            hidden |= _behind_box(points, image_size, rng, pole=kind == 5)
            continue
        limb = rng.choice(["left_arm", "right_arm", "left_leg", "right_leg"])
        group = (limb, "lower", rng.choice(["left", "right"]), "all")[kind]
        lasting = kind != 3 and rng.random() < ranges.whole_clip / length**2
        span = slice(0, frames) if lasting else _span(frames, ranges.seconds, rng)
        hidden[span] |= groups[group]
    return hidden


def _span(frames: int, seconds: tuple[float, float], rng: np.random.Generator) -> slice:
    """A stretch of frames; it may begin before the clip or end after it."""
    length = max(1, round(np.exp(rng.uniform(*np.log(seconds))) * FPS))
    start = int(rng.integers(-length + 1, frames)) if frames > 1 else 0
    return slice(max(0, start), min(frames, start + length))


def _behind_box(
    points: np.ndarray, image_size: tuple[int, int], rng: np.random.Generator, pole: bool
) -> np.ndarray:
    """Points inside a static rectangle in the image, placed where the person comes by."""
    low, high = points.min(axis=1), points.max(axis=1)  # (F, 2) the person's box in each frame
    frame = rng.integers(len(points))
    size = np.maximum(high[frame] - low[frame], 1.0)
    x = rng.uniform(low[frame, 0], high[frame, 0])
    if pole:
        half = size[1] * rng.uniform(0.05, 0.2)
        return (np.abs(points[..., 0] - x) < half) & (points[..., 1] < image_size[1])
    half = size[1] * rng.uniform(0.15, 0.6)
    top = low[frame, 1] + size[1] * rng.uniform(0.3, 0.8)
    bottom = top + size[1] * rng.uniform(0.3, 1.5)
    inside_y = (points[..., 1] > top) & (points[..., 1] < bottom)
    return (np.abs(points[..., 0] - x) < half) & inside_y


def outside_image(points: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(F, N) bool: points (F, N, 2) beyond the image border."""
    return ((points < 0) | (points >= np.array(image_size))).any(axis=-1)


def behind_torso(points: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(F, 33 + 22) bool: arm and head points hidden by the person's own trunk.

    points (F, N, 2) pixels, depth (F, N) metres. The trunk is the box of shoulders and hips in the image.
    """
    shoulder_hip = [
        OBSERVED_NAMES.index(f"{side}_{part}") for side in ("left", "right") for part in ("shoulder", "hip")
    ]
    trunk = points[:, shoulder_hip]
    low, high = trunk.min(axis=1, keepdims=True), trunk.max(axis=1, keepdims=True)
    inside = ((points > low) & (points < high)).all(axis=-1)
    arms = point_groups(OBSERVED_NAMES)
    limbs = arms["left_arm"] | arms["right_arm"]
    return inside & limbs & (depth > depth[:, shoulder_hip].mean(axis=1, keepdims=True) + 0.08)
