"""The open demo: one person at 1280x720, from decoded frames to fitted parameters, without pictures."""

import contextlib
import functools
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.harness import Options, Row, Run, Target
from models.mask_transformer.build import build_system, resolve_paths, save_weights
from models.mask_transformer.system import MoRoSystem
from models.recovery.pipeline import load_system, recover_video
from moro.body.fitting import fit_body
from moro.config import compose_config
from moro.geometry.trajectory import TrajectoryStats
from moro.io.results import write_results
from moro.video.blazepose import BlazePose
from moro.video.reader import VideoFile, open_video
from moro.video.writer import VideoWriter

WIDTH, HEIGHT, FPS = 1280, 720, 30.0
DETECTOR = Path("downloads/blazepose/pose_landmark_full.tflite")
WEIGHTS = Path("ckpt/open/video_train.safetensors")


def rows(options: Options) -> list[Row]:
    """Two lengths, both above a window, which show that memory does not grow with the video."""
    short, long = (20, 30) if options.quick else (600, 2400)
    found = []
    for frames in (short, long):
        # the time to load the networks is part of it, and counts for little in the longer video
        target = Target() if frames == short else Target(ms=40, flat_to=f"demo.open-{short}")
        video, weights = options.work / f"demo-{frames}.mp4", options.work / "random.safetensors"
        chosen = str(weights) if options.random_weights else None
        found.append(
            Row(
                f"demo.open-{frames}", "open demo, frame to parameters",
                f"1 person, {WIDTH}x{HEIGHT}, {frames} frames", partial(demo, str(video), chosen), target,
                files=partial(make_files, str(options.video), str(video), frames, chosen),
                twin=False, units=frames, skip=missing(options),
            )
        )  # fmt: skip
    return found


def missing(options: Options) -> str | None:
    """What stands in the way, if anything."""
    if not DETECTOR.is_file():
        return f"{DETECTOR} is missing; make fetches it"
    if not options.video.is_file():
        return f"{options.video} is missing; make fetches it, or name a video with --video"
    if not options.random_weights and not WEIGHTS.is_file():
        return f"{WEIGHTS} is missing; --random-weights does without"
    return None


# --------------------------------------------------------------------------------------------- video, weights


def make_files(source: str, video: str, frames: int, weights: str | None) -> None:
    """The source at 1280x720, there and back again until it is `frames` long; random weights if wanted."""
    with VideoWriter(video, FPS, (WIDTH, HEIGHT)) as writer:
        for frame in itertools.islice(there_and_back(source), frames):
            writer.write(cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    if weights is not None and not Path(weights).exists():
        torch.manual_seed(0)
        system = build_system(resolve_paths(config("", None))[0], initialise=False)
        system.set_trajectory_stats(TrajectoryStats(torch.zeros(9), torch.ones(9)))
        save_weights(system, weights)


def there_and_back(source: str) -> Iterator[np.ndarray]:
    """Frames of a video forwards, backwards, forwards ...; nobody jumps."""
    frames = list(open_video(source, FPS).frames(0, min(120, len(open_video(source, FPS)))))
    while True:
        yield from frames
        yield from frames[-2:0:-1]


def config(video: str, weights: str | None, folder: str = "") -> Any:
    words = [f"demo.video_path={video}", f"demo.output_path={folder}"] if video else []
    if weights is not None:
        words.append(f"model.ckpt_path={weights}")
    alone = "demo.max_people=1"  # the clip shows two
    return compose_config("demo", ["preset=open", "demo.render=false", "demo.npz_only=true", alone, *words])


# -------------------------------------------------------------------------------------------------- measuring


def demo(video: str, weights: str | None, variant: str) -> Run:
    """The whole of demo.py but pictures and GLB, loading included, with the time each stage takes."""

    def run() -> dict[str, str]:
        stages = Stages()
        with tempfile.TemporaryDirectory() as folder, stages.watched():
            recover_video(config(video, weights, folder))
        return {"stages": stages.report(len(open_video(video, FPS)))}

    return run


class Stages:
    """Seconds spent in the functions of the stages, summed over threads (their sum may exceed the wall's)."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def report(self, frames: int) -> str:
        parts = (f"{name} {1e3 * spent / frames:.1f}" for name, spent in self.seconds.items())
        return "ms per frame: " + ", ".join(parts)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within, the stages' functions take their time."""
        places = [
            (VideoFile, "_frames", self._generator("decode", VideoFile._frames)),
            (BlazePose, "detect", self._function("detect", BlazePose.detect)),
            (BlazePose, "landmarks", self._function("landmarks", BlazePose.landmarks)),
            (MoRoSystem, "recover", self._function("recover", MoRoSystem.recover)),
        ]
        for stage, function in (("fit", fit_body), ("write", write_results), ("load", load_system)):
            name, timed = function.__name__, self._function(stage, function)
            users = [m for m in list(sys.modules.values()) if getattr(m, name, None) is function]
            places += [(user, name, timed) for user in users]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        for owner, name, function in places:
            setattr(owner, name, function)
        try:
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _function(self, stage: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[stage] += time.perf_counter() - start

        return timed

    def _generator(self, stage: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Iterator[Any]:
            values = function(*arguments, **options)
            advance = self._function(stage, lambda: next(values, None))
            while (value := advance()) is not None:
                yield value

        return timed
