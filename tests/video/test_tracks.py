"""Boxes from landmarks, cache, drawing, and the optional tracker."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from moro.errors import MoroError
from moro.video import yolo
from moro.video.blazepose import Landmarks, Roi
from moro.video.tracks import (
    Track,
    area_fraction,
    cache_key,
    draw_tracks,
    landmark_box,
    load_tracks,
    save_tracks,
)


@pytest.fixture
def track() -> Track:
    rng = np.random.default_rng(0)
    track = Track.unseen(6)
    track.seen[1:5] = True
    track.boxes[1:5] = (10, 20, 60, 90)
    track.landmarks[1:5] = rng.uniform(0, 1, (4, 33, 4)) * (50, 70, 1, 1) + (10, 20, 0, 0)
    track.world[1:5] = rng.normal(size=(4, 33, 3))
    return track


def test_landmark_box_ignores_what_is_hidden() -> None:
    landmarks = np.zeros((33, 4))
    landmarks[:, 2:] = 1
    landmarks[0, :2], landmarks[1, :2], landmarks[2, :2] = (100, 50), (140, 250), (900, 900)
    landmarks[3:, :2] = (120, 100)
    landmarks[2, 2] = 0.1
    np.testing.assert_allclose(landmark_box(landmarks), [84, 34, 156, 266])
    landmarks[:, 2] = 0  # nothing visible: all of them, rather than nothing
    assert landmark_box(landmarks)[2] > 900


def test_area_counts_inside_the_picture_only(track: Track) -> None:
    assert area_fraction(track, 100, 100) == pytest.approx(4 * 50 * 70 / 1e4)
    assert area_fraction(track, 35, 100) == pytest.approx(4 * 25 * 70 / 3500)


def test_cache_round_trip(tmp_path: Path, track: Track) -> None:
    path = tmp_path / "bbx.npz"
    save_tracks(path, [track, Track.unseen(6)], "key")
    back = load_tracks(path, "key")
    assert back is not None and len(back) == 2
    for name in ("boxes", "landmarks", "world", "seen"):
        np.testing.assert_array_equal(getattr(back[0], name), getattr(track, name))
    assert load_tracks(path, "other key") is None
    assert load_tracks(tmp_path / "none.npz", "key") is None
    path.write_bytes(path.read_bytes()[:100])
    assert load_tracks(path, "key") is None
    path.write_bytes(b"something else")
    assert load_tracks(path, "key") is None


def test_cache_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "bbx.npz"
    np.savez(path, key=np.array({"a": 1}, dtype=object), count=np.array(0))
    assert load_tracks(path, "key") is None


def test_cache_key_follows_file_and_settings(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1")
    key = cache_key(video, {"tracker": "blazepose"})
    assert key == cache_key(str(video), {"tracker": "blazepose"})
    assert key != cache_key(video, {"tracker": "yolo"})
    os.utime(video, (1, 1))
    assert key != cache_key(video, {"tracker": "blazepose"})
    folder_key = cache_key(tmp_path, {})
    (tmp_path / "b.png").write_bytes(b"2")
    assert folder_key != cache_key(tmp_path, {})


def test_draw_tracks(track: Track) -> None:
    frame = np.full((100, 100, 3), 50, np.uint8)
    np.testing.assert_array_equal(draw_tracks(frame, [track], 0), frame)
    picture = draw_tracks(frame, [track, track], 2)
    assert (picture != frame).any() and (frame == 50).all()
    assert (picture[90, 15:55] != 50).any(-1).all()  # lower edge of the box


# ---- the optional tracker, with a stand-in for ultralytics -------------------------------------------------


class _Tensor(np.ndarray):
    def cpu(self) -> np.ndarray:
        return self

    def int(self) -> np.ndarray:
        return self.astype(int)


def _fake_ultralytics(boxes_per_frame: list[dict[int, list[float]]]) -> types.ModuleType:
    calls = iter(boxes_per_frame)

    class YOLO:
        def __init__(self, weights: str) -> None:
            assert weights.endswith(".pt")

        def track(self, picture: np.ndarray, **options: object) -> list[types.SimpleNamespace]:
            assert options["persist"] and options["classes"] == [0] and picture[0, 0].tolist() == [3, 2, 1]
            boxes = next(calls)
            ids = np.array(list(boxes), float).view(_Tensor) if boxes else None
            xyxy = np.array(list(boxes.values()), float).reshape(-1, 4).view(_Tensor)
            return [types.SimpleNamespace(boxes=types.SimpleNamespace(id=ids, xyxy=xyxy))]

    module = types.ModuleType("ultralytics")
    module.YOLO = YOLO
    return module


class _Reader:
    """Reads landmarks at the middle of the crop; nobody on the right side of the picture."""

    def detect(self, rgb: np.ndarray, region: object = None) -> list:
        raise AssertionError("YOLO detects")

    def landmarks(self, rgb: np.ndarray, roi: Roi) -> Landmarks:
        ones, xy = np.ones(33), np.tile(roi.center, (33, 1))
        confidence = 0.9 if roi.center[0] < 100 else 0.1
        return Landmarks(xy, ones, ones, np.zeros((33, 3)), confidence, roi, roi, np.zeros((64, 64), bool))


def test_yolo_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [{7: [10, 10, 50, 90]}, {}, {7: [12, 10, 52, 90], 9: [120, 20, 180, 99]}]
    monkeypatch.setitem(sys.modules, "ultralytics", _fake_ultralytics(boxes))
    frames = [np.full((100, 200, 3), (1, 2, 3), np.uint8)] * 3
    first, second = yolo.find_people(frames, _Reader(), "yolo")
    assert first.seen.tolist() == [True, False, True] and second.seen.tolist() == [False, False, True]
    np.testing.assert_allclose(first.boxes[2], [12, 10, 52, 90])
    np.testing.assert_allclose(first.landmarks[2, :, :2], np.tile([32, 50], (33, 1)))
    assert not second.landmarks.any()  # a box without a body BlazePose knows
    monkeypatch.setitem(sys.modules, "ultralytics", _fake_ultralytics([]))
    with pytest.raises(MoroError, match="no frame"):
        yolo.find_people([], _Reader(), "yolo")


def test_tracker_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo.importlib.util, "find_spec", lambda name: None)
    assert yolo.choose_tracker("auto") == "blazepose"
    monkeypatch.setattr(yolo.importlib.util, "find_spec", lambda name: object())
    assert yolo.choose_tracker("auto") == "yolo"
    assert yolo.choose_tracker("blazepose") == "blazepose"
    with pytest.raises(MoroError, match="choose one of auto, blazepose, yolo"):
        yolo.choose_tracker("bytetrack")


def test_missing_ultralytics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(MoroError, match="pip install ultralytics"):
        yolo.find_people([], _Reader(), "yolo")
