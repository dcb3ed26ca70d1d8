"""PROX: one person in a scanned room, one Kinect, mirrored images; test only (spec: data 4.6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.crops import DEFAULT_RESOLUTION, CropReader, boxes_of_joints
from models.mask_transformer.data.items import LocalBody, body_entries, camera_entries, local_body
from models.mask_transformer.data.recordings import Motion, load_bodies, read_motion, require_complete
from models.mask_transformer.data.windows import windows_of
from moro.errors import MoroError
from moro.geometry.frames import world2cano
from moro.geometry.lens import Lens
from moro.io import prox_files as files
from moro.io.prox_files import RECORDINGS, gender_of
from moro.io.scenes import Boxes

DEBUG = "N0Sofa_00145_01"


@dataclass(frozen=True)
class Recording:
    """frames T names of the images; motion None where there is no pseudo ground truth; boxes of the mirrored
    raw image, None with gt_bbox; cam2world (4, 4) z-up; images: folder."""

    name: str
    frames: list[str]
    motion: Motion | None
    boxes: Boxes | None
    cam2world: Tensor
    images: Path

    def __len__(self) -> int:
        return len(self.frames)


class ProxDataset(ClipDataset):
    """Clips of PROX in the frame in which the pseudo ground truth and the boxes see the room.

    It is that of the undistorted image turned left to right; K is used on it as it is (spec: data 4.6).

    compat  boxes in pixels of the raw image are used as they are on the undistorted one, as the published
            numbers were made (spec: data D11); otherwise they are undistorted, and filled in where nobody was
            detected (D25; `detected` marks those frames in either case)

    A recording without pseudo ground truth gives the keys of its images only. `offset` is one zero per frame.
    """

    def __init__(
        self,
        recordings: list[Recording],
        lens: Lens,
        *,
        clip_len: int,
        overlap_len: int = 0,
        bm_path: str = "body_models",
        model_type: str = "smplx",
        contact_threshold: float = 0.3,
        contact_hand: bool = False,
        resolution: tuple[int, int] = DEFAULT_RESOLUTION,
        max_unreadable: float = 0.05,
        compat: bool = True,
    ) -> None:
        super().__init__()
        self.lens, self.compat = lens, compat
        self.contact_threshold, self.contact_hand = contact_threshold, contact_hand
        known = [gender_of(recording.name) for recording in recordings if recording.motion is not None]
        self.bodies = load_bodies(bm_path, model_type, known)
        self.clips = [
            (recording, start, stop)
            for recording in recordings
            for start, stop in windows_of(len(recording), clip_len, overlap_len)
        ]
        self.reader = CropReader(resolution, max_unreadable=max_unreadable, mirror=True)

    def __len__(self) -> int:
        return len(self.clips)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        recording, start, stop = self.clips[index]
        K, dist_coeffs = (torch.from_numpy(a).float() for a in (self.lens.K, self.lens.dist_coeffs))
        entries: dict[str, Any] = {}
        person = None
        if recording.motion is not None:
            body = self.bodies[gender_of(recording.name)]
            person = local_body(body, recording.motion.parameters(start, stop))
            world_joints = person.moved(recording.cam2world).joints()
            entries = body_entries(person, world_joints, self.contact_threshold, self.contact_hand)
        if recording.boxes is None:
            center, scale = self._true_boxes(person, K, dist_coeffs)
        else:
            center, scale = self._detected_boxes(recording.boxes, start, stop)
            entries["detected"] = torch.from_numpy(recording.boxes.detected[start:stop])
        paths = [recording.images / f"{frame}.jpg" for frame in recording.frames[start:stop]]
        entries |= camera_entries(K, center, scale, recording.cam2world, world2cano("z"))
        return entries | {
            "dist_coeffs": dist_coeffs,
            "crop_imgs": self.reader.read(paths, center, scale, self.lens),
            "img_paths": [str(path) for path in paths],
            "body_idx": "0",
            "seq_name": recording.name,
            "has_transl": True,
            "true_params": False,
        }

    def _true_boxes(self, person: LocalBody, K: Tensor, dist_coeffs: Tensor) -> tuple[Tensor, Tensor]:
        return boxes_of_joints(person.joints(), K, dist_coeffs if self.compat else None)

    def _detected_boxes(self, boxes: Boxes, start: int, stop: int) -> tuple[Tensor, Tensor]:
        center, scale = boxes.centers[start:stop], boxes.scales[start:stop]
        if not self.compat:
            center, scale = self.lens.undistort_boxes(boxes.bboxes[start:stop], mirror=True)
        return torch.from_numpy(center).float(), torch.from_numpy(scale).float()


def build(cfg: DictConfig, split: str) -> ProxDataset:
    """The test set from the whole configuration: dataset.recording (a name or a list), or all 19.

    Raises MoroError for another split, and naming every recording with missing files.
    """
    if split != "test":
        raise MoroError(f"PROX is a test set, it has no {split} split; use mode=test.")
    dataset = cfg.dataset
    root = Path(dataset.dataset_root or dataset.roots.prox)
    chosen = dataset.recording
    names = list(RECORDINGS) if chosen is None else [chosen] if isinstance(chosen, str) else list(chosen)
    recordings = read_recordings(root, [DEBUG] if cfg.debug else names, dataset.gt_bbox, not cfg.compat)
    return ProxDataset(
        recordings,
        files.colour_lens(root),
        clip_len=dataset.clip_len,
        overlap_len=dataset.overlap_len,
        bm_path=dataset.bm_path,
        model_type=dataset.model_type,
        contact_threshold=dataset.contact_vel_thres,
        contact_hand=dataset.contact_hand,
        resolution=tuple(dataset.crop_res or DEFAULT_RESOLUTION),
        max_unreadable=dataset.max_unreadable,
        compat=cfg.compat,
    )


def read_recordings(
    root: Path, names: Sequence[str], gt_bbox: bool = False, interpolate: bool = False
) -> list[Recording]:
    """The named recordings; without pseudo ground truth the frames are those of the images.

    interpolate  see `Boxes.interpolated`
    """
    if not root.is_dir():
        raise MoroError(f"PROX not found at {root}; unpack it there or set dataset.dataset_root.")
    if not names:
        raise MoroError("dataset.recording is empty; name a recording or leave it out for all.")
    problems = {name: lacking for name in names if (lacking := _problems(root, name, gt_bbox))}
    require_complete("PROX", root, problems)
    return [_recording(root, name, gt_bbox, interpolate) for name in names]


def _problems(root: Path, name: str, gt_bbox: bool) -> list[str]:
    gender_of(name)  # a name that is none is said first
    needed = [files.image_folder(root, name), files.world_file(root, name), files.lens_file(root)]
    if gt_bbox:
        needed.append(files.parameter_folder(root, name))
    lacking = [str(path.relative_to(root)) for path in needed if not path.exists()]
    if not gt_bbox and not files.box_file(root, name).is_file():
        lacking.append(f"boxes (run {files.BOX_SCRIPT})")
    return lacking


def _recording(root: Path, name: str, gt_bbox: bool, interpolate: bool) -> Recording:
    images, folder = files.image_folder(root, name), files.parameter_folder(root, name)
    motion = None
    if folder.is_dir():
        motion = read_motion(folder, root.parent / "prox_preprocess" / f"{name}.npz")
    frames = motion.frames if motion is not None else sorted(path.stem for path in images.glob("*.jpg"))
    if not frames:
        raise MoroError(f"{images} holds no .jpg images; unpack the recording again.")
    boxes = None
    if not gt_bbox:
        boxes = files.person_boxes(root, name)
        boxes = (boxes.interpolated() if interpolate else boxes).select(frames)
    cam2world = torch.from_numpy(files.camera_to_world(root, name)).float()
    return Recording(name, frames, motion, boxes, cam2world, images)
