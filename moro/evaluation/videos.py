"""Videos of evaluated sequences: over the images, beside the world, or the world alone (spec: data 8.7)."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.evaluation.frames import move
from moro.evaluation.measures import Report
from moro.evaluation.options import BOTH, PREDICTION, TRUTH, Options
from moro.geometry.ground import Ground
from moro.io.scenes import read_image
from moro.render.scene import Image, Mesh, WorldView
from moro.render.video import Person, render_result_video
from moro.video.writer import VideoWriter

logger = logging.getLogger(__name__)

FPS = 30.0
BOX_COLOUR = (0.0, 1.0, 0.0)
TRUTH_COLOUR = "white"
WORLD_SIZE = (720, 1280)  # H, W of the world alone


@dataclass(frozen=True)
class Scene:
    """A sequence as it is drawn; T frames.

    video        name of the video, without suffix
    pictures     folder of the single pictures, relative to the results
    frame_names  their T names
    prediction, truth   (T, V, 3) SMPL vertices in the camera frame; truth None where there is none
    image        frame number → (H, W, 3) uint8 RGB
    K            (3, 3) of these images
    centers, scales     boxes (T, 2), (T,) pixels, NaN where unknown; None where there are none
    cam2world    (4, 4) to a y-up world;  floor  its height there, metres
    downsample   the pictures are this much smaller than the images
    """

    video: str
    pictures: Path
    frame_names: Sequence[str]
    prediction: Tensor
    truth: Tensor | None
    image: Callable[[int], Image]
    K: NDArray
    centers: NDArray | None
    scales: NDArray | None
    cam2world: NDArray
    floor: float
    downsample: int = 1


class Evaluation(NamedTuple):
    """The metrics, and for each sequence what makes it as it is drawn (none if no videos are asked for)."""

    report: Report
    scenes: list[Callable[[], Scene]]


def smpl_faces(bm_path: str | Path, num_vertices: int) -> Tensor:
    """Faces (F, 3) of the SMPL mesh, from whichever SMPL or SMPL-H file is there (spec: data 1.1)."""
    for model_type, gender in (
        ("smplh", "neutral"),
        ("smplh", "male"),
        ("smplh", "female"),
        ("smpl", "neutral"),
    ):
        stem = Path(bm_path) / model_type / f"{model_type.upper()}_{gender.upper()}"
        if stem.with_suffix(".npz").is_file() or stem.with_suffix(".pkl").is_file():
            body = load_body_model(bm_path, model_type, gender)
            if body.num_full_vertices == num_vertices:
                return body.full_faces
    raise MoroError(f"{bm_path} has no SMPL or SMPL-H file; rendering needs its faces, see docs/files.md")


def draw_scenes(scenes: Sequence[Callable[[], Scene]], options: Options) -> None:
    """The videos that were asked for, of every sequence that has what it takes.

    Raises MoroError at the end if some have not; why is logged.
    """
    faces, failed = cache(partial(smpl_faces, options.bm_path)), 0
    for scene_of in scenes:
        try:
            scene = scene_of()
            draw_videos(scene, options, faces(scene.prediction.shape[1]))
        except MoroError as error:
            logger.error("not drawn: %s", error)
            failed += 1
    if failed:
        raise MoroError(
            f"{failed} of {len(scenes)} sequences could not be drawn, as said above; the metrics are written"
        )


def draw_videos(scene: Scene, options: Options, faces: Tensor) -> list[Path]:
    """The videos that were asked for; their paths."""
    results, written = options.saved_data_dir, []
    suffix = "_global" if options.with_world else ""
    if options.render:
        folder = results.with_name(results.name + suffix)
        written.append(_over_images(scene, scene.prediction, options.colour, folder, options, faces))
    if options.render_gt and scene.truth is not None:
        folder = results.with_name("gt_render" + suffix)
        written.append(_over_images(scene, scene.truth, TRUTH_COLOUR, folder, options, faces))
    if options.visualize_3d:
        written.append(_world_alone(scene, options, faces))
    for path in written:
        logger.info("video: %s", path)
    return written


def square_boxes(centers: NDArray, scales: NDArray) -> NDArray:
    """Corners (T, 4) of boxes of side 200 scale: x0 y0 x1 y1 pixels."""
    half = 100 * scales[:, None]
    return np.concatenate([centers - half, centers + half], axis=1)


def image_reader(
    folder: Path,
    names: Sequence[str],
    size: tuple[int, int] | None,
    change: Callable[[Image], Image] = lambda image: image,
) -> Callable[[int], Image]:
    """Frame number → its image after `change`; missing: black of `size` (W, H), MoroError if none."""

    def read(index: int) -> Image:
        image = read_image(folder / names[index])
        if image is not None:
            return change(image)
        if size is None:
            raise MoroError(f"{folder / names[index]} cannot be read; rendering needs the images")
        logger.warning("%s is missing or not an image", folder / names[index])
        return np.zeros((size[1], size[0], 3), np.uint8)

    return read


def _over_images(
    scene: Scene, vertices: Tensor, colour: str, folder: Path, options: Options, faces: Tensor
) -> Path:
    people = [Person(lambda index: vertices[index], faces, colour)]
    if options.boxes and scene.centers is not None and scene.scales is not None:
        boxes = square_boxes(scene.centers, scene.scales)
        people.append(Person(lambda index: None, faces, BOX_COLOUR, boxes=boxes))
    T = len(vertices)
    path = folder / "video" / f"{scene.video}.mp4"
    first = scene.image(0)
    render_result_video(
        path,
        (scene.image(index) for index in range(T)),
        people,
        scene.K,
        num_frames=T,
        fps=FPS,
        ground=_ground(scene, vertices) if options.with_world else None,
        long_side=max(first.shape[:2]) // scene.downsample,
        frame_dir=folder / scene.pictures / "render",
        frame_names=scene.frame_names,
    )
    return path


def _ground(scene: Scene, vertices: Tensor) -> Ground:
    """The floor in the camera frame, its origin below where the body starts."""
    normal = scene.cam2world[1, :3]  # the world's up, seen from the camera
    root = vertices[0].mean(0).double().numpy()
    height = normal @ root + scene.cam2world[1, 3] - scene.floor
    return Ground(normal, root - normal * height)


def _world_alone(scene: Scene, options: Options, faces: Tensor) -> Path:
    """Prediction, truth or both on the floor of the world, at `vis_3d_fps`."""
    lifted = scene.cam2world.copy()
    lifted[1, 3] -= scene.floor
    shown = []
    if options.vis_3d_mode in (PREDICTION, BOTH):
        shown.append((move(scene.prediction, lifted), options.colour))
    if options.vis_3d_mode in (TRUTH, BOTH) and scene.truth is not None:
        shown.append((move(scene.truth, lifted), TRUTH_COLOUR))
    H, W = WORLD_SIZE
    view = WorldView.around([vertices for vertices, _ in shown], WORLD_SIZE)
    path = options.saved_data_dir / "visualize_3d" / f"{scene.video}.mp4"
    with VideoWriter(path, options.vis_3d_fps, (W, H)) as writer:
        for index in range(len(scene.prediction)):
            writer.write(view.render([Mesh(vertices[index], faces, colour) for vertices, colour in shown]))
    return path
