"""Geometry of the crops, merging of detections, and the networks on a real frame (where they are at hand)."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.errors import MoroError
from moro.video import blazepose
from moro.video.blazepose import BlazePose, Roi, _letterbox, _overlap_groups, _refine, roi_from_points
from moro.video.reader import open_video
from moro.video.tracking import track_people
from moro.video.tracks import landmark_box, select_tracks


@pytest.fixture(scope="module")
def detector(repository: Path) -> BlazePose:
    folder = repository / "downloads" / "blazepose"
    if not (folder / blazepose.LANDMARK_FILE).is_file():
        pytest.skip(f"networks not found in {folder} (run python scripts/fetch_demo_files.py)")
    return BlazePose(folder, threads=1)


@pytest.fixture(scope="module")
def juggler(shared_dir: Path) -> np.ndarray:
    return next(open_video(shared_dir / "videos" / "sam2_juggle.mp4").frames(100, 101))


@settings(max_examples=50, deadline=None)
@given(
    x=st.floats(-100, 500), y=st.floats(-100, 500), length=st.floats(5, 300), angle=st.floats(-3.1, 3.1)
)
def test_crop_holds_the_body_upright(x: float, y: float, length: float, angle: float) -> None:
    center = np.array([x, y])
    rim = center + length * np.array([np.sin(angle), -np.cos(angle)])
    roi = roi_from_points(center, rim)
    assert roi.size == pytest.approx(2.5 * length) and roi.rotation == pytest.approx(angle)
    to_frame = roi.corners_matrix()
    np.testing.assert_allclose(to_frame @ (0.5, 0.5, 1), center, atol=1e-9)
    np.testing.assert_allclose(to_frame @ (0.5, 0.1, 1), rim, atol=1e-9)  # straight above, 0.4 of the side


def test_letterbox_keeps_the_aspect() -> None:
    square, scale, offset = _letterbox(np.full((90, 160, 3), 200, np.uint8), 224)
    assert square.shape == (224, 224, 3) and scale == 1.4 and offset.tolist() == [0, 49]
    assert (square[49:175] == 200).all() and not square[:49].any() and not square[175:].any()


def test_overlapping_boxes_are_grouped() -> None:
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60], [1, 0, 11, 10], [4, 4, 4, 4]]  # 0 and 2 overlap, 3 is empty
    corners = np.array(boxes, float).reshape(4, 2, 2)  # (4, 4) -> two corners each
    groups = _overlap_groups(corners, np.array([0.6, 0.7, 0.9, 0.5]), 0.3)
    assert [g.tolist() for g in groups] == [[2, 0], [1], [3]]
    assert _overlap_groups(np.zeros((0, 2, 2)), np.zeros(0), 0.3) == []


def test_refinement_moves_to_the_heatmap_peak() -> None:
    heatmaps = np.full((64, 64, 39), -20.0)
    heatmaps[20, 33, 0] = 8.0  # row, column: inside the reach of landmark 0
    heatmaps[5, 5, 1] = 8.0  # out of the reach of landmark 1
    heatmaps[32, 33, 2] = -1.0  # too unsure for landmark 2
    points = np.tile([0.501, 0.32], (39, 1))
    points[2] = (0.501, 0.501)
    points[3] = (1.4, -0.2)  # outside of the crop
    moved = _refine(points, heatmaps)
    np.testing.assert_allclose(moved[0], [33 / 64, 20 / 64], atol=1e-6)
    np.testing.assert_allclose(moved[1:], points[1:])


def test_missing_files_and_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MoroError, match=r"python scripts/fetch_demo_files\.py"):
        BlazePose(tmp_path)
    for name in (blazepose.DETECTOR_FILE, blazepose.LANDMARK_FILE):
        (tmp_path / name).write_bytes(b"not a network")
    with pytest.raises(MoroError, match="not a tflite network"):
        BlazePose(tmp_path)

    def without(name: str, *arguments: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MoroError, match="pip install ai-edge-litert"):
        BlazePose(tmp_path)


def test_real_frame(detector: BlazePose, juggler: np.ndarray) -> None:
    (found,) = detector.detect(juggler)
    assert found.score > 0.9
    person = detector.landmarks(juggler, found.roi)
    assert person.confidence > 0.9
    assert person.xy.shape == (33, 2) and person.world.shape == (33, 3)
    for part in (person.visibility, person.presence):
        assert part.shape == (33,) and ((part >= 0) & (part <= 1)).all()
    # places read off the picture by eye: nose, left and right shoulder, hips, ankles
    places = {0: (760, 137), 11: (809, 177), 12: (688, 169), 27: (770, 625), 28: (698, 620)}
    for landmark, place in places.items():
        assert np.linalg.norm(person.xy[landmark] - place) < 20, landmark
    # metric: shoulders above the hips, about half a metre; ankles below
    torso = person.world[[11, 12]].mean(0) - person.world[[23, 24]].mean(0)
    assert -0.65 < torso[1] < -0.4 and person.world[27, 1] > 0.5
    assert np.linalg.norm(person.next_roi.center - found.roi.center) < 30
    box = landmark_box(np.column_stack([person.xy, person.visibility, person.presence]))
    assert box[1] < 110 and 670 < box[3] < 760 and 570 < box[0] < 640 and 840 < box[2] < 910


def test_landmarks_turn_with_the_picture(detector: BlazePose, juggler: np.ndarray) -> None:
    """A crop turned by 90 degrees gives the same landmarks for the turned picture, in 2D and in metres."""
    roi = detector.detect(juggler)[0].roi
    upright = detector.landmarks(juggler, roi)
    turned_frame = np.ascontiguousarray(np.rot90(juggler, -1))  # clockwise: (x, y) -> (H - y, x)
    height = juggler.shape[0]
    center = np.array([height - roi.center[1], roi.center[0]])
    turned = detector.landmarks(turned_frame, Roi(center, roi.size, roi.rotation + np.pi / 2))
    expected = np.stack([height - upright.xy[:, 1], upright.xy[:, 0]], axis=1)
    assert np.abs(turned.xy - expected).max() < 6
    expected = np.stack([-upright.world[:, 1], upright.world[:, 0], upright.world[:, 2]], axis=1)
    assert np.abs(turned.world - expected).mean() < 0.01


def test_region_gives_frame_coordinates(detector: BlazePose, juggler: np.ndarray) -> None:
    whole = detector.detect(juggler)[0]
    part = detector.detect(juggler, region=(420, 0, 1140, 720))[0]
    assert np.linalg.norm(whole.keypoints[0] - part.keypoints[0]) < 40
    assert detector.detect(np.zeros((120, 90, 3), np.uint8)) == []


def test_real_clip_is_tracked(detector: BlazePose, shared_dir: Path) -> None:
    """A worker walks in, cut off by the frame: one track, from the first frame on."""
    video = open_video(shared_dir / "videos" / "intel_worker_zone.gif")
    tracks = select_tracks(track_people(video.frames(0, 60), detector))
    assert len(tracks) == 1 and tracks[0].presence > 0.9
