"""The npz must place the body where the fit saw it, seen from the world."""

import numpy as np
import pytest
import roma
import torch

from moro.errors import MoroError
from moro.export.amass import read_motion_npz, write_motion_npz

K = np.array([[900.0, 0, 640], [0, 900, 360], [0, 0, 1]])


def write(path, body, fit, ground, **options):
    write_motion_npz(path, body, fit, ground, K, (1280, 720), **options)
    return path


def test_body_from_the_file_stands_where_the_camera_saw_it(tmp_path, body, fit, ground, posed):
    motion = read_motion_npz(write(tmp_path / "motion.npz", body, fit, ground))
    R = roma.rotvec_to_rotmat(torch.tensor(motion["poses"]).view(-1, 55, 3))
    out = body(
        R[:, 1:22], torch.tensor(motion["betas"]).expand(len(R), -1), R[:, 0], torch.tensor(motion["trans"]),
        hand_pose=R[:, 25:],
    )  # fmt: skip
    transform = torch.tensor(ground.cam2world(), dtype=torch.float32)
    expected = posed.full_vertices @ transform[:3, :3].T + transform[:3, 3]
    assert (out.full_vertices - expected).norm(dim=-1).max() < 1e-5
    back = torch.tensor(motion["world2cam"], dtype=torch.float32)
    seen = out.skeleton_joints @ back[:3, :3].T + back[:3, 3]
    assert (seen - posed.skeleton_joints).norm(dim=-1).max() < 1e-5


def test_contents(tmp_path, body, fit, ground):
    seen = np.arange(40) % 3 > 0
    motion = read_motion_npz(write(tmp_path / "a" / "motion.npz", body, fit, ground, fps=25, seen=seen))
    assert motion["poses"].shape == (40, 165) and motion["poses"].dtype == np.float32
    np.testing.assert_array_equal(motion["poses"][:, :3], motion["root_orient"])
    np.testing.assert_array_equal(motion["poses"][:, 3:66], motion["pose_body"])
    np.testing.assert_allclose(motion["camera_transl"], fit.transl)
    np.testing.assert_allclose(motion["camera_global_orient"], fit.full_pose[:, 0])
    assert motion["mocap_framerate"] == motion["mocap_frame_rate"] == 25
    assert (motion["up_axis"], motion["gender"], motion["body_model"]) == ("z", "neutral", "test-660")
    assert motion["body_model_sha256"] == body.sha256
    np.testing.assert_array_equal(motion["seen"], seen)
    np.testing.assert_allclose(motion["frame_times"], np.arange(40) / 25)
    assert list(motion["image_size"]) == [1280, 720]
    np.testing.assert_allclose(motion["K"], K)


@pytest.mark.parametrize("change, message", [
    ({"poses": np.zeros((40, 60))}, "poses"),
    ({"trans": np.zeros((39, 3))}, "trans"),
    ({"trans": np.full((40, 3), np.nan)}, "finite"),
    ({"K": None}, "lacks K"),
])  # fmt: skip
def test_broken_files_are_named(tmp_path, body, fit, ground, change, message):
    with np.load(write(tmp_path / "motion.npz", body, fit, ground)) as file:
        arrays = dict(file) | change
    np.savez(tmp_path / "broken.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(MoroError, match=message):
        read_motion_npz(tmp_path / "broken.npz")


def test_not_a_file_of_ours(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickle.npz", poses=np.array([{}], dtype=object))
    for name in ("text.npz", "pickle.npz", "absent.npz"):
        with pytest.raises(MoroError, match=name):
            read_motion_npz(tmp_path / name)


@pytest.mark.parametrize("name, value", [
    ("full_pose", torch.zeros(40, 22, 3)),
    ("betas", torch.zeros(3)),
    ("transl", torch.full((40, 3), torch.nan)),
])  # fmt: skip
def test_fits_of_another_body_are_refused(tmp_path, body, fit, ground, name, value):
    setattr(fit, name, value)
    with pytest.raises(MoroError, match="export"):
        write(tmp_path / "motion.npz", body, fit, ground)
    assert not list(tmp_path.iterdir())


def test_masks_of_another_length_are_refused(tmp_path, body, fit, ground):
    with pytest.raises(MoroError, match="seen"):
        write(tmp_path / "motion.npz", body, fit, ground, seen=np.ones(5, bool))
