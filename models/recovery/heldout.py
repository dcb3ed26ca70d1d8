"""The open model on held-out motion seen by virtual cameras, against three baselines.

Ground truth is exact, so errors are split by what the camera could see: a joint is occluded in a frame if
something hid it or it lay outside the image.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from models.mask_transformer.build import build_system, choose_checkpoint, load_weights, resolve_paths
from models.mask_transformer.data.module import collate
from models.mask_transformer.data.open_motion import OpenMotionDataset, WorldRanges
from models.mask_transformer.system import MoRoSystem
from moro.body.fitting import fit_body
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.refinement import refine_by_landmarks
from moro.config import compose_config
from moro.geometry.alignment import similarity_align
from moro.geometry.boxes import landmark_rays
from moro.geometry.contact import FEET
from moro.metrics.errors import (
    acceleration_error,
    foot_sliding,
    hip_centred,
    joint_error,
    root_trajectory_error,
)
from moro.synth.landmarks import CROWDED, EXACT
from moro.synth.occlusion import OcclusionRanges

FRAMES_PER_PASS = 256  # single frames given to the network at once
LONGEST = 300  # frames of a motion that count: a few recordings of a minute shall not outweigh all others
SHORTEST_PATH = 1.0  # metres; less is standing still and has no path to be relative to
TORSO = [0, 1, 2, 12, 16, 17]  # joints that tell where somebody faces

_ONLY_HIDDEN = OcclusionRanges(
    clear=0, limb=0, lower_body=0.5, side=0.5, whole=0, image_box=0, pole=0, whole_clip=0, max_events=1,
    every=4,
)  # fmt: skip
_HIDDEN = replace(_ONLY_HIDDEN, seconds=(1.0, 2.0))
_CLEAR = OcclusionRanges(clear=1.0)
SCENARIOS = {
    "clean": WorldRanges(occlusion=_CLEAR),  # nothing occluded but by the image border
    "hidden": WorldRanges(occlusion=_HIDDEN),  # lower body or one side, once in four seconds
    "gap": WorldRanges(occlusion=replace(_ONLY_HIDDEN, seconds=(2.0, 2.0))),  # two seconds each time
    "mixed": WorldRanges(),  # all kinds; training adds claimed limbs and tilted cameras (training_world)
    "crowd": WorldRanges(occlusion=_HIDDEN, detector=replace(CROWDED, claimed=1.0)),  # hidden by people
    "exact": WorldRanges(occlusion=_CLEAR, detector=EXACT),  # clean, from landmarks without errors
}
STANDARD = ("clean", "hidden", "gap", "mixed")  # the others show what limits the result

Predictor = Callable[[Mapping], Tensor]
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Errors:
    """Of one method on one sequence; millimetres unless said."""

    family: str  # of the motion
    mpjpe: Tensor  # (F, 22)
    pa_mpjpe: Tensor  # (F, 22)
    visible: Tensor  # (F, 22) bool
    accel: Tensor  # (N,) m/s²
    sliding: Tensor  # (N,) mm per frame while the true foot rests
    rte: Tensor  # (1,) percent of the path, or (0,) of somebody who stays


def summary(errors: Sequence[Errors]) -> dict[str, float]:
    """Means over frames and joints, RTE over sequences; NaN where there is nothing."""
    visible = torch.cat([part.visible for part in errors])
    row = {}
    for name, values in (
        ("PA-MPJPE", torch.cat([part.pa_mpjpe for part in errors])),
        ("MPJPE", torch.cat([part.mpjpe for part in errors])),
    ):
        row[name] = values.mean()
        row[f"{name} visible"], row[f"{name} occluded"] = values[visible].mean(), values[~visible].mean()
    row["Accel error [m/s2]"] = torch.cat([part.accel for part in errors]).mean()
    row["Foot sliding [mm/frame]"] = torch.cat([part.sliding for part in errors]).mean()
    row["RTE [%]"] = torch.cat([part.rte for part in errors]).mean()
    return {name: float(value) for name, value in row.items()}


def held_out_tables(
    overrides: Sequence[str],
    split: str = "test",
    limit: int | None = None,
    scenarios: Collection[str] = STANDARD,
) -> dict[str, Table]:
    """{scenario: {method: {measure: value}}} of the open model on a split of the motion data, and
    {"<scenario>, MoRo by family": {family: ...}}.

    overrides  configuration, as on the command line; `tag=release`, the shipped weights, unless it says other
    limit      only so many motions, evenly spread over the sorted names
    Methods: MoRo (what the demo does, on whole sequences), its single-frame stage, the same with hidden
    joints interpolated in time, and the mean pose placed where the single-frame stage says.
    """
    video = load_stage("video_train", overrides)
    frame = load_stage("video_pretrain", [*overrides, "model.test.mirror=false"])
    body = load_body_model(video.cfg.dataset.bm_path, video.cfg.dataset.model_type)
    single, mean, tables = Remembered(frame_method(frame)), None, {}
    for name in scenarios:
        dataset, starts = held_out_data(video.cfg, body, name, split, limit)
        if mean is None:
            mean = mean_joints(frame, (dataset[number]["mesh"] for number in starts[::8]))
        methods = {
            "MoRo": clip_method(video, body),
            "single frame": single,
            "single frame, gaps interpolated": interpolated(single),
            "mean pose": mean_pose(single, mean),
        }
        errors = evaluate(dataset, starts, methods, name)
        tables[name] = {method: summary(parts) for method, parts in errors.items()}
        tables[f"{name}, MoRo by family"] = by_family(errors["MoRo"])
    return tables


def held_out_data(
    cfg: DictConfig, body: BodyModel, scenario: str, split: str, limit: int | None = None
) -> tuple[OpenMotionDataset, list[int]]:
    """The motions of a split under a scenario, and the numbers of their first windows, one for each."""
    dataset = OpenMotionDataset(
        cfg.dataset.dataset_root or cfg.dataset.roots.open, "test", body, clip_len=LONGEST, camera=True,
        motions_of=split, motions=limit, neighbours=cfg.model.backbone.neighbours,
        world=SCENARIOS[scenario],
    )  # fmt: skip
    return dataset, [number for number, window in enumerate(dataset.windows) if window.start == 0]


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


def by_family(errors: Iterable[Errors]) -> Table:
    """{family: {measure: value}} of one method."""
    families: dict[str, list[Errors]] = {}
    for part in errors:
        families.setdefault(part.family, []).append(part)
    return {family: summary(parts) for family, parts in sorted(families.items())}


def evaluate(
    dataset: OpenMotionDataset, items: Iterable[int], methods: Mapping[str, Predictor], title: str = ""
) -> dict[str, list[Errors]]:
    """Errors of each method in each item that is long enough to have accelerations.

    methods  sample → joints (F, 22, 3) in the camera frame, metres
    """
    errors: dict[str, list[Errors]] = {name: [] for name in methods}
    for number in tqdm(list(items), desc=f"held-out {title}", unit="clip", disable=None):
        sample, family = dataset[number], dataset.motions[dataset.windows[number].motion].family
        if len(sample["rotation"]) < 4:
            continue
        truth = sample["local_joints"] @ sample["rotation"].mT + sample["translation"]
        for name, predict in methods.items():
            errors[name].append(errors_of(predict(sample), truth, sample["joint_visible"], family))
    return errors


def errors_of(prediction: Tensor, truth: Tensor, visible: Tensor, family: str = "") -> Errors:
    """prediction, truth (F, 22, 3) camera frame; visible (F, 22) bool."""
    own, true = hip_centred(prediction), hip_centred(truth)
    path = (truth[1:, 0] - truth[:-1, 0]).norm(dim=-1).sum()
    stays = path < SHORTEST_PATH
    return Errors(
        family,
        joint_error(own, true),
        joint_error(similarity_align(own, true), true),
        visible,
        acceleration_error(own, true).flatten(),  # (F-2, 22) -> ((F-2)*22,)
        foot_sliding(prediction[:, list(FEET)], truth[:, list(FEET)]),
        root_trajectory_error(prediction[:, 0], truth[:, 0]).mean().reshape(1)[int(stays) :],
    )


# ------------------------------------------------------------------------------------------------- methods


class Remembered:
    """A method that remembers its last result: three of the methods begin with the single frames'."""

    def __init__(self, predict: Predictor) -> None:
        self.predict = predict
        self.last: tuple[Mapping | None, Tensor | None] = (None, None)

    def __call__(self, sample: Mapping) -> Tensor:
        if self.last[0] is not sample:
            self.last = (sample, self.predict(sample))
        return self.last[1]


def clip_method(system: MoRoSystem, body: BodyModel) -> Predictor:
    """What the demo does, on the whole sequence at once: the video model, and with `demo.refine` the limbs of
    the fitted body turned to the landmarks."""

    def predict(sample: Mapping) -> Tensor:
        recovered = system.recover(observed(collate([sample])))
        vertices = recovered.vertices[0]
        if not system.cfg.demo.refine:
            return system.loss.joint_regressor @ vertices
        seen = landmark_rays(*(sample[key] for key in ("landmarks", "center", "scale", "K")))
        return refine_by_landmarks(body, fit_body(body, vertices), *seen, recovered.contact[0]).joints

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
    body = {"mesh", "local_joints", "rotation", "translation", "root_pos", "offset"}
    hidden = body | {"contact_label", "standing"}
    return {key: value for key, value in batch.items() if key not in hidden}


def mean_joints(system: MoRoSystem, meshes: Iterable[Tensor]) -> Tensor:
    """(22, 3) mean pelvis-centred joints of some local meshes (*, V, 3)."""
    regressor = system.loss.joint_regressor
    return torch.stack([(regressor @ mesh).flatten(0, -3).mean(0) for mesh in meshes]).mean(0)
