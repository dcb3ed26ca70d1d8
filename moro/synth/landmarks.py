"""What a landmark detector would report: true landmarks, with the errors of a real one.

The numbers were measured on BlazePose as `moro.video` runs it: on frames of four cameras, with and without a
painted occluder or a cut (legs, hips, one side, the middle, the upper half), and on its frame-to-frame jitter
(docs/data_open.md). They stand in one dataclass, so that they can be fitted anew.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.signal import lfilter

from moro.body.skeleton import LANDMARK_NAMES, MIRROR_LANDMARKS
from moro.synth.occlusion import outside_image, point_groups

# Error of a seen landmark relative to a typical one; error of a hidden one, sigma per axis in person sizes.
# The first word found in the name decides.
_SEEN_SPREAD = {
    "eye": 0.6, "nose": 0.6, "ear": 0.7, "mouth": 0.6, "hip": 1.2, "elbow": 1.0, "knee": 1.0, "wrist": 1.2,
    "pinky": 1.5, "thumb": 1.4, "foot": 1.3, "index": 1.5, "heel": 1.2, "ankle": 1.0, "shoulder": 0.8,
}  # fmt: skip
_HIDDEN_SPREAD = {
    "eye": 0.12, "nose": 0.12, "ear": 0.12, "mouth": 0.12, "hip": 0.05, "elbow": 0.17, "knee": 0.12,
    "wrist": 0.22, "pinky": 0.24, "thumb": 0.23, "foot": 0.2, "index": 0.24, "heel": 0.19, "ankle": 0.18,
    "shoulder": 0.11,
}  # fmt: skip
# Logits of the visibility of hidden landmarks: the face is doubted, shoulders and hips hardly ever.
_HIDDEN_LOGIT = {
    "eye": 2.0, "nose": 2.0, "ear": 2.0, "mouth": 2.0, "hip": 5.0, "shoulder": 4.0, "knee": -1.0,
    "foot": -1.6, "heel": -1.6, "ankle": -1.4,
}  # fmt: skip
_CORE = ("eye", "nose", "ear", "mouth", "hip", "shoulder")


@dataclass(frozen=True)
class DetectorNoise:
    """Errors of a detector. Lengths are in person sizes: the longer side of the person's box in the image.

    A seen landmark is off by about 1 %: a part that stays over the clip (another idea of where the joint is),
    and one that changes from frame to frame, heavy-tailed (Student t) and correlated in time; more if much of
    the person is hidden. A hidden one is still reported, at a plausible but wrong place that drifts slowly,
    its whole limb with it, with low visibility - but shoulders and hips are always claimed to be visible.
    Bursts are drawn so many times per 60 frames.
    """

    bias: float = 0.006
    jitter: float = 0.004
    jitter_freedom: float = 4.0  # of Student's t
    jitter_memory: float = 0.7  # correlation between neighbouring frames
    disturbed: float = 2.5  # seen landmarks are (1 + this x hidden share) times less exact
    hidden_memory: float = 0.95
    hidden_steady: float = 0.6  # share of a hidden landmark's variance that stays over the clip
    limb_coherence: float = 0.8  # share of its variance that it has in common with its limb
    hidden_error: float = 1.0  # of hidden landmarks, relative to what was measured
    covered_error: float = 0.25  # error of an arm behind the own trunk, relative to a hidden one
    outside_error: float = 0.7  # the same for a landmark beyond the image border
    miss_visible: float = 0.01  # a landmark that can be seen is taken for hidden
    drop_hidden: float = 0.02  # a hidden landmark is not reported (zeros), per clip and landmark
    swap_legs: float = 0.06  # left and right legs exchanged for a while, bursts per 60 frames
    swap_arms: float = 0.03
    swap_all: float = 0.10  # front taken for back; in half of the cases back and forth from frame to frame
    swap_seconds: tuple[float, float] = (0.05, 1.0)
    frame_miss: float = 0.10  # a burst of missed frames although the person is there
    frame_miss_seconds: tuple[float, float] = (0.05, 0.6)
    hidden_for_miss: float = 0.8  # share of hidden landmarks from which the person is usually missed:
    miss_when_hidden: float = 0.85  # per clip; otherwise the detector goes on guessing
    core_logit: tuple[float, float] = (6.0, 1.5)  # visibility of a seen face, shoulder, hip: mean and sigma
    limb_logit: tuple[float, float] = (3.3, 1.4)  # of a seen arm or leg
    hidden_logit: tuple[float, float] = (-0.8, 1.4)  # of a hidden arm (others: see the table)
    claimed: float = 0.0  # share of limbs per clip that are read with confidence although hidden,
    claimed_logit: tuple[float, float] = (1.6, 1.2)  # as behind another person
    outside_logit: tuple[float, float] = (-1.8, 1.2)  # beyond the image border (shoulders, hips: three more)
    presence_logit: tuple[float, float] = (5.5, 1.0)  # of a landmark inside the image
    presence_border: float = 2.0  # just outside, and per person size further out:
    presence_slope: float = -7.0


# Behind other people a detector reads the limbs of those, or puts them somewhere else, and is sure of it: in
# camera 2 of pose2sim's demo the ankle behind somebody is off by more than 8 % of the person in 30 % of the
# frames, at a visibility of 0.8 in the median (docs/data_open.md). In training a third of the limbs are so.
CROWDED = DetectorNoise(claimed=0.35)
# A detector that is always right and says nothing of what it cannot see.
EXACT = DetectorNoise(
    bias=0, jitter=0, disturbed=0, hidden_error=0, covered_error=0, outside_error=0, miss_visible=0,
    drop_hidden=1, swap_legs=0, swap_arms=0, swap_all=0, frame_miss=0, miss_when_hidden=0,
)  # fmt: skip


def observe_landmarks(
    points: np.ndarray,
    hidden: np.ndarray,
    covered: np.ndarray,
    image_size: tuple[int, int],
    rng: np.random.Generator,
    noise: DetectorNoise | None = None,
) -> np.ndarray:
    """Simulated detections of a clip.

    points      (F, 33, 2)       true landmarks, pixels
    hidden      (F, 33)          bool: behind something
    covered     (F, 33)          bool: behind the own trunk
    image_size  (width, height)  pixels
    returns     (F, 33, 4) float32  x, y in pixels, visibility, presence; zeros where nothing is reported
    """
    noise = noise or DetectorNoise()
    frames, count = hidden.shape
    size = np.ptp(points, axis=1).max(axis=-1)[:, None]  # (F, 1)
    outside = outside_image(points, image_size)
    unseen = hidden | outside
    taken = unseen | covered | (rng.random((frames, count)) < noise.miss_visible)

    doubt = np.maximum(noise.hidden_error * _eased(hidden), noise.covered_error * _eased(covered))
    doubt = np.maximum(doubt, noise.outside_error * _eased(outside))[..., None]
    exactness = _by_name(tuple(_SEEN_SPREAD.items()), 1.0)[None] * (
        1 + noise.disturbed * unseen.mean(axis=1, keepdims=True)
    )
    steady = rng.standard_normal((1, count, 2)) * noise.bias
    shaking = _correlated(frames, count, noise.jitter_memory, rng, noise.jitter_freedom) * noise.jitter
    error = (steady + shaking) * exactness[..., None] + doubt * _guess(frames, noise, rng)
    xy = _swap(points + error * size[..., None], rng, noise)

    visibility = _sigmoid(_visibility_logit(taken, outside, noise, rng))
    presence = _sigmoid(_presence_logit(points, size, outside, image_size, noise, rng))
    result = np.concatenate([xy, visibility[..., None], presence[..., None]], axis=-1)
    dropped = unseen & (rng.random((1, count)) < noise.drop_hidden)
    result[dropped] = 0
    result[_missed(unseen, noise, rng)] = 0
    return result.astype(np.float32)


@lru_cache
def _by_name(table: tuple[tuple[str, float], ...], default: float) -> np.ndarray:
    """(33,) values of a table of words."""
    return np.array([next((v for word, v in table if word in name), default) for name in LANDMARK_NAMES])


def _guess(frames: int, noise: DetectorNoise, rng: np.random.Generator) -> np.ndarray:
    """(F, 33, 2) errors of hidden landmarks in person sizes: each limb moves as one, slowly."""
    limbs = _limbs()
    groups = limbs.max() + 1

    def drifting(number: int) -> np.ndarray:
        steady = rng.standard_normal((1, number, 2)) * np.sqrt(noise.hidden_steady)
        return steady + _correlated(frames, number, noise.hidden_memory, rng) * np.sqrt(
            1 - noise.hidden_steady
        )

    common = drifting(groups)[:, limbs] * np.sqrt(noise.limb_coherence)
    own = drifting(len(limbs)) * np.sqrt(1 - noise.limb_coherence)
    return (common + own) * _by_name(tuple(_HIDDEN_SPREAD.items()), 0.15)[None, :, None]


@lru_cache
def _limbs() -> np.ndarray:
    """(33,) number of the limb each landmark belongs to; 0: head and trunk."""
    groups = point_groups(LANDMARK_NAMES)
    names = ("left_arm", "right_arm", "left_leg", "right_leg")
    return sum((number + 1) * groups[name].astype(int) for number, name in enumerate(names))


def _correlated(
    frames: int, count: int, memory: float, rng: np.random.Generator, freedom: float | None = None
) -> np.ndarray:
    """(F, count, 2) noise of unit scale with correlation `memory` between frames; Student t if `freedom`."""
    shape = (frames, count, 2)
    fresh = rng.standard_normal(shape)
    if freedom is not None:
        fresh = fresh * np.sqrt(freedom / rng.chisquare(freedom, (frames, count, 1)))
    fresh[1:] *= np.sqrt(1 - memory**2)
    return lfilter([1.0], [1.0, -memory], fresh, axis=0)


def _eased(mask: np.ndarray) -> np.ndarray:
    """A mask (F, N) as numbers that rise and fall over three frames: guesses do not jump."""
    values = mask.astype(np.float64)
    padded = np.concatenate([values[:1], values, values[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _swap(xy: np.ndarray, rng: np.random.Generator, noise: DetectorNoise) -> np.ndarray:
    """Left and right exchanged for some frames: of the legs, of the arms, of the whole person."""
    groups = point_groups(LANDMARK_NAMES)
    legs = groups["left_leg"] | groups["right_leg"]
    arms = groups["left_arm"] | groups["right_arm"]
    everything = np.ones(len(LANDMARK_NAMES), dtype=bool)
    for share, mask in ((noise.swap_legs, legs), (noise.swap_arms, arms), (noise.swap_all, everything)):
        for span in _bursts(len(xy), share, noise.swap_seconds, rng):
            exchanged = np.ones(len(xy[span]), dtype=bool)
            if rng.random() < 0.5:  # the detector cannot make up its mind
                exchanged = rng.random(len(exchanged)) < 0.5
            swapped = xy[span][:, list(MIRROR_LANDMARKS)]
            xy[span] = np.where(mask[None, :, None] & exchanged[:, None, None], swapped, xy[span])
    return xy


def _bursts(
    frames: int, per_60_frames: float, seconds: tuple[float, float], rng: np.random.Generator
) -> list[slice]:
    """Stretches of frames, some of which began before the clip; single frames have their fair share."""
    longest = seconds[1] * 30
    spans = []
    for _ in range(rng.poisson(per_60_frames * (frames + longest / 2) / 60)):
        length = max(1, round(rng.uniform(*seconds) * 30))
        start = int(rng.integers(-length + 1, frames))
        spans.append(slice(max(0, start), start + length))
    return spans


def _wander(frames: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(F, N) unit noise: a part that stays, a part that changes slowly."""
    steady = rng.standard_normal((1, count)) * 0.8
    return steady + _correlated(frames, count, 0.8, rng)[..., 0] * 0.6


def _visibility_logit(
    taken: np.ndarray, outside: np.ndarray, noise: DetectorNoise, rng: np.random.Generator
) -> np.ndarray:
    """(F, 33) logits: high where seen, low where taken for hidden, lowest outside the image."""
    core = np.array([any(word in name for word in _CORE) for name in LANDMARK_NAMES])[None]
    wander = _wander(*taken.shape, rng)
    seen = np.where(core, noise.core_logit[0] + noise.core_logit[1] * wander, 0.0)
    seen = np.where(core, seen, noise.limb_logit[0] + noise.limb_logit[1] * wander)
    unseen = (
        _by_name(tuple(_HIDDEN_LOGIT.items()), noise.hidden_logit[0])[None] + noise.hidden_logit[1] * wander
    )
    if noise.claimed:
        claimed = (rng.random(_limbs().max() + 1) < noise.claimed)[_limbs()]  # (33,)
        sure = noise.claimed_logit[0] + noise.claimed_logit[1] * wander
        unseen = np.where(claimed, np.maximum(sure, unseen), unseen)
    beyond = noise.outside_logit[0] + noise.outside_logit[1] * wander + 3.0 * core
    soft, border = _eased(taken), _eased(outside)
    inside = seen + soft * (unseen - seen)
    return inside + border * (np.minimum(beyond, inside) - inside)


def _presence_logit(
    points: np.ndarray,
    size: np.ndarray,
    outside: np.ndarray,
    image_size: tuple[int, int],
    noise: DetectorNoise,
    rng: np.random.Generator,
) -> np.ndarray:
    """(F, 33) logits: high inside the image, falling with the distance beyond its border."""
    nearest = np.clip(points, 0, np.array(image_size))
    distance = np.linalg.norm(points - nearest, axis=-1) / size
    wander = _wander(*outside.shape, rng)
    inside = noise.presence_logit[0] + noise.presence_logit[1] * wander
    beyond = noise.presence_border + noise.presence_slope * distance + 1.5 * wander
    return np.where(outside, beyond, inside)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _missed(unseen: np.ndarray, noise: DetectorNoise, rng: np.random.Generator) -> np.ndarray:
    """(F,) bool: frames without any detection."""
    frames = len(unseen)
    missed = np.zeros(frames, dtype=bool)
    if rng.random() < noise.miss_when_hidden:
        missed |= unseen.mean(axis=1) > noise.hidden_for_miss
    for span in _bursts(frames, noise.frame_miss, noise.frame_miss_seconds, rng):
        missed[span] = True
    return missed
