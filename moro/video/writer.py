"""Write H.264 video with PyAV; no ffmpeg program is needed (docs/design.md 4.6)."""

import logging
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from moro.errors import MoroError
from moro.io.atomic import atomic_path

logger = logging.getLogger(__name__)

BT709 = 1  # colour code of H.264 for what HD players assume


class VideoWriter:
    """Write RGB frames to an mp4 that every browser plays (H.264, yuv420p).

    path     output file; appears only when the block ends without an error
    fps      frames per second
    size     (width, height) of the frames given; an odd side is padded by one pixel (yuv420p needs even ones)
    crf      quality, 0 (lossless) to 51; about 18 looks like the source
    preset   x264 speed: ultrafast ... medium ... veryslow

        with VideoWriter("out.mp4", fps=30, size=(640, 480)) as writer:
            writer.write(frame)

    Raises MoroError if a frame has another size or type, or if none was written.
    """

    def __init__(
        self, path: str | Path, fps: float, size: tuple[int, int], crf: int = 20, preset: str = "veryfast"
    ) -> None:
        if not fps > 0 or min(size) < 1:
            raise MoroError(f"cannot write {path}: frame rate {fps} and size {size} must be above 0.")
        self.path, self.fps, self.size = Path(path), fps, (int(size[0]), int(size[1]))
        self.num_frames = 0
        self._crf, self._preset = crf, preset
        self._stack = ExitStack()

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            self._container = stack.enter_context(
                av.open(str(temporary), mode="w", options={"movflags": "+faststart"})
            )
            self._stream = self._add_stream()
            self._stack = stack.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, (height, width, 3) uint8 RGB."""
        width, height = self.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise MoroError(
                f"cannot write {self.path}: frame {self.num_frames} is {frame.dtype} {frame.shape}, "
                f"expected uint8 {(height, width, 3)}."
            )
        if width % 2 or height % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)  # atomic_path then drops the temporary file
            return
        with self._stack:
            if not self.num_frames:
                raise MoroError(f"no frame was written to {self.path}.")
            self._container.mux(self._stream.encode(None))

    def _add_stream(self) -> av.VideoStream:
        name = encoder_name()
        options = {"crf": str(self._crf), "preset": self._preset} if name == "libx264" else {}
        rate = Fraction(self.fps).limit_denominator(1001)
        stream = self._container.add_stream(name, rate=rate, options=options)
        stream.width, stream.height = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries = context.color_trc = BT709
        if name != "libx264":
            logger.warning("this PyAV has no libx264; %s is written as MPEG-4 part 2 (larger)", self.path)
            stream.bit_rate = int(0.2 * stream.width * stream.height * self.fps)
        return stream


def encoder_name() -> str:
    """`libx264`, or `mpeg4` where PyAV was built without it."""
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"
