"""A second look in a mirror (`model.test.mirror`): the mean of what the network makes of a clip and of its
mirror image. Its errors in both are largely independent (docs/experiments.md)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import roma
import torch
from torch import Tensor, nn

from moro.body.skeleton import MIRROR_JOINTS, MIRROR_LANDMARKS
from moro.geometry.contact import FEET, HANDS

MIRRORED_TOKENS = "cond_mirrored"  # in the batch: `cond` of the mirror image, where it was made before
CONTACTS = [(*FEET, *HANDS).index(MIRROR_JOINTS[joint]) for joint in (*FEET, *HANDS)]


class Poses(NamedTuple):
    """What one look at a clip gives; F' of its F frames have meshes."""

    mesh: Tensor  # (B, F', V, 3)  local
    rotation: Tensor  # (B, F, 3, 3)  body → camera
    translation: Tensor  # (B, F, 1, 3)  metres
    contact: Tensor | None  # (B, F, 4|6)  logits


def mirror_images(images: Mapping[str, Any]) -> dict[str, Any]:
    """What a backbone looks at, left and right exchanged: `landmarks` (..., 33, 4), `neighbours`, `crop_imgs`
    (..., H, W)."""
    mirrored = dict(images)
    for key in ("landmarks", "neighbours"):
        if key in images:
            points = images[key][..., list(MIRROR_LANDMARKS), :]
            mirrored[key] = torch.cat((-points[..., :1], points[..., 1:]), dim=-1)
    if "crop_imgs" in images:
        mirrored["crop_imgs"] = images["crop_imgs"].flip(-1)
    return mirrored


class Mirror(nn.Module):
    """Mirrors clips in the plane through the camera's axis, and what was recovered from them back.

    vertices  (V,) each vertex's counterpart; the body's left-right axis is x
    """

    vertices: Tensor

    def __init__(self, vertices: Tensor) -> None:
        super().__init__()
        self.register_buffer("vertices", vertices, persistent=False)

    def batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A prepared batch as a mirror shows it; without `cond` unless that was made before."""
        mirrored = mirror_images(batch)
        mirrored.pop("cond", None)
        if MIRRORED_TOKENS in batch:
            mirrored["cond"] = batch[MIRRORED_TOKENS]
        x, y = batch["center"].unbind(-1)  # (B, F)
        mirrored["center"] = torch.stack((2 * batch["K"][..., 0, 2] - x, y), dim=-1)
        mirrored["bbox"] = torch.cat((-batch["bbox"][..., :1], batch["bbox"][..., 1:]), dim=-1)
        return mirrored

    def back(self, poses: Poses) -> Poses:
        """Poses recovered from a mirrored batch, as they are on this side."""
        sign = poses.mesh.new_tensor((-1.0, 1.0, 1.0))
        contact = poses.contact
        return Poses(
            poses.mesh[..., self.vertices, :].mul_(sign),  # of the copy that the indices make
            poses.rotation * sign[:, None] * sign,
            poses.translation * sign,
            None if contact is None else contact[..., CONTACTS[: contact.shape[-1]]],
        )

    def mean(self, own: Poses, mirrored: Poses) -> Poses:
        """Half-way between poses of a clip and of its mirror image."""
        other = self.back(mirrored)
        return Poses(
            other.mesh.add_(own.mesh).div_(2),  # in place: meshes of a window are large
            roma.special_procrustes(own.rotation + other.rotation),
            (own.translation + other.translation) / 2,
            None if own.contact is None else (own.contact + other.contact) / 2,
        )
