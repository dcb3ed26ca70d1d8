"""Reading at true speed, writing, and bad inputs."""

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moro.errors import MoroError
from moro.video import writer
from moro.video.reader import _nearest_stamps, open_video
from moro.video.writer import VideoWriter

WIDTH, HEIGHT = 96, 64
BITS = 7


def numbered(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame that carries its number as black and white stripes."""
    frame = np.full((height, width, 3), 90, np.uint8)
    for bit in range(BITS):
        frame[8:40, bit * 12 : bit * 12 + 12] = 235 if index >> bit & 1 else 20
    return frame


def number_of(frame: np.ndarray) -> int:
    return sum(1 << bit for bit in range(BITS) if frame[24, bit * 12 + 6, 1] > 128)


def write_frames(path: Path, stamps_ms: list[int], codec: str = "libx264", **options: str) -> Path:
    """A video whose frame i is shown at stamps_ms[i]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(1000), options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, stamp in enumerate(stamps_ms):
            frame = av.VideoFrame.from_ndarray(numbered(i), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 30, (WIDTH, HEIGHT)) as out:
        for i in range(90):
            out.write(numbered(i))
    return path


@pytest.mark.parametrize("fps", [12, 15, 24, 25, 29.97, 30, 50, 60, 120])
def test_round_trip_is_resampled_by_time(tmp_path: Path, fps: float) -> None:
    count = int(fps)  # one second
    with VideoWriter(tmp_path / "a.mp4", fps, (WIDTH, HEIGHT)) as out:
        for i in range(count):
            out.write(numbered(i))
    video = open_video(tmp_path / "a.mp4")
    numbers = [number_of(frame) for frame in video]
    assert video.num_frames == len(numbers) == len(video) == round(count / fps * 30)
    for k, number in enumerate(numbers):
        assert abs(number / fps - k / 30) <= 0.5 / fps + 1e-3 or number == count - 1
    assert numbers == sorted(numbers)
    if fps <= 30:
        assert set(numbers) == set(range(count))  # nothing is dropped when there are fewer than 30


def test_iterates_again_and_by_range(clip: Path) -> None:
    video = open_video(clip)
    assert (video.width, video.height, video.fps) == (WIDTH, HEIGHT, 30.0)
    assert [number_of(f) for f in video] == [number_of(f) for f in video] == list(range(90))
    assert [number_of(f) for f in video.frames(40, 47)] == list(range(40, 47))
    assert list(video.frames(5, 5)) == []
    with pytest.raises(MoroError, match="which has 90"):
        video.frames(80, 91)


def test_frames_are_fresh_arrays(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "slow.mp4", 10, (WIDTH, HEIGHT)) as out:
        for i in range(5):
            out.write(numbered(i))
    for frame in open_video(tmp_path / "slow.mp4"):
        assert number_of(frame) < 5  # drawing on one frame must not show in its repetition
        frame[:] = 255


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 200], [240, 240, 240]], np.uint8)
    frame = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, 0), 48, 1)  # four colours -> 64 x 96 tiles
    with VideoWriter(tmp_path / "colour.mp4", 30, (WIDTH, HEIGHT), crf=10) as out:
        out.write(frame)
    (back,) = open_video(tmp_path / "colour.mp4")
    assert np.abs(back[16::32, 24::48].reshape(4, 3).astype(int) - colours).max() <= 4  # tile centres


def test_variable_frame_rate(tmp_path: Path) -> None:
    stamps = [0, 33, 66, 100, 500, 533, 566, 600, 900, 1000]  # two long stills
    video = open_video(write_frames(tmp_path / "vfr.mkv", stamps))
    expected = [int(np.argmin([abs(k / 30 * 1000 - s) for s in stamps])) for k in range(30)]
    numbers = [number_of(f) for f in video]
    assert numbers[:30] == expected
    assert [number_of(f) for f in video.frames(17, 21)] == expected[17:21]


def test_first_frame_late_and_webm(tmp_path: Path) -> None:
    stamps = [1000 + 40 * i for i in range(25)]  # the clip starts at its first frame
    numbers = [number_of(f) for f in open_video(write_frames(tmp_path / "late.webm", stamps, "libvpx"))]
    assert numbers[0] == 0 and numbers[-1] >= 23 and len(numbers) in (29, 30)  # the last frame lasts 1 ms


def test_gif(tmp_path: Path) -> None:
    pictures = [Image.fromarray(numbered(i)) for i in range(10)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    numbers = [number_of(f) for f in open_video(tmp_path / "a.gif")]
    assert len(numbers) == 30 and set(numbers) == set(range(10))


def test_rotation_metadata(tmp_path: Path) -> None:
    """A phone held upright stores a lying picture and a matrix that turns it clockwise."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[:, : WIDTH // 2, 0] = 220  # the left half is red; turned clockwise it is on top
    with VideoWriter(tmp_path / "a.mp4", 30, (WIDTH, HEIGHT)) as out:
        for _ in range(3):
            out.write(frame)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one, w = 0x00010000, 0x40000000
    matrix = np.array([0, one, 0, -one, 0, 0, HEIGHT * one, 0, w], ">i4")
    data[at : at + 36] = matrix.tobytes()
    (tmp_path / "turned.mp4").write_bytes(data)
    video = open_video(tmp_path / "turned.mp4")
    assert (video.width, video.height) == (HEIGHT, WIDTH)
    picture = next(iter(video))
    assert picture.shape == (WIDTH, HEIGHT, 3)
    assert picture[: WIDTH // 2 - 4, :, 0].min() > 150 and picture[WIDTH // 2 + 4 :, :, 0].max() < 80


def test_odd_size_is_padded(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "odd.mp4", 30, (WIDTH - 1, HEIGHT - 1)) as out:
        out.write(numbered(3)[:-1, :-1])
    video = open_video(tmp_path / "odd.mp4")
    assert (video.width, video.height) == (WIDTH, HEIGHT)
    assert number_of(next(iter(video))) == 3


def test_image_folder(tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(numbered(i)).save(tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}")  # 2 comes before 10
    (tmp_path / "notes.txt").write_text("no image")
    video = open_video(tmp_path)
    assert (video.num_frames, video.width, video.height) == (12, WIDTH, HEIGHT)
    assert [number_of(f) for f in video] == list(range(12))
    assert [number_of(f) for f in video.frames(4, 6)] == [4, 5]
    assert video.names[1:3] == ["1.png", "2.jpg"] and len(video.names) == 12


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    start=st.integers(-500, 500),
    last=st.integers(1, 300),
    fps=st.sampled_from([24.0, 30.0, 60.0]),
)
def test_nearest_stamps(steps: list[int], start: int, last: int, fps: float) -> None:
    stamps = start + np.concatenate([[0], np.cumsum(steps)])
    wanted = _nearest_stamps(stamps, 1e-3, last, fps)
    length = (stamps[-1] - stamps[0] + last) / 1000
    assert abs(len(wanted) - length * fps) <= 1
    instants = stamps[0] + np.arange(len(wanted)) / fps * 1000
    best = np.abs(stamps[None] - instants[:, None]).min(1)
    assert np.all(np.abs(wanted - instants) <= best + 1.0 + 1e-6)  # a tie is 1 ms wide
    assert np.all(np.diff(wanted) >= 0)


# ---- bad inputs --------------------------------------------------------------------------------------------


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="not found"):
        open_video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 50)
    with pytest.raises(MoroError, match="not a video"):
        open_video(tmp_path / "text.mp4")
    (tmp_path / "notes.txt").write_text("hello\n" * 50)
    with pytest.raises(MoroError, match="not a video"):
        open_video(tmp_path / "notes.txt")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(MoroError, match="not a video"):
        open_video(tmp_path / "empty.mp4")
    Image.fromarray(numbered(0)).save(tmp_path / "one.png")
    with pytest.raises(MoroError, match="single image"):
        open_video(tmp_path / "one.png")
    with pytest.raises(MoroError, match="frame rate"):
        open_video(tmp_path / "one.png", fps=0)


def test_sound_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MoroError, match="no video stream"):
        open_video(tmp_path / "sound.mp4")


def test_truncated_without_index(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mp4", [33 * i for i in range(60)])  # the index comes last
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MoroError, match="end is missing"):
        open_video(path)


def test_truncated_with_index(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()  # VideoWriter puts the index first
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * 0.6)])
    with pytest.raises(MoroError, match=r"truncated: \d+ of 90 announced frames"):
        open_video(path)
    video = open_video(path, allow_truncated=True)
    numbers = [number_of(f) for f in video]
    assert 10 < len(numbers) == video.num_frames < 90
    assert numbers == list(range(len(numbers)))


def test_damaged_inside(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start + 200 :] = bytes(len(data) - start - 200)
    path = tmp_path / "zeros.mp4"
    path.write_bytes(data)
    with pytest.raises(MoroError, match="damaged|no frame"):
        list(open_video(path))


def test_bad_image_folders(tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="no .jpg"):
        open_video(tmp_path)
    Image.fromarray(numbered(0)).save(tmp_path / "0.png")
    Image.fromarray(numbered(1)[:50]).save(tmp_path / "1.png")
    with pytest.raises(MoroError, match=r"1\.png is 96x50"):
        open_video(tmp_path)
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(MoroError, match=r"1\.png"):
        open_video(tmp_path)
    Image.fromarray(numbered(1)).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:150])  # header whole, pixels cut off
    with pytest.raises(MoroError, match=r"1\.png"):
        list(open_video(tmp_path))


def test_writer_is_atomic_and_checks(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError), VideoWriter(path, 30, (WIDTH, HEIGHT)) as out:
        out.write(numbered(0))
        raise RuntimeError("stop")
    with pytest.raises(MoroError, match="no frame"), VideoWriter(path, 30, (WIDTH, HEIGHT)):
        pass
    with pytest.raises(MoroError, match="expected uint8"), VideoWriter(path, 30, (WIDTH, HEIGHT)) as out:
        out.write(numbered(0).astype(np.float32))
    with pytest.raises(MoroError, match="above 0"):
        VideoWriter(path, 0, (WIDTH, HEIGHT))
    assert list(tmp_path.iterdir()) == []


def test_writer_without_x264(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer.av, "codecs_available", {"mpeg4"})
    with caplog.at_level(logging.WARNING), VideoWriter(tmp_path / "a.mp4", 30, (WIDTH, HEIGHT)) as out:
        for i in range(20):
            out.write(numbered(i))
    assert "libx264" in caplog.text
    assert [number_of(f) for f in open_video(tmp_path / "a.mp4")] == list(range(20))
