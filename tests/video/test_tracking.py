"""Tracking logic with a detector that sees coloured rectangles, and behaves like BlazePose in its faults:
it reads the person nearest to the crop's middle, whoever that is."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest

from moro.errors import MoroError
from moro.video import tracking
from moro.video.blazepose import Detection, Landmarks, Roi, roi_from_points
from moro.video.people import TORSO, Observation, Person
from moro.video.silhouettes import torso_colours
from moro.video.tracking import _clip_square, _tiles, track_people
from moro.video.tracks import Track, select_tracks

WIDTH, HEIGHT = 320, 180
COLOURS = np.array([[200, 30, 30], [30, 60, 200], [40, 180, 60], [230, 200, 50]], np.uint8)  # by red alone
PERSON_H, PERSON_W = 90, 30
TEMPLATE = np.zeros((33, 2))  # in body heights from the middle, the width of a person a third of it
TEMPLATE[:11] = (0.0, -0.45)
TEMPLATE[[11, 12]] = [(0.12, -0.3), (-0.12, -0.3)]
TEMPLATE[13:23] = [(0.15 * (-1) ** i, -0.05) for i in range(10)]
TEMPLATE[[23, 24]] = [(0.1, 0.0), (-0.1, 0.0)]
TEMPLATE[25:33] = [(0.1 * (-1) ** i, 0.25 + 0.2 * (i > 1)) for i in range(8)]

Place = tuple[int, float, float]  # colour, x, y of the middle
Scene = Callable[[int], list[Place]]


def draw(places: list[Place], wall: tuple[int, int] | None = None) -> np.ndarray:
    """Frame with people, later ones in front, and a grey wall between two columns."""
    frame = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    for colour, x, y in places:
        x0, y0 = round(x - PERSON_W / 2), round(y - PERSON_H / 2)
        frame[max(y0, 0) : max(y0 + PERSON_H, 0), max(x0, 0) : max(x0 + PERSON_W, 0)] = COLOURS[colour]
    if wall:
        frame[:, wall[0] : wall[1]] = 90
    return frame


class FakePose:
    """Sees a person of whom 40 % shows, where it shows."""

    def __init__(self) -> None:
        self.detections = self.readings = 0

    def detect(self, rgb: np.ndarray, region: tuple[int, int, int, int] | None = None) -> list[Detection]:
        self.detections += 1
        x0, y0, x1, y1 = region or (0, 0, WIDTH, HEIGHT)
        found = []
        for colour in range(len(COLOURS)):
            body = self._body(rgb, colour)
            if body is not None and x0 <= body[0] < x1 and y0 <= body[1] < y1:
                rim = body + (0, -PERSON_H / 2)
                found.append(Detection(0.9, np.zeros(4), np.stack([body, rim, body, rim])))
        return found

    def landmarks(self, rgb: np.ndarray, roi: Roi) -> Landmarks:
        self.readings += 1
        bodies = [b for c in range(len(COLOURS)) if (b := self._body(rgb, c)) is not None]
        near = [b for b in bodies if np.linalg.norm(b - roi.center) < 0.4 * roi.size]
        body = min(near, key=lambda b: np.linalg.norm(b - roi.center)) if near else roi.center
        colour = rgb[tuple(np.clip(body.astype(int), 0, (WIDTH - 1, HEIGHT - 1))[::-1])]
        shape = (rgb == colour).all(axis=2) & bool(near)
        warp = roi.corners_matrix(64)
        silhouette = cv2.warpAffine(
            shape.astype(np.uint8), warp, (64, 64), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        )
        world = np.zeros((33, 3))
        world[:, :2] = TEMPLATE * 1.7
        ones = np.ones(33)
        next_roi = roi_from_points(body, body + (0, -PERSON_H / 2))
        xy = TEMPLATE * PERSON_H + body
        confidence = 0.95 if near else 0.05
        return Landmarks(xy, ones * 0.9, ones * 0.9, world, confidence, roi, next_roi, silhouette > 0)

    @staticmethod
    def _body(rgb: np.ndarray, colour: int) -> np.ndarray | None:
        rows, columns = np.nonzero(rgb[:, :, 0] == COLOURS[colour, 0])
        if len(rows) < 0.4 * PERSON_H * PERSON_W:
            return None
        return np.array([columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]) / 2


def run(scene: Scene, length: int, wall: tuple[int, int] | None = None, **options: float) -> list[Track]:
    return track_people((draw(scene(i), wall) for i in range(length)), FakePose(), **options)


def middles(track: Track) -> np.ndarray:
    """(L, 2) hip centre, NaN where unseen."""
    return np.where(track.seen[:, None], track.landmarks[:, [23, 24], :2].mean(1), np.nan)


def matching(tracks: list[Track], scene: Scene, colour: int) -> Track:
    """The track that is mostly at the place of a person of the scene."""

    def agreement(track: Track) -> int:
        place = np.array([next((p[1:] for p in scene(i) if p[0] == colour), (np.nan,) * 2)
                          for i in range(len(track.seen))])  # fmt: skip
        return int((np.linalg.norm(middles(track) - place, axis=1) < 12).sum())

    return max(tracks, key=agreement)


def check_shapes(tracks: list[Track], length: int) -> None:
    for track in tracks:
        assert track.boxes.shape == (length, 4) and track.landmarks.shape == (length, 33, 4)
        assert track.world.shape == (length, 33, 3) and track.seen.dtype == bool
        assert np.isnan(track.boxes[~track.seen]).all() and np.isfinite(track.boxes[track.seen]).all()
        assert not track.landmarks[~track.seen].any() and not track.world[~track.seen].any()


def test_one_person_all_frames() -> None:
    (track,) = run(lambda i: [(0, 40 + 3 * i, 90)], 60)
    check_shapes([track], 60)
    assert track.seen.all()
    assert np.abs(middles(track)[:, 0] - (40 + 3 * np.arange(60))).max() < 1.0
    box = track.boxes[30]
    assert box[0] < 130 - 10 and box[2] > 130 + 10 and 80 < box[3] - box[1] < 120


def test_crossing_people_keep_their_identity() -> None:
    def scene(i: int) -> list[Place]:
        return [(1, 290 - 3 * i, 88), (0, 30 + 3 * i, 92)]  # red passes in front of blue

    tracks = run(scene, 88)
    check_shapes(tracks, 88)
    red, blue = matching(tracks, scene, 0), matching(tracks, scene, 1)
    assert red is not blue and len(tracks) == 2
    assert red.seen.all() and blue.seen.sum() > 70 and blue.seen[-10:].all()
    for track, colour in ((red, 0), (blue, 1)):
        place = np.array([next(p[1] for p in scene(i) if p[0] == colour) for i in range(88)])
        error = np.abs(middles(track)[:, 0] - place)[track.seen]
        # near the other, a half-hidden person is read off its middle, never as the other one for long
        assert error.max() < PERSON_W and (error > 12).sum() <= 3


class InFront(FakePose):
    """Reads the person in the crop of whom most shows, as BlazePose does, not the one in the middle."""

    def landmarks(self, rgb: np.ndarray, roi: Roi) -> Landmarks:
        def shown(colour: int) -> tuple[int, float]:
            body = self._body(rgb, colour)
            distance = np.inf if body is None else float(np.linalg.norm(body - roi.center))
            near = distance < 0.4 * roi.size
            return int((rgb[:, :, 0] == COLOURS[colour, 0]).sum()) * near, -distance

        body = self._body(rgb, best) if shown(best := max(range(len(COLOURS)), key=shown))[0] else None
        return super().landmarks(rgb, roi if body is None else Roi(body, roi.size))


@pytest.mark.parametrize("stop", [166, 0])  # she stays in front of half of him, or walks past
def test_who_is_behind_another_does_not_get_the_others_landmarks(stop: int) -> None:
    def scene(i: int) -> list[Place]:
        return [(1, 150, 90), (0, max(stop, 264 - 3 * i), 90)]

    tracks = track_people((draw(scene(i)) for i in range(80)), InFront())
    blue, red = matching(tracks, scene, 1), matching(tracks, scene, 0)
    assert blue is not red and red.seen.all()
    assert np.abs(middles(blue)[blue.seen, 0] - 150).max() <= 12
    hidden = [not stop and abs(scene(i)[1][1] - 150) < 18 for i in range(80)]
    assert (blue.seen | hidden).mean() > 0.9 and blue.seen[-10:].all()
    assert blue.landmarks[-1, 12, 2] > 0.5 and (blue.landmarks[-1, 11, 2] < 0.2) == bool(stop)


def followed(
    tracker: tracking._Tracker, x: float, size: float, colours: np.ndarray | None
) -> Person:
    """A person of the tracker, seen at frame 0 as a square silhouette."""
    roi = Roi(np.array([x, 90.0]), size)
    landmarks = np.column_stack([TEMPLATE * size / 1.25 + roi.center, np.ones((33, 2))]).astype(np.float32)
    shape = roi, np.ones((64, 64), bool)
    person = Person(colours=colours)
    person.add(0, Observation(landmarks, np.zeros((33, 3), np.float32), roi, 0.0, colours, shape))
    tracker.people.append(person)
    return person


@pytest.mark.parametrize(("size", "is_painted"), [(120.0, True), (100.0, True), (60.0, False)])
def test_who_is_much_farther_is_not_painted_over(size: float, is_painted: bool) -> None:
    tracker = tracking._Tracker(FakePose(), 8, 10, 0.7, 0.4, 90, 10)
    tracker.size, tracker.index = (WIDTH, HEIGHT), 1
    person, _other = followed(tracker, 150, 110, None), followed(tracker, 180, size, None)
    box = tracking.landmark_box(person.observations[0].landmarks)
    assert (tracker._cover(box, 1, person) is not None) == is_painted
    assert tracker._cover(np.array([0.0, 0.0, 20.0, 20.0]), 1, person) is None  # none meets that box


@pytest.mark.parametrize("is_known", [True, False])
def test_only_known_clothes_put_somebody_in_front(is_known: bool) -> None:
    frame = draw([(0, 150, 90), (1, 250, 90)])
    tracker = tracking._Tracker(FakePose(), 8, 10, 0.7, 0.4, 90, 10)
    tracker.size, tracker.index = (WIDTH, HEIGHT), 1
    red, blue = (torso_colours(np.array([(x - 8, 70.0), (x + 8, 90.0)]), frame) for x in (150, 250))
    person, _other = followed(tracker, 150, 112, red if is_known else None), followed(tracker, 160, 112, blue)
    assert (tracker._observe_in_front(person, frame) is not None) == is_known


def test_person_behind_a_wall_is_one_track_with_a_gap() -> None:
    def scene(i: int) -> list[Place]:
        return [(0, 30 + 3 * i, 90)]

    tracks = run(scene, 88, wall=(130, 190))
    (track,) = tracks
    check_shapes(tracks, 88)
    hidden = np.array([130 + 6 < 30 + 3 * i < 190 - 6 for i in range(88)])
    assert not track.seen[hidden].any()
    assert track.seen[:30].all() and track.seen[60:].all()


def test_person_away_too_long_is_somebody_new() -> None:
    def scene(i: int) -> list[Place]:
        return [(0, 100, 90)] if not 30 <= i < 70 else []

    assert [t.seen.sum() for t in run(scene, 100, max_gap=60)] == [60]
    tracks = run(scene, 100, max_gap=20)
    assert [t.seen.sum() for t in tracks] == [30, 30]
    assert not (tracks[0].seen & tracks[1].seen).any()


def test_other_person_at_the_same_place_is_not_taken_for_the_lost_one() -> None:
    def scene(i: int) -> list[Place]:
        return [(0, 100, 90)] if i < 30 else [(1, 104, 90)] if i >= 45 else []

    tracks = run(scene, 80)
    assert sorted(t.seen.sum() for t in tracks) == [30, 35]


def test_sudden_swap_cuts_the_track() -> None:
    tracks = run(lambda i: [(0 if i < 40 else 1, 100, 90)], 80)  # an edit in the film
    assert len(tracks) == 2
    assert not (tracks[0].seen & tracks[1].seen).any()
    assert {tuple(np.flatnonzero(t.seen)[[0, -1]]) for t in tracks} == {(0, 39), (40, 79)}


def test_newcomer_is_followed_back_to_its_entrance() -> None:
    def scene(i: int) -> list[Place]:
        return [(0, 60, 90)] + ([(2, 240, 90)] if i >= 23 else [])

    tracks = run(scene, 60, detect_every=10)
    newcomer = matching(tracks, scene, 2)
    assert np.flatnonzero(newcomer.seen)[[0, -1]].tolist() == [23, 59]


def test_two_tracks_on_one_person_become_one() -> None:
    class Confused(FakePose):
        """From frame 40 on reads the red person wherever it is asked to look; has no silhouettes."""

        def landmarks(self, rgb: np.ndarray, roi: Roi) -> Landmarks:
            red = self._body(rgb, 0)
            confused = rgb[0, 0, 0] == 1 and red is not None
            found = super().landmarks(rgb, Roi(red, roi.size) if confused else roi)
            return replace(found, silhouette=np.zeros((64, 64), bool))

    def frames() -> Iterator[np.ndarray]:
        for i in range(80):
            frame = draw([(1, 126, 90), (0, 100, 90)])
            frame[0, 0, 0] = i >= 40
            yield frame

    tracks = track_people(frames(), Confused())
    assert sorted(t.seen.sum() for t in tracks) == [40, 80]
    (left,) = [t for t in tracks if t.seen.all()]
    assert np.abs(middles(left)[:, 0] - 100).max() < 2  # the red one goes on, the blue one ends


def test_short_glimpses_are_dropped_and_number_is_limited() -> None:
    assert run(lambda i: [(0, 100, 90)] if i < 6 else [], 40) == []

    def crowd(i: int) -> list[Place]:
        return [(c, 40 + 75 * c, 90) for c in range(4)]

    assert len(run(crowd, 30)) == 4
    assert len(run(crowd, 30, max_people=2)) == 2


def test_largest_first_and_selection() -> None:
    def scene(i: int) -> list[Place]:
        return [(0, 60, 90)] * (i >= 35) + [(1, 200, 90)]

    tracks = run(scene, 60)
    assert [t.seen.sum() for t in tracks] == [60, 25]
    assert tracks[0].presence == 1.0
    assert select_tracks(tracks) == tracks[:1]
    assert select_tracks(tracks, 0.4) == tracks
    with pytest.raises(MoroError, match="the longest seen in 42%"):
        select_tracks(tracks[1:])
    with pytest.raises(MoroError, match="no person was found"):
        select_tracks([])


def test_no_frames_and_nobody() -> None:
    with pytest.raises(MoroError, match="no frame"):
        track_people(iter([]), FakePose())
    assert run(lambda i: [], 25) == []


def test_of_many_only_those_seen_long_enough_become_tracks() -> None:
    def scene(i: int) -> list[Place]:
        return [(0, 60, 90)] * (i >= 35) + [(1, 200, 90)]

    assert [t.seen.sum() for t in run(scene, 60, min_fraction=0.6)] == [60]
    longest = run(lambda i: scene(i) if 15 <= i < 50 else [], 100, min_fraction=0.6)
    assert [t.seen.sum() for t in longest] == [35]  # nobody: the longest, so that it can be told


def test_nobody_else_is_looked_for_once_all_are_followed() -> None:
    detector = FakePose()
    crowd = [(c, 40 + 75 * c, 90) for c in range(4)]
    tracks = track_people((draw(crowd) for _ in range(40)), detector, max_people=2)
    assert len(tracks) == 2 and detector.detections < 40  # one look everywhere, at the first frame


def test_what_is_kept_of_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours of the latest frame only; who cannot come back and was seen too shortly is forgotten."""
    people: list[Person] = []
    monkeypatch.setattr(tracking, "is_human", lambda person: not people.append(person))

    def scene(i: int) -> list[Place]:
        return [(0, 40 + i, 90)] + [(2, 240, 90)] * (10 <= i < 16)

    (track,) = track_people((draw(scene(i)) for i in range(60)), FakePose(), max_gap=20, min_frames=10)
    (person,) = people
    assert track.seen.all() and person.last == 59
    assert [i for i, seen in person.observations.items() if seen.colours is not None] == [59]
    person.lose(since=50)
    assert person.last == 49 and max(person.observations) == 49


def test_silhouettes_are_kept_as_long_as_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    people: list[Person] = []
    monkeypatch.setattr(tracking, "is_human", lambda person: not people.append(person))
    scenes = ([(0, 40 + i, 90)] + [(2, 240, 90)] * (i < 20) for i in range(80))  # the second one leaves
    assert len(track_people((draw(scene) for scene in scenes), FakePose())) == 2
    first = 80 - tracking.LOOK_CYCLE
    kept = [sorted(i for i, seen in p.observations.items() if seen.shape is not None) for p in people]
    assert sorted(kept) == [[], list(range(first, 80))]


def test_colour_histogram() -> None:
    patch = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    xy = np.zeros((33, 2))
    xy[TORSO] = [(0, 0), (23, 0), (0, 23), (23, 23)]
    lab = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(float)
    limits = [(0, 256), (88, 168), (88, 168)]
    lab = np.clip(lab, [low for low, _ in limits], [high - 1 for _, high in limits])
    plain = np.histogramdd(lab, bins=(5, 8, 8), range=limits)[0].reshape(5, 64)
    plain = cv2.blur(plain, (1, 3), borderType=cv2.BORDER_REPLICATE).ravel()
    np.testing.assert_allclose(torso_colours(xy[TORSO], patch), plain / plain.sum(), atol=1e-6)


def test_memory_stays_flat_and_detector_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "RECENT_BYTES", 20 * WIDTH * HEIGHT * 3)
    alive: list[weakref.ref] = []

    def frames() -> Iterator[np.ndarray]:
        for i in range(100):
            gc.collect(0)
            assert sum(ref() is not None for ref in alive) <= 22
            frame = draw([(0, 40 + 2 * i, 90)])
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    detector = FakePose()
    (track,) = track_people(frames(), detector, detect_every=10)
    assert track.seen.all()
    # everywhere at first, then one region in four frames; 100 frames
    assert detector.detections < 60 and detector.readings < 115


@pytest.mark.parametrize("size", [(1920, 1080, 1080), (1080, 1920, 640), (300, 300, 100)])
def test_tiles_cover_the_frame(size: tuple[int, int, int]) -> None:
    width, height, side = size
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in _tiles(width, height, side):
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        covered[y0:y1, x0:x1] = True
    assert covered.all()


def test_search_square_stays_in_the_frame() -> None:
    for center in ((-500, 50), (160, 90), (900, 900)):
        x0, y0, x1, y1 = _clip_square(np.array(center), 60.0, WIDTH, HEIGHT)
        assert 0 <= x0 < x1 <= WIDTH and 0 <= y0 < y1 <= HEIGHT
