"""RICH: one person outdoors or in a hall, several static cameras; test only (spec: data 4.5)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.crops import DEFAULT_RESOLUTION, CropReader
from models.mask_transformer.data.items import (
    BodyParameters,
    body_entries,
    camera_entries,
    local_body,
    parameters_from_arrays,
)
from models.mask_transformer.data.recordings import load_bodies, require_complete
from models.mask_transformer.data.windows import windows_of
from moro.errors import MoroError
from moro.io import rich_files as files
from moro.io.rich_files import Boxes, Labels

DEBUG = "test/Gym_013_burpee4/cam_06"


@dataclass(frozen=True)
class Camera:
    """K (3, 3) pixels, world2cam (4, 4)."""

    K: Tensor
    world2cam: Tensor


@dataclass(frozen=True)
class Video:
    """One sequence of one camera, T frames.

    parameters in the world of the calibration; bbx_xys (T, 3) centre and side in pixels; images T files;
    size (width, height); world2cano (4, 4)
    """

    name: str
    gender: str
    parameters: BodyParameters
    bbx_xys: NDArray
    images: list[Path]
    size: tuple[int, int]
    camera: Camera
    world2cano: Tensor

    def __len__(self) -> int:
        return len(self.images)


class RichDataset(ClipDataset):
    """Clips of RICH in the camera frame, with the body of the person's gender; images as they are (no lens).

    crop_bbox  in the last 100 of every 200 frames the box is the upper half of the body (occlusion protocol)

    `cam2world` is what its name says (the reference stored its inverse, spec: data D12). A missing image is
    an error. `offset` is one zero per frame (see `items.body_entries`).
    """

    def __init__(
        self,
        videos: list[Video],
        *,
        clip_len: int,
        overlap_len: int = 0,
        bm_path: str = "body_models",
        model_type: str = "smplx",
        crop_bbox: bool = False,
        contact_threshold: float = 0.3,
        contact_hand: bool = False,
        resolution: tuple[int, int] = DEFAULT_RESOLUTION,
    ) -> None:
        super().__init__()
        self.crop_bbox, self.contact_threshold, self.contact_hand = crop_bbox, contact_threshold, contact_hand
        self.bodies = load_bodies(bm_path, model_type, [video.gender for video in videos])
        self.clips = [
            (video, start, stop)
            for video in videos
            for start, stop in windows_of(len(video), clip_len, overlap_len)
        ]
        self.reader = CropReader(resolution, max_unreadable=0)

    def __len__(self) -> int:
        return len(self.clips)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        video, start, stop = self.clips[index]
        part = slice(start, stop)
        parameters = BodyParameters(
            video.parameters.global_orient[part],
            video.parameters.body_pose[part],
            video.parameters.betas[part],
            video.parameters.transl[part],
        )
        world = local_body(self.bodies[video.gender], parameters)
        person = world.moved(video.camera.world2cam)
        center, scale = video.bbx_xys[part, :2], video.bbx_xys[part, 2] / 200
        if self.crop_bbox:
            center, scale = files.upper_half(center, scale, np.arange(start, stop))
        center, scale = torch.from_numpy(center), torch.from_numpy(scale)
        paths = video.images[part]
        entries = body_entries(person, world.joints(), self.contact_threshold, self.contact_hand)
        entries |= camera_entries(
            video.camera.K, center, scale, torch.linalg.inv(video.camera.world2cam), video.world2cano
        )
        sequence, camera = video.name.split("/")[-2:]
        return entries | {
            "crop_imgs": self.reader.read(paths, center, scale, size=video.size),
            "img_paths": [str(path) for path in paths],
            "body_idx": sequence,
            "seq_name": f"{sequence}/{camera}",
            "has_transl": True,
            "true_params": False,
        }


def build(cfg: DictConfig, split: str) -> RichDataset:
    """The test set from the whole configuration.

    Raises MoroError for another split, and naming every video with missing files.
    """
    if split != "test":
        raise MoroError(f"RICH is a test set, it has no {split} split; use mode=test.")
    dataset = cfg.dataset
    root = Path(dataset.dataset_root or dataset.roots.rich)
    return RichDataset(
        read_videos(root, [DEBUG] if cfg.debug else None),
        clip_len=dataset.clip_len,
        overlap_len=dataset.overlap_len,
        bm_path=dataset.bm_path,
        model_type=dataset.model_type,
        crop_bbox=dataset.crop_bbox,
        contact_threshold=dataset.contact_vel_thres,
        contact_hand=dataset.contact_hand,
        resolution=tuple(dataset.crop_res or DEFAULT_RESOLUTION),
    )


def read_videos(root: Path, names: list[str] | None = None) -> list[Video]:
    """The videos of the label file in its order, or those named (test/<sequence>/cam_XX)."""
    labels, boxes = files.read_labels(root), files.read_boxes(root)
    scans = _scans(root)
    problems, videos = {}, []
    for name in list(labels) if names is None else names:
        sequence, _ = files.split_vid(name)
        images = files.image_files(root, name)
        lacking = [what for what, content in (("labels", labels), ("boxes", boxes)) if name not in content]
        if not lacking:
            lacking = _problems(root, name, labels[name], boxes[name], len(images))
        if sequence not in scans:
            lacking.append("a line of resource/{train,val,test}.txt with a known scan")
        if lacking:
            problems[name] = lacking
        else:
            videos.append(_video(root, name, labels[name], boxes[name], images, scans[sequence]))
    require_complete("RICH", root, problems)
    return videos


def _problems(root: Path, name: str, labels: Labels, boxes: Boxes, num_images: int) -> list[str]:
    lacking, frames = [], len(labels.frame_id)
    needed = int(labels.frame_id.max(initial=-1)) + 1
    if num_images < needed:
        lacking.append(f"images: {num_images} of at least {needed}")
    if len(boxes.bbx_xys) != frames:
        lacking.append(f"boxes: {len(boxes.bbx_xys)} for {frames} labels")
    if files.camera_file(root, name) is None:
        lacking.append(f"scan_calibration/{files.split_vid(name)[0].split('_')[0]}/calibration")
    return lacking


def _video(
    root: Path, name: str, labels: Labels, boxes: Boxes, images: list[Path], world2cano: np.ndarray
) -> Video:
    K, world2cam = files.read_camera(root, name)
    return Video(
        name=name,
        gender=labels.gender,
        parameters=parameters_from_arrays(labels.parameters),
        bbx_xys=boxes.bbx_xys.astype(np.float32),
        images=[images[int(number)] for number in labels.frame_id],
        size=boxes.size,
        camera=Camera(torch.from_numpy(K).float(), torch.from_numpy(world2cam).float()),
        world2cano=torch.from_numpy(world2cano).float(),
    )


def _scans(root: Path) -> dict[str, np.ndarray]:
    """Sequence → (4, 4) to the z-up world of its scan, for sequences of one person (spec: data 4.5)."""
    matrices = files.read_floor_frames(root)
    return {name: matrices[scan] for name, scan in files.scan_names(root).items() if scan in matrices}
