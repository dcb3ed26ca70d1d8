"""Frames of a video file or an image folder at one fixed rate (docs/design.md 4.6; spec: data 9.2 step 1).

The reference keeps every n-th frame with n rounded, so 25 fps stays 25 and is later taken for 30. Here a
frame is chosen for each instant k / fps by the time stamps of the file: the speed of the motion is right for
every source rate, constant or variable.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from moro.errors import MoroError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
TIE_SECONDS = 1e-3  # containers round time stamps to 1 ms; below that it is a tie, and the earlier frame wins


class VideoFrames(ABC):
    """RGB frames (height, width, 3) uint8 at exactly `fps`; can be iterated any number of times.

    path        file or folder            fps         frames per second of what is iterated
    width       pixels, as displayed      num_frames  number of frames an iteration gives
    height      pixels, as displayed
    """

    path: Path
    fps: float
    width: int
    height: int
    num_frames: int

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames start..stop-1 one by one, each a fresh array the caller may draw on; memory stays flat.

        Raises MoroError if the range lies outside 0..num_frames or a frame cannot be decoded.
        """
        stop = self.num_frames if stop is None else stop
        if not 0 <= start <= stop <= self.num_frames:
            raise MoroError(f"frames {start}..{stop} asked of {self.path}, which has {self.num_frames}.")
        return self._frames(start, stop)

    @property
    def names(self) -> list[str]:
        """A file name for each frame, as frames written to disk would be called."""
        return [f"{index:06d}.jpg" for index in range(self.num_frames)]

    @abstractmethod
    def _frames(self, start: int, stop: int) -> Iterator[np.ndarray]: ...


def open_video(path: str | Path, fps: float = 30.0, allow_truncated: bool = False) -> VideoFrames:
    """Open a video file (mp4, mov, mkv, gif, webm, avi ...) or a folder of .jpg / .jpeg / .png images.

    fps              rate of the frames given; an image folder is taken to have been recorded at it
    allow_truncated  use what can be read of a damaged video (its frames are then counted by decoding)

    Raises MoroError for a missing, damaged or empty input, or for images of different sizes.
    """
    path = Path(path)
    if not fps > 0:
        raise MoroError(f"the frame rate must be above 0, not {fps}.")
    if path.is_dir():
        return ImageFolder(path, fps)
    if not path.exists():
        raise MoroError(f"video not found: {path}; give a video file or a folder of images.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise MoroError(f"{path} is a single image; give a video file or a folder of images.")
    return VideoFile(path, fps, allow_truncated)


# ---- image folder ----------------------------------------------------------------------------------------


class ImageFolder(VideoFrames):
    """Images of one folder in natural order of their names (2 before 10)."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, float(fps)
        self.files = sorted(
            (f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")),
            key=lambda file: _natural_key(file.name),
        )
        if not self.files:
            raise MoroError(f"no .jpg, .jpeg or .png image in the folder {path}.")
        self.num_frames = len(self.files)
        self.width, self.height = _image_size(self.files[0])
        for file in self.files:
            self._check_size(file, _image_size(file))

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]

    def _check_size(self, file: Path, size: tuple[int, int]) -> None:
        if size != (self.width, self.height):
            raise MoroError(
                f"images of different sizes in {self.path}: {file.name} is {size[0]}x{size[1]}, "
                f"{self.files[0].name} is {self.width}x{self.height}; bring all to one size."
            )

    def _frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for file in self.files[start:stop]:
            image = _read_image(file)
            self._check_size(file, (image.shape[1], image.shape[0]))
            yield image


def _natural_key(name: str) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _image_size(file: Path) -> tuple[int, int]:
    """(width, height) as displayed, from the header alone."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # EXIF 5..8 swap the axes
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise MoroError(f"cannot read the image {file} ({error}); remove or replace it.") from error
    return (height, width) if turned else (width, height)


def _read_image(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise MoroError(f"cannot read the image {file} ({error}); remove or replace it.") from error


# ---- video file ------------------------------------------------------------------------------------------


class VideoFile(VideoFrames):
    """A video file, resampled to `fps` by time stamps; decoded by PyAV."""

    def __init__(self, path: Path, fps: float, allow_truncated: bool = False) -> None:
        self.path, self.fps, self.allow_truncated = path, float(fps), allow_truncated
        with _open_container(path) as container:
            stream = _video_stream(container, path)
            self._stream_index = stream.index
            self._time_base = float(stream.time_base or 0)
            rate = float(stream.average_rate or stream.guessed_rate or fps)
            announced = stream.frames
            stamps, last_duration, readable = _demux(container, stream)
        self._stamped = stamps is not None
        if stamps is None:  # some AVI files carry none: frames are then counted, at the average rate
            self._time_base, last_duration = 1.0 / rate, 1
            stamps = np.arange(readable)
        self.width, self.height = self._first_frame_size()
        if readable < announced or not readable:
            self._report_truncated(readable, announced)
        if allow_truncated:
            stamps = self._decoded_stamps(stamps)
        # (num_frames,) time stamp of the source frame for each instant k / fps
        self._wanted = _nearest_stamps(stamps, self._time_base, last_duration, fps)
        self.num_frames = len(self._wanted)

    def _frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
        position, decoded = start, 0
        if start == stop:
            return
        for stamp, frame in self._decode(int(self._wanted[start]) if start else None):
            decoded += 1
            if stamp < self._wanted[position]:
                continue
            image = self._to_rgb(frame)
            # ">=": a wanted frame the decoder does not show (VP8 has such) is replaced by the next one
            while position < stop and stamp >= self._wanted[position]:
                repeated = position + 1 < stop and stamp >= self._wanted[position + 1]
                yield image.copy() if repeated else image
                position += 1
            if position == stop:
                return
        raise MoroError(
            f"{self.path} is damaged: decoding ended after {decoded} source frames, at frame {position} of "
            f"{self.num_frames}; copy or encode it again."
        )

    def _decode(self, seek_to: int | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """(time stamp, frame) in order of display, from the key frame at or before `seek_to`."""
        with _open_container(self.path) as container:
            stream = container.streams[self._stream_index]
            stream.thread_type = "AUTO"
            if seek_to is not None and self._stamped:
                first = self._seek(container, stream, seek_to)
                if not first:
                    yield from self._decode()
                    return
            count = 0
            for packet in container.demux(stream):
                for frame in self._decode_packet(packet):
                    stamp = frame.pts if self._stamped and frame.pts is not None else count
                    count += 1
                    yield stamp, frame

    def _seek(self, container: av.container.InputContainer, stream: av.VideoStream, stamp: int) -> bool:
        """Move to a key frame at or before `stamp`; False if this container cannot (then reopen it)."""
        try:
            container.seek(stamp, stream=stream, backward=True)
            first = next((p for p in container.demux(stream) if p.pts is not None and p.is_keyframe), None)
            if first is None or first.pts > stamp:
                return False
            container.seek(stamp, stream=stream, backward=True)
        except av.error.FFmpegError:
            return False
        return True

    def _decode_packet(self, packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.error.FFmpegError as error:
            if self.allow_truncated:
                return []
            raise MoroError(
                f"{self.path} is damaged: a frame cannot be decoded ({error.strerror}); copy or encode it "
                "again."
            ) from error

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        image = frame.to_ndarray(format="rgb24")
        turns = _quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

    def _first_frame_size(self) -> tuple[int, int]:
        for _, frame in self._decode():
            size = (frame.width, frame.height)
            return size[::-1] if _quarter_turns(frame) % 2 else size
        raise MoroError(f"{self.path} has no frame that can be decoded; copy or encode it again.")

    def _decoded_stamps(self, stamps: np.ndarray) -> np.ndarray:
        """Time stamps of the frames that really decode."""
        decoded = np.unique([stamp for stamp, _ in self._decode()])
        if len(decoded) < len(stamps):
            logger.warning("%s: %d of %d frames can be decoded", self.path, len(decoded), len(stamps))
        return decoded

    def _report_truncated(self, readable: int, announced: int) -> None:
        message = f"{self.path} is truncated: {readable} of {announced} announced frames can be read"
        if not self.allow_truncated:
            raise MoroError(f"{message}; copy or encode it again.")
        logger.warning("%s; using these", message)


def _open_container(path: Path) -> av.container.InputContainer:
    try:
        # "file" only: a playlist posing as a video must not make us fetch addresses
        container = av.open(str(path), container_options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError) as error:
        raise MoroError(
            f"{path} cannot be opened as a video ({error.strerror}); it is not a video, or an mp4 whose end "
            "is missing; copy or encode it again."
        ) from error
    if container.format.name == "tty" or container.format.name.endswith("_pipe"):
        container.close()
        raise MoroError(f"{path} is not a video; give a video file or a folder of images.")
    return container


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:  # cover art of a sound file
            return stream
    raise MoroError(f"{path} has no video stream; give a video file or a folder of images.")


def _demux(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[np.ndarray | None, int, int]:
    """Read the file without decoding it.

    returns  sorted time stamps of the frames shown (None if the file has none), in units of the time base;
             duration of the last one (0 if not stated); number of packets read, shown or not
    """
    shown: dict[int | None, int] = {}
    count = 0
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_corrupt:  # empty: the flush signal at the end; corrupt: cut short
                continue
            count += 1
            if not packet.is_discard:  # outside the edit list of an mp4
                shown[packet.pts] = packet.duration or 0
    except av.error.FFmpegError as error:
        logger.warning("%s: reading stops after %d frames (%s)", container.name, count, error)
    if not shown or None in shown:
        return None, 0, count
    stamps = np.array(sorted(shown))
    return stamps, shown[int(stamps[-1])], count


def _nearest_stamps(stamps: np.ndarray, time_base: float, last_duration: int, fps: float) -> np.ndarray:
    """Time stamp of the frame shown nearest to each instant first + k / fps, over the length of the video."""
    times = (stamps - stamps[0]) * time_base  # (n,) seconds from the first frame
    steps = np.diff(times)
    last = last_duration * time_base or (float(np.median(steps)) if len(steps) else 1.0 / fps)
    count = max(1, int(np.floor((times[-1] + last) * fps + 0.5)))
    instants = np.arange(count) / fps
    after = np.clip(np.searchsorted(times, instants), 1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.repeat(stamps, count)
    earlier = instants - times[after - 1] <= times[after] - instants + TIE_SECONDS
    return stamps[np.where(earlier, after - 1, after)]


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring the stored picture upright."""
    return round(frame.rotation / 90) % 4
