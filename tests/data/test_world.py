"""Stand-in bodies, small worlds, and the box scripts (spec: data 12.1 check 10)."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.io.amass_files import PARAMETERS, open_parameters, split_parameters, write_recording
from moro.synth.worlds import BODIES, WorldSize, make_world
from scripts import make_world as command
from scripts.preprocess import process_egobody_bbox, process_prox_bbox
from scripts.preprocess.openpose_boxes import boxes_of


def test_standin_bodies_load_like_official_ones(world) -> None:
    folder = world("prox").root.parent / BODIES
    smplx, smplh = load_body_model(folder, "smplx"), load_body_model(folder, "smplh", "male")
    assert smplx.num_full_vertices > smplx.num_vertices == smplh.num_full_vertices
    assert (smplx.num_joints, smplh.num_joints) == (55, 52)
    pose = torch.eye(3).expand(1, 21, 3, 3)
    rest = {
        (kind, gender): load_body_model(folder, kind, gender)(pose, torch.zeros(1, 10)).joints
        for kind in ("smplx", "smplh")
        for gender in ("male", "female")
    }
    assert torch.allclose(rest["smplx", "male"], rest["smplh", "male"], atol=1e-6)
    assert (rest["smplx", "male"] - rest["smplx", "female"]).norm(dim=-1).max() > 0.05
    vertex_map = torch.load(folder / "smplx2smpl_sparse.pt", weights_only=True)
    regressor = torch.load(folder / "smpl_neutral_J_regressor.pt", weights_only=True)
    assert vertex_map.shape == (smplh.num_full_vertices, smplx.num_full_vertices)
    assert regressor.shape == (24, smplh.num_full_vertices)


def test_the_same_seed_gives_the_same_files(world, tmp_path: Path, repository: Path) -> None:
    arguments = ["--format", "prox", "--frames", "3", "--recordings", "1"]
    arguments += ["--bm_path", str(repository / "body_models"), "--out"]
    for name in ("a", "b"):
        out = tmp_path / name / "same"
        out.mkdir(parents=True)
        (out / BODIES).symlink_to(world("prox").root.parent / BODIES)  # files that exist are left alone
        command.main([*arguments, str(out)])
    digests = [
        {
            str(path.relative_to(tmp_path / name)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (tmp_path / name).rglob("*")
            if path.is_file() and path.suffix in (".jpg", ".json", ".pkl")
        }
        for name in ("a", "b")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 3 * 3 + 2


def test_people_perform_captured_motion(world, tmp_path: Path, repository: Path) -> None:
    """That which stays in one place, in the frames asked for; none of it is performed twice."""
    (tmp_path / BODIES).symlink_to(world("prox").root.parent / BODIES)
    rng, frames, source = np.random.default_rng(0), 64, tmp_path / "open"
    names = [*(f"cmu/a/walk_{n}" for n in range(5)), "cmu/a/leaves", "generated/a/b", "cmu/a/short"]
    rows = []
    for name in names:
        length = 30 if name.endswith("short") else 80
        pose = rng.normal(size=(1, 63)) * 0.2 + np.linspace(0, 0.5, length)[:, None]
        transl = np.linspace(0, 3.0 if name.endswith("leaves") else 0.3, length)[:, None] * [1, 0, 0]
        parts = {"body_pose": pose, "transl": transl}
        write_recording(source / "motion", name, parts, np.zeros((length, 25, 3)))
        rows.append({"path": f"{name}.npy", "family": "walk", "frames": length})
    (source / "motion" / "index.json").write_text(json.dumps({"clips": rows}))
    root = make_world("amass", tmp_path, 0, WorldSize(frames, 1, source), repository / "body_models")
    files = [source / f"motion/{PARAMETERS}/{name}.npy" for name in names[:5]]
    known = [split_parameters(open_parameters(path))["body_pose"][8:72] for path in files]
    files = sorted((root / PARAMETERS).glob("*/*/*"))
    performed = [split_parameters(open_parameters(path))["body_pose"] for path in files]
    closest = [int(np.argmin([np.abs(own - other).max() for other in known])) for own in performed]
    assert len(set(closest)) == len(performed) == 4
    assert all(np.abs(own - known[n]).max() < 1e-4 for own, n in zip(performed, closest))
    with pytest.raises(MoroError, match="holds 5 captured motions of 64 frames in one place, 8 are needed"):
        make_world("amass", tmp_path, 0, WorldSize(frames, 2, source), repository / "body_models")


def test_bad_arguments(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(MoroError, match="unknown format 'kitti'"):
        make_world("kitti", tmp_path)
    with pytest.raises(MoroError, match="needs 3 frames"):
        make_world("rich", tmp_path, size=WorldSize(frames=1))
    with pytest.raises(MoroError, match="OPEN_NEUTRAL.npz not found"):
        make_world("rich", tmp_path, bm_path=tmp_path)


def test_egobody_visibility_mask(world) -> None:
    root = world("egobody").root
    (path,) = root.glob("mask_joint/recording_20220318_S33_S34_01/master/mask_joint.npy")
    mask = np.load(path)
    assert mask.shape == (3, 22) and set(np.unique(mask)) == {0, 1}  # 5 frames, one cut at each end
    assert mask[:, 15].all() and not mask[:, [7, 8]].all()  # the head is seen, the box hides a foot


def test_boxes_of_none_one_and_five_points() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(300, 600, (5, 2)), np.full((5, 1), 0.9)], axis=1)
    one = points.copy()
    one[1:, 2] = 0.2  # not above the threshold
    boxes = boxes_of([np.zeros((0, 3)), one, points])
    assert boxes["bboxes"][:2].tolist() == [[100, 100, 200, 200]] * 2
    assert boxes["centers"][0].tolist() == [150, 150] and boxes["scales"][0] == pytest.approx(0.6)
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    assert np.allclose(boxes["bboxes"][2], [*low, *high]) and np.allclose(
        boxes["centers"][2], (low + high) / 2
    )
    assert boxes["scales"][2] == pytest.approx((high - low).max() * 1.2 / 200)
    assert boxes["detected"].tolist() == [False, False, True]


def _detections(folder: Path, name: str, people: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"people": [{"pose_keypoints_2d": points.ravel().tolist()} for points in people]}
    (folder / f"{name}_keypoints.json").write_text(json.dumps(content))


def test_box_scripts(tmp_path: Path) -> None:
    points = np.array([[10.0, 20, 0.9], [110, 70, 0.8], [900, 900, 0.1]])
    folder = tmp_path / "keypoints_cleaned" / "rec" / "master"
    _detections(folder, "frame_00001", [points, points + [5, 0, 0]])
    _detections(folder, "frame_00002", [points * 0])
    process_egobody_bbox.main(["--root", str(tmp_path), "--jobs", "1"])
    with np.load(folder / "bbox_idx1.npz", allow_pickle=False) as file:
        assert file["frame_names"].tolist() == ["frame_00001", "frame_00002"]
        assert file["bboxes"].tolist() == [[15, 20, 115, 70]] * 2 and file["scales"][0] == pytest.approx(0.6)
        assert file["detected"].tolist() == [True, False]
    before = (folder / "bbox_idx0.npz").stat().st_mtime_ns
    _detections(folder, "frame_00003", [points])
    (folder / "bbox_idx1.npz").unlink()
    process_egobody_bbox.main(["--root", str(tmp_path), "--jobs", "2", "--recordings", "rec"])
    assert (folder / "bbox_idx0.npz").stat().st_mtime_ns != before  # it lacked a frame
    before = (folder / "bbox_idx0.npz").stat().st_mtime_ns
    process_egobody_bbox.main(["--root", str(tmp_path), "--jobs", "1"])
    assert (folder / "bbox_idx0.npz").stat().st_mtime_ns == before
    _detections(folder, "frame_00003", [points + [7, 0, 0]])
    process_egobody_bbox.main(["--root", str(tmp_path), "--jobs", "1"])
    with np.load(folder / "bbox_idx0.npz", allow_pickle=False) as file:
        assert file["bboxes"][2].tolist() == [17, 20, 117, 70]  # not those of the file as it was
    with pytest.raises(MoroError, match="has no other"):
        process_egobody_bbox.main(["--root", str(tmp_path), "--recordings", "other"])
    with pytest.raises(MoroError, match="No detections"):
        process_prox_bbox.main(["--root", str(tmp_path)])
    prox = tmp_path / "keypoints_openpose" / "N0Sofa_00145_01"
    _detections(prox, "s001_frame_00001__00.00.00.000", [])
    (prox / "bad_keypoints.json").write_text("{")
    with pytest.raises(MoroError, match="cannot read the detections"):
        process_prox_bbox.main(["--root", str(tmp_path), "--jobs", "1"])
    (prox / "bad_keypoints.json").unlink()
    process_prox_bbox.main(["--root", str(tmp_path), "--jobs", "1"])
    with np.load(prox / "bbox.npz", allow_pickle=False) as file:
        assert file["frame_names"].tolist() == ["s001_frame_00001__00.00.00.000"]
        assert file["bboxes"].tolist() == [[100, 100, 200, 200]]
