"""Recovered bodies put where the detector's landmarks are (`model.test.place`; docs/design.md 4.4)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moro.geometry.placement import place_by_landmarks


class LandmarkPlacement(nn.Module):
    """Translations from the 2D landmarks in the batch, where the network's are the start.

    The network sees a crop and says roughly how far away it is; what the landmarks say of the place is exact.
    regressor  (N, V) landmarks of the body surface; not part of the state dict
    """

    regressor: Tensor

    def __init__(self, regressor: Tensor) -> None:
        super().__init__()
        self.register_buffer("regressor", regressor, persistent=False)

    def forward(
        self, batch: Mapping[str, Tensor], mesh: Tensor, rotation: Tensor, translation: Tensor, frames: slice
    ) -> Tensor:
        """Translations (B, F, 1, 3) of all frames; the landmarks count in `frames` only, where meshes are.

        batch  landmarks (B, F, N, 4), center, scale, K
        mesh   (B, F', V, 3) in the body's frame, relative to the root
        rotation (B, F, 3, 3), translation (B, F, 1, 3) body → camera
        """
        landmarks, focal = batch["landmarks"], torch.diagonal(batch["K"], dim1=-2, dim2=-1)[..., None, :2]
        side = 100 * batch["scale"][..., None, None]
        pixels = landmarks[..., :2] * side + batch["center"][..., None, :]  # (B, F, N, 2)
        rays = (pixels - batch["K"][..., None, :2, 2]) / focal
        weight = torch.zeros_like(landmarks[..., 2])
        weight[:, frames] = (landmarks[:, frames, :, 2:].prod(-1)) ** 2  # doubtful ones count for little
        points = landmarks.new_zeros(*landmarks.shape[:3], 3)
        points[:, frames] = (self.regressor @ mesh) @ rotation[:, frames].mT
        placed = [
            place_by_landmarks(*clip) for clip in zip(points, rays, weight, translation[:, :, 0], strict=True)
        ]
        return torch.stack(placed)[:, :, None]
