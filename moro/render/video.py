"""Result videos: the bodies over the video, beside the same bodies on the ground; frame by frame."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from moro.errors import MoroError
from moro.geometry.ground import Ground
from moro.io.scenes import write_image
from moro.render.scene import (
    Colour,
    Image,
    Mesh,
    WorldView,
    draw_box,
    draw_label,
    render_overlay,
    side_by_side,
)
from moro.video.writer import VideoWriter

logger = logging.getLogger(__name__)

UNSEEN_ALPHA = 0.45  # bodies are drawn fainter in frames in which the person was not detected


@dataclass
class Person:
    """One person of a result video.

    vertices  function of the frame number: (V, 3) tensor, camera frame, metres; None in frames without a body
    faces     (F, 3) int64
    number    shown in the badge (none if None)
    boxes     (T, 4) x0 y0 x1 y1 pixels of the full-size image, NaN where there is none; no boxes if None
    seen      (T,) bool: in the other frames the body is drawn fainter
    """

    vertices: Callable[[int], Tensor | None]
    faces: Tensor
    colour: Colour = "skin"
    number: int | None = None
    boxes: NDArray | None = None
    seen: NDArray | None = None


@dataclass
class RenderCounts:
    """frames written; those without any body; body pictures drawn, and how many of them faint (not seen)."""

    frames: int = 0
    frames_without_body: int = 0
    bodies: int = 0
    unseen_bodies: int = 0
    size: tuple[int, int] = field(default=(0, 0))  # (W, H) of the video


def render_result_video(
    path: str | Path,
    frames: Iterable[Image],
    people: Sequence[Person],
    K: NDArray,
    *,
    num_frames: int,
    fps: float = 30.0,
    ground: Ground | None = None,
    alpha: float = 1.0,
    long_side: int = 1280,
    frame_dir: str | Path | None = None,
    frame_names: Sequence[str] | None = None,
) -> RenderCounts:
    """Write the result video (spec: data 9.5). One frame is held at a time.

    frames      (H, W, 3) uint8 RGB, `num_frames` of them
    K           (3, 3) pixels of these frames
    ground      adds the view of the world at the right; overlay only if None
    long_side   the pictures are scaled down to at most this many pixels
    frame_dir   also write %06d.jpg there, or the names given in `frame_names`
    Raises MoroError when there is no frame.
    """
    counts = RenderCounts()
    writer, view = None, None
    K = np.asarray(K, np.float64).reshape(3, 3)
    progress = tqdm(frames, total=num_frames, desc="render", unit="frame", disable=None)
    try:
        for index, frame in enumerate(progress):
            if writer is None:
                size, scaled_K = _scaled_camera(frame.shape[:2], K, long_side)
                view = None if ground is None else _world_view(people, ground, scaled_K, size, num_frames)
            picture = _compose(frame, index, people, scaled_K, size, ground, view, alpha, counts)
            if writer is None:
                counts.size = picture.shape[1], picture.shape[0]
                writer = VideoWriter(path, fps, counts.size).__enter__()
            writer.write(picture)
            if frame_dir is not None:
                name = f"{index:06d}.jpg" if frame_names is None else frame_names[index]
                write_image(Path(frame_dir) / name, picture, quality=92)
    except BaseException as error:
        if writer is not None:
            writer.__exit__(type(error), error, error.__traceback__)
        raise
    if writer is None:
        raise MoroError(f"cannot write {path}: the video has no frames.")
    writer.__exit__(None, None, None)
    if counts.frames_without_body:
        logger.warning("%s: %d of %d frames show no body", path, counts.frames_without_body, counts.frames)
    return counts


def _scaled_camera(shape: tuple[int, int], K: NDArray, long_side: int) -> tuple[tuple[int, int], NDArray]:
    """Even size (H, W) of at most `long_side`, and the intrinsics for it."""
    H, W = shape
    factor = min(1.0, long_side / max(H, W))
    h, w = (max(2, 2 * round(side * factor / 2)) for side in (H, W))
    return (h, w), np.diag([w / W, h / H, 1.0]) @ K


def _world_view(
    people: Sequence[Person],
    ground: Ground,
    K: NDArray,
    size: tuple[int, int],
    num_frames: int,
    samples: int = 60,
) -> WorldView | None:
    """A camera that shows the whole motion, from up to `samples` frames."""
    transform = ground.cam2world(y_up=True)
    low, high, means = [], [], []
    for index in np.unique(np.linspace(0, max(0, num_frames - 1), samples).astype(int)):
        for person in people:
            vertices = person.vertices(int(index))
            if vertices is not None:
                world = _to_world(vertices, transform)
                low.append(world.amin(0))
                high.append(world.amax(0))
                means.append(world.mean(0))
    if not means:
        return None
    low, high = torch.stack(low).amin(0), torch.stack(high).amax(0)
    return WorldView(
        K, size, torch.stack(means).mean(0).double().numpy(), low.double().numpy(), high.double().numpy()
    )


def _to_world(vertices: Tensor, transform: NDArray) -> Tensor:
    matrix = torch.as_tensor(transform, dtype=torch.float32, device=vertices.device)
    return (vertices @ matrix[:3, :3].T + matrix[:3, 3]).cpu()


def _compose(
    frame: Image,
    index: int,
    people: Sequence[Person],
    K: NDArray,
    size: tuple[int, int],
    ground: Ground | None,
    view: WorldView | None,
    alpha: float,
    counts: RenderCounts,
) -> Image:
    """One picture of the video; counts what it shows."""
    H, W = size
    factor = np.array([W / frame.shape[1], H / frame.shape[0]])
    image = frame if frame.shape[:2] == size else cv2.resize(frame, (W, H), interpolation=cv2.INTER_AREA)
    meshes, shown = [], []
    for person in people:
        vertices = person.vertices(index)
        if vertices is None:
            continue
        unseen = person.seen is not None and not person.seen[index]
        meshes.append(Mesh(vertices, person.faces, person.colour, UNSEEN_ALPHA if unseen else 1.0))
        shown.append(person)
        counts.unseen_bodies += unseen
    counts.frames += 1
    counts.bodies += len(meshes)
    counts.frames_without_body += not meshes

    image = render_overlay(image, meshes, K, alpha)
    for person in people:
        if person.boxes is not None and np.isfinite(person.boxes[index]).all():
            box = person.boxes[index].reshape(2, 2) * factor  # (4,) -> (2, 2) corners
            draw_box(image, box.reshape(4), person.colour, thickness=max(1, round(W / 640)))
    for person, mesh in zip(shown, meshes, strict=True):
        if person.number is not None:
            _label(image, mesh, person.number, K)
    if ground is None:
        return image
    if view is None:  # no frame has a body
        return side_by_side(image, np.full_like(image, 250))
    transform = ground.cam2world(y_up=True)
    return side_by_side(
        image, view.render([m._replace(vertices=_to_world(m.vertices, transform)) for m in meshes])
    )


def _label(image: Image, mesh: Mesh, number: int, K: NDArray) -> None:
    """The person's number above the highest visible point of the body."""
    vertices = mesh.vertices[mesh.vertices[:, 2] > 0.05]
    if not len(vertices):
        return
    top = vertices[(vertices[:, 1] / vertices[:, 2]).argmin()].double().cpu().numpy()
    x, y, z = K @ top
    draw_label(image, str(number), (x / z, y / z - image.shape[0] / 36), mesh.colour)
