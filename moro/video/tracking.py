"""Follow several people through a video with a single-person network (docs/design.md 4.6).

Each person is followed by landmarks alone: those of one frame give the crop of the next. The detector is
asked over the whole frame and overlapping tiles (it misses small people and the second of two in the whole
frame) while nobody is followed or somebody was just lost, and near the place where that was. Otherwise it
looks for newcomers in one of these regions at a time, all of them within LOOK_CYCLE frames; not at all if as
many are followed as may be. Whoever is found is also followed backwards through the frames of that cycle, so
looking seldom costs nothing. Gaps stay gaps. Memory: those frames, and the results.

The landmark network reads whoever is in front. Where two people meet, each is therefore read in a picture in
which the other's silhouette is painted over (moro/video/silhouettes.py); one of whom too little is left is
unseen, and is looked for at the expected place, painted likewise, until seen again.
"""

from collections import deque
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from moro.errors import MoroError
from moro.video.blazepose import Detection, Landmarks, Roi
from moro.video.people import (
    CORE,
    TORSO,
    TORSO_LENGTH,
    Observation,
    Person,
    colour_similarity,
    is_human,
    same_detection,
    same_person,
    shares_torso,
    to_track,
    torso_length,
)
from moro.video.silhouettes import are_covered, cover_of, paint_over, torso_colours
from moro.video.tracks import Track, area_fraction, landmark_box

FARTHER = 0.7  # somebody smaller than this is behind, and is not painted over
MAX_COVERED = 0.5  # a person of whose CORE landmarks more lie behind others is hidden
COVERED_VISIBILITY = 0.1  # of landmarks behind others

# Distances are in units of the side of a person's crop, which is about 1.25 body heights.
MAX_STEP = 0.25  # a person moves less from one frame to the next
MAX_GROWTH = 1.4  # and its crop changes less in size
SAME_FRAMES = 3  # two tracks that agree for so many frames are of one person
MIN_SIMILARITY = 0.4  # torso colours more unlike than this are of another person
SLID_SIMILARITY, UNLIKE_FRAMES = 0.55, 4  # and so are those of a track that stays below this for some frames
TELL_APART = 0.1  # of two people, the one whose colours fit so much better is meant
GAP_BASE, GAP_SPEED, GAP_MAX = 0.4, 0.03, 1.5  # a lost person is found in a circle that grows with the gap
GAP_GROWTH = 1.7  # and may have changed in size by this factor
SEARCH_EVERY, SEARCH_FRAMES = 3, 30  # the detector looks where a person was lost so often, for so many frames
LOOK_CYCLE = 45  # frames within which every region is searched for newcomers
RECENT_BYTES = 2**28  # of the frames kept to follow newcomers back; at least one look's worth is kept


class PoseDetector(Protocol):
    """What tracking needs of a detector; `moro.video.blazepose.BlazePose` is one."""

    def detect(self, rgb: np.ndarray, region: tuple[int, int, int, int] | None = None) -> list[Detection]: ...

    def landmarks(self, rgb: np.ndarray, roi: Roi) -> Landmarks: ...


def track_people(
    frames: Iterable[np.ndarray],
    detector: PoseDetector,
    *,
    max_people: int = 8,
    detect_every: int = 10,
    start_confidence: float = 0.7,
    keep_confidence: float = 0.4,
    max_gap: int = 90,
    min_frames: int = 10,
    min_fraction: float = 0.0,
) -> list[Track]:
    """Follow the people in a video, read once and frame by frame.

    frames            (H, W, 3) uint8 RGB, about 30 per second (limits on motion are per frame)
    max_people        people followed at one time, the largest if more are found at once
    detect_every      frames between looks everywhere, while nobody is followed or somebody was just lost
    start_confidence  confidence to begin or find again     keep_confidence  confidence to go on
    max_gap           frames after which a lost person who comes back is a new one
    min_frames        tracks seen in fewer frames are dropped
    min_fraction      and those seen in less than this part of the video, the longest of all excepted

    returns tracks sorted by box area summed over frames, largest first; empty if nobody is found.
    Raises MoroError if there is no frame.
    """
    tracker = _Tracker(
        detector, max_people, detect_every, start_confidence, keep_confidence, max_gap, min_frames
    )
    for frame in frames:
        tracker.step(frame)
    return tracker.tracks(min_fraction)


class _Tracker:
    def __init__(
        self,
        detector: PoseDetector,
        max_people: int,
        detect_every: int,
        start_confidence: float,
        keep_confidence: float,
        max_gap: int,
        min_frames: int,
    ) -> None:
        self.detector, self.max_people, self.detect_every = detector, max_people, max(1, detect_every)
        self.start_confidence, self.keep_confidence = start_confidence, keep_confidence
        self.max_gap, self.min_frames = max_gap, min_frames
        self.people: list[Person] = []  # oldest first
        self.close_frames: dict[tuple[int, int], int] = {}  # frames in a row two people agreed, by id()
        self.recent: deque[np.ndarray] = deque()
        self.index = 0
        self.size = (0, 0)  # width, height

    @property
    def active(self) -> list[Person]:
        return [person for person in self.people if person.active]

    def step(self, rgb: np.ndarray) -> None:
        """Take the next frame."""
        self.size = (rgb.shape[1], rgb.shape[0])
        for person in sorted(self.active, key=lambda p: p.observations[p.last].covered):  # front first
            self._follow(person, rgb)
        self._drop_duplicates()
        for person in filter(self._is_missed, self.people):
            self._look_again(person, rgb)
        self.people = [person for person in self.people if self._is_kept(person)]
        regions = self._regions_to_search()
        if regions:
            cover = self._cover(np.array([0, 0, *self.size]), self.index)
            shown = paint_over(rgb, cover)
            found = [detection for region in regions for detection in self.detector.detect(shown, region)]
            self._admit(rgb, found, cover)
        self._remember(rgb)
        self.index += 1

    def tracks(self, min_fraction: float) -> list[Track]:
        if not self.index:
            raise MoroError("the video has no frame to track people in.")
        people = [person for person in self.people if len(person.observations) >= self.min_frames]
        counted = [(len(person.observations), person) for person in people if is_human(person)]
        most = max((count for count, _ in counted), default=0)
        enough = min(int(min_fraction * self.index), most)  # tracks are as long as the video: not for all
        tracks = [to_track(person, self.index) for count, person in counted if count >= enough]
        return sorted(tracks, key=lambda track: -area_fraction(track, *self.size))

    def _is_kept(self, person: Person) -> bool:
        """Not so of a glimpse; of one who cannot come back, not either if too short for a track."""
        is_gone = self.index - person.last > self.max_gap
        return person.active or len(person.observations) >= (self.min_frames if is_gone else SAME_FRAMES)

    def _remember(self, rgb: np.ndarray) -> None:
        """Keep the frame for those who are found later, and silhouettes of as many frames as may be kept."""
        self.recent.append(rgb)
        frames = min(LOOK_CYCLE, max(self.detect_every, RECENT_BYTES // rgb.nbytes))
        while len(self.recent) > frames:
            self.recent.popleft()
        for person in self.people:
            old = person.observations.get(self.index - LOOK_CYCLE)
            if old is not None:
                old.shape = None

    # ---- following ---------------------------------------------------------------------------------------

    def _follow(self, person: Person, rgb: np.ndarray) -> None:
        box = landmark_box(person.observations[person.last].landmarks)
        cover = self._cover(box, self.index, person)
        seen = self._observe(rgb, person.roi, self.keep_confidence, cover)
        if seen is None and cover is not None:
            seen = self._observe_in_front(person, rgb)
        if seen is None:
            person.lose(self.index)
            return
        person.add(self.index, seen)
        unlike = colour_similarity(person.colours, seen.colours) < SLID_SIMILARITY
        person.unlike = person.unlike + 1 if unlike else 0
        if person.unlike >= UNLIKE_FRAMES:  # slid onto somebody else
            person.lose(self.index + 1 - UNLIKE_FRAMES)
        elif not unlike and not self._is_crowded(person):
            person.learn_colours(seen)

    def _observe_in_front(self, person: Person, rgb: np.ndarray) -> Observation | None:
        """Read a person as if in front of all others; None unless the clothes are clearly this person's."""
        seen = self._observe(rgb, person.roi, self.keep_confidence)
        if seen is None or seen.colours is None or person.colours is None:
            return None
        near = [other for other in self.active if other is not person and self._is_near(person, other)]
        rivals = [colour_similarity(other.colours, seen.colours) for other in near]
        own = colour_similarity(person.colours, seen.colours)
        return seen if own > max(rivals, default=1.0) + TELL_APART else None

    def _observe(
        self, rgb: np.ndarray, roi: Roi, min_confidence: float, cover: np.ndarray | None = None
    ) -> Observation | None:
        """Landmarks in a crop; None if it shows nobody, or somebody who cannot be the one it was made for.

        cover  (H, W) bool: where other people are seen. They are painted over, so that they are not read.
        """
        found = self.detector.landmarks(paint_over(rgb, cover), roi)
        step = np.linalg.norm(found.next_roi.center - roi.center) / roi.size
        growth = max(found.next_roi.size, 1e-6) / roi.size
        if found.confidence < min_confidence or step > MAX_STEP or not 1 / MAX_GROWTH < growth < MAX_GROWTH:
            return None
        if not _is_inside(found, self.size):
            return None
        covered = are_covered(found.xy, cover)  # (33,)
        if covered[CORE].mean() > MAX_COVERED:
            return None
        visibility = np.where(covered, np.minimum(found.visibility, COVERED_VISIBILITY), found.visibility)
        return Observation(
            landmarks=np.column_stack([found.xy, visibility, found.presence]).astype(np.float32),  # (33, 4)
            world=found.world.astype(np.float32),
            next_roi=found.next_roi,
            covered=float(covered[CORE].mean()),
            colours=torso_colours(found.xy[TORSO], rgb, cover),
            shape=(found.roi, found.silhouette),
        )

    def _cover(self, box: np.ndarray, index: int, person: Person | None = None) -> np.ndarray | None:
        """Where others than `person` are seen at frame `index`; None if none meets the box (4,).

        Who is followed and not yet read in the present frame is taken to be where the last one shows them.
        """
        shapes = []
        for other in self.people:
            seen = other.observations.get(other.last if other.active and index == self.index else index)
            if other is person or seen is None or seen.shape is None:
                continue
            is_behind = person is not None and seen.next_roi.size < FARTHER * person.roi.size
            if not is_behind and _meet(box, landmark_box(seen.landmarks)):
                shapes.append(seen.shape)
        return cover_of(shapes, self.size)

    def _is_crowded(self, person: Person) -> bool:
        """Somebody else, seen or hidden, is so near that the torso colours may be theirs."""
        others = (p for p in self.people if p is not person and self.index - p.last <= self.max_gap)
        return any(self._is_near(person, other) for other in others)

    def _is_near(self, person: Person, other: Person) -> bool:
        distance = np.linalg.norm(other.expected_center(self.index) - person.roi.center)
        return bool(distance < 0.3 * max(other.roi.size, person.roi.size))

    def _drop_duplicates(self) -> None:
        """Where two tracks have come together on one person, end the one that does not belong there."""
        active = self.active
        for i, older in enumerate(active):
            for younger in active[i + 1 :]:
                pair = (id(older), id(younger))
                if not (older.active and younger.active):
                    continue
                if not same_person(older.observations[self.index], younger.observations[self.index]):
                    self.close_frames.pop(pair, None)
                    continue
                count = self.close_frames[pair] = self.close_frames.get(pair, 0) + 1
                if count >= SAME_FRAMES:
                    self.close_frames.pop(pair)
                    since = self.index + 1 - count
                    stray = max((younger, older), key=lambda person: person.strangeness(since, self.index))
                    stray.lose(since)

    # ---- finding -----------------------------------------------------------------------------------------

    def _regions_to_search(self) -> list[tuple[int, int, int, int]]:
        """Where to ask the detector in this frame."""
        width, height = self.size
        active = self.active
        if len(active) >= self.max_people:
            return []
        coarse = [(0, 0, width, height), *_tiles(width, height, min(width, height))]
        fine = _tiles(width, height, max(width, height) // 2)
        lost = [person for person in self.people if self._is_missed(person)]
        if active and not lost:
            regions = coarse + fine
            look, rest = divmod(self.index, max(1, LOOK_CYCLE // len(regions)))
            return [] if rest else [regions[look % len(regions)]]
        looks, rest = divmod(self.index, self.detect_every)
        if not rest:
            if active:
                return coarse + fine[looks % 2 :: 2]
            return coarse + fine + _tiles(width, height, max(width, height) // 3)
        if self.index % SEARCH_EVERY:
            return []
        return [_clip_square(p.expected_center(self.index), p.roi.size, width, height) for p in lost]

    def _is_missed(self, person: Person) -> bool:
        """Lost a short while ago, maybe behind somebody who is followed."""
        return not person.active and 0 < self.index - person.last <= SEARCH_FRAMES and person.last >= 0

    def _look_again(self, person: Person, rgb: np.ndarray) -> None:
        """Read a lost person where it is expected, others painted over."""
        if len(self.active) >= self.max_people:
            return
        roi = Roi(person.expected_center(self.index), person.roi.size, person.roi.rotation)
        cover = self._cover(roi.box, self.index, person)
        seen = None if cover is None else self._observe_twice(rgb, roi, cover)
        if seen is None or colour_similarity(person.colours, seen.colours) < SLID_SIMILARITY:
            return
        growth = seen.next_roi.size / person.roi.size
        is_whole = 1 / MAX_GROWTH < growth < MAX_GROWTH and torso_length(seen) > TORSO_LENGTH
        if is_whole and not self._is_second_reading(seen, person, self.index):
            self._resume(person, seen)

    def _observe_twice(self, rgb: np.ndarray, roi: Roi, cover: np.ndarray | None) -> Observation | None:
        """Who is to be followed from now on; what is no person does not stay in place at a second look."""
        seen = self._observe(rgb, roi, self.start_confidence, cover)
        return seen and self._observe(rgb, seen.next_roi, self.start_confidence, cover)

    def _resume(self, person: Person, seen: Observation) -> None:
        since = person.last if person.observations else -1
        person.active, person.velocity = True, np.zeros(2)
        person.add(self.index, seen)
        self._follow_back(person, seen, since)

    def _admit(self, rgb: np.ndarray, detections: list[Detection], cover: np.ndarray | None) -> None:
        """Detections become people: lost ones found again, or new ones."""
        for seen in sorted(self._newcomers(rgb, detections, cover), key=lambda seen: -seen.next_roi.size):
            person = self._best_lost(seen)
            if person is None and len(self.active) >= self.max_people:
                continue
            if person is None:
                person = Person()
                self.people.append(person)
            self._resume(person, seen)

    def _newcomers(
        self, rgb: np.ndarray, detections: list[Detection], cover: np.ndarray | None
    ) -> list[Observation]:
        """Observations of people whom no track follows, each person once."""
        rois = [person.roi for person in self.active]
        found: list[Observation] = []
        for detection in sorted(detections, key=lambda d: -d.score):
            if any(same_detection(detection.roi, roi) for roi in rois):
                continue
            seen = self._observe_twice(rgb, detection.roi, cover)
            rois.append(detection.roi)
            if seen is None or torso_length(seen) < TORSO_LENGTH:
                continue
            if any(shares_torso(seen, other) for other in found):
                continue
            if not self._is_second_reading(seen, self._best_lost(seen), self.index):
                found.append(seen)
                rois.append(seen.next_roi)
        return found

    def _best_lost(self, seen: Observation) -> Person | None:
        """The lost person this one is by place, size and colours, if any."""
        best, best_cost = None, 1.0
        for person in self.people:
            gap = self.index - person.last
            if person.active or gap > self.max_gap:
                continue
            size = max(person.roi.size, seen.next_roi.size)
            growth = size / min(person.roi.size, seen.next_roi.size)
            reach = size * min(GAP_BASE + GAP_SPEED * gap, GAP_MAX)
            cost = np.linalg.norm(seen.next_roi.center - person.expected_center(self.index)) / reach
            similarity = colour_similarity(person.colours, seen.colours)
            if growth > GAP_GROWTH or similarity < MIN_SIMILARITY or cost > 1.0:
                continue
            if cost * (1.0 - similarity) < best_cost:
                best, best_cost = person, cost * (1.0 - similarity)
        return best

    def _is_second_reading(self, seen: Observation, person: Person | None, index: int) -> bool:
        """What is seen at frame `index`, maybe of `person`, is really somebody else who is followed there."""
        for other in self.people:
            known = other.observations.get(index)
            if other is person or known is None or not shares_torso(seen, known):
                continue
            own = 0.0 if person is None else colour_similarity(person.colours, seen.colours)
            # half hidden by the other, a person is still told apart by what shows of its clothes
            if same_person(seen, known) or own < colour_similarity(other.colours, seen.colours) + TELL_APART:
                return True
        return False

    def _follow_back(self, person: Person, seen: Observation, since: int) -> None:
        """Follow a person just found through the recent frames, back to where it was lost or came in."""
        for back, rgb in enumerate(reversed(self.recent), start=1):
            index = self.index - back
            if index <= since:
                return
            cover = self._cover(landmark_box(seen.landmarks), index, person)
            earlier = self._observe(rgb, seen.next_roi, self.start_confidence, cover)
            if earlier is None or colour_similarity(person.colours, earlier.colours) < MIN_SIMILARITY:
                return
            if self._is_second_reading(earlier, person, index):
                return
            earlier.colours = None
            person.observations[index] = seen = earlier


# ---- small parts -----------------------------------------------------------------------------------------


def _is_inside(found: Landmarks, size: tuple[int, int]) -> bool:
    """At least a quarter of the landmarks lie in the frame."""
    inside = ((found.xy >= 0) & (found.xy < size)).all(axis=1)
    return bool(inside.mean() >= 0.25)


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    """Two boxes (4,) overlap."""
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def _tiles(width: int, height: int, side: int) -> list[tuple[int, int, int, int]]:
    """Squares (or the whole short side) that cover the frame, overlapping by half or more."""
    w, h = min(side, width), min(side, height)
    columns, rows = (int(np.ceil(2 * (whole - part) / part)) + 1 for whole, part in ((width, w), (height, h)))
    xs, ys = np.linspace(0, width - w, columns).astype(int), np.linspace(0, height - h, rows).astype(int)
    tiles = [(int(x), int(y), int(x) + w, int(y) + h) for y in ys for x in xs]
    return tiles if len(tiles) > 1 else []


def _clip_square(center: np.ndarray, side: float, width: int, height: int) -> tuple[int, int, int, int]:
    """A square region, cut at the borders of the frame; at least 2 pixels wide."""
    x0, y0 = np.clip(center - side / 2, 0, (width - 2, height - 2)).astype(int)
    x1, y1 = np.clip(center + side / 2, (x0 + 2, y0 + 2), (width, height)).astype(int)
    return int(x0), int(y0), int(x1), int(y1)
