"""RICH's loader on a small world in its format."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.mask_transformer.data.rich import RichDataset, read_videos
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.io.rich_files import BOXES, LABELS, upper_half
from moro.synth.worlds.rich import RECORDINGS, UNLABELLED

F = 3
FIRST = f"{RECORDINGS[0][0]}/cam_06"


@pytest.fixture(scope="module")
def rich(world):
    return world("rich")


@pytest.fixture(scope="module")
def dataset(rich) -> RichDataset:
    return rich.build()


@pytest.fixture(scope="module")
def item(dataset: RichDataset) -> dict:
    return dataset[0]


def test_items_have_the_keys_of_the_specification(item) -> None:
    shapes = {
        "mesh": (F, item["mesh"].shape[1], 3), "local_joints": (F, 22, 3), "offset": (F, 1, 3),
        "root_pos": (F, 1, 3), "rotation": (F, 3, 3), "translation": (F, 1, 3), "contact_label": (F - 1, 4),
        "K": (F, 3, 3), "cam2world": (F, 4, 4), "world2cano": (1, 4, 4), "center": (F, 2), "scale": (F,),
        "crop_imgs": (F, 3, 256, 256), "bbox": (F, 3),
    }  # fmt: skip
    assert {key: tuple(item[key].shape) for key in shapes} == shapes
    rest = {key: item[key] for key in item if key not in shapes and key != "img_paths"}
    expected = {"body_idx": RECORDINGS[0][0], "seq_name": FIRST, "has_transl": True, "true_params": False}
    assert rest == expected
    assert Path(item["img_paths"][0]).name == f"{100 + UNLABELLED:05d}_06.jpeg"  # frame_id counts files


def test_labels_lie_on_the_picture(dataset: RichDataset, item, silhouette) -> None:
    covered, upper = silhouette(item, dataset.bodies["male"].faces, 0)
    assert covered > 0.99 and upper > 0.97
    joints = item["local_joints"] @ item["rotation"].mT + item["translation"]
    offset = project(joints, item["K"]) - item["center"][:, None]
    assert (offset.abs() < 100 * item["scale"][:, None, None]).all()


def test_world_and_floor(item) -> None:
    joints = item["local_joints"] @ item["rotation"].mT + item["translation"]
    c2w, cano = item["cam2world"][0], item["world2cano"][0]
    world = joints @ c2w[:3, :3].T + c2w[:3, 3]
    floor = world @ cano[:3, :3].T + cano[:3, 3]  # z-up
    assert 0 < floor[..., 2].min() < 0.12 and floor[..., 2].max() > 1


def test_windows(rich, dataset: RichDataset) -> None:
    clips = [(video.name, start, stop) for video, start, stop in dataset.clips]
    names = [f"test/{RECORDINGS[0][0]}/cam_06", f"test/{RECORDINGS[1][0]}/cam_04"]
    assert clips == [(name, *window) for name in names for window in ((0, 3), (2, 5))]
    assert {video.name for video, *_ in rich.build(debug=True).clips} == {names[0]}


def test_upper_half_protocol(rich) -> None:
    centers, scales = np.array([[10.0, 400.0]] * 4), np.full(4, 2.0)
    kept = centers.copy()
    moved, halved = upper_half(centers, scales, np.array([99, 100, 199, 200]))
    assert moved[:, 1].tolist() == [400, 300, 300, 400] and halved.tolist() == [2, 1, 1, 2]
    assert np.array_equal(centers, kept)  # the stored boxes stay
    dataset = rich.build(crop_bbox=True)
    assert torch.equal(dataset[0]["center"], rich.build()[0]["center"])  # frames 0 to 99


def test_only_a_test_set(rich) -> None:
    with pytest.raises(MoroError, match="no train split"):
        rich.build("train")


def test_missing_files_are_named_at_once(rich, tmp_path: Path) -> None:
    root = tmp_path / "rich"
    shutil.copytree(rich.root, root, ignore=shutil.ignore_patterns("*.jpeg"))
    (root / "scan_calibration" / "ParkingLot2" / "calibration" / "004.xml").unlink()
    with pytest.raises(MoroError) as error:
        read_videos(root)
    assert f"{FIRST} (images: 0 of at least 6)" in str(error.value)
    assert "scan_calibration/ParkingLot2" in str(error.value)
    (root / LABELS).write_bytes(b"damaged")
    with pytest.raises(MoroError, match="rich_test_labels.pt"):
        read_videos(root)


def test_files_may_hold_arrays_but_nothing_that_runs(rich, tmp_path: Path) -> None:
    root = tmp_path / "rich"
    root.mkdir()
    for name in ("images", "resource", "scan_calibration"):
        (root / name).symlink_to(rich.root / name)
    (root / "hmr4d_support").mkdir()
    shutil.copy(rich.root / LABELS, root / LABELS)
    boxes = torch.load(rich.root / BOXES, weights_only=True)
    for video in boxes.values():
        video["bbx_xys"], video["img_wh"] = video["bbx_xys"].numpy(), tuple(video["img_wh"].tolist())
    torch.save(boxes, root / BOXES)
    assert len(read_videos(root)) == 2
    torch.save({"a": Path("b")}, root / BOXES)
    with pytest.raises(MoroError, match="rich_test_preproc.pt"):
        read_videos(root)
