"""Measures of a recovered motion: against ground truth (`errors`), and by itself (`quality`).

The functions give one value per frame (or pair, triple of frames); averaging is the caller's business, since
training logs average a batch and the evaluation programs a whole test set (spec: models 5.3, data 8.6).
"""

from moro.metrics.errors import (
    acceleration_error,
    contact_accuracy,
    foot_sliding,
    hip_centred,
    joint_error,
    mean_error,
    pa_error,
    root_trajectory_error,
    token_accuracy,
    velocity_error,
    vertex_error,
)
from moro.metrics.quality import (
    acceleration,
    jitter,
    penetration_depth,
    penetration_ratio,
    skating_ratio,
)

__all__ = [
    "acceleration",
    "acceleration_error",
    "contact_accuracy",
    "foot_sliding",
    "hip_centred",
    "jitter",
    "joint_error",
    "mean_error",
    "pa_error",
    "penetration_depth",
    "penetration_ratio",
    "root_trajectory_error",
    "skating_ratio",
    "token_accuracy",
    "velocity_error",
    "vertex_error",
]
