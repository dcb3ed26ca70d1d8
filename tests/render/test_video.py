"""Result videos: every frame is written, bodies and their absence are counted, memory does not grow."""

import av
import cv2
import numpy as np
import pytest
import torch
import trimesh

from moro.errors import MoroError
from moro.geometry.ground import Ground
from moro.render.video import Person, render_result_video

K = np.array([[200.0, 0, 80], [0, 200, 61], [0, 0, 1]])
GROUND = Ground(np.array([0.0, -1, 0]), np.array([0.0, 1, 4]))


def frames(count, size=(122, 160)):
    for i in range(count):
        yield np.full((*size, 3), 40 + i, np.uint8)


def person(missing=(), **options):
    ball = trimesh.creation.icosphere(2, radius=0.5)

    def vertices(t):
        shift = np.array([-0.5 + 0.1 * t, 0.5, 4])
        return None if t in missing else torch.tensor(ball.vertices + shift).float()

    return Person(vertices, torch.tensor(ball.faces), **options)


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate), [f.to_ndarray(format="rgb24") for f in container.decode(stream)]


def test_counts_and_pictures(tmp_path):
    seen = np.arange(9) != 4
    boxes = np.full((9, 4), np.nan)
    boxes[0] = 20, 30, 90, 110
    people = [person(missing=(2, 3), colour="red", number=1, boxes=boxes, seen=seen)]
    counts = render_result_video(
        tmp_path / "a.mp4", frames(9), people, K, num_frames=9, frame_dir=tmp_path / "render"
    )
    assert (counts.frames, counts.frames_without_body, counts.bodies, counts.unseen_bodies) == (9, 2, 7, 1)
    rate, pictures = decode(tmp_path / "a.mp4")
    assert rate == 30 and len(pictures) == 9 and pictures[0].shape == (122, 160, 3)
    x, y = 60, 86  # the ball's centre in frame 0: 80 - 0.5 / 4 * 200 + 0.1 ... and below the middle
    red = [int(p[y, x + 5 * t, 0]) - int(p[y, x + 5 * t, 2]) for t, p in enumerate(pictures)]
    assert red[0] > 60 and abs(red[2]) < 15 and abs(red[3]) < 15
    assert 0.25 * red[5] < red[4] < 0.7 * red[5]
    written = sorted((tmp_path / "render").iterdir())
    assert [f.name for f in written] == [f"{i:06d}.jpg" for i in range(9)]
    first = cv2.cvtColor(cv2.imread(str(written[0])), cv2.COLOR_BGR2RGB).astype(int)
    assert first[60, 20, 0] - first[60, 20, 2] > 60  # the box's left edge, in the person's colour


def test_world_view_beside_the_video(tmp_path):
    counts = render_result_video(
        tmp_path / "a.mp4",
        frames(3),
        [person(), person(colour="green")],
        K,
        num_frames=3,
        ground=GROUND,
        fps=25,
    )
    rate, pictures = decode(tmp_path / "a.mp4")
    assert counts.size == (324, 122) and rate == 25 and pictures[0].shape == (122, 324, 3)
    assert pictures[0][5, 200:].mean() > 220 and counts.bodies == 6


def test_nobody_at_all(tmp_path):
    people = [person(missing=range(4))]
    counts = render_result_video(tmp_path / "a.mp4", frames(4), people, K, num_frames=4, ground=GROUND)
    assert counts.frames_without_body == counts.frames == 4 and counts.size == (324, 122)


def test_large_frames_are_scaled_with_their_camera(tmp_path):
    large = np.diag([10.0, 10, 1]) @ K
    counts = render_result_video(
        tmp_path / "a.mp4",
        frames(1, (1220, 1600)),
        [person(colour="red")],
        large,
        num_frames=1,
        long_side=160,
    )
    assert counts.size == (160, 122)
    small = render_result_video(tmp_path / "b.mp4", frames(1), [person(colour="red")], K, num_frames=1)
    a, b = decode(tmp_path / "a.mp4")[1][0], decode(tmp_path / "b.mp4")[1][0]
    assert small.size == (160, 122) and np.abs(a.astype(int) - b).mean() < 1


def test_frames_are_streamed(tmp_path):
    """The next frame is asked for only after the previous one has been drawn."""
    asked, drawn = [], []

    def source():
        for i, frame in enumerate(frames(5)):
            assert len(drawn) == i
            asked.append(i)
            yield frame

    one = person()

    def vertices(t):
        drawn.append(t)
        return one.vertices(t)

    render_result_video(tmp_path / "a.mp4", source(), [Person(vertices, one.faces)], K, num_frames=5)
    assert asked == drawn == list(range(5))


def test_errors_leave_no_file(tmp_path):
    with pytest.raises(MoroError, match="no frames"):
        render_result_video(tmp_path / "a.mp4", frames(0), [person()], K, num_frames=0)

    def broken():
        yield from frames(2)
        raise MoroError("the video breaks off")

    with pytest.raises(MoroError, match="breaks off"):
        render_result_video(tmp_path / "a.mp4", broken(), [person()], K, num_frames=5)
    assert not list(tmp_path.iterdir())
