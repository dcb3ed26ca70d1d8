"""What a landmark detector would report: true landmarks, with the errors of a real one.

The numbers describe BlazePose run by `moro.video` as far as they are known from its clips; they stand in one
dataclass, so that they can be fitted to detections once there are some with ground truth.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moro.body.skeleton import LANDMARK_NAMES, MIRROR_LANDMARKS
from moro.synth.occlusion import point_groups

# Error of a landmark relative to a typical one: the eyes are found exactly, hips and hands are not.
_SPREAD_BY_WORD = {
    "eye": 0.5, "nose": 0.5, "ear": 0.7, "mouth": 0.5, "hip": 1.4, "elbow": 1.1, "knee": 1.1, "wrist": 1.2,
    "pinky": 1.5, "index": 1.5, "thumb": 1.4, "heel": 1.2, "ankle": 1.1, "foot": 1.3,
}  # fmt: skip


@dataclass(frozen=True)
class DetectorNoise:
    """Errors of a detector. Lengths are relative to the person's size in the image (longer side of its box).

    A visible landmark is off by about 1.2 % in total: a part that stays over the clip (another idea of where
    the joint is), and one that changes from frame to frame, heavy-tailed (Student t) and correlated in time.
    A hidden one is still reported, at a guessed place, with low visibility.
    """

    bias: float = 0.007
    jitter: float = 0.005
    jitter_freedom: float = 4.0  # of Student's t: 1 in 50 frames is off three times as far
    jitter_memory: float = 0.7  # correlation between neighbouring frames
    hidden_bias: float = 0.03
    hidden_jitter: float = 0.02
    hidden_memory: float = 0.93
    hidden_shrink: float = 0.15  # a guess lies nearer to the middle of what is seen, by this share
    image_border_extra: float = 0.5  # hidden errors of landmarks outside the image, relative to those inside
    miss_visible: float = 0.01  # a landmark that can be seen is taken for hidden
    drop_hidden: float = 0.05  # a hidden landmark is not reported (zeros), per clip and landmark
    swap_legs: float = 0.06  # left and right legs exchanged for a while, per clip
    swap_arms: float = 0.03
    swap_all: float = 0.03  # front taken for back
    swap_seconds: tuple[float, float] = (0.05, 0.7)
    frame_miss: float = 0.12  # a burst of missed frames although the person is there, per clip
    frame_miss_seconds: tuple[float, float] = (0.05, 0.6)
    hidden_for_miss: float = 0.8  # share of hidden landmarks from which the person is usually missed:
    miss_when_hidden: float = 0.85  # per clip; otherwise the detector goes on guessing
    visible_logit: tuple[float, float] = (4.0, 1.3)  # mean, sigma of the visibility's logit
    hidden_logit: tuple[float, float] = (-0.8, 1.5)
    inside_logit: tuple[float, float] = (5.5, 1.0)  # presence: inside the image
    outside_logit: tuple[float, float] = (-0.5, 2.0)


def observe_landmarks(
    points: np.ndarray,
    hidden: np.ndarray,
    outside: np.ndarray,
    rng: np.random.Generator,
    noise: DetectorNoise | None = None,
) -> np.ndarray:
    """Simulated detections of a clip.

    points   (F, 33, 2)  true landmarks, pixels
    hidden   (F, 33)     bool: behind something
    outside  (F, 33)     bool: beyond the image border
    returns  (F, 33, 4) float32  x, y in pixels, visibility, presence; zeros where nothing is reported
    """
    noise = noise or DetectorNoise()
    frames, count = hidden.shape
    size = np.ptp(points, axis=1).max(axis=-1)[:, None, None]  # (F, 1, 1)
    unseen = hidden | outside
    taken = unseen | (_flicker(frames, count, noise.miss_visible, rng))
    spread = _spread()[None, :, None]

    bias = rng.standard_normal((1, count, 2)) * noise.bias
    jitter = _correlated(frames, count, noise.jitter_memory, rng, noise.jitter_freedom) * noise.jitter
    guess = rng.standard_normal((1, count, 2)) * noise.hidden_bias
    guess = guess + _correlated(frames, count, noise.hidden_memory, rng) * noise.hidden_jitter
    guess = guess * np.where(outside & ~hidden, noise.image_border_extra, 1.0)[..., None]
    error = (bias + jitter) * spread + guess * _eased(taken)[..., None]
    xy = points + error * size
    middle = _middle_of_seen(points, unseen)
    xy = xy + noise.hidden_shrink * _eased(taken)[..., None] * (middle - xy) * hidden[..., None]
    xy = _swap(xy, rng, noise)

    confidence = _sigmoid(_visibility_logit(taken, noise, rng))
    presence = _sigmoid(_logit(outside, noise.outside_logit, noise.inside_logit, rng))
    result = np.concatenate([xy, confidence[..., None], presence[..., None]], axis=-1)
    dropped = unseen & (rng.random((1, count)) < noise.drop_hidden)
    result[dropped] = 0
    result[_missed(unseen, noise, rng)] = 0
    return result.astype(np.float32)


@lru_cache
def _spread() -> np.ndarray:
    """(33,) relative error of each landmark."""
    return np.array(
        [next((s for word, s in _SPREAD_BY_WORD.items() if word in name), 1.0) for name in LANDMARK_NAMES]
    )


def _correlated(
    frames: int, count: int, memory: float, rng: np.random.Generator, freedom: float | None = None
) -> np.ndarray:
    """(F, count, 2) noise of unit scale with correlation `memory` between frames; Student t if `freedom`."""
    shape = (frames, count, 2)
    fresh = rng.standard_normal(shape)
    if freedom is not None:
        fresh = fresh * np.sqrt(freedom / rng.chisquare(freedom, (frames, count, 1)))
    values = np.empty(shape)
    values[0] = fresh[0]
    gain = np.sqrt(1 - memory**2)
    for frame in range(1, frames):
        values[frame] = memory * values[frame - 1] + gain * fresh[frame]
    return values


def _flicker(frames: int, count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    return rng.random((frames, count)) < share


def _eased(mask: np.ndarray) -> np.ndarray:
    """A mask (F, N) as numbers that rise and fall over three frames: guesses do not jump."""
    values = mask.astype(np.float64)
    padded = np.concatenate([values[:1], values, values[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _middle_of_seen(points: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """(F, 1, 2) mean of the seen landmarks, or of all where none is seen."""
    weight = np.where(unseen.all(axis=1, keepdims=True), 1.0, ~unseen)[..., None]
    return (points * weight).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)


def _swap(xy: np.ndarray, rng: np.random.Generator, noise: DetectorNoise) -> np.ndarray:
    """Left and right exchanged for some frames: of the legs, of the arms, of the whole person."""
    groups = point_groups(LANDMARK_NAMES)
    legs = groups["left_leg"] | groups["right_leg"]
    arms = groups["left_arm"] | groups["right_arm"]
    for share, mask in ((noise.swap_legs, legs), (noise.swap_arms, arms), (noise.swap_all, legs | True)):
        if rng.random() < share:
            span = _burst(len(xy), noise.swap_seconds, rng)
            swapped = xy[span][:, list(MIRROR_LANDMARKS)]
            xy[span] = np.where(mask[None, :, None], swapped, xy[span])
    return xy


def _burst(frames: int, seconds: tuple[float, float], rng: np.random.Generator) -> slice:
    length = max(1, round(rng.uniform(*seconds) * 30))
    start = int(rng.integers(max(1, frames - length + 1)))
    return slice(start, start + length)


def _logit(
    mask: np.ndarray, where: tuple[float, float], elsewhere: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Logits (F, N): normal around one value where `mask`, another elsewhere; slow changes over time."""
    frames, count = mask.shape
    steady = rng.standard_normal((1, count)) * 0.8 + _correlated(frames, count, 0.8, rng)[..., 0] * 0.6
    soft = _eased(mask)
    mean = soft * where[0] + (1 - soft) * elsewhere[0]
    return mean + steady * (soft * where[1] + (1 - soft) * elsewhere[1])


def _visibility_logit(taken: np.ndarray, noise: DetectorNoise, rng: np.random.Generator) -> np.ndarray:
    return _logit(taken, noise.hidden_logit, noise.visible_logit, rng)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _missed(unseen: np.ndarray, noise: DetectorNoise, rng: np.random.Generator) -> np.ndarray:
    """(F,) bool: frames without any detection. At least one frame of a clip keeps its detection if it can."""
    frames = len(unseen)
    missed = np.zeros(frames, dtype=bool)
    if rng.random() < noise.miss_when_hidden:
        missed |= unseen.mean(axis=1) > noise.hidden_for_miss
    if frames > 1 and rng.random() < noise.frame_miss:
        missed[_burst(frames, noise.frame_miss_seconds, rng)] = True
    return missed
