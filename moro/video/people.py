"""A reading of a person in a frame, the readings of a person so far, and whether two are of one person."""

from dataclasses import dataclass, field

import numpy as np

from moro.video.blazepose import Roi
from moro.video.facing import exchanged_frames, put_right
from moro.video.tracks import Track, landmark_box

CORE = [0, 11, 12, 23, 24, 25, 26]  # nose, shoulders, hips, knees: hands and feet tell people apart less well
TORSO = [11, 12, 23, 24]

# Distances are in units of the side of a person's crop, which is about 1.25 body heights.
SAME_DETECTION = 0.1  # detections whose hip centres are nearer show one person
SAME_PERSON = 0.08  # landmarks of two readings that agree this well are of one person
TORSO_SHARED = 0.3  # a newcomer whose torso lies more than this in that of somebody known is a second reading
TORSO_LENGTH = 0.38  # metres; the 3D landmarks of what is no person (a leg, a chair) have a shorter one
LEARNING_RATE = 0.05  # of the torso colours
GAP_COAST = 10  # frames for which its last velocity is trusted
SLIDE_FRAMES, PACE_FRAMES = 5, 15  # a track slides onto another person so fast; before, its pace was its own


@dataclass
class Observation:
    """What the landmark network says of a person in one frame; positions in pixels, `world` in metres."""

    landmarks: np.ndarray  # (33, 4) float32: x, y, visibility, presence
    world: np.ndarray  # (33, 3) float32
    next_roi: Roi
    covered: float  # part of the CORE landmarks that lie behind others
    colours: np.ndarray | None  # histogram of the torso; kept for a person's latest observation only
    shape: tuple[Roi, np.ndarray] | None  # crop, and bool (S, S) where in it; kept for LOOK_CYCLE frames


@dataclass(eq=False)
class Person:
    """A track in the making. `last` and `velocity` are of the latest frame in which the person was seen."""

    observations: dict[int, Observation] = field(default_factory=dict)
    last: int = -1
    active: bool = True
    colours: np.ndarray | None = None
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    unlike: int = 0  # frames in a row with other torso colours

    @property
    def roi(self) -> Roi:
        return self.observations[self.last].next_roi

    def add(self, index: int, seen: Observation) -> None:
        before = self.observations.get(index - 1)
        if before is not None:
            step = seen.next_roi.center - before.next_roi.center
            self.velocity = 0.8 * self.velocity + 0.2 * step
            before.colours = None
        if self.colours is None:
            self.colours = seen.colours
        self.observations[index], self.last = seen, index

    def learn_colours(self, seen: Observation) -> None:
        if self.colours is not None and seen.colours is not None:
            self.colours = (1 - LEARNING_RATE) * self.colours + LEARNING_RATE * seen.colours

    def lose(self, since: int) -> None:
        """Stop following, and forget what was seen from frame `since` on."""
        self.active, self.unlike = False, 0
        for index in range(since, self.last + 1):
            self.observations.pop(index, None)
        while self.last >= 0 and self.last not in self.observations:
            self.last -= 1

    def expected_center(self, index: int) -> np.ndarray:
        return self.roi.center + self.velocity * min(index - self.last, GAP_COAST)

    def strangeness(self, since: int, index: int) -> float:
        """How badly what is seen at `index` fits this person as it was before frame `since`: colours, path.

        Infinite for one who has not been seen long before: the younger of two has to give way.
        """
        early, late = (self.observations.get(since - n) for n in (PACE_FRAMES, SLIDE_FRAMES))
        if early is None or late is None:
            return np.inf
        pace = (late.next_roi.center - early.next_roi.center) / (PACE_FRAMES - SLIDE_FRAMES)
        expected = late.next_roi.center + pace * (index - since + SLIDE_FRAMES)
        seen = self.observations[index]
        off = np.linalg.norm(seen.next_roi.center - expected) / seen.next_roi.size
        return float(off + 1.0 - colour_similarity(self.colours, seen.colours))


def same_person(a: Observation, b: Observation) -> bool:
    """Head, trunk and knees are in the same places."""
    distance = np.linalg.norm(a.landmarks[CORE, :2] - b.landmarks[CORE, :2], axis=1).mean()
    return bool(distance < SAME_PERSON * min(a.next_roi.size, b.next_roi.size))


def shares_torso(a: Observation, b: Observation) -> bool:
    """The box around shoulders and hips of one lies in that of the other."""
    (low_a, high_a), (low_b, high_b) = _torso_box(a), _torso_box(b)
    shared = np.prod(np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None))
    return bool(shared > TORSO_SHARED * min(np.prod(high_a - low_a), np.prod(high_b - low_b)))


def _torso_box(seen: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Corners (2,), (2,) of the box around shoulders and hips."""
    margin = 0.03 * seen.next_roi.size  # a torso seen from the side has no width
    corners = seen.landmarks[TORSO, :2]
    return corners.min(0) - margin, corners.max(0) + margin


def torso_length(seen: Observation) -> float:
    """Metres from the middle of the shoulders to that of the hips."""
    return float(np.linalg.norm(seen.world[[11, 12]].mean(0) - seen.world[[23, 24]].mean(0)))


def is_human(person: Person) -> bool:
    """The trunk is as long as a person's in most frames."""
    return bool(np.median([torso_length(seen) for seen in person.observations.values()]) > TORSO_LENGTH)


def same_detection(a: Roi, b: Roi) -> bool:
    """Two crops are of one person."""
    return bool(np.linalg.norm(a.center - b.center) < SAME_DETECTION * min(a.size, b.size))


def colour_similarity(a: np.ndarray | None, b: np.ndarray | None) -> float:
    """Bhattacharyya coefficient of two histograms, 0..1; 1 if one is unknown."""
    return 1.0 if a is None or b is None else float(np.sqrt(a * b).sum())


def to_track(person: Person, length: int) -> Track:
    """The readings as a track; where the detector took front for back, its landmarks change sides."""
    track = Track.unseen(length)
    for index, seen in person.observations.items():
        track.boxes[index] = landmark_box(seen.landmarks)
        track.landmarks[index], track.world[index] = seen.landmarks, seen.world
        track.seen[index] = True
    track.landmarks = put_right(track.landmarks, exchanged_frames(track.world, track.seen))
    return track
