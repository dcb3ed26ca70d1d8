"""The trajectory of a body seen from itself: frame-to-frame rotation and velocity (spec: models 3.7)."""

import logging
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moro.errors import MoroError
from moro.geometry.precision import full_precision
from moro.geometry.rotation import matrix_to_rot6d, rot6d_to_matrix
from moro.io.atomic import atomic_path
from moro.io.pickles import load_pickle

TRAJECTORY_DIM = 9  # 6D rotation and 3D velocity
STATISTICS_CLIP_LENGTH = 60  # fixed: single-frame clips would give a zero deviation (spec: models 8.1, no. 2)
SMALLEST_STD = 1e-8

_log = logging.getLogger(__name__)


@full_precision
def canonical_trajectory(rotation: Tensor, translation: Tensor) -> Tensor:
    """Frame-to-frame trajectory in the body's own frame, not normalised (spec: models 3.7).

    rotation     (B, F, 3, 3)  body → world (or camera)
    translation  (B, F, 1, 3)  pelvis in the same frame, metres
    returns      (B, F, 9)     6D relative rotation, then velocity in metres per frame;
                               the last frame repeats the one before; zeros if F == 1
    """
    B, F = rotation.shape[:2]
    if F == 1:
        return rotation.new_zeros(B, 1, TRAJECTORY_DIM)
    inverse = rotation[:, :-1].mT
    turn = matrix_to_rot6d(inverse @ rotation[:, 1:])  # (B, F-1, 6)
    step = (translation[:, 1:] - translation[:, :-1]).mT  # (B, F-1, 3, 1)
    velocity = (inverse @ step).squeeze(-1)  # (B, F-1, 3)
    trajectory = torch.cat((turn, velocity), dim=-1)
    return torch.cat((trajectory, trajectory[:, -1:]), dim=1)


@full_precision
def integrate_trajectory(
    trajectory: Tensor, rotation0: Tensor, translation0: Tensor
) -> tuple[Tensor, Tensor]:
    """Poses from a trajectory that is not normalised: undoes `canonical_trajectory` (spec: models 3.7).

    trajectory    (B, F, 9)       the last frame is not used
    rotation0     (B, 1, 3, 3)    pose of the first frame
    translation0  (B, 1, 1, 3)    metres
    returns       rotation (B, F, 3, 3), translation (B, F, 1, 3)
    """
    turns = rot6d_to_matrix(trajectory[:, :-1, :6])
    rotation = cumulative_product(torch.cat((rotation0, turns), dim=1))  # R_f = R_0 dR_0 ... dR_{f-1}
    steps = rotation[:, :-1] @ trajectory[:, :-1, 6:, None]  # (B, F-1, 3, 1)
    translation = torch.cat((translation0, steps.mT), dim=1).cumsum(dim=1)
    return rotation, translation


def cumulative_product(matrices: Tensor) -> Tensor:
    """Products M_0 M_1 ... M_f for every f in about log2(F) batched products.

    matrices  (B, F, 3, 3)
    returns   (B, F, 3, 3)
    """
    reach = 1
    while reach < matrices.shape[1]:  # now entry f holds the product over the last `reach` factors up to f
        matrices = torch.cat((matrices[:, :reach], matrices[:, :-reach] @ matrices[:, reach:]), dim=1)
        reach *= 2
    return matrices


@dataclass(frozen=True)
class TrajectoryStats:
    """Mean and population standard deviation of the canonical trajectory, each (9,) float32."""

    mean: Tensor
    std: Tensor

    def validate(self, source: str = "trajectory statistics") -> "TrajectoryStats":
        """Return self; raise MoroError if a value is missing, not finite or a deviation is below 1e-8."""
        for name, value in (("mean", self.mean), ("std", self.std)):
            if tuple(value.shape) != (TRAJECTORY_DIM,):
                raise MoroError(
                    f"{source}: {name} has {value.numel()} values instead of {TRAJECTORY_DIM}; "
                    "is this the right file?"
                )
            if not torch.isfinite(value).all():
                raise MoroError(f"{source}: {name} has values that are not finite; compute the file anew.")
        if (self.std < SMALLEST_STD).any():
            raise MoroError(
                f"{source}: a standard deviation is below {SMALLEST_STD}; compute the statistics from "
                f"{STATISTICS_CLIP_LENGTH}-frame clips of moving bodies."
            )
        return self

    def to(self, device: torch.device | str) -> "TrajectoryStats":
        return TrajectoryStats(self.mean.to(device), self.std.to(device))

    def normalise(self, trajectory: Tensor) -> Tensor:
        """(*, 9) in metres per frame to (*, 9) in standard deviations."""
        return (trajectory - self.mean.to(trajectory)) / self.std.to(trajectory)

    def denormalise(self, trajectory: Tensor) -> Tensor:
        """Inverse of `normalise`."""
        return trajectory * self.std.to(trajectory) + self.mean.to(trajectory)

    def encode(self, rotation: Tensor, translation: Tensor) -> Tensor:
        """Normalised canonical trajectory (B, F, 9); a single frame gives plain zeros (spec: models 3.7).

        rotation     (B, F, 3, 3)
        translation  (B, F, 1, 3)  metres
        """
        trajectory = canonical_trajectory(rotation, translation)
        return trajectory if trajectory.shape[1] == 1 else self.normalise(trajectory)

    def decode(self, trajectory: Tensor, rotation0: Tensor, translation0: Tensor) -> tuple[Tensor, Tensor]:
        """Poses (rotation (B, F, 3, 3), translation (B, F, 1, 3)) from a normalised trajectory (B, F, 9)."""
        return integrate_trajectory(self.denormalise(trajectory), rotation0, translation0)

    @classmethod
    def load(cls, path: str | Path) -> "TrajectoryStats":
        """Read the pickle {"Mean", "Std"} of float32 arrays (1, 1, 9) (spec: models 3.7).

        Raises MoroError if the file is missing, is something else or is unfit (see `validate`).
        """
        path = Path(path)
        if not path.is_file():
            raise MoroError(
                f"Trajectory statistics not found at {path}; compute them from the motion data first "
                "(scripts/compute_trajectory_stats.py) or use a checkpoint that carries them."
            )
        content = load_pickle(path)
        if not isinstance(content, dict) or not {"Mean", "Std"} <= content.keys():
            raise MoroError(f'{path}: expected a pickled dictionary with "Mean" and "Std".')
        arrays = (np.asarray(content[key], dtype=np.float32).reshape(-1) for key in ("Mean", "Std"))
        return cls(*(torch.from_numpy(array.copy()) for array in arrays)).validate(str(path))

    def save(self, path: str | Path) -> None:
        """Write the pickle read by `load`, readable by the reference as well."""
        self.validate()
        arrays = {"Mean": self.mean, "Std": self.std}
        content = {name: value.float().cpu().numpy().reshape(1, 1, -1) for name, value in arrays.items()}
        with atomic_path(path) as temporary:
            temporary.write_bytes(pickle.dumps(content, protocol=4))


def stats_from_clips(clips: Iterable[tuple[Tensor, Tensor]]) -> TrajectoryStats:
    """Statistics over all clips and frames, the repeated last frame included (spec: models 3.7, data 2.5).

    clips  pairs of rotation (F, 3, 3) and translation (F, 1, 3) or (F, 3), F = 60, metres
    Raises MoroError for another clip length, no clip at all, or a motionless data set.
    """
    count = 0
    total = torch.zeros(TRAJECTORY_DIM, dtype=torch.float64)
    square = torch.zeros(TRAJECTORY_DIM, dtype=torch.float64)
    for rotation, translation in clips:
        if rotation.shape[0] != STATISTICS_CLIP_LENGTH:
            raise MoroError(
                f"Trajectory statistics need clips of {STATISTICS_CLIP_LENGTH} frames, "
                f"got one of {rotation.shape[0]}."
            )
        translation = translation.reshape(1, -1, 1, 3)  # (F, 1, 3) or (F, 3) -> (1, F, 1, 3)
        trajectory = canonical_trajectory(rotation[None].double(), translation.double())[0]
        count += len(trajectory)
        total += trajectory.sum(0)
        square += trajectory.square().sum(0)
    if count == 0:
        raise MoroError("Trajectory statistics need at least one clip, got none.")
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    _log.info("trajectory statistics over %d frames", count)
    return TrajectoryStats(mean.float(), std.float()).validate()
