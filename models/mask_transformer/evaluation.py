"""Metrics logged in training, validation and test (spec: models 5.3)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.mask_transformer.losses import camera_poses, contact_joints, global_joints, relative_poses
from models.mask_transformer.network import TransformerOutput
from moro.geometry.trajectory import TrajectoryStats
from moro.metrics import (
    acceleration,
    contact_accuracy,
    foot_sliding,
    mean_error,
    pa_error,
    velocity_error,
)


@dataclass(frozen=True)
class PredictedMeshes:
    """Local meshes (B, F, V, 3), metres."""

    prediction: Tensor  # from the predicted ids, smoothed
    reconstruction: Tensor  # from the true ids: what the tokenizer can do


@torch.no_grad()
def motion_metrics(
    task: str,
    batch: Mapping[str, Tensor],
    output: TransformerOutput,
    meshes: PredictedMeshes,
    joint_regressor: Tensor,
    stats: TrajectoryStats | None,
    use_transl: bool = True,
) -> dict[str, Tensor]:
    """Scalars by logged name; lengths in mm, velocities in m/s, accelerations in m/s², `fs` in mm per frame.

    batch            with ground truth (spec: models 0.4)
    joint_regressor  (22, V)
    """
    F = meshes.prediction.shape[1]
    joints = joint_regressor @ meshes.prediction  # (B, F, 22, 3)
    metrics = {
        "mve": mean_error(meshes.prediction, batch["mesh"]),
        "mpjpe": mean_error(joints, batch["local_joints"]),
        "pa_mpjpe": pa_error(joints, batch["local_joints"]),
        "qe": mean_error(meshes.reconstruction, batch["mesh"]),
    }
    if F > 2:
        metrics["local_accel"] = acceleration(joints)
    if task == "motion":
        metrics |= _relative_metrics(batch, output, meshes.prediction, joints, stats)
    else:
        metrics |= _camera_metrics(task, batch, output, meshes.prediction, joints, use_transl)
    if task != "image" and F > 1 and "contact_label" in batch:
        metrics["contact_acc"] = contact_accuracy(output.contact, batch["contact_label"])
    return {name: value.mean() for name, value in metrics.items()}


def _relative_metrics(
    batch: Mapping[str, Tensor],
    output: TransformerOutput,
    mesh: Tensor,
    joints: Tensor,
    stats: TrajectoryStats,
) -> dict[str, Tensor]:
    rotation, translation = relative_poses(output, batch, stats)
    metrics, moved = _global_metrics(batch, mesh, joints, rotation, translation, "_rel")
    if joints.shape[1] > 2:
        metrics["gmpjve_rel"] = velocity_error(moved, global_joints(batch))
        metrics["accel_rel"] = acceleration(moved)
    if joints.shape[1] > 1:
        metrics["fs_rel"] = _sliding(moved, batch, output)
    return metrics


def _camera_metrics(
    task: str,
    batch: Mapping[str, Tensor],
    output: TransformerOutput,
    mesh: Tensor,
    joints: Tensor,
    use_transl: bool,
) -> dict[str, Tensor]:
    metrics: dict[str, Tensor] = {}
    for suffix, pose in camera_poses(output, batch, use_transl).items():
        terms, moved = _global_metrics(batch, mesh, joints, *pose, suffix)
        metrics |= terms
    if task == "video" and joints.shape[1] > 2:  # `moved` is that of the final pose, the last of the two
        metrics["gmpjve"] = velocity_error(moved, global_joints(batch))
        metrics["accel"] = acceleration(moved)
        metrics["p_accel"] = acceleration(moved[..., :1, :])
    if task == "video" and joints.shape[1] > 1:
        metrics["fs"] = _sliding(moved, batch, output)
    return metrics


def _global_metrics(
    batch: Mapping[str, Tensor],
    mesh: Tensor,
    joints: Tensor,
    rotation: Tensor,
    translation: Tensor,
    suffix: str,
) -> tuple[dict[str, Tensor], Tensor]:
    """Vertex and joint errors in camera or world, and the moved joints (B, F, 22, 3)."""
    moved = joints @ rotation.mT + translation
    target = batch["mesh"] @ batch["rotation"].mT + batch["translation"]
    metrics = {
        f"gmve{suffix}": mean_error(mesh @ rotation.mT + translation, target),
        f"gmpjpe{suffix}": mean_error(moved, global_joints(batch)),
    }
    return metrics, moved


def _sliding(moved: Tensor, batch: Mapping[str, Tensor], output: TransformerOutput) -> Tensor:
    """Mean sliding (B,) of the contact joints of each clip, 0 if none stands."""
    chosen = contact_joints(output.contact.shape[-1])
    clips = zip(moved[:, :, chosen], global_joints(batch)[:, :, chosen])
    values = [foot_sliding(prediction, target) for prediction, target in clips]
    return torch.stack([value.mean() if value.numel() else moved.new_zeros(()) for value in values])
