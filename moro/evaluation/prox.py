"""PROX's protocol (spec: data 8.5): plausibility without ground truth, in the scene turned y-up."""

from functools import partial
from pathlib import Path

import numpy as np

from moro.errors import MoroError
from moro.evaluation.frames import Z_UP_TO_Y_UP, bare, move, require_results, result_file
from moro.evaluation.measures import Measured, Report, plausibility
from moro.evaluation.options import Options
from moro.evaluation.prediction import Prediction, Predictor
from moro.evaluation.regressors import load_regressors
from moro.evaluation.videos import Evaluation, Scene, image_reader
from moro.io import prox_files as files
from moro.render.scene import Image


def evaluate_prox(options: Options) -> Evaluation:
    """Metrics of one recording, or of the test recordings.

    Raises MoroError when a file is missing.
    """
    recordings = list(files.RECORDINGS) if options.name == "all" else [options.name]
    require_results(options.saved_data_dir, recordings)
    regressors = load_regressors(options.bm_path)
    predictor = Predictor(options.method, options.bm_path, regressors)
    report = Report([measure(recording, predictor, options) for recording in recordings])
    drawn = recordings if options.draws else []
    return Evaluation(report, [partial(scene_of, recording, predictor, options) for recording in drawn])


def measure(recording: str, predictor: Predictor, options: Options) -> Measured:
    """Metrics of all frames, from all joints of the regressor."""
    prediction = predictor.load(result_file(options.saved_data_dir, recording))
    vertices = move(prediction.vertices, _cam2world(recording, options))
    floor = floor_height(recording, prediction, options)
    return Measured(recording, len(vertices), plausibility(predictor.regressors.to_joints(vertices), floor))


def floor_height(recording: str, prediction: Prediction, options: Options) -> float:
    """y of the floor: the lowest predicted vertex as published (defect D21), or the scene's own."""
    if not options.scene_floor:
        return float(move(prediction.vertices, _cam2world(recording, options))[..., 1].min())
    scene = files.scene_of(recording)
    if scene not in files.FLOOR_HEIGHTS:
        raise MoroError(f"the floor of scene {scene} is not known; leave --scene_floor out")
    return files.FLOOR_HEIGHTS[scene]


def scene_of(recording: str, predictor: Predictor, options: Options) -> Scene:
    """The recording as it is drawn."""
    prediction = predictor.load(result_file(options.saved_data_dir, recording))
    root = options.dataset_root
    lens = files.colour_lens(root)

    def upright(image: Image) -> Image:
        return np.ascontiguousarray(lens.undistort(image)[:, ::-1])  # stored mirrored, distortion included

    centers, scales = None, None
    if options.boxes:
        boxes = files.person_boxes(root, recording)
        centers, scales = boxes.of([bare(name) for name in prediction.frame_names])
    names = prediction.frame_names
    return Scene(
        video=recording,
        pictures=Path(recording),
        frame_names=[f"{bare(name)}.jpg" for name in names],
        prediction=prediction.vertices,
        truth=None,
        image=image_reader(files.image_folder(root, recording), names, lens.size, upright),
        K=lens.K,
        centers=centers,
        scales=scales,
        cam2world=_cam2world(recording, options),
        floor=floor_height(recording, prediction, options),
    )


def _cam2world(recording: str, options: Options) -> np.ndarray:
    """(4, 4) camera → the scene, y up."""
    return Z_UP_TO_Y_UP @ files.camera_to_world(options.dataset_root, recording)
