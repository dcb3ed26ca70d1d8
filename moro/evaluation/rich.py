"""RICH's protocol (spec: data 8.4): errors in the world frame, every labelled frame."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.evaluation.frames import Z_UP_TO_Y_UP, bare, move, require_results, result_file, rows_of
from moro.evaluation.measures import Measured, Report, errors_against_truth
from moro.evaluation.options import Options
from moro.evaluation.prediction import Parameters, Prediction, Predictor, smpl_vertices
from moro.evaluation.regressors import Regressors, load_regressors
from moro.evaluation.videos import Scene, draw_videos, image_reader, smpl_faces
from moro.io import rich_files as files
from moro.io.rich_files import Labels

logger = logging.getLogger(__name__)

DOWNSAMPLE = 4  # of the pictures
CROP_PERIOD, CROP_FROM = 200, 100  # frames: the second half of each period shows the upper half of the box


def evaluate_rich(options: Options) -> Report:
    """Metrics of the videos whose name contains `options.name`, or of all; the videos asked for.

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
    measured = []
    for vid in vids:
        name = "/".join(files.split_vid(vid))
        prediction = predictor.load(result_file(options.saved_data_dir, name))
        rows = _label_rows(vid, labels[vid], prediction, options)
        truth = true_vertices(labels[vid], rows, options, regressors)
        _, world2cam = files.read_camera(options.dataset_root, vid)
        measured.append(measure(name, prediction, truth, world2cam, regressors))
        if options.render or options.render_gt or options.visualize_3d:
            scene = scene_of(vid, prediction, move(truth, world2cam), rows, options)
            draw_videos(scene, options, smpl_faces(options.bm_path, regressors.num_vertices))
    return Report(measured)


def measure(
    name: str, prediction: Prediction, truth: Tensor, world2cam: NDArray, regressors: Regressors
) -> Measured:
    """Metrics of all frames, from all joints of the regressor; truth (F, V, 3) in the world."""
    vertices = move(prediction.vertices, np.linalg.inv(world2cam))
    feet = regressors.foot_points()
    if feet is None:
        logger.warning("foot sliding is left out: the body files are not SMPL's mesh")
    joints, true_joints = regressors.to_joints(vertices), regressors.to_joints(truth)
    return Measured(name, len(vertices), errors_against_truth(joints, true_joints, vertices, truth, feet))


def true_vertices(labels: Labels, rows: list[int], options: Options, regressors: Regressors) -> Tensor:
    """SMPL vertices (F, V, 3) of rows of the labels, in the world frame."""
    body = load_body_model(options.bm_path, "smplx", labels.gender)
    parameters = Parameters.from_rotvecs({key: array[rows] for key, array in labels.parameters.items()})
    return smpl_vertices(body, parameters, regressors, is_smplx=True)


def scene_of(vid: str, prediction: Prediction, truth: Tensor, rows: list[int], options: Options) -> Scene:
    """The sequence as it is drawn; truth (F, V, 3) in the camera frame."""
    root = options.dataset_root
    sequence, camera = files.split_vid(vid)
    K, world2cam = files.read_camera(root, vid)
    cam2world = np.linalg.inv(world2cam)
    if options.visualize_3d:  # the world's own axes are a camera's: turn them to the floor
        scan = files.scan_names(root).get(sequence, "")
        frames = files.read_floor_frames(root)
        if scan not in frames:
            raise MoroError(f"{root}/resource has no floor frame of {sequence}; leave --visualize_3d out")
        cam2world = Z_UP_TO_Y_UP @ frames[scan] @ cam2world
    centers, scales = _boxes(vid, rows, options) if options.boxes else (None, None)
    names = prediction.frame_names
    return Scene(
        video=f"{sequence}_{camera}",
        pictures=Path(sequence) / camera,
        frame_names=[f"{bare(name)}.jpeg" for name in names],
        prediction=prediction.vertices,
        truth=truth,
        image=image_reader(files.image_folder(root, vid), names, None),
        K=K,
        centers=centers,
        scales=scales,
        cam2world=cam2world,
        floor=0.0,
        downsample=DOWNSAMPLE,
    )


def _boxes(vid: str, rows: list[int], options: Options) -> tuple[NDArray, NDArray]:
    """Centres (F, 2) and scales (F,) of the boxes, cut by the crop protocol if asked (defect D16)."""
    boxes = files.read_boxes(options.dataset_root)
    if vid not in boxes or len(boxes[vid].bbx_xys) <= max(rows):
        raise MoroError(f"rich_test_preproc.pt has no boxes for all frames of {vid}; use --no_bbox")
    chosen = boxes[vid].bbx_xys[rows]
    centers, scales = chosen[:, :2].copy(), chosen[:, 2] / 200
    if options.crop_bbox:
        cut = np.asarray(rows) % CROP_PERIOD >= CROP_FROM
        centers[cut, 1] -= 50 * scales[cut]
        scales[cut] /= 2
    return centers, scales


def _label_rows(vid: str, labels: Labels, prediction: Prediction, options: Options) -> list[int]:
    """Row of the labels for each predicted frame, matched by the name of the image."""
    folder = files.image_folder(options.dataset_root, vid)
    images = sorted(path.stem for path in folder.glob("*.jp*g"))
    if not images:
        if len(prediction.frame_names) != len(labels.frame_id):
            raise MoroError(f"{folder} has no images; their names tell which label belongs to which frame")
        return list(range(len(labels.frame_id)))  # every label has its frame, in order
    if labels.frame_id.max(initial=-1) >= len(images):
        raise MoroError(f"{folder} has {len(images)} images, the labels name number {labels.frame_id.max()}")
    named = [images[index] for index in labels.frame_id]
    stems = [bare(name) for name in prediction.frame_names]
    return rows_of(named, stems, f"the labels of {vid}")
