"""Plain twin of the measures: each metric of spec: data 8.2, frame by frame, as its definition reads."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FPS, MM = 30.0, 1000.0
HIPS = [1, 2]


def plain_errors(
    joints: Tensor,
    true_joints: Tensor,
    vertices: Tensor,
    true_vertices: Tensor,
    foot_points: Sequence[int],
    visible: Tensor,
) -> dict[str, Tensor]:
    """Arguments and values of `moro.evaluation.measures.errors_against_truth`."""
    found: dict[str, list[float]] = defaultdict(list)
    x, y, v, w, seen = (part.numpy() for part in (joints, true_joints, vertices, true_vertices, visible))
    root = similarity(x[:, 0], y[:, 0], rigid=True)
    length = sum(np.linalg.norm(y[f, 0] - y[f - 1, 0]) for f in range(1, len(y)))
    centred = []  # hip-centred joints so far, predicted and true
    for f in range(len(x)):
        middle, true_middle = x[f, HIPS].mean(0), y[f, HIPS].mean(0)
        centred.append((x[f] - middle, y[f] - true_middle))
        a, b = centred[f]
        distance = np.linalg.norm(a - b, axis=-1) * MM
        found["mpjpe"].append(distance.mean())
        found["pa_mpjpe"].append(mean_distance(similarity(a, b), b) * MM)
        found["pve"].append(mean_distance(v[f] - middle, w[f] - true_middle) * MM)
        found["gmpjpe"].append(mean_distance(x[f], y[f]) * MM)
        found["rte"].append(np.linalg.norm(root[f] - y[f, 0]) / length * 100)
        for joint in range(seen.shape[1]):
            found["visible_mpjpe" if seen[f, joint] else "occluded_mpjpe"].append(distance[joint])
        for point in foot_points if f >= 1 else ():
            if np.linalg.norm(w[f, point] - w[f - 1, point]) * FPS < 0.3:
                found["fs"].append(np.linalg.norm(v[f, point] - v[f - 1, point]) * MM)
        if f >= 2:
            (a2, b2), (a1, b1) = centred[f - 2 : f]
            found["accel"].append(mean_distance(a - 2 * a1 + a2, b - 2 * b1 + b2) * FPS**2)
            bend, true_bend = (p[f] - 2 * p[f - 1] + p[f - 2] for p in (x, y))
            found["g_accel"].append(mean_distance(bend, true_bend) * FPS**2)
        if f >= 3:
            third = x[f] - 3 * x[f - 1] + 3 * x[f - 2] - x[f - 3]
            found["jitter"].append(np.linalg.norm(third, axis=-1).mean() * FPS**3 / 10)
    return {key: torch.tensor(np.array(values)) for key, values in found.items()}


def mean_distance(a: NDArray, b: NDArray) -> float:
    return np.linalg.norm(a - b, axis=-1).mean()


def similarity(source: NDArray, target: NDArray, rigid: bool = False) -> NDArray:
    """Source (N, 3) laid onto target by rotation, translation and, unless rigid, scale (spec: models 5.3)."""
    mean, true_mean = source.mean(0), target.mean(0)
    X, Y = source - mean, target - true_mean
    U, S, Vt = np.linalg.svd(X.T @ Y)
    sign = np.ones(3)
    sign[2] = np.sign(np.linalg.det(U @ Vt))
    R = Vt.T @ np.diag(sign) @ U.T
    scale = 1.0 if rigid else (S * sign).sum() / (X**2).sum()
    return scale * X @ R.T + true_mean
