"""Recovered bodies put where the detector's landmarks are (`model.test.place`; docs/design.md 4.4)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.mask_transformer.losses import contact_joints
from moro.geometry.boxes import landmark_rays
from moro.geometry.contact import surely_standing
from moro.geometry.placement import place_by_landmarks


class LandmarkPlacement(nn.Module):
    """Translations from the 2D landmarks in the batch, where the network's are the start.

    The network sees a crop and says roughly how far away it is; what the landmarks say of the place is exact.
    Feet that the network believes to stand on the ground stay where they are.
    regressor  (N, V) landmarks of the body surface;  joint_regressor: (22, V). Neither is in the state dict.
    """

    regressor: Tensor
    joint_regressor: Tensor

    def __init__(self, regressor: Tensor, joint_regressor: Tensor) -> None:
        super().__init__()
        self.register_buffer("regressor", regressor, persistent=False)
        self.register_buffer("joint_regressor", joint_regressor, persistent=False)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        mesh: Tensor,
        rotation: Tensor,
        translation: Tensor,
        contact: Tensor | None,
        frames: slice,
    ) -> Tensor:
        """Translations (B, F, 1, 3) of all frames; the landmarks count in `frames` only, where meshes are.

        batch  landmarks (B, F, N, 4), center, scale, K
        mesh   (B, F', V, 3) in the body's frame, relative to the root
        rotation (B, F, 3, 3), translation (B, F, 1, 3) body → camera
        contact  (B, F, 4|6) logits; None: nothing is known of the ground
        """
        landmarks = batch["landmarks"]
        rays, trust = landmark_rays(landmarks, batch["center"], batch["scale"], batch["K"])
        weight = torch.zeros_like(trust)
        weight[:, frames] = trust[:, frames]
        points = landmarks.new_zeros(*landmarks.shape[:3], 3)
        points[:, frames] = (self.regressor @ mesh) @ rotation[:, frames].mT
        parts = [points, rays, weight, translation[:, :, 0]]
        if contact is not None:
            chosen = contact_joints(contact.shape[-1])
            standing = torch.zeros_like(contact)
            standing[:, frames] = surely_standing(contact[:, frames])
            feet = points.new_zeros(*contact.shape, 3)
            feet[:, frames] = (self.joint_regressor[chosen] @ mesh) @ rotation[:, frames].mT
            parts += [feet, standing]
        return torch.stack([place_by_landmarks(*clip) for clip in zip(*parts, strict=True)])[:, :, None]
