"""Calibrations of Qualisys Track Manager: camera positions and lenses from its .qca.txt files (XML)."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moro.errors import MoroError
from moro.geometry.lens import Lens

SUBPIXELS = 64  # focal length and principal point are given in 1/64 pixel
FLIP = np.diag((1.0, -1.0, -1.0))  # their camera looks along -z with y up, OpenCV's along z with y down


@dataclass(frozen=True)
class CalibratedCamera:
    """A camera whose place and lens are known.

    K (3, 3) pixels; dist_coeffs (5,) OpenCV's k1 k2 p1 p2 k3; world2cam (4, 4) metres, OpenCV axes, the world
    as in the file; image_size (width, height) of the calibrated images
    """

    name: str
    K: NDArray
    dist_coeffs: NDArray
    world2cam: NDArray
    image_size: tuple[int, int]

    @property
    def lens(self) -> Lens:
        return Lens(self.K, self.dist_coeffs, self.image_size)

    @property
    def projection(self) -> NDArray:
        """(3, 4) world to homogeneous pixels, without the lens's distortion."""
        return self.K @ self.world2cam[:3]


def read_calibration(path: str | Path) -> list[CalibratedCamera]:
    """Cameras of a calibration file, in its order. Raises MoroError if it is missing or damaged."""
    try:
        cameras = ElementTree.parse(path).getroot().findall("./cameras/camera")
        found = [_camera(camera) for camera in cameras]
    except OSError as error:
        raise MoroError(f"cannot read the calibration {path} ({error.strerror}).") from error
    except (ElementTree.ParseError, ValueError, KeyError, AttributeError) as error:
        raise MoroError(f"{path} is not a Qualisys calibration ({error!r}); fetch it again.") from error
    if not found:
        raise MoroError(f"{path} holds no camera; fetch it again.")
    return found


def _camera(node: ElementTree.Element) -> CalibratedCamera:
    """Raises KeyError, ValueError or AttributeError if something is missing."""
    place, lens, picture = (node.find(name).attrib for name in ("transform", "intrinsic", "fov_video"))
    axes = np.array([[float(place[f"r{row}{column}"]) for column in "123"] for row in "123"])
    centre = np.array([float(place[axis]) for axis in "xyz"]) / 1000  # millimetres
    world2cam = np.eye(4)
    world2cam[:3, :3] = FLIP @ axes
    world2cam[:3, 3] = -world2cam[:3, :3] @ centre
    K = np.eye(3)
    K[0, 0], K[1, 1] = (float(lens[f"focalLength{axis}"]) / SUBPIXELS for axis in "UV")
    K[0, 2], K[1, 2] = (float(lens[f"centerPoint{axis}"]) / SUBPIXELS for axis in "UV")
    names = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
    bends = [float(lens[name]) for name in (*names, "radialDistortion3")]
    width, height = (int(picture[b]) - int(picture[a]) + 1 for a, b in (("left", "right"), ("top", "bottom")))
    return CalibratedCamera(node.attrib["serial"], K, np.array(bends), world2cam, (width, height))
