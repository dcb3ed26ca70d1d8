"""COCO, MPII, Human3.6M and MPI-INF-3DHP on disk: BEDLAM's labels of real images (spec: data 4.3, 5.4)."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError

CONVERSION = "scripts.preprocess.process_hmr_smplx"
NUM_KEYPOINTS = 24
POSE, BETAS = 66, 10  # numbers that are used: root and 21 joints in axis-angle; shape


@dataclass(frozen=True)
class ImageSet:
    """folder of the data set; stem of its label files: SMPL <stem>.npz, SMPL-X <stem>_smplx.npz."""

    folder: str
    stem: str

    def smpl_labels(self, root: str | Path) -> Path:
        """As downloaded."""
        return Path(root) / f"{self.stem}.npz"

    def smplx_labels(self, root: str | Path) -> Path:
        """As made by the conversion (spec: data 5.4)."""
        return Path(root) / f"{self.stem}_smplx.npz"


SETS = {
    "coco": ImageSet("coco", "coco"),
    "mpii": ImageSet("mpii", "mpii"),
    "h36m": ImageSet("h36m_train", "h36m_train"),
    "mpi_inf_3dhp": ImageSet("mpi-inf-3dhp", "mpi_inf_3dhp_train"),
}


@dataclass(frozen=True)
class Labels:
    """N people, SMPL-X neutral, in the camera frame of their image.

    imgname    (N,) str, file names relative to the label file
    center     (N, 2) px, scale (N,): box
    pose       (N, 66) axis-angle, betas (N, 10)
    keypoints  (N, 24, 3) x, y px, confidence, in the order of spec: data 2.8
    global_t   (N, 3) translation in the camera, metres, or None; focal (N,) of the full image, px, or None
    """

    imgname: NDArray
    center: NDArray
    scale: NDArray
    pose: NDArray
    betas: NDArray
    keypoints: NDArray
    global_t: NDArray | None = None
    focal: NDArray | None = None

    def __len__(self) -> int:
        return len(self.imgname)


def read_labels(path: str | Path) -> Labels:
    """The fields of spec: data 4.3 under whichever name a file has them.

    Raises MoroError if the file is missing, damaged, or its fields do not fit together.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            labels = _labels(file)
    except FileNotFoundError as error:
        raise MoroError(f"{path} not found; make it with python -m {CONVERSION}.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MoroError(
            f"{path} holds no labels of images ({error}); make it again with python -m {CONVERSION}."
        ) from error
    return labels


def _labels(file: Mapping[str, NDArray]) -> Labels:
    """Raises KeyError or ValueError."""
    names = np.asarray(file["imgname"]).ravel().astype(np.str_)  # bytes are read as ASCII
    N = len(names)
    if "pose_cam" not in file and "pose" not in file:
        pose = np.concatenate([_rows(file, N, 3, "root_orient"), _rows(file, N, POSE - 3, "pose_body")], 1)
    else:
        pose = _rows(file, N, POSE, "pose_cam", "pose")
    return Labels(
        imgname=names,
        center=_rows(file, N, 2, "center").astype(np.float64),
        scale=_rows(file, N, 1, "scale")[:, 0].astype(np.float64),
        pose=pose,
        betas=_rows(file, N, BETAS, "betas", "shape"),
        keypoints=_rows(file, N, 3 * NUM_KEYPOINTS, "j2d", "part").reshape(N, NUM_KEYPOINTS, 3),
        global_t=_rows(file, N, 3, "global_t") if "global_t" in file else None,
        focal=_rows(file, N, 1, "focal_l")[:, 0] if "focal_l" in file else None,
    )


def _rows(file: Mapping[str, NDArray], count: int, width: int, *names: str) -> NDArray:
    """The first `width` numbers (N, width) float32 of each row of the first of `names` that is there."""
    name = next((name for name in names if name in file), None)
    if name is None:
        raise KeyError(f"no {' or '.join(names)}")
    array = np.asarray(file[name], np.float32)
    if len(array) != count or (count and array.size // count < width):
        raise ValueError(f"{name} is {array.shape}, expected ({count}, {width} or more)")
    array = array.reshape(count, -1)[:, :width]  # (N, 24, 3) -> (N, 72)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    return array
