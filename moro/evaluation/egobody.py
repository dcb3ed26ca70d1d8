"""EgoBody's protocol (spec: data 8.3): errors in the world frame, split by what the camera could see."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moro.errors import MoroError
from moro.evaluation.frames import bare, move, require_results, result_file, rows_of
from moro.evaluation.measures import Measured, Report, errors_against_truth
from moro.evaluation.options import Options
from moro.evaluation.prediction import Prediction, Predictor, TrueBodies
from moro.evaluation.regressors import load_regressors
from moro.evaluation.videos import Evaluation, Scene, image_reader
from moro.io import egobody_files as files
from moro.io.egobody_files import TestSequence
from moro.io.scenes import read_frame_parameters

logger = logging.getLogger(__name__)

NUM_JOINTS = 22


def evaluate_egobody(options: Options) -> Evaluation:
    """Metrics of one recording, or of every row of the table of test sequences.

    Raises MoroError when a file is missing or results do not cover the frames that count.
    """
    sequences = select_sequences(files.read_test_sequences(options.dataset_root), options.name)
    require_results(options.saved_data_dir, [sequence.name for sequence in sequences])
    regressors = load_regressors(options.bm_path)
    predictor = Predictor(options.method, options.bm_path, regressors)
    bodies = TrueBodies("smplh", options.bm_path, regressors)
    steps = [(sequence, predictor, options, bodies) for sequence in sequences]
    report = Report([measure(*step) for step in steps])
    return Evaluation(report, [partial(scene_of, *step) for step in steps if options.draws])


def select_sequences(sequences: list[TestSequence], name: str) -> list[TestSequence]:
    """Those of one recording, or all. MoroError if there is none of that name."""
    chosen = [sequence for sequence in sequences if name in ("all", sequence.recording)]
    if not chosen:
        known = ", ".join(sorted({sequence.recording for sequence in sequences}))
        raise MoroError(f"EgoBody has no test recording {name!r}; use all or one of {known}")
    return chosen


def measure(
    sequence: TestSequence, predictor: Predictor, options: Options, bodies: TrueBodies
) -> Measured:
    """Metrics of the frames that count, from 22 joints in the world."""
    root, regressors = options.dataset_root, bodies.regressors
    prediction = predictor.load(result_file(options.saved_data_dir, sequence.name))
    rows = _rows_that_count(sequence, prediction, options)
    names = [prediction.frame_names[row] for row in rows]
    master2world = files.master_to_world(root, sequence.recording, sequence.scene)
    cam2world = master2world @ files.view_to_master(root, sequence.recording, sequence.view)
    vertices = move(prediction.vertices[rows], cam2world)
    truth = move(true_vertices(sequence, names, options, bodies), master2world)
    feet = regressors.foot_points()
    if feet is None:
        logger.warning("foot sliding is left out: the body files are not SMPL's mesh")
    values = errors_against_truth(
        regressors.to_joints(vertices, NUM_JOINTS),
        regressors.to_joints(truth, NUM_JOINTS),
        vertices,
        truth,
        feet,
        _visible_joints(sequence, len(rows), options),
    )
    return Measured(sequence.name, len(rows), values)


def true_vertices(
    sequence: TestSequence, names: list[str], options: Options, bodies: TrueBodies
) -> Tensor:
    """SMPL vertices (F, V, 3) of images, by name, in the master camera's frame."""
    folder = files.parameter_folder(
        options.dataset_root, "smpl", sequence.recording, sequence.body_idx, sequence.interactee_idx
    )
    return bodies.vertices(sequence.gender, read_frame_parameters(folder, [bare(name) for name in names]))


def scene_of(sequence: TestSequence, predictor: Predictor, options: Options, bodies: TrueBodies) -> Scene:
    """The whole prediction as it is drawn; truth only if it is drawn too."""
    root, recording, view = options.dataset_root, sequence.recording, sequence.view
    prediction = predictor.load(result_file(options.saved_data_dir, sequence.name))
    master2world = files.master_to_world(root, recording, sequence.scene)
    view2master = files.view_to_master(root, recording, view)
    truth = None
    if options.render_gt or options.visualize_3d:
        names = list(prediction.frame_names)
        truth = move(true_vertices(sequence, names, options, bodies), np.linalg.inv(view2master))
    lens = files.view_lens(root, view)
    centers, scales = None, None
    if options.boxes:
        boxes = files.person_boxes(root, recording, view, sequence.body_idx)
        centers, scales = boxes.of([bare(name) for name in prediction.frame_names])
    cam2world = master2world @ view2master
    floor = files.FLOOR_HEIGHTS.get(sequence.scene)
    if floor is None:  # a scene that is not EgoBody's: the body stands on it
        floor = float(move(prediction.vertices, cam2world)[..., 1].min())
    return Scene(
        video=f"{recording}-{view}-{sequence.body_idx}",
        pictures=Path(sequence.name),
        frame_names=[f"{bare(name)}.jpg" for name in prediction.frame_names],
        prediction=prediction.vertices,
        truth=truth,
        image=image_reader(
            files.image_folder(root, recording, view),
            prediction.frame_names,
            lens.size,
            lens.undistort,
        ),
        K=lens.K,
        centers=centers,
        scales=scales,
        cam2world=cam2world,
        floor=floor,
    )


def _rows_that_count(sequence: TestSequence, prediction: Prediction, options: Options) -> list[int]:
    """Rows of the prediction from target_start_frame to target_end_frame; RoHM may end before."""
    wanted = [f"frame_{n:05d}" for n in range(sequence.start_frame, sequence.end_frame + 1)]
    stems = [bare(name) for name in prediction.frame_names]
    if options.method == "RoHM" and wanted[-1] not in stems:
        last = max((n for n, name in enumerate(wanted) if name in set(stems)), default=-1)
        wanted = wanted[: last + 1]
        if not wanted:
            raise MoroError(f"results of {sequence.name} hold no frame that counts")
    return rows_of(stems, wanted, result_file(options.saved_data_dir, sequence.name))


def _visible_joints(sequence: TestSequence, num_frames: int, options: Options) -> Tensor | None:
    """(F, 22) bool; None, with a warning, where the recording has no mask."""
    path = options.dataset_root / "mask_joint" / sequence.recording / sequence.view / "mask_joint.npy"
    try:
        mask = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        logger.warning("%s not found: no visible and occluded errors of this sequence", path)
        return None
    except (OSError, ValueError, EOFError) as error:
        raise MoroError(f"{path} is not a readable array ({error}); fetch it again") from error
    length = sequence.end_frame - sequence.start_frame + 1
    if mask.ndim != 2 or len(mask) != length or mask.shape[1] < NUM_JOINTS:
        raise MoroError(
            f"{path} is {mask.shape}, expected ({length}, {NUM_JOINTS} or more): one row for each frame from "
            f"{sequence.start_frame} to {sequence.end_frame}; use the table and the masks of one release"
        )
    return torch.from_numpy(mask[:num_frames, :NUM_JOINTS] > 0.5)
