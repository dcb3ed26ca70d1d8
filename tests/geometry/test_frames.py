"""Change of frame and canonicalisation (spec: data 2.3, 4.1, 12.1 nos. 4 and 6)."""

import pytest
import roma
import torch

from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.geometry.frames import canonicalise, transform_parameters, transform_root, world2cano


@pytest.fixture(scope="module")
def body(repository) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


def _transform(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    transform = torch.eye(4)
    transform[:3, :3] = roma.rotvec_to_rotmat(torch.randn(3, generator=generator))
    transform[:3, 3] = torch.randn(3, generator=generator)
    return transform


def test_parameters_in_another_frame_give_transformed_joints(body: BodyModel) -> None:
    orient, transl = torch.randn(4, 3), torch.randn(4, 3)
    pose = roma.rotvec_to_rotmat(0.3 * torch.randn(4, 21, 3))
    betas = torch.randn(1, body.num_betas).expand(4, -1)
    before = body(pose, betas, roma.rotvec_to_rotmat(orient), transl).joints
    transform = _transform()
    new_orient, new_transl = transform_parameters(orient, transl, before[:, 0] - transl, transform)
    after = body(pose, betas, roma.rotvec_to_rotmat(new_orient), new_transl).joints
    torch.testing.assert_close(after, before @ transform[:3, :3].T + transform[:3, 3], atol=1e-5, rtol=1e-5)


def test_root_moves_like_its_points() -> None:
    rotation = roma.random_rotmat(5)
    translation, local = torch.randn(5, 1, 3), torch.randn(5, 7, 3)
    transform = torch.stack([_transform(seed) for seed in range(5)])
    turned, moved = transform_root(rotation, translation, transform)
    world = local @ rotation.mT + translation
    expected = world @ transform[:, :3, :3].mT + transform[:, None, :3, 3]
    torch.testing.assert_close(local @ turned.mT + moved, expected, atol=1e-5, rtol=1e-5)


def test_canonical_clip_stands_on_the_origin_and_faces_y() -> None:
    joints = torch.randn(6, 22, 3)
    transform = canonicalise(joints)
    moved = joints @ transform[:3, :3].T + transform[:3, 3]
    assert moved[..., 2].min().abs() < 1e-5
    assert moved[0, 0, :2].abs().max() < 1e-5
    across = moved[0, 2] - moved[0, 1] + moved[0, 17] - moved[0, 16]
    assert across[0] > 0 and across[1].abs() < 1e-5
    torch.testing.assert_close(torch.det(transform[:3, :3]), torch.tensor(1.0))


@pytest.mark.parametrize("up", ["z", "y", "-y"])
def test_world2cano_lifts_the_up_axis_to_z(up: str) -> None:
    axis = {"z": [0.0, 0, 1], "y": [0.0, 1, 0], "-y": [0.0, -1, 0]}[up]
    matrix = world2cano(up)
    assert (matrix[:3, :3] @ torch.tensor(axis)).tolist() == [0, 0, 1]
    assert torch.det(matrix) == 1
