"""PROX's loader on a small world in its format."""

import shutil
from pathlib import Path

import pytest
import torch

from models.mask_transformer.data.prox import ProxDataset
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.io.prox_files import gender_of
from moro.synth.worlds.prox import FLOOR, RECORDINGS

F = 3
NAMES = list(RECORDINGS[:2])


@pytest.fixture(scope="module")
def prox(world):
    return world("prox")


@pytest.fixture(scope="module")
def dataset(prox) -> ProxDataset:
    return prox.build(recording=NAMES)


@pytest.fixture(scope="module")
def item(dataset: ProxDataset) -> dict:
    return dataset[0]


def test_items_have_the_keys_of_the_specification(item) -> None:
    shapes = {
        "mesh": (F, item["mesh"].shape[1], 3), "local_joints": (F, 22, 3), "offset": (F, 1, 3),
        "root_pos": (F, 1, 3), "rotation": (F, 3, 3), "translation": (F, 1, 3), "contact_label": (F - 1, 4),
        "K": (F, 3, 3), "dist_coeffs": (8,), "cam2world": (F, 4, 4), "world2cano": (1, 4, 4),
        "center": (F, 2), "scale": (F,), "crop_imgs": (F, 3, 256, 256), "bbox": (F, 3), "detected": (F,),
    }  # fmt: skip
    assert {key: tuple(item[key].shape) for key in shapes} == shapes
    rest = {key: item[key] for key in item if key not in shapes and key != "img_paths"}
    assert rest == {"body_idx": "0", "seq_name": NAMES[0], "has_transl": True, "true_params": False}
    assert torch.equal(item["world2cano"][0], torch.eye(4))


def test_labels_lie_on_the_mirrored_undistorted_picture(prox, dataset: ProxDataset, silhouette) -> None:
    for index, gender in ((0, "male"), (2, "female")):
        item = dataset[index]
        covered, upper = silhouette(item, dataset.bodies[gender].faces, 0)
        assert item["seq_name"] == NAMES[index // 2] and covered > 0.99 and upper > 0.97
        joints = item["local_joints"] @ item["rotation"].mT + item["translation"]
        offset = project(joints, item["K"]) - item["center"][:, None]
        assert (offset.abs() < 100 * item["scale"][:, None, None])[item["detected"]].all()


def test_world_and_floor(item) -> None:
    joints = item["local_joints"] @ item["rotation"].mT + item["translation"]
    c2w = item["cam2world"][0]
    height = (joints @ c2w[:3, :3].T + c2w[:3, 3])[..., 2] - FLOOR["N0Sofa"]
    assert 0 < height.min() < 0.12 and height.max() > 1


def test_boxes(prox, item) -> None:
    meant = prox.build(recording=NAMES, compat=False)[0]
    assert item["detected"].tolist() == [True, True, False] and item["center"][2].equal(item["center"][1])
    assert 0.5 < (meant["center"][0] - item["center"][0]).abs().max() < 40
    truth = {compat: prox.build(recording=NAMES, gt_bbox=True, compat=compat)[0] for compat in (True, False)}
    joints = item["local_joints"] @ item["rotation"].mT + item["translation"]
    for compat, lens in ((True, item["dist_coeffs"]), (False, None)):
        pixels = project(joints, item["K"], lens)
        middle = (pixels.amin(1) + pixels.amax(1)) / 2
        assert (truth[compat]["center"] - middle).abs().max() < 0.05


def test_windows_and_genders(dataset: ProxDataset) -> None:
    assert [(r.name, start, stop) for r, start, stop in dataset.clips] == [
        (name, *window) for name in NAMES for window in ((0, 3), (2, 5))
    ]
    assert gender_of("N3Library_03403_01") == "female" and gender_of("N0Sofa_00145_01") == "male"


def test_without_pseudo_ground_truth(prox, tmp_path: Path) -> None:
    root = tmp_path / "PROX"
    shutil.copytree(prox.root, root, ignore=shutil.ignore_patterns("PROXD_filled"))
    item = prox.build(root=root, recording=NAMES[1])[0]
    whole = prox.build(recording=NAMES[1])[0]
    assert "mesh" not in item and torch.equal(item["crop_imgs"], whole["crop_imgs"])


def test_bad_inputs(prox, tmp_path: Path) -> None:
    with pytest.raises(MoroError) as error:
        prox.build()  # all 19
    assert "MPH1Library_00034_01 (recordings/" in str(error.value) and "N3Office_03301_01" in str(error.value)
    with pytest.raises(MoroError, match="no PROX recording"):
        prox.build(recording="kitchen")
    with pytest.raises(MoroError, match="no val split"):
        prox.build("val")
    with pytest.raises(MoroError, match="PROX not found"):
        prox.build(root=tmp_path / "nowhere")
