"""Rotations: the 6D form and conversions."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from moro.geometry.rotation import (
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_rot6d,
    matrix_to_rotvec,
    rot6d_to_matrix,
    rotvec_to_matrix,
)


def random_rotations(count: int, seed: int = 0) -> torch.Tensor:
    return roma.rotvec_to_rotmat(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * 2)


def test_first_two_rows() -> None:
    matrix = torch.arange(9.0).view(3, 3)
    assert matrix_to_rot6d(matrix).tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(rot6d_to_matrix(torch.tensor([2.0, 0, 0, 5, 0, 3]))[1], torch.tensor([0.0, 0, 1]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_round_trips(seed: int) -> None:
    matrix = random_rotations(5, seed)
    torch.testing.assert_close(rot6d_to_matrix(matrix_to_rot6d(matrix)), matrix, rtol=0, atol=1e-5)
    torch.testing.assert_close(rotvec_to_matrix(matrix_to_rotvec(matrix)), matrix, rtol=0, atol=1e-5)
    torch.testing.assert_close(euler_to_matrix(matrix_to_euler(matrix)), matrix, rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6))
def test_any_six_numbers_give_finite_values(values: list[float]) -> None:
    rot6d = torch.tensor(values, requires_grad=True)
    matrix = rot6d_to_matrix(rot6d)
    assert torch.isfinite(matrix).all()
    cross = torch.linalg.cross(rot6d[:3], rot6d[3:])
    if cross.norm() > 1e-2:
        torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3), rtol=0, atol=1e-4)
        assert torch.linalg.det(matrix).item() == pytest.approx(1, abs=1e-4)


def test_euler_order_is_scipys_intrinsic() -> None:
    angles = torch.tensor([[0.3, -0.7, 1.1]])
    expected = Rotation.from_euler("ZXY", angles.numpy()).as_matrix()
    torch.testing.assert_close(euler_to_matrix(angles), torch.from_numpy(expected).float())


def test_euler_accepts_entries_just_above_one() -> None:
    matrix = torch.eye(3) * (1 + 1e-6)
    assert torch.isfinite(matrix_to_euler(matrix)).all()


def test_shapes() -> None:
    matrix = random_rotations(6).view(2, 3, 1, 3, 3)
    assert matrix_to_rot6d(matrix).shape == (2, 3, 1, 6)
    assert rot6d_to_matrix(matrix_to_rot6d(matrix)).shape == matrix.shape
    assert matrix_to_rotvec(matrix).shape == (2, 3, 1, 3)
