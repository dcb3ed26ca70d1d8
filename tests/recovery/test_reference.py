"""The multi-view reference and its calibration file, on a scene with exact truth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.recovery.real_video import metric_landmarks, scores, subject_of
from models.recovery.reference import MIRROR, POINTS, build_reference
from moro.errors import MoroError
from moro.geometry.alignment import similarity_align
from moro.io.qualisys import FLIP, SUBPIXELS, read_calibration
from moro.video.tracks import Track
from tests.recovery.studio import cameras, detections, person


def millimetres(points: Tensor, truth: Tensor) -> Tensor:
    """(T, N) after Procrustes, which is all that is asked of the reference."""
    return 1000 * (similarity_align(points, truth) - truth).norm(dim=-1)


def test_exact_detections_give_the_truth() -> None:
    truth = person()
    reference = build_reference(cameras(), [detections(truth, camera) for camera in cameras()])
    assert millimetres(reference.points, truth).max() < 3
    assert reference.reprojection.max() < 1 and reference.left_out.max() < 2
    assert reference.shift.abs().max() < 0.5
    halfway = reference.delayed(0.5).points[1:]
    assert (halfway - (reference.points[1:] + reference.points[:-1]) / 2).norm(dim=-1).max() < 2e-3
    for view, camera in enumerate(cameras()):
        inside = reference.in_camera(camera)
        assert (inside[..., 2] > 2).all() and inside.dtype == torch.float32
        seen = detections(truth, camera).landmarks[:, POINTS, :2]
        assert np.abs(reference.in_image(camera, view) - seen).max() < 25  # the lens's distortion is left out


def test_swapped_sides_shifted_views_and_wrong_limbs_do_little_harm() -> None:
    truth = person()
    views = [detections(truth, camera) for camera in cameras()]
    for point, other in enumerate(MIRROR):  # the second view takes left for right in half of the frames
        views[1].landmarks[4:10, POINTS[point]] = detections(truth, cameras()[1]).landmarks[
            4:10, POINTS[other]
        ]
    views[2].landmarks[:, POINTS, :2] += (15, -10)  # the third file is cut
    views[3].landmarks[2:8, POINTS[4], :2] += (120, 60)  # the fourth sees a wrist where there is none
    reference = build_reference(cameras(), views)
    assert millimetres(reference.points, truth).mean() < 5
    assert millimetres(reference.points, truth).max() < 25
    apart = reference.shift[2] - reference.shift[[0, 1, 3]].mean(0)
    assert apart[0] > 8 and reference.reprojection.max() < 5


def test_a_landmark_nobody_sees_is_an_error() -> None:
    views = [detections(person(), camera) for camera in cameras()]
    for view in views[1:]:
        view.landmarks[:, POINTS[5], 2] = 0
    with pytest.raises(MoroError, match="right_wrist"):
        build_reference(cameras(), views)


def test_scores_know_similarity_and_gaps() -> None:
    truth = person().float()
    track = detections(person(), cameras()[0])
    track.seen[3:6], track.world[3:6] = False, 0
    filled = metric_landmarks(track)[:, POINTS]
    inside = detections(person(), cameras()[0]).world[:, POINTS]
    assert np.abs(filled.numpy() - inside).max() < 0.02  # 3 frames of a slow turn
    same = scores(1.3 * truth @ torch.diag(torch.tensor([-1.0, -1, 1])) + 0.5, truth)
    assert same["PA-MPJPE [mm]"] < 0.01 and same["Accel error [m/s2]"] < 0.1 and same["MPJPE [mm]"] > 100
    moved = truth.clone()
    moved[:, 4] += 0.12  # one of twelve joints
    assert 10 < scores(moved, truth)["PA-MPJPE [mm]"] < 60  # the alignment spreads it over all


def test_the_subject_is_the_one_at_the_reference() -> None:
    camera = cameras()[0]
    here, there = detections(person(), camera), detections(person() + torch.tensor([0, 0.8, 0]), camera)
    here.landmarks[::2, POINTS] = here.landmarks[::2][
        :, [POINTS[other] for other in MIRROR]
    ]  # sides exchanged
    image = detections(person(), camera).landmarks[:, POINTS, :2]
    assert subject_of([there, Track.unseen(12), here], image, Path("clip.mp4")) is here


def test_calibration_file(tmp_path: Path) -> None:
    camera = cameras()[1]
    R, t, K = camera.world2cam[:3, :3], camera.world2cam[:3, 3], SUBPIXELS * camera.K
    place = " ".join(f'r{i + 1}{j + 1}="{(FLIP @ R)[i, j]}"' for i in range(3) for j in range(3))
    place += " ".join(f' {axis}="{value}"' for axis, value in zip("xyz", -1000 * R.T @ t))
    k1, k2, p1, p2, k3 = camera.dist_coeffs
    lens = f'centerPointU="{K[0, 2]}" centerPointV="{K[1, 2]}" '
    lens += f'focalLengthU="{K[0, 0]}" focalLengthV="{K[1, 1]}" '
    lens += f'radialDistortion1="{k1}" radialDistortion2="{k2}" radialDistortion3="{k3}" '
    lens += f'tangentalDistortion1="{p1}" tangentalDistortion2="{p2}"'
    picture = '<fov_video bottom="1919" left="0" right="1079" top="0"/>'
    parts = f'<camera serial="cam1">{picture}<transform {place}/><intrinsic {lens}/></camera>'
    text = f"<calibration><cameras>{parts}</cameras></calibration>"
    file = tmp_path / "c.txt"
    file.write_text(text)
    (found,) = read_calibration(file)
    assert found.name == "cam1" and found.image_size == (1080, 1920)
    for name in ("K", "dist_coeffs", "world2cam"):
        np.testing.assert_allclose(getattr(found, name), getattr(camera, name), atol=1e-9)
    file.write_text(text.replace("focalLengthU", "focal"))
    with pytest.raises(MoroError, match="not a Qualisys calibration"):
        read_calibration(file)
    with pytest.raises(MoroError, match="cannot read"):
        read_calibration(tmp_path / "none.txt")
