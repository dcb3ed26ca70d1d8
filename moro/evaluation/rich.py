"""RICH's protocol (spec: data 8.4): errors in the world frame, every labelled frame."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moro.errors import MoroError
from moro.evaluation.frames import Z_UP_TO_Y_UP, bare, move, require_results, result_file, rows_of
from moro.evaluation.measures import Measured, Report, errors_against_truth
from moro.evaluation.options import Options
from moro.evaluation.prediction import Prediction, Predictor, TrueBodies
from moro.evaluation.regressors import load_regressors
from moro.evaluation.videos import Evaluation, Scene, image_reader
from moro.io import rich_files as files
from moro.io.rich_files import Boxes, Labels

logger = logging.getLogger(__name__)

DOWNSAMPLE = 4  # of the pictures


def evaluate_rich(options: Options) -> Evaluation:
    """Metrics of the videos whose name contains `options.name`, or of all.

    Raises MoroError when a file is missing or results do not fit the labels.
    """
    labels = files.read_labels(options.dataset_root)
    vids = [vid for vid in labels if options.name == "all" or options.name in vid]
    if not vids:
        raise MoroError(
            f"no RICH video has {options.name!r} in its name; use all, or e.g. {next(iter(labels))}"
        )
    require_results(options.saved_data_dir, ["/".join(files.split_vid(vid)) for vid in vids])
    regressors = load_regressors(options.bm_path)
    predictor = Predictor(options.method, options.bm_path, regressors)
    bodies = TrueBodies("smplx", options.bm_path, regressors)
    boxes = cache(partial(files.read_boxes, options.dataset_root))
    sequences = [Sequence(vid, labels[vid], predictor, options, bodies) for vid in vids]
    report = Report([measure(sequence) for sequence in sequences])
    return Evaluation(report, [partial(scene_of, sequence, boxes) for sequence in sequences if options.draws])


@dataclass(frozen=True)
class Sequence:
    """A video and what its prediction and truth are made of."""

    vid: str
    labels: Labels
    predictor: Predictor
    options: Options
    bodies: TrueBodies

    @property
    def name(self) -> str:
        """<sequence>/<camera>"""
        return "/".join(files.split_vid(self.vid))

    def read(self) -> tuple[Prediction, list[int], Tensor]:
        """Prediction of F frames, the row of the labels for each, true vertices (F, V, 3) in the world."""
        prediction = self.predictor.load(result_file(self.options.saved_data_dir, self.name))
        rows = _label_rows(self.vid, self.labels, prediction, self.options)
        arrays = {key: array[rows] for key, array in self.labels.parameters.items()}
        return prediction, rows, self.bodies.vertices(self.labels.gender, arrays)


def measure(sequence: Sequence) -> Measured:
    """Metrics of all frames, from all joints of the regressor."""
    prediction, _, truth = sequence.read()
    regressors = sequence.bodies.regressors
    _, world2cam = files.read_camera(sequence.options.dataset_root, sequence.vid)
    vertices = move(prediction.vertices, np.linalg.inv(world2cam))
    feet = regressors.foot_points()
    if feet is None:
        logger.warning("foot sliding is left out: the body files are not SMPL's mesh")
    joints, true_joints = regressors.to_joints(vertices), regressors.to_joints(truth)
    values = errors_against_truth(joints, true_joints, vertices, truth, feet)
    return Measured(sequence.name, len(vertices), values)


def scene_of(drawn: Sequence, boxes: Callable[[], dict[str, Boxes]]) -> Scene:
    """The sequence as it is drawn."""
    vid, options, root = drawn.vid, drawn.options, drawn.options.dataset_root
    prediction, rows, truth = drawn.read()
    sequence, camera = files.split_vid(vid)
    K, world2cam = files.read_camera(root, vid)
    cam2world = np.linalg.inv(world2cam)
    if options.visualize_3d:  # the world's own axes are a camera's: turn them to the floor
        scan = files.scan_names(root).get(sequence, "")
        frames = files.read_floor_frames(root)
        if scan not in frames:
            raise MoroError(f"{root}/resource has no floor frame of {sequence}; leave --visualize_3d out")
        cam2world = Z_UP_TO_Y_UP @ frames[scan] @ cam2world
    centers, scales = _boxes(vid, rows, boxes(), options.crop_bbox) if options.boxes else (None, None)
    names = prediction.frame_names
    return Scene(
        video=f"{sequence}_{camera}",
        pictures=Path(sequence) / camera,
        frame_names=[f"{bare(name)}.jpeg" for name in names],
        prediction=prediction.vertices,
        truth=move(truth, world2cam),
        image=image_reader(files.image_folder(root, vid), names, None),
        K=K,
        centers=centers,
        scales=scales,
        cam2world=cam2world,
        floor=0.0,
        downsample=DOWNSAMPLE,
    )


def _boxes(
    vid: str, rows: list[int], boxes: dict[str, Boxes], crop_bbox: bool
) -> tuple[NDArray, NDArray]:
    """Centres (F, 2) and scales (F,) of the boxes, cut by the crop protocol if asked (defect D16)."""
    if vid not in boxes or len(boxes[vid].bbx_xys) <= max(rows):
        raise MoroError(f"rich_test_preproc.pt has no boxes for all frames of {vid}; use --no_bbox")
    chosen = boxes[vid].bbx_xys[rows]
    centers, scales = chosen[:, :2], chosen[:, 2] / 200
    return files.upper_half(centers, scales, np.asarray(rows)) if crop_bbox else (centers, scales)


def _label_rows(vid: str, labels: Labels, prediction: Prediction, options: Options) -> list[int]:
    """Row of the labels for each predicted frame, matched by the name of the image."""
    folder = files.image_folder(options.dataset_root, vid)
    images = [path.stem for path in files.image_files(options.dataset_root, vid)]
    if not images:
        if len(prediction.frame_names) != len(labels.frame_id):
            raise MoroError(f"{folder} has no images; their names tell which label belongs to which frame")
        return list(range(len(labels.frame_id)))  # every label has its frame, in order
    if labels.frame_id.max(initial=-1) >= len(images):
        raise MoroError(f"{folder} has {len(images)} images, the labels name number {labels.frame_id.max()}")
    named = [images[index] for index in labels.frame_id]
    stems = [bare(name) for name in prediction.frame_names]
    return rows_of(named, stems, f"the labels of {vid}")
