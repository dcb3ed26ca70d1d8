"""EgoBody's loader on a small world in its format."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.mask_transformer.data.module import collate
from moro.body.model import BodyModel
from moro.body.openpose import body25_points
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.synth.worlds.egobody import FLOOR, RECORDINGS

TEST, TRAIN = RECORDINGS[0][0], RECORDINGS[1][0]
F = 3


@pytest.fixture(scope="module")
def egobody(world):
    return world("egobody")


@pytest.fixture
def copy(egobody, tmp_path: Path) -> Path:
    """A world of its own that a test may damage."""
    return shutil.copytree(egobody.root, tmp_path / "EgoBody")


def test_items_have_the_keys_of_the_specification(egobody) -> None:
    item = egobody.build()[0]
    V = item["mesh"].shape[1]
    shapes = {
        "mesh": (F, V, 3), "local_joints": (F, 22, 3), "offset": (F, 1, 3), "root_pos": (F, 1, 3),
        "rotation": (F, 3, 3), "translation": (F, 1, 3), "contact_label": (F - 1, 4), "K": (F, 3, 3),
        "dist_coeffs": (8,), "cam2world": (F, 4, 4), "world2cano": (1, 4, 4), "center": (F, 2), "scale": (F,),
        "crop_imgs": (F, 3, 256, 256), "bbox": (F, 3), "keypoints": (F, 25, 3), "detected": (F,),
    }  # fmt: skip
    assert {key: tuple(item[key].shape) for key in shapes} == shapes
    assert all(item[key].dtype == torch.float32 for key in shapes if key != "detected")
    rest = {key: item[key] for key in item if key not in shapes and key != "img_paths"}
    name = f"{TEST}/sub_3/body_idx_0"
    assert rest == {"body_idx": "0", "seq_name": name, "has_transl": True, "true_params": False}
    assert [Path(path).name for path in item["img_paths"]] == [f"frame_{n:05d}.jpg" for n in (40, 41, 42)]
    assert item["world2cano"][0, 1:3, 1:3].tolist() == [[0, -1], [1, 0]]
    train = egobody.build("train")[0]
    assert set(train) == set(item) - {"keypoints", "detected"} and train["seq_name"] == "train"
    batch = collate([egobody.build("train")[n] for n in (0, 1)])
    assert batch["crop_imgs"].shape == (2, F, 3, 256, 256)


def test_labels_lie_on_the_picture(egobody, silhouette) -> None:
    dataset = egobody.build()
    item = dataset[0]
    faces = dataset.bodies["female"].faces
    for frame in range(F):
        covered, upper = silhouette(item, faces, frame)
        assert covered > 0.99 and upper > 0.97
    wrong = {**item, "K": item["K"].clone()}
    wrong["K"][:, 0, 2] += 8  # the test notices a shift of three pixels in the crop
    assert silhouette(wrong, faces, 0)[0] < 0.99


def test_both_cameras_see_the_same_world(egobody) -> None:
    views = [
        egobody.build(test_idx=-1, recording=TEST, view=view, body_idx=1, gt_bbox=True)[0]
        for view in ("master", "sub_3")
    ]
    worlds = []
    for item in views:
        joints = item["local_joints"] @ item["rotation"].mT + item["translation"]
        c2w = item["cam2world"][0]
        worlds.append(joints @ c2w[:3, :3].T + c2w[:3, 3])
        offset = project(joints, item["K"]) - item["center"][:, None]
        assert (offset.abs() < 100 * item["scale"][:, None, None]).all()
    assert torch.allclose(*worlds, atol=1e-4)
    assert 0 < worlds[0][..., 1].min() - FLOOR[RECORDINGS[0][2]] < 0.12


def test_windows(egobody) -> None:
    dataset = egobody.build(clip_len=4)
    assert [len(dataset[n]["center"]) for n in range(len(dataset))] == [4, 2]  # 5 frames, 1 shared
    assert len(egobody.build("val", clip_len=4)) == 1  # master, person 0; the rest is dropped
    assert len(egobody.build("train", clip_len=4)) == 2  # both people
    assert "contact_label" not in egobody.build("train", clip_len=1, overlap_len=0)[0]


def test_rows_of_the_test(egobody) -> None:
    assert (
        len(egobody.build(test_idx=[0, 0])) == 2 * len(egobody.build(test_idx=0)) == 2 * len(egobody.build())
    )
    with pytest.raises(MoroError, match="needs dataset.recording"):
        egobody.build(test_idx=-1)
    with pytest.raises(MoroError, match=r"\[7\] is outside"):
        egobody.build(test_idx=7)
    assert egobody.build(debug=True)[0]["seq_name"] == f"{TEST}/sub_3/body_idx_0"


def test_training_items_depend_on_epoch_and_index_alone(egobody) -> None:
    first, again = (egobody.build("train", extreme_crop_aug_prob=1.0) for _ in range(2))
    views = {Path(first[epoch, 0]["img_paths"][0]).parent.name for epoch in range(6)}
    assert views == {"master", "sub_1"}
    a, b, other = first[3, 1], again[3, 1], again[4, 1]
    assert torch.equal(a["center"], b["center"]) and torch.equal(a["crop_imgs"], b["crop_imgs"])
    assert not torch.equal(a["center"], other["center"])
    assert (a["center"] >= 0).all() and (a["center"] <= torch.tensor([1919.0, 1079.0])).all()
    plain = egobody.build("train", extreme_crop_aug=False)[0, 0]
    joints = plain["local_joints"] @ plain["rotation"].mT + plain["translation"]
    pixels = project(joints, plain["K"])
    assert torch.allclose(plain["center"], (pixels.amin(1) + pixels.amax(1)) / 2, atol=1e-2)


def test_detector_boxes(egobody) -> None:
    plain, meant = (egobody.build(compat=compat, clip_len=5) for compat in (True, False))
    a, b = plain[0], meant[0]
    assert a["detected"].tolist() == b["detected"].tolist() == [True, True, False, True, True]
    assert a["center"][2].equal(a["center"][1])  # the last box seen
    assert (b["center"][2] - (b["center"][1] + b["center"][3]) / 2).abs().max() < 0.1
    # undistorted boxes hold the undistorted detections; the raw ones are off by pixels
    points = b["keypoints"][0][b["keypoints"][0, :, 2] > 0, :2]
    middle = (points.amin(0) + points.amax(0)) / 2
    assert (b["center"][0] - middle).abs().max() < 1.0 < (a["center"][0] - middle).abs().max()
    truth = egobody.build("val", sub_datasets=["egobody"])[0]  # in a mixture: boxes around the true joints
    assert "detected" not in truth


def test_keypoints_are_undistorted(egobody) -> None:
    dataset = egobody.build()
    item, (sequence, start, stop) = dataset[0], dataset.clips[0]
    body = dataset.bodies["female"]
    parameters = sequence.motion.parameters(start, stop)
    with torch.no_grad():
        output = body(parameters.body_pose, parameters.betas, parameters.global_orient, parameters.transl)
    points = body25_points(body, output.full_joints)  # master camera
    m2c = sequence.views[0].master2cam
    pixels = project(points @ m2c[:3, :3].T + m2c[:3, 3], item["K"])
    seen = item["keypoints"][..., 2] > 0
    assert seen[:2].sum() > 15 and not seen[2].any()
    assert (pixels - item["keypoints"][..., :2])[seen].abs().max() < 0.05


def test_one_body_forward_per_item(egobody, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, calls, forward = egobody.build("train", extreme_crop_aug_prob=1.0), [], BodyModel.forward
    monkeypatch.setattr(BodyModel, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    dataset[0]
    assert len(calls) == 1


def test_missing_files_are_named_at_once(egobody, copy: Path) -> None:
    shutil.rmtree(copy / "kinect_color" / TRAIN)
    shutil.rmtree(copy / "smplx_camera_wearer" / TRAIN)
    with pytest.raises(MoroError) as error:
        egobody.build("train", root=copy)
    text = str(error.value)
    assert f"{TRAIN}/body_idx_0 (images of" in text and f"{TRAIN}/body_idx_1 (body parameters" in text
    (copy / "keypoints_cleaned" / TEST / "sub_3" / "bbox_idx0.npz").unlink()
    with pytest.raises(MoroError, match="run scripts.preprocess.process_egobody_bbox"):
        egobody.build(root=copy)
    with pytest.raises(MoroError, match="not found at"):
        egobody.build(root=copy / "nowhere")


def test_folders_of_the_release_and_missing_images(egobody, copy: Path) -> None:
    (copy / "smplx_interactee").rename(copy / "smplx_interactee_test")
    folder = copy / "kinect_color" / TEST / "sub_3"
    (folder / "frame_00041.jpg").unlink()
    dataset = egobody.build(root=copy)
    crops, whole = dataset[0]["crop_imgs"], egobody.build()[0]["crop_imgs"]
    assert dataset.reader.unreadable == 1
    assert torch.equal(crops[[0, 2]], whole[[0, 2]]) and crops[1].amax() < 0


def test_cache_follows_the_pickles(egobody, copy: Path) -> None:
    before = egobody.build(root=copy)[0]
    cache = copy.parent / "egobody_preprocess"
    assert [path.name for path in cache.iterdir()] == [f"{TEST}_body_idx_0.npz"]
    path = copy / "smplx_interactee" / TEST / "body_idx_0" / "results" / "frame_00040" / "000.pkl"
    row = pickle.loads(path.read_bytes())
    row["transl"] = row["transl"] + np.float32(0.5)
    path.write_bytes(pickle.dumps(row))
    os.utime(path, ns=(1, 1))
    after = egobody.build(root=copy)[0]
    assert not torch.allclose(before["translation"][0], after["translation"][0])
    assert torch.allclose(before["translation"][1], after["translation"][1])
    (cache / f"{TEST}_body_idx_0.npz").write_bytes(b"damaged")
    assert torch.equal(egobody.build(root=copy)[0]["translation"], after["translation"])
    path.write_bytes(pickle.dumps({"transl": np.zeros((1, 3), np.float32)}))
    with pytest.raises(MoroError, match="has no global_orient"):
        egobody.build(root=copy)
