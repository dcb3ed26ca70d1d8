"""The open model on held-out motion seen by virtual cameras, against two baselines.

Ground truth is exact, so errors are split by what the camera could see: a joint is occluded in a frame if
something hid it or it lay outside the image.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import roma
import torch
from torch import Tensor
from tqdm import tqdm

from models.mask_transformer.build import build_system, choose_checkpoint, load_weights, resolve_paths
from models.mask_transformer.data.module import collate
from models.mask_transformer.data.open_motion import OpenMotionDataset
from models.mask_transformer.system import MoRoSystem
from moro.body.loading import load_body_model
from moro.config import compose_config
from moro.geometry.alignment import similarity_align
from moro.metrics.errors import (
    acceleration_error,
    foot_sliding,
    hip_centred,
    joint_error,
    root_trajectory_error,
)

FRAMES_PER_PASS = 256  # single frames given to the network at once
WHOLE_SEQUENCE = 100_000  # frames; longer than any motion, so that an item is a sequence
FEET = [7, 10, 8, 11]
TORSO = [0, 1, 2, 12, 16, 17]  # joints that tell where somebody faces

Predictor = Callable[[Mapping], Tensor]


@dataclass
class Scores:
    """Sums over frames and joints of one method; errors in millimetres unless said."""

    mpjpe: list[Tensor]  # of (F, 22) each
    pa_mpjpe: list[Tensor]
    visible: list[Tensor]
    accel: list[Tensor]  # m/s²
    sliding: list[Tensor]  # mm per frame while the true foot rests
    rte: list[Tensor]  # percent of the path

    def table(self) -> dict[str, float]:
        visible = torch.cat(self.visible)
        row = {}
        for name, values in (("PA-MPJPE", self.pa_mpjpe), ("MPJPE", self.mpjpe)):
            errors = torch.cat(values)
            row[name] = float(errors.mean())
            row[f"{name} visible"] = float(errors[visible].mean())
            row[f"{name} occluded"] = float(errors[~visible].mean())
        row["Accel error [m/s2]"] = float(torch.cat(self.accel).mean())
        row["Foot sliding [mm/frame]"] = float(torch.cat(self.sliding).mean())
        row["RTE [%]"] = float(np.mean([float(value) for value in self.rte])) if self.rte else float("nan")
        return row


Table = dict[str, dict[str, float]]


def held_out_table(overrides: Sequence[str], split: str = "test", limit: int | None = None) -> Table:
    """{method: {measure: value}} of the open model on a split of the motion data.

    overrides  configuration, as on the command line; `tag=release`, the shipped weights, unless it says other
    Methods: MoRo (the video model on whole sequences), its single-frame stage, the same with hidden joints
    interpolated in time, and the mean pose placed where the single-frame stage says.
    """
    video, frame = load_stage("video_train", overrides), load_stage("video_pretrain", overrides)
    cfg = video.cfg
    body = load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type)
    root = cfg.dataset.dataset_root or cfg.dataset.roots.open
    dataset = OpenMotionDataset(
        root, "test", body, clip_len=WHOLE_SEQUENCE, camera=True, motions_of=split,
        neighbours=cfg.model.backbone.neighbours,
    )  # fmt: skip
    single = frame_method(frame)
    mean = mean_joints(frame, (dataset[i]["mesh"] for i in range(0, len(dataset), 8)))
    methods = {
        "MoRo": clip_method(video),
        "single frame": single,
        "single frame, gaps interpolated": interpolated(single),
        "mean pose": mean_pose(single, mean),
    }
    return evaluate(dataset, methods, limit)


def load_stage(stage: str, overrides: Sequence[str]) -> MoRoSystem:
    """A trained stage of the open model: shipped (tag=release, the default here) or of the tag given."""
    chosen = [f"option=[inference,{stage}]", "preset=open", "tag=release", *overrides]
    cfg, paths = resolve_paths(compose_config("config", chosen))
    system = build_system(cfg, initialise=False)
    load_weights(system, choose_checkpoint(cfg, paths))
    return system.eval()


def format_table(table: Table) -> str:
    """Lines of text: a row for each outer key, a column for each inner one; NaN where a row lacks it."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    first = max(len(name) for name in table)
    lines = [" ".join((" " * first, *(f"{name:>10}" for name in columns)))]
    for name, row in table.items():
        values = (f"{row.get(column, float('nan')):{max(10, len(column))}.2f}" for column in columns)
        lines.append(" ".join((f"{name:<{first}}", *values)))
    return "\n".join(lines)


def transposed(table: Table) -> Table:
    """Rows and columns exchanged."""
    names = dict.fromkeys(name for row in table.values() for name in row)
    return {name: {key: row[name] for key, row in table.items() if name in row} for name in names}


def evaluate(dataset: OpenMotionDataset, methods: Mapping[str, Predictor], limit: int | None = None) -> Table:
    """Error table {method: {measure: value}} over a data set whose items are whole sequences.

    methods  sample → joints (F, 22, 3) in the camera frame, metres
    limit    only the first n sequences
    """
    scores = {name: Scores([], [], [], [], [], []) for name in methods}
    count = min(len(dataset), limit or len(dataset))
    for index in tqdm(range(count), desc="held-out", unit="clip", disable=None):
        sample = dataset[index]
        if len(sample["rotation"]) < 4:
            continue  # no acceleration to speak of
        truth = sample["local_joints"] @ sample["rotation"].mT + sample["translation"]
        for name, predict in methods.items():
            add_scores(scores[name], predict(sample), truth, sample["joint_visible"])
    return {name: score.table() for name, score in scores.items()}


def add_scores(scores: Scores, prediction: Tensor, truth: Tensor, visible: Tensor) -> None:
    """prediction, truth (F, 22, 3) camera frame; visible (F, 22) bool."""
    own, true = hip_centred(prediction), hip_centred(truth)
    scores.mpjpe.append(joint_error(own, true))
    scores.pa_mpjpe.append(joint_error(similarity_align(own, true), true))
    scores.visible.append(visible)
    scores.accel.append(acceleration_error(own, true).flatten())
    scores.sliding.append(foot_sliding(prediction[:, FEET], truth[:, FEET]))
    path = (truth[1:, 0] - truth[:-1, 0]).norm(dim=-1).sum()
    if path > 1.0:  # standing still has no path to be relative to
        scores.rte.append(root_trajectory_error(prediction[:, 0], truth[:, 0]).mean())


# ------------------------------------------------------------------------------------------------- methods


def clip_method(system: MoRoSystem) -> Predictor:
    """The video model, on the whole sequence at once."""

    def predict(sample: Mapping) -> Tensor:
        recovered = system.recover(observed(collate([sample])))
        return (system.loss.joint_regressor @ recovered.vertices)[0]

    return predict


def frame_method(system: MoRoSystem) -> Predictor:
    """A single-frame model on every frame by itself: no frame knows its neighbours."""

    def predict(sample: Mapping) -> Tensor:
        batch = observed(collate([sample]))
        frames = len(sample["rotation"])
        parts = []
        for rows in torch.arange(frames).split(FRAMES_PER_PASS):
            single = {
                key: value[0, rows, None] if value.ndim > 1 and value.shape[1] == frames else value
                for key, value in batch.items()
                if isinstance(value, Tensor) and key != "neighbours"
            }
            parts.append((system.loss.joint_regressor @ system.recover(single).vertices)[:, 0])
        return torch.cat(parts)

    return predict


def interpolated(single: Predictor) -> Predictor:
    """Single-frame results; where a joint is truly hidden, interpolated in time from where it is visible.

    The pelvis is interpolated by itself, the other joints relative to it. That this baseline is told the true
    visibility favours it.
    """

    def predict(sample: Mapping) -> Tensor:
        joints, visible = single(sample), sample["joint_visible"].numpy()
        pelvis = fill_gaps(joints[:, :1], visible[:, :1])
        return pelvis + fill_gaps(joints - joints[:, :1], visible)

    return predict


def fill_gaps(points: Tensor, known: np.ndarray) -> Tensor:
    """points (F, N, C), linearly interpolated over the frames in which they are not `known` (F, N)."""
    frames = np.arange(len(points))
    filled = points.numpy().copy()
    for n in range(points.shape[1]):
        have = known[:, n]
        if have.any() and not have.all():
            for axis in range(points.shape[2]):
                filled[~have, n, axis] = np.interp(frames[~have], frames[have], filled[have, n, axis])
    return torch.from_numpy(filled)


def mean_pose(single: Predictor, mean_joints: Tensor) -> Predictor:
    """The mean pose (22, 3), pelvis-centred, turned and placed as the single-frame model says."""

    def predict(sample: Mapping) -> Tensor:
        joints = single(sample)
        return rigid_place(mean_joints.expand_as(joints), joints, TORSO)

    return predict


def rigid_place(template: Tensor, target: Tensor, points: list[int]) -> Tensor:
    """template (F, N, 3) moved rigidly so that the given points lie best on those of target."""
    rotation, translation = roma.rigid_points_registration(template[:, points], target[:, points])
    return template @ rotation.mT + translation[:, None]


def observed(batch: Mapping) -> dict:
    """The batch without what only the ground truth knows."""
    hidden = {"mesh", "local_joints", "rotation", "translation", "root_pos", "offset", "contact_label"}
    return {key: value for key, value in batch.items() if key not in hidden}


def mean_joints(system: MoRoSystem, meshes: Iterable[Tensor]) -> Tensor:
    """(22, 3) mean pelvis-centred joints of some local meshes (*, V, 3)."""
    regressor = system.loss.joint_regressor
    return torch.stack([(regressor @ mesh).flatten(0, -3).mean(0) for mesh in meshes]).mean(0)
