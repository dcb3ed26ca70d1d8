"""Which joints of the feet (and hands) stand still (spec: data 2.4)."""

import torch
from torch import Tensor

FPS = 30.0
FEET = (7, 10, 8, 11)  # left ankle, left foot, right ankle, right foot
HANDS = (20, 21)  # left wrist, right wrist


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
