"""Tiny data sets in the documented formats, with stand-in bodies (spec: data 4.4 to 4.6)."""

import csv
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import joblib
import numpy as np
import torch

from moro.body.loading import load_body_model
from moro.body.model import BodyModel, BodyOutput
from moro.evaluation.prediction import Parameters
from moro.geometry.rotation import rotvec_to_matrix
from moro.synth.worlds.bodies import write_standin_bodies
from tests.body.standin import official_arrays, official_smplx_arrays

F = 8
FIT_BOUND = 5.0  # mm: what the fit of SMPL-X and the conversion to SMPL may add (docs/design.md 4.7)
SIZE = (108, 192)  # of the images, a tenth of the real ones so that drawing is quick
K = [[100.0, 0, 96], [0, 100, 54], [0, 0, 1]]
LENS = {"camera_mtx": K, "k": [0.05, -0.02, 0.001, 0.0005, 0.01, 0, 0, 0]}


def write_bodies(folder: Path) -> None:
    """Gendered SMPL-H and SMPL-X stand-ins (each gender the same), and both regressor files."""
    smplh, smplx = official_arrays("smplh"), official_smplx_arrays()
    smplx = {key: value for key, value in smplx.items() if value.dtype != object}
    for gender in ("NEUTRAL", "MALE", "FEMALE"):
        for kind, arrays in (("smplh", smplh), ("smplx", smplx)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            np.savez(folder / kind / f"{kind.upper()}_{gender}.npz", **arrays)
    write_regressors(folder, torch.tensor(smplh["J_regressor"][:24]).float(), len(smplx["v_template"]))


def write_one_surface(folder: Path, body_models: Path) -> None:
    """SMPL, SMPL-H and SMPL-X stand-ins that are one surface, of one stature whatever the gender."""
    write_standin_bodies(folder, body_models)
    for kind in ("smplh", "smplx"):
        for gender in ("MALE", "FEMALE"):
            stem = f"{kind.upper()}_"
            shutil.copy(folder / kind / f"{stem}NEUTRAL.npz", folder / kind / f"{stem}{gender}.npz")


def write_regressors(folder: Path, joints: torch.Tensor, num_smplx: int) -> None:
    """joints (24, V); the SMPL mesh is the first V vertices of the SMPL-X one."""
    torch.save(joints, folder / "smpl_neutral_J_regressor.pt")
    V = joints.shape[1]
    index = torch.arange(V).expand(2, V)
    torch.save(
        torch.sparse_coo_tensor(index, torch.ones(V), (V, num_smplx), check_invariants=True),
        folder / "smplx2smpl_sparse.pt",
    )


def motion(seed: int, frames: int = F, betas: float = 0.3) -> dict[str, np.ndarray]:
    """Smooth parameters in a camera frame, some metres away."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames)[:, None] / 30
    return {
        "transl": np.float32(np.array([0.2, 0.1, 4.0]) + t * [0.5, 0.0, 0.3]),
        "global_orient": np.float32(np.array([np.pi, 0, 0]) + 0.4 * t * rng.normal(size=3)),
        "betas": np.float32(np.tile(betas * rng.normal(size=10), (frames, 1))),
        "body_pose": np.float32(0.2 * rng.normal(size=63) + 0.5 * t * rng.normal(size=63)),
    }


def pose(body: BodyModel, arrays: dict[str, np.ndarray]) -> BodyOutput:
    parameters = Parameters.from_rotvecs(arrays)
    return body(parameters.body_pose, parameters.betas, parameters.global_orient, parameters.transl)


def write_parameter_results(path: Path, names: list[str], arrays: dict[str, np.ndarray]) -> None:
    """results.pkl of a parametric method: rotation matrices with a leading (1, F)."""
    content = {
        "frame_name": np.array(names)[None],
        "body_pose": rotvec_to_matrix(torch.tensor(arrays["body_pose"]).reshape(-1, 21, 3)).numpy()[None],
        "global_orient": rotvec_to_matrix(torch.tensor(arrays["global_orient"])).numpy()[None],
        "betas": arrays["betas"][None],
        "transl": arrays["transl"][None],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    joblib.dump(content, path, compress=3)


def write_frame_parameters(folder: Path, names: list[str], arrays: dict[str, np.ndarray]) -> None:
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        row: dict[str, Any] = {key: value[index : index + 1] for key, value in arrays.items()}
        row["body_pose"] = np.pad(row["body_pose"], ((0, 0), (0, 6)))  # SMPL's 69
        (folder / name / "000.pkl").write_bytes(pickle.dumps(row | {"camera_translation": None}))


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))


def write_boxes(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    N = len(names)
    np.savez(path, frame_names=np.array(names), centers=np.full((N, 2), 54.0), scales=np.full(N, 0.3),
             bboxes=np.zeros((N, 4)))  # fmt: skip


def turn(axis: str, angle: float, shift: tuple[float, float, float]) -> np.ndarray:
    """(4, 4) rotation about an axis, then a shift."""
    matrix = np.eye(4)
    vector = torch.zeros(3)
    vector["xyz".index(axis)] = angle
    matrix[:3, :3], matrix[:3, 3] = rotvec_to_matrix(vector).numpy(), shift
    return matrix


# ------------------------------------------------------------------------------------------------- EgoBody

RECORDINGS = (("recording_a", "master", 0, "male"), ("recording_b", "sub_1", 1, "female"))
START, END = 2, 6  # frames that count, of 0 .. F - 1
MASTER2WORLD = turn("x", np.pi, (0.5, 1.2, -2))  # level camera: y down → y up
SUB2MASTER = turn("y", 0.4, (0.3, -0.1, 0.2))


def write_egobody(root: Path, images: int = F - 1) -> dict[str, dict[str, np.ndarray]]:
    """Two recordings; returns the true parameters in each view's camera by sequence name."""
    columns = "recording_name,view,target_idx,target_gender,scene_name,body_idx_fpv,target_start_frame," \
              "target_end_frame"  # fmt: skip
    rows, truth = [], {}
    names = [f"frame_{n:05d}" for n in range(F)]
    for seed, (recording, view, index, gender) in enumerate(RECORDINGS):
        rows.append([recording, view, index, gender, "seminar_d78", "0 male", float(START), END])
        calibration = root / "calibrations" / recording / "cal_trans"
        write_json(calibration / "kinect12_to_world/seminar_d78.json", {"trans": MASTER2WORLD.tolist()})
        write_json(calibration / "kinect_11to12_color.json", {"trans": SUB2MASTER.tolist()})
        write_json(root / f"kinect_cam_params/kinect_{view}/Color.json", LENS)
        role = "interactee" if index == 0 else "camera_wearer"
        arrays = motion(seed)
        folder = root / f"smpl_{role}" / recording / f"body_idx_{index}" / "results"
        write_frame_parameters(folder, names, arrays)
        mask = np.ones((END - START + 1, 24))
        mask[::2, ::3] = 0
        folder = root / "mask_joint" / recording / view
        folder.mkdir(parents=True)
        np.save(folder / "mask_joint.npy", mask)
        write_boxes(root / f"keypoints_cleaned/{recording}/{view}/bbox_idx{index}.npz", names[:-1])
        for name in names[:images]:
            write_image(root / f"kinect_color/{recording}/{view}/{name}.jpg")
        truth[f"{recording}/{view}/body_idx_{index}"] = arrays
    with (root / "egobody_occ_info.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows(rows)
    return truth


# ------------------------------------------------------------------------------------------------- RICH

VID = "test/Gym_013_burpee4/cam_06"
WORLD2CAM = turn("y", 0.7, (0.2, 0.1, 1.0))
XML = """<?xml version="1.0"?>
<opencv_storage>
<CameraMatrix type_id="opencv-matrix"><rows>3</rows><cols>4</cols>
<dt>f</dt><data>{extrinsic}</data></CameraMatrix>
<Intrinsics type_id="opencv-matrix"><rows>3</rows><cols>3</cols>
<dt>f</dt><data>{intrinsic}</data></Intrinsics>
</opencv_storage>"""


def write_rich(root: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """One video whose labels skip the first image; returns image names of the labels and true parameters."""
    arrays = motion(7)
    images = [f"{n:05d}_06.jpeg" for n in range(F + 1)]
    for name in images:
        write_image(root / "images" / VID / name, (96, 128))
    parameters = {key: torch.tensor(value) for key, value in arrays.items()}
    labels = {VID: {"frame_id": torch.arange(1, F + 1), "gender": "female", "gt_smplx_params": parameters}}
    boxes = {
        VID: {"bbx_xys": torch.tensor([[60.0, 50.0, 40.0]]).repeat(F, 1), "img_wh": torch.tensor([128, 96])}
    }
    (root / "hmr4d_support").mkdir()
    torch.save(labels, root / "hmr4d_support/rich_test_labels.pt")
    torch.save(boxes, root / "hmr4d_support/rich_test_preproc.pt")
    calibration = root / "scan_calibration/Gym/calibration"
    calibration.mkdir(parents=True)
    intrinsic = np.array([[130.0, 0, 64], [0, 130, 48], [0, 0, 1]])
    flat = (" ".join(map(str, values.ravel())) for values in (WORLD2CAM[:3], intrinsic))
    (calibration / "006.xml").write_text(XML.format(extrinsic=next(flat), intrinsic=next(flat)))
    floor = turn("x", np.pi / 2, (0, 0, 1))
    write_json(root / "resource/w2az_sahmr.json", {"Gym_scan_camcoord": floor.tolist()})
    (root / "resource/test.txt").write_text(
        "sequence capture scan\nGym_013_burpee4 Gym scan_camcoord 013 False male 6\n"
    )
    return images[1:], arrays


# ------------------------------------------------------------------------------------------------- PROX

PROX_RECORDING = "N0Sofa_00145_01"
CAM2WORLD = turn("x", -np.pi / 2 - 0.2, (0.1, -1.0, 1.4))


def write_prox(root: Path, images: int = 2) -> list[str]:
    """One recording; returns the image names."""
    names = [f"s001_frame_{n:05d}__00.00.00.{n:03d}" for n in range(F)]
    write_json(root / "cam2world/N0Sofa.json", CAM2WORLD.tolist())
    write_json(root / "calibration/Color.json", LENS)
    write_boxes(root / "keypoints_openpose" / PROX_RECORDING / "bbox.npz", names)
    for name in names[:images]:
        write_image(root / "recordings" / PROX_RECORDING / "Color" / f"{name}.jpg")
    return [f"{name}.jpg" for name in names]


def open_body_as_smplx(body_models: Path, folder: Path) -> BodyModel:
    """The shipped body under SMPL-X's name, with regressors of its own: a body that can be fitted."""
    (folder / "smplx").mkdir(parents=True)
    for gender in ("NEUTRAL", "MALE", "FEMALE"):
        (folder / "smplx" / f"SMPLX_{gender}.npz").symlink_to(body_models / "open/OPEN_NEUTRAL.npz")
    body = load_body_model(folder, "smplx")
    hands = torch.zeros(2, body.num_vertices)
    hands[:, :2] = torch.eye(2)
    write_regressors(folder, torch.cat((body.joint_regressor, hands)), body.num_full_vertices)
    return body
