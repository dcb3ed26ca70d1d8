"""RICH on disk: labels and boxes from GVHMR, cameras, floor frames (spec: data 4.5)."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.io.scenes import read_json

LABELS, BOXES = "hmr4d_support/rich_test_labels.pt", "hmr4d_support/rich_test_preproc.pt"
CROP_CYCLE, CROP_FROM = 200, 100  # frames
_PARAMETERS = {"body_pose": 63, "betas": 10, "global_orient": 3, "transl": 3}


@dataclass(frozen=True)
class Labels:
    """Ground truth of one vid, T frames, in the world frame.

    frame_id    (T,) index into the vid's sorted images
    parameters  body_pose (T, 63), betas (T, 10), global_orient (T, 3), transl (T, 3) float32, axis-angle
    gender      male or female
    """

    frame_id: NDArray
    parameters: dict[str, NDArray]
    gender: str


@dataclass(frozen=True)
class Boxes:
    """bbx_xys (T, 3): centre and side, pixels; size: the images' width, height."""

    bbx_xys: NDArray
    size: tuple[int, int]


def read_labels(root: str | Path) -> dict[str, Labels]:
    """Labels of every vid (test/<seq>/cam_XX) in file order. MoroError if missing or damaged."""
    path = Path(root) / LABELS
    return {vid: _labels(entry, vid, path) for vid, entry in _read_torch(path).items()}


def _labels(entry: Any, vid: str, path: Path) -> Labels:
    try:
        frame_id = np.asarray(entry["frame_id"], np.int64).reshape(-1)  # (T,)
        parameters = {key: np.asarray(entry["gt_smplx_params"][key], np.float32) for key in _PARAMETERS}
        gender = str(entry["gender"])
    except (KeyError, TypeError, ValueError) as error:
        raise MoroError(f"{path}: the labels of {vid} are incomplete ({error}); fetch it again") from error
    for key, width in _PARAMETERS.items():
        if parameters[key].shape != (len(frame_id), width):
            raise MoroError(f"{path}: {key} of {vid} must be ({len(frame_id)}, {width}); fetch it again")
    return Labels(frame_id, parameters, gender)


def read_boxes(root: str | Path) -> dict[str, Boxes]:
    """Boxes of every vid, from rich_test_preproc.pt. MoroError if missing or damaged."""
    path = Path(root) / BOXES
    boxes = {}
    for vid, entry in _read_torch(path).items():
        try:
            W, H = (int(side) for side in np.asarray(entry["img_wh"]).ravel())
            boxes[vid] = Boxes(np.asarray(entry["bbx_xys"], np.float64).reshape(-1, 3), (W, H))
        except (KeyError, TypeError, ValueError) as error:
            raise MoroError(f"{path}: the boxes of {vid} are damaged ({error}); fetch it again") from error
    return boxes


def split_vid(vid: str) -> tuple[str, str]:
    """(sequence, camera) of test/<seq>/cam_XX."""
    parts = vid.split("/")
    if len(parts) != 3 or not parts[2].startswith("cam_") or not parts[2][4:].isdigit():
        raise MoroError(f"{vid!r} is no RICH video; expected test/<sequence>/cam_<number>")
    return parts[1], parts[2]


def image_folder(root: str | Path, vid: str) -> Path:
    """Folder of the vid's images."""
    return Path(root) / "images" / vid


def image_files(root: str | Path, vid: str) -> list[Path]:
    """Images of a vid, sorted by name: what the labels' `frame_id` counts."""
    return sorted(image_folder(root, vid).glob("*.jp*g"))


def upper_half(centers: NDArray, scales: NDArray, frames: NDArray) -> tuple[NDArray, NDArray]:
    """Boxes (F, 2), (F,) after the occlusion protocol: halved towards the head in the last 100 of every 200
    frames of the sequence (spec: data 4.5).

    frames  (F,) numbers within the sequence
    New arrays: the stored boxes stay as they are (spec: data D8).
    """
    centers, scales = centers.copy(), scales.copy()
    cut = np.asarray(frames) % CROP_CYCLE >= CROP_FROM
    centers[cut, 1] -= 50 * scales[cut]
    scales[cut] /= 2
    return centers, scales


def camera_file(root: str | Path, vid: str) -> Path | None:
    """Calibration of a vid's capture and camera; its own name is a number, with any number of zeros."""
    sequence, camera = split_vid(vid)
    folder = Path(root) / "scan_calibration" / sequence.split("_")[0] / "calibration"
    number = int(camera.removeprefix("cam_"))
    files = (path for path in sorted(folder.glob("*.xml")) if path.stem.isdigit())
    return next((path for path in files if int(path.stem) == number), None)


def read_camera(root: str | Path, vid: str) -> tuple[NDArray, NDArray]:
    """K (3, 3) and world-to-camera (4, 4), float64, of the calibration xml of a vid's capture and camera."""
    path = camera_file(root, vid)
    if path is None:
        sequence, camera = split_vid(vid)
        capture, number = sequence.split("_")[0], int(camera.removeprefix("cam_"))
        raise MoroError(
            f"{root} has no calibration of camera {number} of {capture} ({vid}); get RICH's scan_calibration"
        )
    return _read_xml(path)


def _read_xml(path: Path) -> tuple[NDArray, NDArray]:
    world2cam = np.eye(4)
    try:
        tree = ElementTree.parse(path).getroot()
        world2cam[:3] = np.array(tree.findtext("CameraMatrix/data", "").split(), float).reshape(3, 4)
        K = np.array(tree.findtext("Intrinsics/data", "").split(), float).reshape(3, 3)
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise MoroError(f"{path} is not a readable camera calibration ({error}); fetch it again") from error
    return K, world2cam


def read_floor_frames(root: str | Path) -> dict[str, NDArray]:
    """{scan name: (4, 4)} world → z-up frame with the floor near z = 0."""
    path = Path(root) / "resource" / "w2az_sahmr.json"
    try:
        return {name: np.asarray(m, np.float64).reshape(4, 4) for name, m in read_json(path).items()}
    except (AttributeError, ValueError, TypeError) as error:
        raise MoroError(f"{path} holds no 4x4 matrices by scan name; fetch it again") from error


def scan_names(root: str | Path) -> dict[str, str]:
    """{sequence: scan name} from resource/{train,val,test}.txt; several people in a sequence: left out."""
    names = {}
    for split in ("train", "val", "test"):
        path = Path(root) / "resource" / f"{split}.txt"
        if not path.is_file():
            continue
        for line in path.read_text().splitlines()[1:]:
            columns = line.split()
            if len(columns) >= 3 and columns[0].count("_") == 2:
                names[columns[0]] = f"{columns[1]}_{columns[2]}"
    if not names:
        raise MoroError(f"{Path(root) / 'resource'} has no list of sequences (test.txt); it comes with GVHMR")
    return names


def _read_torch(path: Path) -> dict[str, Any]:
    """Dictionary in a torch file of tensors, arrays and plain values; nothing else is unpickled."""
    try:
        with _numpy_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; it comes with GVHMR, see docs/files.md") from error
    except Exception as error:  # a damaged or foreign file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MoroError(f"{path} cannot be read safely ({reason}); fetch it again") from error
    if not isinstance(content, dict):
        raise MoroError(f"{path} holds no dictionary of videos; fetch it again")
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
