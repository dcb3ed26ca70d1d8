"""Training items built step by step, as the original's loaders do: plain twins of the fast data sets.

One more call of the body model wherever the original has one, whole images undistorted, turned and coloured,
crops in float64, frame by frame (spec: data 4.2 to 4.4, D22).
"""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.mask_transformer.data.bedlam import BedlamDataset
from models.mask_transformer.data.colour import augment_colours
from models.mask_transformer.data.crops import boxes_of_joints
from models.mask_transformer.data.egobody import EgoBodyDataset
from models.mask_transformer.data.image import J2D, J2D_MIRRORED, Change, ImageDataset
from models.mask_transformer.data.items import BodyParameters, LocalBody, local_body
from moro.geometry.camera import bbox_condition
from moro.geometry.contact import contact_labels
from moro.geometry.crop import crop_window
from moro.geometry.frames import transform_root, world2cano
from moro.geometry.image import IMAGE_MEAN, IMAGE_STD

Item = dict[str, Tensor]
GREY_LEVEL = 1 / 255 / min(IMAGE_STD)  # of a normalised crop


def plain_egobody(dataset: EgoBodyDataset, index: int, rng: np.random.Generator) -> Item:
    """The tensors of `EgoBodyDataset.item` of a training split."""
    sequence, start, stop = dataset.clips[index]
    settings, body = dataset.settings, dataset.bodies[sequence.gender]
    view = sequence.views[rng.integers(len(sequence.views))]
    parameters = sequence.motion.parameters(start, stop)
    pelvis = local_body(body, parameters).root_pos  # to move the parameters into the camera's frame
    person = moved_body(body, parameters, pelvis, view.master2cam)
    world = person.joints() @ view.cam2world[:3, :3].T + view.cam2world[:3, 3]
    K = torch.from_numpy(view.lens.K).float()
    center, scale = boxes_of_joints(person.joints(), K)
    if settings.augmentation is not None:
        center, scale = settings.augmentation.apply(center, scale, person, K, view.lens.size, rng)
    frames, names = stop - start, sequence.motion.frames[start:stop]
    lens = view.lens
    images = (
        cv2.undistort(read(view.images / f"{name}.jpg"), lens.K, lens.dist_coeffs, None, lens.K)
        for name in names
    )
    K = K.expand(frames, 3, 3)
    return body_tensors(person) | {
        "contact_label": contact_labels(world, settings.contact_threshold, settings.contact_hand),
        "K": K,
        "center": center.float(),
        "scale": scale.float(),
        "bbox": bbox_condition(center, scale, K).float(),
        "cam2world": view.cam2world.expand(frames, 4, 4),
        "world2cano": world2cano("y")[None],
        "dist_coeffs": torch.from_numpy(view.lens.dist_coeffs).float(),
        "crop_imgs": plain_crops(images, center, scale, settings.resolution),
    }


def plain_bedlam(dataset: BedlamDataset, index: int, rng: np.random.Generator) -> Item:
    """The tensors of `BedlamDataset.item` of a training split."""
    number, _, start = (int(value) for value in dataset.clips[index])
    scene, settings = dataset.scenes[number], dataset.settings
    stop = start + settings.clip_len
    labels = {key: torch.tensor(array[start:stop]) for key, array in scene.tracks.arrays.items()}
    person = local_body(dataset.body, scene.parameters(start, stop))
    posed = scene.parameters(start, stop, world_orient=settings.compat)
    joints = dataset.body(posed.body_pose, posed.betas, posed.global_orient, posed.transl).joints
    cam2world = torch.linalg.inv(labels["cam_ext"])
    world = joints @ cam2world[:, :3, :3].mT + cam2world[:, None, :3, 3]
    K, center, scale = labels["cam_int"], labels["center"], labels["scale"]
    if settings.augmentation is not None:
        center, scale = settings.augmentation.apply(center, scale, person, K, scene.image_size, rng)
    images = (read(scene.images / name.decode()) for name in scene.tracks.images[start:stop])
    if scene.on_its_side:
        images = (cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE) for image in images)
    return body_tensors(person) | {
        "contact_label": contact_labels(world, settings.contact_threshold, settings.contact_hand),
        "K": K,
        "center": center.float(),
        "scale": scale.float(),
        "bbox": bbox_condition(center, scale, K, torch.tensor(scene.image_size) / 2).float(),
        "cam2world": cam2world,
        "world2cano": world2cano("-y")[None],
        "dist_coeffs": torch.zeros(8),
        "crop_imgs": plain_crops(images, center, scale, settings.resolution),
    }


def plain_image(dataset: ImageDataset, index: int, rng: np.random.Generator) -> Item:
    """The tensors of `ImageDataset.item`."""
    row, labels = int(dataset.rows[index]), dataset.labels
    change = dataset.augmentation.draw(rng)
    image = read(dataset.root / str(labels.imgname[row]))
    H, W = image.shape[:2]
    center, scale = dataset._box(row, change, np.array([W, H], float), rng)
    zoomed = scale * change.zoom
    crop = plain_turned_crop(augment_colours(image, rng), center, zoomed, change, dataset.resolution)
    person = local_body(dataset.body, dataset._parameters(row, change))
    focal = float(np.hypot(W, H))
    shown, x = (scale if dataset.compat else zoomed), (W - center[0] if change.flip else center[0])
    entries = body_tensors(person)
    if change.flip and not dataset.compat:
        entries["translation"] = entries["translation"] * torch.tensor([-1.0, 1, 1])
    condition = np.array([x - W / 2, center[1] - H / 2, 200 * shown]) / focal
    middle = center if dataset.compat else np.array([x, center[1]])
    return entries | {
        "K": torch.tensor([[[focal, 0, W / 2], [0, focal, H / 2], [0, 0, 1]]]),
        "center": torch.from_numpy(middle)[None].float(),
        "scale": torch.tensor([shown]),
        "bbox": torch.from_numpy(condition)[None].float(),
        "cam2world": torch.eye(4)[None],
        "world2cano": torch.eye(4)[None],
        "j2d": torch.from_numpy(plain_keypoints(labels.keypoints[row], center, zoomed, change, 256))[None],
        "crop_imgs": normalised(crop)[None],
    }


# ------------------------------------------------------------------------------------------------- bodies


def body_tensors(person: LocalBody) -> Item:
    return {
        "mesh": person.mesh,
        "local_joints": person.local_joints,
        "offset": torch.zeros(len(person.mesh), 1, 3),
        "root_pos": person.root_pos,
        "rotation": person.rotation,
        "translation": person.translation,
    }


def moved_body(body: Any, parameters: BodyParameters, pelvis: Tensor, transform: Tensor) -> LocalBody:
    """One more call of the body model for the parameters in another frame."""
    local = local_body(body, parameters)
    rotation, translation = transform_root(
        parameters.global_orient, parameters.transl[:, None] + pelvis, transform
    )
    return LocalBody(local.mesh, local.local_joints, local.root_pos, rotation, translation, local.output)


def plain_keypoints(labels: NDArray, center: NDArray, scale: float, change: Change, size: int) -> NDArray:
    """(17, 3) of 24 labels, one by one through matrices (spec: data 4.3)."""
    side = 200 * scale
    to_crop = np.array(
        [[size / side, 0, size * (0.5 - center[0] / side)], [0, size / side, size * (0.5 - center[1] / side)],
         [0, 0, 1]]
    )  # fmt: skip
    angle = np.radians(-change.degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = []
    for x, y, confidence in labels[list(J2D)].astype(np.float64):
        pixel = turn @ ((to_crop @ [x, y, 1])[:2] - size / 2) + size / 2
        points.append([*(2 * (np.trunc(pixel) + 1) / size - 1), confidence])
    found = np.array(points)
    if change.flip:
        found = found[list(J2D_MIRRORED)] * [-1, 1, 1]
    return found.astype(np.float32)


# ------------------------------------------------------------------------------------------------- images


def read(path: Any) -> NDArray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def normalised(crop: NDArray) -> Tensor:
    """(3, h, w) float32 of pixels (h, w, 3), 0 to 255, channel by channel."""
    image = torch.from_numpy((crop / 255.0).astype(np.float32).transpose(2, 0, 1).copy())
    return torch.stack([(image[c] - IMAGE_MEAN[c]) / IMAGE_STD[c] for c in range(3)])


def plain_crops(
    images: Iterable[NDArray], center: Tensor, scale: Tensor, resolution: tuple[int, int]
) -> Tensor:
    """(F, 3, h, w) from whole images (spec: data 2.7)."""
    crops = []
    for image, middle, size in zip(images, center.double().numpy(), scale.double().numpy()):
        window = plain_window(image, middle, size)
        picture = Image.new("RGB", (1, 1)) if window is None else Image.fromarray(window.astype(np.uint8))
        crops.append(normalised(np.asarray(picture.resize(resolution[::-1], Image.Resampling.BILINEAR))))
    return torch.stack(crops)


def plain_window(image: NDArray, center: NDArray, scale: float) -> NDArray | None:
    """The float64 window of a box, zero outside the image; None for one that is black by rule."""
    H, W = image.shape[:2]
    upper, lower = crop_window(center, scale)
    width, height = lower - upper
    if upper[0] >= W or upper[1] >= H or (lower < 0).any() or height > 3 * H or width > 3 * W:
        return None
    return cut(image, upper, lower)


def plain_turned_crop(
    image: NDArray, center: NDArray, scale: float, change: Change, resolution: tuple[int, int]
) -> NDArray:
    """(h, w, 3) float64, 0 to 255 (spec: data 2.10)."""
    upper, lower = crop_window(center, scale)
    pad = 0
    if change.degrees:
        pad = int(np.linalg.norm(lower - upper) / 2 - (lower[1] - upper[1]) / 2)
    window = cut(image, upper - pad, lower + pad)
    if change.degrees:
        h, w = window.shape[:2]
        turn = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), change.degrees, 1.0)
        window = cv2.warpAffine(window, turn, (w, h), flags=cv2.INTER_LINEAR)[pad : h - pad, pad : w - pad]
    crop = cv2.resize(window, resolution[::-1], interpolation=cv2.INTER_LINEAR)
    return crop[:, ::-1] if change.flip else crop


def cut(image: NDArray, upper: NDArray, lower: NDArray) -> NDArray:
    H, W = image.shape[:2]
    width, height = lower - upper
    window = np.zeros((height, width, 3))
    x0, x1, y0, y1 = max(0, upper[0]), min(W, lower[0]), max(0, upper[1]), min(H, lower[1])
    window[y0 - upper[1] : y1 - upper[1], x0 - upper[0] : x1 - upper[0]] = image[y0:y1, x0:x1]
    return window
