"""Pinhole cameras: projection, the box seen as a direction, weak perspective to metres."""

import torch
from torch import Tensor, nn

from moro.errors import MoroError
from moro.geometry.precision import full_precision


@full_precision
def project(points: Tensor, K: Tensor, dist_coeffs: Tensor | None = None, eps: float = 0.0) -> Tensor:
    """Pixels of points in the camera frame (spec: models 5.2).

    points       (*, N, 3)  metres, z forward
    K            (*, 3, 3)  intrinsics in pixels
    dist_coeffs  (*, 8)     OpenCV's rational model k1 k2 p1 p2 k3 k4 k5 k6, or (*, 5) without k4..k6
    eps          added to the depth; the 2D loss uses 1e-6
    returns      (*, N, 2)
    """
    rays = points[..., :2] / (points[..., 2:] + eps)
    if dist_coeffs is not None:
        rays = distort(rays, dist_coeffs)
    return rays @ K[..., :2, :2].mT + K[..., None, :2, 2]


def distort(rays: Tensor, dist_coeffs: Tensor) -> Tensor:
    """Normalised image points (*, N, 2) as OpenCV's lens model, (*, 5) or (*, 8) coefficients, bends them."""
    if dist_coeffs.shape[-1] not in (5, 8):
        raise MoroError(f"Lens distortion needs 5 or 8 coefficients, got {dist_coeffs.shape[-1]}.")
    k1, k2, p1, p2, k3 = dist_coeffs[..., None, :5].unbind(-1)  # each (*, 1)
    x, y = rays.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if dist_coeffs.shape[-1] == 8:
        k4, k5, k6 = dist_coeffs[..., None, 5:].unbind(-1)
        radial = radial / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return torch.stack(
        (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ),
        dim=-1,
    )


def bbox_condition(center: Tensor, scale: Tensor, K: Tensor, origin: Tensor | None = None) -> Tensor:
    """Box of a person as the image encoder reads it: offset and side over focal length (spec: models 0.4).

    center   (*, 2)     centre of the square box, pixels
    scale    (*,)       side / 200, pixels
    K        (*, 3, 3)  intrinsics of the full image
    origin   (*, 2)     point the centre is measured from; default the principal point
                        (BEDLAM and single images use the image centre)
    returns  (*, 3)
    """
    focal = (K[..., 0, 0] + K[..., 1, 1]) / 2
    origin = K[..., :2, 2] if origin is None else origin
    return torch.cat((center - origin, 200 * scale[..., None]), dim=-1) / focal[..., None]


def weak_to_translation(weak: Tensor, bbox: Tensor) -> Tensor:
    """Position of the pelvis in the camera from the weak-perspective head (spec: models 3.8).

    weak     (*, 9)     6D rotation, log scale, tx, ty
    bbox     (*, 3)     from `bbox_condition`
    returns  (*, 1, 3)  metres
    """
    bx, by, size = bbox.unbind(-1)
    apparent = size * weak[..., 6].exp() + 1e-9
    tx, ty = weak[..., 7], weak[..., 8]
    return torch.stack((tx + 2 * bx / apparent, ty + 2 * by / apparent, 2 / apparent), dim=-1)[..., None, :]


def translation_to_weak(translation: Tensor, bbox: Tensor) -> Tensor:
    """Log scale, tx, ty of a pelvis position: undoes `weak_to_translation` (spec: models 3.8).

    translation  (*, 1, 3)  metres, in front of the camera
    bbox         (*, 3)     from `bbox_condition`
    returns      (*, 3)
    """
    bx, by, size = bbox.unbind(-1)
    x, y, z = translation.squeeze(-2).unbind(-1)
    return torch.stack((torch.log(2 / (size * z)), x - bx * z, y - by * z), dim=-1)


@full_precision
def view_rotation(bbox: Tensor) -> Tensor:
    """Smallest rotation that turns the optical axis to the centre of a box.

    A crop shows a body's orientation relative to this direction, not to the camera.
    bbox     (*, 3)     from `bbox_condition`
    returns  (*, 3, 3)
    """
    axis = nn.functional.normalize(torch.cat((bbox[..., :2], torch.ones_like(bbox[..., :1])), dim=-1), dim=-1)
    x, y, z = axis.unbind(-1)
    k = 1 / (1 + z)
    rows = (1 - k * x * x, -k * x * y, x, -k * x * y, 1 - k * y * y, y, -x, -y, z)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))  # (*, 9) -> (*, 3, 3)
