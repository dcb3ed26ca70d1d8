"""Lens and crop reader against whole-image processing."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.mask_transformer.data.crops import BoxAugmentation, CropReader
from models.mask_transformer.data.windows import windows_of
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.geometry.crop import crop_image
from moro.geometry.image import normalise_image
from moro.geometry.lens import Lens
from moro.io.scenes import read_image

SIZE = (192, 108)
K = np.array([[91.0, 0, 95.7], [0, 90.9, 54.8], [0, 0, 1]])
DISTORTION = np.array([0.12, -0.1, 0.002, -0.001, 0.02, 0.02, -0.01, 0.004])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (27, 48, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC))
    return tmp_path / "a.jpg"


@pytest.mark.parametrize("mirror", [False, True])
def test_crop_of_a_part_equals_the_crop_of_the_whole_undistorted_image(image: Path, mirror: bool) -> None:
    whole = cv2.undistort(read_image(image), K, DISTORTION)
    whole = np.ascontiguousarray(whole[:, ::-1]) if mirror else whole
    center = torch.tensor([[96.3, 50.2], [5.0, 100.0], [185.5, 20.1], [-70.0, 50.0], [250.0, 3.0]])
    scale = torch.tensor([0.4, 0.3, 0.61, 0.1, 0.2])
    reader = CropReader((64, 48), mirror=mirror)
    crops = reader.read([image] * 5, center, scale, Lens(K, DISTORTION, SIZE))
    expected = [
        crop_image(whole, c, float(s), (64, 48)) for c, s in zip(center.double().numpy(), scale.double())
    ]
    assert torch.equal(crops, normalise_image(torch.from_numpy(np.stack(expected))))
    assert not expected[3].any() and expected[1].any()


def test_points_are_undistorted() -> None:
    rays = torch.rand(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.2 - 0.6
    rays[:, 2] = 1
    camera, bent = torch.from_numpy(K), torch.from_numpy(DISTORTION)
    raw, ideal = project(rays, camera, bent), project(rays, camera)
    assert np.allclose(Lens(K, DISTORTION, SIZE).undistort_points(raw.numpy()), ideal, atol=1e-3)
    assert Lens(K, DISTORTION, SIZE).undistort_points(np.zeros((0, 2))).shape == (0, 2)


def test_bad_images(image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = tmp_path / "b.jpg"
    damaged.write_bytes(b"no image")
    center, scale = torch.tensor([[50.0, 50.0]] * 3), torch.full((3,), 0.3)
    reader = CropReader((32, 32))
    with caplog.at_level(logging.WARNING):
        crops = reader.read([image, damaged, tmp_path / "none.jpg"], center, scale, Lens(K, DISTORTION, SIZE))
    black = normalise_image(torch.zeros(32, 32, 3, dtype=torch.uint8))
    assert reader.unreadable == 2 and "2 unreadable" in caplog.text and "none.jpg" in caplog.text
    assert torch.equal(crops[1], black) and torch.equal(crops[2], black) and not torch.equal(crops[0], black)
    with pytest.raises(MoroError, match="192x108 pixels but its camera has 1920x1080"):
        reader.read([image], center[:1], scale[:1], Lens(K, DISTORTION, (1920, 1080)))
    with pytest.raises(MoroError, match="cannot read the image"):
        CropReader((32, 32), max_unreadable=0).read([damaged], center[:1], scale[:1])


@pytest.mark.parametrize("length", [1, 119, 500, 501, 880, 881, 1300])
def test_windows_cover_a_sequence(length: int) -> None:
    windows = windows_of(length, 500, 120)
    covered = [frame for start, stop in windows for frame in range(start + (120 if start else 0), stop)]
    assert covered == list(range(length))
    whole = windows_of(length, 500, 120, partial=False)
    assert all(stop - start == 500 for start, stop in whole) and set(whole) <= set(windows)
    assert len(whole) == max(0, (length - 500) // 380 + 1)


def test_windows_need_room() -> None:
    with pytest.raises(MoroError, match="overlap_len=60"):
        windows_of(100, 60, 60)


def test_augmentation_can_be_off() -> None:
    from omegaconf import OmegaConf

    assert BoxAugmentation.from_config(OmegaConf.create({"extreme_crop_aug": False})) is None
