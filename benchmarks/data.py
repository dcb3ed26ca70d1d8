"""A training item of EgoBody beside the same item built step by step, as the original's loader does."""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from benchmarks.harness import Options, Row, Run, Target
from models.mask_transformer.data.crops import boxes_of_joints
from models.mask_transformer.data.egobody import EgoBodyDataset, View
from models.mask_transformer.data.items import BodyParameters, LocalBody, local_body
from models.mask_transformer.data.module import build_dataset
from moro.config import compose_config
from moro.geometry.camera import bbox_condition
from moro.geometry.contact import contact_labels
from moro.geometry.crop import crop_window
from moro.geometry.frames import transform_root, world2cano
from moro.geometry.image import IMAGE_MEAN, IMAGE_STD
from moro.synth.worlds import BODIES, WorldSize, make_world

GREY_LEVEL = 1 / 255 / min(IMAGE_STD)  # of a normalised crop
LARGEST = (1 - min(IMAGE_MEAN)) / min(IMAGE_STD)  # value of a normalised crop


def rows(options: Options) -> list[Row]:
    frames, world = 4 if options.quick else 24, str(options.work / "world")
    return [
        Row(
            f"data.egobody-{frames}", "training item of EgoBody", f"{frames} frames, 1920x1080",
            partial(item, world, frames), Target(speedup=3), files=partial(write_world, world, frames),
            units=frames, tolerance=GREY_LEVEL / LARGEST,
        )
    ]  # fmt: skip


def write_world(folder: str, frames: int) -> None:
    make_world("egobody", Path(folder), 0, WorldSize(frames, 1), Path("body_models"))


def item(folder: str, frames: int, variant: str) -> Run:
    """An item whose clip gets a body-part crop; the rest of it is the same for every clip."""
    dataset = training_set(Path(folder), frames)

    def run() -> dict[str, Tensor]:
        rng = np.random.default_rng(0)
        made = plain_item(dataset, 0, rng) if variant == "plain" else dataset.item(0, rng)
        return {key: value for key, value in made.items() if isinstance(value, Tensor)}

    return run


def training_set(folder: Path, frames: int) -> EgoBodyDataset:
    cfg = compose_config(
        "config",
        ["data=egobody", f"dataset.clip_len={frames}", "dataset.overlap_len=0", "mode=train",
         f"dataset.bm_path={folder / BODIES}", "dataset.extreme_crop_aug_prob=1.0"],
    )  # fmt: skip
    OmegaConf.set_struct(cfg, False)
    cfg.dataset.dataset_root = str(folder / "EgoBody")
    return build_dataset(cfg, "train")


# --------------------------------------------------------------------------------- the item step by step


def plain_item(dataset: EgoBodyDataset, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """`EgoBodyDataset.item` with two calls of the body model, whole images undistorted, crops and their
    normalisation in float64, frame by frame (spec: data 4.4, D22)."""
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
    K = K.expand(frames, 3, 3)
    return {
        "mesh": person.mesh,
        "local_joints": person.local_joints,
        "offset": torch.zeros(frames, 1, 3),
        "root_pos": person.root_pos,
        "rotation": person.rotation,
        "translation": person.translation,
        "contact_label": contact_labels(world, settings.contact_threshold, settings.contact_hand),
        "K": K,
        "center": center.float(),
        "scale": scale.float(),
        "bbox": bbox_condition(center, scale, K).float(),
        "cam2world": view.cam2world.expand(frames, 4, 4),
        "world2cano": world2cano("y")[None],
        "dist_coeffs": torch.from_numpy(view.lens.dist_coeffs).float(),
        "crop_imgs": plain_crops(view, names, center, scale, settings.resolution),
    }


def moved_body(body: Any, parameters: BodyParameters, pelvis: Tensor, transform: Tensor) -> LocalBody:
    """One more call of the body model for the parameters in another frame."""
    local = local_body(body, parameters)
    rotation, translation = transform_root(
        parameters.global_orient, parameters.transl[:, None] + pelvis, transform
    )
    return LocalBody(local.mesh, local.local_joints, local.root_pos, rotation, translation, local.output)


def plain_crops(
    view: View, names: list[str], center: Tensor, scale: Tensor, resolution: tuple[int, int]
) -> Tensor:
    """(F, 3, h, w): whole images undistorted, windows in float64, normalised in float64."""
    crops = []
    for name, middle, size in zip(names, center.double().numpy(), scale.double().numpy()):
        image = cv2.cvtColor(cv2.imread(str(view.images / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        image = cv2.undistort(image, view.lens.K, view.lens.dist_coeffs, None, view.lens.K)
        crop = np.asarray(plain_crop(image, middle, size).resize(resolution[::-1], Image.Resampling.BILINEAR))
        crop = (crop / 255.0 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
        crops.append(torch.from_numpy(crop.transpose(2, 0, 1)).float())
    return torch.stack(crops)


def plain_crop(image: np.ndarray, center: np.ndarray, scale: float) -> Image.Image:
    """The window of a box, zero outside the image."""
    H, W = image.shape[:2]
    upper, lower = crop_window(center, scale)
    width, height = lower - upper
    if upper[0] >= W or upper[1] >= H or (lower < 0).any() or height > 3 * H or width > 3 * W:
        return Image.new("RGB", (1, 1))
    window = np.zeros((height, width, 3))
    x0, x1, y0, y1 = max(0, upper[0]), min(W, lower[0]), max(0, upper[1]), min(H, lower[1])
    window[y0 - upper[1] : y1 - upper[1], x0 - upper[0] : x1 - upper[0]] = image[y0:y1, x0:x1]
    return Image.fromarray(window.astype(np.uint8))
