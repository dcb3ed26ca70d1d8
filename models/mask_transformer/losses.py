"""Training losses of the masked transformer (spec: models 4.6, 5.1, 5.2)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.distributed import mean_over_processes
from models.mask_transformer.draws import Source, exponential_like
from models.mask_transformer.network import TransformerOutput
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.geometry.contact import FEET, HANDS
from moro.geometry.rotation import matrix_to_rot6d
from moro.geometry.trajectory import TrajectoryStats

FPS = 30.0
SKATING_TOLERANCE = 0.15  # m/s
# order in which the 17 keypoints of single-image data come out of the H36M regressor
H36M_ORDER = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10, 0, 7, 9)


@dataclass(frozen=True)
class LossWeights:
    """Weights and kinds of `model.loss`; the fields are the configuration keys."""

    lambda_ce: float = 1.0
    lambda_token: float = 0.0
    focal_gamma: float = 0.0
    lambda_cano_traj: float = 10.0
    traj_loss_type: str = "l2"
    lambda_rot: float = 1.0
    lambda_rot6d: float = 0.0
    lambda_transl: float = 1.0
    loss_type: str = "rmse"
    lambda_v3d_local: float = 10.0
    lambda_j3d_pos: float = 1.0
    lambda_j3d_vel: float = 20.0
    lambda_j2d: float = 1.0
    lambda_accel: float = 0.0
    lambda_skating: float = 1.0
    lambda_contact: float = 1.0
    mesh_frames: int | None = None
    mesh_every: int = 1

    def __post_init__(self) -> None:
        for key in ("traj_loss_type", "loss_type"):
            if getattr(self, key) not in _DISTANCES:
                raise MoroError(
                    f"model.loss.{key} is '{getattr(self, key)}'; choose one of {', '.join(_DISTANCES)}"
                )

    def of(self, name: str) -> float:
        """Weight of the term `loss_<name>`; `_rel` and `_coarse` variants share their base term's."""
        return getattr(self, f"lambda_{name.removesuffix('_rel').removesuffix('_coarse')}")


# ------------------------------------------------------------------------------------------ plain terms

_DISTANCES = {
    "rmse": lambda a, b: (a - b).norm(dim=-1).mean(),
    "l1": lambda a, b: (a - b).abs().mean(),
    "l2": lambda a, b: (a - b).square().mean(),
}


def distance(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean Euclidean distance of the last axis (rmse), mean absolute (l1) or mean squared (l2) difference."""
    return _DISTANCES[kind](prediction, target)


def code_loss(
    logits: Tensor, labels: Tensor, ignore: int, focal_gamma: float = 0.0, joint: bool = False
) -> Tensor:
    """Cross-entropy at the positions whose label is not `ignore` (spec: models 4.6).

    logits  (B, K, F, J)
    labels  (B, F, J)
    joint   count the positions of all processes: the mean of their losses is then that of the whole batch
    """
    K = logits.shape[1]
    rows = logits.permute(0, 2, 3, 1).reshape(-1, K).float()  # (B*F*J, K), no copy: memory is (B, F, J, K)
    entropy = functional.cross_entropy(rows, labels.flatten(), ignore_index=ignore, reduction="none")
    kept = labels.flatten() != ignore
    if focal_gamma > 0:
        kept = entropy != 0
        entropy = (1 - torch.exp(-entropy)).pow(focal_gamma) * entropy
    count = kept.sum().to(entropy.dtype)
    return entropy.sum() / (mean_over_processes(count) if joint else count).clamp(min=1e-6)


def token_loss(
    logits: Tensor, labels: Tensor, codebook: Tensor, ignore: int, joint: bool = False
) -> Tensor:
    """Squared distance of the expected to the true embedding, in units of the codebook's variance.

    The cross-entropy counts every wrong code alike; this counts how far off what is decoded will be.
    logits (B, K, F, J), labels (B, F, J), codebook (K, D); positions whose label is `ignore` do not count
    joint   see `code_loss`
    """
    asked = labels != ignore
    expected = logits.permute(0, 2, 3, 1)[asked].float().softmax(-1) @ codebook  # (N, D)
    error = (expected - codebook[labels[asked]]).square().sum(-1)
    count = asked.sum().to(error.dtype)
    count = (mean_over_processes(count) if joint else count).clamp(min=1e-6)
    return error.sum() / count / codebook.var(0).sum()


def trajectory_loss(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """Error of the normalised canonical trajectory (B, F, 9); the last frame counts as zero."""
    error = torch.cat((prediction[:, :-1] - target[:, :-1], torch.zeros_like(prediction[:, -1:])), dim=1)
    return distance(error, torch.zeros_like(error), kind)


def skating_loss(joints: Tensor, contact_label: Tensor) -> Tensor:
    """Speed of touching joints beyond 0.15 m/s (spec: models 5.2).

    joints         (B, F, 22, 3)   metres, world or static camera
    contact_label  (B, F-1, 4|6)   1 where the joint stands
    Of several processes all must call it: the mean of what they get is that of the whole batch.
    """
    chosen = contact_joints(contact_label.shape[-1])
    speed = joints[:, :, chosen].diff(dim=1).norm(dim=-1) * FPS  # (B, F-1, 4|6)
    violation = (speed - SKATING_TOLERANCE).clamp(min=0)
    return (violation * contact_label).sum() / (mean_over_processes(contact_label.sum()) + 1e-6)


def contact_joints(count: int) -> list[int]:
    """Joints a contact head of `count` outputs speaks of: feet, or feet and hands."""
    return list((FEET + HANDS)[:count])


def acceleration_loss(joints: Tensor) -> Tensor:
    """Mean squared second difference of joints (B, F, 22, 3), metres² per frame⁴."""
    return joints.diff(n=2, dim=1).square().mean()


def box_coordinates(points: Tensor, batch: Mapping[str, Tensor], min_depth: float = 0.0) -> Tensor:
    """Camera points (B, F, N, 3) in units of half the person's box, centre 0 (spec: models 5.2).

    returns    (B, F, N, 2)
    min_depth  points nearer than this (metres) are taken to be there; 0: as they are
    """
    if min_depth > 0:
        points = torch.cat((points[..., :2], points[..., 2:].clamp(min=min_depth)), dim=-1)
    pixels = project(points, batch["K"], eps=1e-6)
    return (pixels - batch["center"][:, :, None]) / (100 * batch["scale"][:, :, None, None])


def weak_keypoint_loss(points: Tensor, weak: Tensor, target: Tensor) -> Tensor:
    """Weak-perspective error of keypoints (spec: models 5.2).

    points  (B, F, N, 3)  keypoints of the rotated body relative to the pelvis, metres
    weak    (B, F, 9)     6D rotation, log scale, tx, ty
    target  (B, F, N, 3)  box coordinates in [-1, 1] and confidence
    """
    scale = weak[..., None, 6:7].exp()
    projected = scale * (points[..., :2] + weak[..., None, 7:9])
    return ((projected - target[..., :2]).abs() * target[..., 2:]).mean()


def keypoint_target(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Box coordinates and confidence (B, F, N, 3): labelled keypoints, or the landmarks the detector saw."""
    if "j2d" in batch:
        return batch["j2d"]
    if "landmarks" in batch:
        return batch["landmarks"][..., :3]  # x, y, visibility
    return None


def gumbel_tokens(
    logits: Tensor,
    codebook: Tensor,
    temperature: float,
    *,
    gumbel: bool,
    straight_through: bool,
    generator: Source = None,
) -> Tensor:
    """Differentiable token embeddings (spec: models 5.1).

    logits    (B, K, F, J)
    codebook  (K, D)
    gumbel    with noise; otherwise a tempered softmax
    returns   (B, F, J, D); the embedding of one code each if `straight_through`, with the soft gradient
    """
    scores = logits.permute(0, 2, 3, 1).float()  # (B, F, J, K)
    if gumbel:
        scores = scores - exponential_like(scores, generator).clamp(min=1e-20).log()
    soft = (scores / temperature).softmax(dim=-1)
    tokens = soft @ codebook
    if straight_through:  # value of the hard choice, gradient of the soft one
        hard = codebook[scores.argmax(dim=-1)]
        tokens = tokens + (hard - tokens).detach()
    return tokens


# ------------------------------------------------------------------------------------------ all of them


class MoRoLoss(nn.Module):
    """Sum of all terms a task has (spec: models 5.2).

    task                motion | image | video
    weights             see LossWeights
    joint_regressor     (22, V), rows sum to 1: joints of a moved mesh are the moved joints, so no moved mesh
                        is ever made
    keypoint_regressor  (N, V) for the weak-perspective loss of image_pretrain, or None
    mask_id             label that means "no label"
    use_transl          task image: whether the camera translation is supervised
    min_depth           see box_coordinates
    """

    def __init__(
        self,
        task: str,
        weights: LossWeights,
        joint_regressor: Tensor,
        keypoint_regressor: Tensor | None,
        mask_id: int,
        use_transl: bool = True,
        min_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.task, self.weights, self.mask_id = task, weights, mask_id
        self.use_transl, self.min_depth = use_transl, min_depth
        self.register_buffer("joint_regressor", joint_regressor, persistent=False)
        self.register_buffer("keypoint_regressor", keypoint_regressor, persistent=False)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        output: TransformerOutput,
        labels: Tensor,
        mesh: Tensor | None,
        frames: slice,
        stats: TrajectoryStats | None,
        codebook: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Terms by logged name (`loss_ce`, ...) and their weighted sum `loss`.

        batch   see spec: models 0.4, and cano_traj_clean (motion); `standing` (B, F, 4|6) teaches the contact
                head in task image, too
        labels  (B, F, J)         true ids, mask_id where none
        mesh    (B, F', V, 3)     differentiable local mesh of the frames `frames`; None: the true joints take
                                  its place, and terms of the mesh itself are left out
        stats   normalisation of output.cano_traj; None in task image
        codebook  (K, D), for the token loss
        """
        ce = code_loss(output.logits, labels, self.mask_id, self.weights.focal_gamma, joint=True)
        losses = {"ce": ce}
        if self.weights.lambda_token > 0:
            losses["token"] = token_loss(output.logits, labels, codebook, self.mask_id, joint=True)
        if mesh is None:
            joints = batch["local_joints"][:, frames]
        else:
            losses["v3d_local"] = distance(mesh, batch["mesh"][:, frames], self.weights.loss_type)
            joints = self.joint_regressor @ mesh  # (B, F', 22, 3)
        if self.task in ("motion", "video"):
            losses |= self._relative_terms(batch, output, joints, frames, stats)
        if self.task in ("image", "video"):
            losses |= self._camera_terms(batch, output, mesh, joints, frames)
        total = sum(self.weights.of(name) * value for name, value in losses.items())
        return {"loss": total, **{f"loss_{name}": value for name, value in losses.items()}}

    def _relative_terms(
        self,
        batch: Mapping[str, Tensor],
        output: TransformerOutput,
        joints: Tensor,
        frames: slice,
        stats: TrajectoryStats,
    ) -> dict[str, Tensor]:
        """Terms of the motion branch: the predicted trajectory put together from the true first pose."""
        losses = {}
        rotation, translation = relative_poses(output, batch, stats)
        moved = joints @ rotation[:, frames].mT + translation[:, frames]
        target = global_joints(batch)[:, frames]
        kind = self.weights.loss_type
        losses["j3d_pos_rel"] = distance(moved, target, kind)
        if joints.shape[1] > 1:
            losses["j3d_vel_rel"] = distance(moved.diff(dim=1), target.diff(dim=1), kind)
        if output.contact is not None and output.contact.shape[1] > 1:
            losses["contact"] = functional.binary_cross_entropy_with_logits(
                output.contact[:, :-1].float(), batch["contact_label"]
            )
        if self.task == "motion":
            losses["cano_traj"] = trajectory_loss(
                output.cano_traj.float(), batch["cano_traj_clean"], self.weights.traj_loss_type
            )
            losses |= self._smoothness_terms(moved, batch, frames, "_rel")
        return losses

    def _smoothness_terms(
        self, joints: Tensor, batch: Mapping[str, Tensor], frames: slice, suffix: str
    ) -> dict[str, Tensor]:
        losses = {}
        if joints.shape[1] > 2 and self.weights.lambda_accel > 0:
            losses[f"accel{suffix}"] = acceleration_loss(joints)
        if joints.shape[1] > 1:
            contact = batch["contact_label"][:, frames][:, : joints.shape[1] - 1]
            losses[f"skating{suffix}"] = skating_loss(joints, contact)
        return losses

    def _camera_terms(
        self,
        batch: Mapping[str, Tensor],
        output: TransformerOutput,
        mesh: Tensor | None,
        joints: Tensor,
        frames: slice,
    ) -> dict[str, Tensor]:
        """Terms of the coarse and the final pose in the camera."""
        losses = {}
        target = global_joints(batch)[:, frames]
        view = {key: batch[key][:, frames] for key in ("K", "center", "scale")}
        target_2d = box_coordinates(target, view, self.min_depth) if self.use_transl else None
        traj_kind, kind = self.weights.traj_loss_type, self.weights.loss_type
        moved = {}
        for suffix, (rotation, translation) in camera_poses(output, batch, self.use_transl).items():
            losses[f"rot{suffix}"] = distance(rotation, batch["rotation"], traj_kind)
            if self.weights.lambda_rot6d > 0:
                raw = output.weak[..., :6] if suffix else output.rotation6d
                losses[f"rot6d{suffix}"] = distance(raw.float(), matrix_to_rot6d(batch["rotation"]), "l2")
            if self.use_transl:
                losses[f"transl{suffix}"] = distance(translation, batch["translation"], traj_kind)
            moved[suffix] = joints @ rotation[:, frames].mT + translation[:, frames]
            losses[f"j3d_pos{suffix}"] = distance(moved[suffix], target, kind)
            if self.use_transl:
                seen = box_coordinates(moved[suffix], view, self.min_depth)
                losses[f"j2d{suffix}"] = distance(seen, target_2d, "l1")
            if self.task == "video" and joints.shape[1] > 1:
                losses[f"j3d_vel{suffix}"] = distance(moved[suffix].diff(dim=1), target.diff(dim=1), kind)
        if self.task == "video":
            losses |= self._smoothness_terms(moved[""], batch, frames, "")
        if self.task == "image" and "standing" in batch:  # backbones that look at neighbours can tell
            losses["contact"] = functional.binary_cross_entropy_with_logits(
                output.contact.float(), batch["standing"]
            )
        if self.task == "image" and not self.use_transl and mesh is not None:
            losses |= self._weak_term(batch, output, mesh, frames)
        return losses

    def _weak_term(
        self, batch: Mapping[str, Tensor], output: TransformerOutput, mesh: Tensor, frames: slice
    ) -> dict[str, Tensor]:
        target = keypoint_target(batch)
        if target is None or self.keypoint_regressor is None:
            return {}
        points = (self.keypoint_regressor @ mesh) @ output.rotation_coarse.float()[:, frames].mT
        return {
            "j2d_coarse": weak_keypoint_loss(points, output.weak.float()[:, frames], target[:, frames])
        }


def global_joints(batch: Mapping[str, Tensor]) -> Tensor:
    """True joints (B, F, 22, 3) in camera or world."""
    return batch["local_joints"] @ batch["rotation"].mT + batch["translation"]


def relative_poses(
    output: TransformerOutput, batch: Mapping[str, Tensor], stats: TrajectoryStats
) -> tuple[Tensor, Tensor]:
    """Rotation (B, F, 3, 3), translation (B, F, 1, 3): the predicted trajectory from the true first pose."""
    return stats.decode(output.cano_traj.float(), batch["rotation"][:, :1], batch["translation"][:, :1])


def camera_poses(
    output: TransformerOutput, batch: Mapping[str, Tensor], use_transl: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Coarse and final rotation (B, F, 3, 3) and translation (B, F, 1, 3), by suffix of their terms.

    use_transl  false: the true translation takes the place of the predicted ones
    """
    poses = {
        "_coarse": (output.rotation_coarse, output.translation_coarse),
        "": (output.rotation, output.translation),
    }
    return {
        suffix: (rotation.float(), translation.float() if use_transl else batch["translation"])
        for suffix, (rotation, translation) in poses.items()
    }
