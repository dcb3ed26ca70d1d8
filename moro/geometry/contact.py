"""Which joints of the feet (and hands) stand still (spec: data 2.4), and paths of feet that then do."""

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from moro.geometry.banded import add_squared_steps, squared_accelerations

FPS = 30.0
FEET = (7, 10, 8, 11)  # left ankle, left foot, right ankle, right foot
HANDS = (20, 21)  # left wrist, right wrist
STEP_SIGMA = 0.0003  # metres per frame that a standing foot moves
MOVE_SIGMA = 0.03  # metres that it may be put elsewhere
ACCELERATION_SIGMA = 2.0  # m/s² of what is added to its path
FAST = 0.03  # metres per frame: a foot so fast does not stand, whatever is said
FAR = 0.04  # metres: what would have to be put so far elsewhere does not stand: wrong contacts bend no legs
ROUNDS = 5  # of reweighting


def contact_labels(joints: Tensor, threshold: float = 0.3, hand: bool = False) -> Tensor:
    """1 where a joint moves slower than `threshold` until the next frame (spec: data 2.4).

    joints     (*, F, 22, 3)  in a frame at rest relative to the ground, metres, 30 frames per second
    threshold  metres per second
    hand       also the wrists
    returns    (*, F-1, 4 | 6) float32
    """
    chosen = joints[..., list(FEET + HANDS if hand else FEET), :]
    speed = (chosen[..., 1:, :, :] - chosen[..., :-1, :, :]).norm(dim=-1) * FPS  # (*, F-1, 4 | 6)
    return (speed < threshold).to(torch.float32)


def surely_standing(contact: Tensor, bias: float = 0.0) -> Tensor:
    """How surely feet stand, 0 to 1, from the logits of contact (plus `bias`); 0 where in doubt."""
    return (2 * (contact + bias).sigmoid() - 1).clamp(min=0)


def slowness(steps: np.ndarray) -> np.ndarray:
    """(F, P) of feet's steps (F, P, 3), metres: 1 for those that rest, 0 from `FAST` on (biweight)."""
    return np.clip(1 - ((steps / FAST) ** 2).sum(-1), 0, None) ** 2


def still(feet: Tensor, standing: Tensor) -> Tensor:
    """What to add to the paths of feet (T, P, 3), metres, so that those that stand do not move: (T, P, 3).

    standing  (T, P)  how surely each stays where it is until the next frame, 0 to 1
    The least squares that keep what is added small and smooth: it fades in and out around each stand.
    """
    path = feet.detach().double().cpu().numpy()
    steps = np.diff(path, axis=0)  # (T-1, P, 3)
    sure = standing[:-1].detach().double().cpu().numpy() ** 2
    trust = sure * slowness(steps) / STEP_SIGMA**2  # (T-1, P)
    smooth = squared_accelerations(len(path)) * (FPS**2 / ACCELERATION_SIGMA) ** 2
    smooth[0] += MOVE_SIGMA**-2
    added = np.zeros_like(path)
    for _ in range(ROUNDS):
        far = (added**2).sum(-1) / FAR**2  # (T, P)
        for foot in range(path.shape[1]):
            bands, right = smooth.copy(), np.zeros((len(path), 3))
            surely = trust[:, foot] / (1 + np.maximum(far[1:, foot], far[:-1, foot])) ** 2
            add_squared_steps(bands[0], bands[1], right, surely, surely[:, None] * steps[:, foot])
            added[:, foot] = solveh_banded(bands, right, lower=True)
    return torch.from_numpy(added).to(feet)
