"""Readers of the video data sets' files: right values, and one clear sentence for bad ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from moro.errors import MoroError
from moro.geometry.lens import Lens
from moro.io import egobody_files, prox_files, rich_files, scenes


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_transforms_and_lenses(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"trans": np.eye(4).tolist()})
    assert (scenes.read_transform(path, "trans") == np.eye(4)).all()
    with pytest.raises(MoroError, match="must be finite numbers of shape"):
        scenes.read_transform(path)
    with pytest.raises(MoroError, match="not found; check dataset_root"):
        scenes.read_transform(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(MoroError, match="not a readable json"):
        scenes.read_json(tmp_path / "c.json")
    short = write_json(tmp_path / "d.json", {"camera_mtx": np.eye(3).tolist(), "k": [0.1, 0.2, 0, 0, 0.3]})
    assert scenes.read_lens(short).dist_coeffs.tolist() == [0.1, 0.2, 0, 0, 0.3, 0, 0, 0]
    with pytest.raises(MoroError, match="camera_mtx must be"):
        scenes.read_lens(path)


def test_boxes_by_frame_name(tmp_path: Path) -> None:
    path = tmp_path / "bbox.npz"
    rows = {"scales": np.ones(2), "bboxes": np.zeros((2, 4))}
    np.savez(path, frame_names=np.array(["f0", "f1"]), centers=np.array([[1, 2], [3, 4]]), **rows)
    boxes = scenes.read_boxes(path, "the.script")
    centers, scales = boxes.of(["f1", "f9"])
    assert centers[0].tolist() == [3, 4] and np.isnan(centers[1]).all() and np.isnan(scales[1])
    assert boxes.detected.all() and boxes.select(["f1", "f0"]).centers.tolist() == [[3, 4], [1, 2]]
    with pytest.raises(MoroError, match="made by python -m the.script.* lacks 1 frames, the first f9"):
        boxes.select(["f1", "f9"])
    np.savez(path, frame_names=np.array(["f0"]), centers=np.zeros((2, 2)), **rows)
    with pytest.raises(MoroError, match="do not fit its 1 frames"):
        scenes.read_boxes(path, "the.script")
    with pytest.raises(MoroError, match="not found; make it with python -m the.script"):
        scenes.read_boxes(tmp_path / "none.npz", "the.script")


def test_undistortion_leaves_a_perfect_lens_alone() -> None:
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    assert (Lens(K, np.zeros(8), (64, 48)).undistort(image) == image).all()


def test_egobody_table_and_names(tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="egobody_occ_info.csv not found"):
        egobody_files.read_test_sequences(tmp_path)
    header = ("recording_name,view,target_idx,target_gender,scene_name,body_idx_fpv,target_start_frame,"
              "target_end_frame\n")  # fmt: skip
    table = tmp_path / "egobody_occ_info.csv"
    table.write_text(header + "rec,sub_1,1,male,seminar_d78,0 female,12.0,40\n")
    (row,) = egobody_files.read_test_sequences(tmp_path)
    assert row.name == "rec/sub_1/body_idx_1" and (row.start_frame, row.end_frame) == (12, 40)
    folder = egobody_files.parameter_folder(tmp_path, "smpl", "rec", row.body_idx, row.interactee_idx)
    assert folder == tmp_path / "smpl_camera_wearer/rec/body_idx_1/results"
    table.write_text(header + "rec,sub_1,one,male,seminar_d78,0 female,12.0,40\n")
    with pytest.raises(MoroError, match="line 2, is damaged"):
        egobody_files.read_test_sequences(tmp_path)
    assert (egobody_files.view_to_master(tmp_path, "rec", "master") == np.eye(4)).all()
    with pytest.raises(MoroError, match="no view 'sub_9'"):
        egobody_files.view_to_master(tmp_path, "rec", "sub_9")


def test_prox_names() -> None:
    assert prox_files.gender_of("N3Office_00159_01") == "female"
    assert prox_files.gender_of("N0Sofa_00145_01") == "male"
    assert len(prox_files.RECORDINGS) == 19
    assert {prox_files.scene_of(name) for name in prox_files.RECORDINGS} <= set(prox_files.FLOOR_HEIGHTS)
    with pytest.raises(MoroError, match="no PROX recording"):
        prox_files.gender_of("walk")


def test_rich_files(tmp_path: Path) -> None:
    support = tmp_path / "hmr4d_support"
    support.mkdir()
    widths = {"body_pose": 63, "betas": 10, "global_orient": 3, "transl": 3}
    parameters = {key: torch.zeros(2, width) for key, width in widths.items()}
    entry = {"frame_id": torch.tensor([3, 4]), "gt_smplx_params": parameters, "gender": "male"}
    torch.save({"test/a_0_b/cam_01": entry}, support / "rich_test_labels.pt")
    assert rich_files.read_labels(tmp_path)["test/a_0_b/cam_01"].frame_id.tolist() == [3, 4]
    arrays = {"bbx_xys": np.zeros((2, 3)), "img_wh": np.array([40, 30])}  # arrays instead of tensors
    torch.save({"v": arrays}, support / "rich_test_preproc.pt")
    assert rich_files.read_boxes(tmp_path)["v"].size == (40, 30)
    parameters["betas"] = torch.zeros(1, 10)
    torch.save({"v": entry}, support / "rich_test_labels.pt")
    with pytest.raises(MoroError, match=r"betas of v must be \(2, 10\)"):
        rich_files.read_labels(tmp_path)
    torch.save({"v": Path("x")}, support / "rich_test_labels.pt")
    with pytest.raises(MoroError, match="cannot be read safely"):
        rich_files.read_labels(tmp_path)
    with pytest.raises(MoroError, match="no calibration of camera 1"):
        rich_files.read_camera(tmp_path, "test/a_0_b/cam_01")
    with pytest.raises(MoroError, match="no RICH video"):
        rich_files.split_vid("a_0_b")
