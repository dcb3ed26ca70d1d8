"""RICH: one person outdoors or in a hall, several static cameras; test only (spec: data 4.5)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.crops import DEFAULT_RESOLUTION, CropReader
from models.mask_transformer.data.items import BodyParameters, body_entries, camera_entries, local_body
from models.mask_transformer.data.recordings import load_bodies, read_json, require_complete
from models.mask_transformer.data.windows import windows_of
from moro.errors import MoroError
from moro.geometry.rotation import rotvec_to_matrix

LABELS, BOXES = "hmr4d_support/rich_test_labels.pt", "hmr4d_support/rich_test_preproc.pt"
DEBUG = "test/Gym_013_burpee4/cam_06"
CROP_CYCLE, CROP_FROM = 200, 100  # crop_bbox: the last half of every 200 frames


@dataclass(frozen=True)
class Camera:
    """K (3, 3) pixels, world2cam (4, 4)."""

    K: Tensor
    world2cam: Tensor


@dataclass(frozen=True)
class Video:
    """One sequence of one camera, T frames.

    parameters in the world of the calibration; bbx_xys (T, 3) centre and side in pixels; images T files;
    size (width, height) or None; world2cano (4, 4)
    """

    name: str
    gender: str
    parameters: BodyParameters
    bbx_xys: Tensor
    images: list[Path]
    size: tuple[int, int] | None
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
        self.reader = CropReader(resolution, strict=True)

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
            center, scale = upper_half(center, scale, torch.arange(start, stop))
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


def upper_half(center: Tensor, scale: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (F, 2), (F,) of frames (F,) of the sequence, halved towards the head by the occlusion protocol.

    New tensors: the stored boxes stay as they are (spec: data D8).
    """
    cropped = frames % CROP_CYCLE >= CROP_FROM
    shift = torch.stack([torch.zeros_like(scale), 50 * scale], -1)  # (F, 2)
    return (
        torch.where(cropped[:, None], center - shift, center),
        torch.where(cropped, scale / 2, scale),
    )


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
    labels, boxes = _load_tensors(root / LABELS), _load_tensors(root / BOXES)
    scans = _scans(root / "resource")
    wanted = list(labels) if names is None else names
    problems, videos = {}, []
    for name in wanted:
        lacking = [what for what, content in (("labels", labels), ("boxes", boxes)) if name not in content]
        images = sorted((root / "images" / name).glob("*.jpeg"))
        if not lacking and len(images) <= int(labels[name]["frame_id"].max()):
            lacking.append(f"images: {len(images)} of at least {int(labels[name]['frame_id'].max()) + 1}")
        sequence = name.split("/")[-2]
        xml = _calibration(root, name)
        if xml is None:
            lacking.append(f"scan_calibration/{sequence.split('_')[0]}/calibration")
        if sequence not in scans:
            lacking.append("a line of resource/{train,val,test}.txt with a known scan")
        if lacking:
            problems[name] = lacking
        else:
            videos.append(_video(name, labels[name], boxes[name], images, xml, scans[sequence]))
    require_complete("RICH", root, problems)
    return videos


def _video(
    name: str, label: dict, boxes: dict, images: list[Path], xml: Path, world2cano: np.ndarray
) -> Video:
    try:
        values = {key: value.float() for key, value in label["gt_smplx_params"].items()}
        frames = len(label["frame_id"])
        parameters = BodyParameters(
            global_orient=rotvec_to_matrix(values["global_orient"]),
            body_pose=rotvec_to_matrix(values["body_pose"].reshape(frames, 21, 3)),  # (T, 63) -> (T, 21, 3)
            betas=values["betas"],
            transl=values["transl"],
        )
        size = boxes.get("img_wh")
        bbx_xys = torch.as_tensor(boxes["bbx_xys"]).float()
        if len(bbx_xys) != frames:
            raise ValueError(f"{frames} labels, {len(bbx_xys)} boxes")
        return Video(
            name=name,
            gender=str(label["gender"]),
            parameters=parameters,
            bbx_xys=bbx_xys,
            images=[images[int(number)] for number in label["frame_id"]],
            size=None if size is None else (int(size[0]), int(size[1])),
            camera=_read_camera(xml),
            world2cano=torch.from_numpy(world2cano).float(),
        )
    except (KeyError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise MoroError(f"RICH labels of {name} are not as expected ({error}); fetch them again.") from error


def _load_tensors(path: Path) -> dict[str, Any]:
    """A .pt file of a dictionary of tensors, arrays and plain values; nothing else is unpickled."""
    try:
        with _numpy_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; it comes with GVHMR's preprocessed data.") from error
    except Exception as error:  # a damaged or foreign file can fail in any way
        raise MoroError(f"cannot read {path}: {str(error).splitlines()[0]}; fetch it again.") from error
    if not isinstance(content, dict):
        raise MoroError(f"{path} holds no dictionary of videos; fetch it again.")
    return content


@contextmanager
def _numpy_allowed() -> Iterator[None]:
    """Lets weights_only files carry numpy arrays, under the names of numpy 1 and 2."""
    reconstruct, scalar = np.array(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1", "u1", "U1")]
    aliases = [
        (function, f"{core}.multiarray.{name}")
        for core in ("numpy.core", "numpy._core")
        for function, name in ((reconstruct, "_reconstruct"), (scalar, "scalar"))
    ]
    with torch.serialization.safe_globals([np.ndarray, np.dtype, *kinds, *aliases]):
        yield


def _calibration(root: Path, name: str) -> Path | None:
    """The xml of test/<capture>_.../cam_<number>; its own name is a number, with any number of zeros."""
    sequence, camera = name.split("/")[-2:]
    folder = root / "scan_calibration" / sequence.split("_")[0] / "calibration"
    number = int(camera.removeprefix("cam_"))
    found = [path for path in folder.glob("*.xml") if path.stem.isdigit() and int(path.stem) == number]
    return found[0] if found else None


def _read_camera(path: Path) -> Camera:
    """An OpenCV storage file with CameraMatrix (3, 4) world → camera and Intrinsics (3, 3)."""
    try:
        tree = ElementTree.parse(path).getroot()
        numbers = {
            node: np.array((tree.findtext(f"{node}/data") or "").split(), np.float64)
            for node in ("CameraMatrix", "Intrinsics")
        }
        world2cam = np.eye(4)
        world2cam[:3] = numbers["CameraMatrix"].reshape(3, 4)  # (12,) -> (3, 4)
        K = numbers["Intrinsics"].reshape(3, 3)  # (9,) -> (3, 3)
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise MoroError(f"cannot read the camera {path} ({error}); unpack it again.") from error
    return Camera(torch.from_numpy(K).float(), torch.from_numpy(world2cam).float())


def _scans(folder: Path) -> dict[str, np.ndarray]:
    """Sequence → (4, 4) to the z-up world of its scan, for sequences of one person (spec: data 4.5)."""
    matrices = read_json(folder / "w2az_sahmr.json")
    scans = {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.txt"
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
        for line in lines:
            columns = line.split()
            if len(columns) < 3 or len(columns[0].split("_")) != 3:
                continue  # several people, or an empty line
            matrix = np.asarray(matrices.get(f"{columns[1]}_{columns[2]}", ()), np.float64)
            if matrix.shape == (4, 4):
                scans[columns[0]] = matrix
    return scans
