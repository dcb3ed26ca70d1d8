"""Procrustes alignment: exact on exact data, never a reflection."""

import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moro.geometry.alignment import rigid_align, similarity_align, similarity_transform


def moved(points: Tensor, seed: int, scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = roma.rotvec_to_rotmat(torch.randn(3, generator=generator) * 2)
    return scale * points @ rotation.mT + torch.randn(3, generator=generator)


def cloud(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 5), count=st.integers(4, 30))
def test_similarity_is_exact(seed: int, scale: float, count: int) -> None:
    source = cloud(2, count, seed=seed)
    target = moved(source, seed, scale)
    torch.testing.assert_close(similarity_align(source, target), target, rtol=0, atol=2e-4)
    fit = similarity_transform(source, target)
    torch.testing.assert_close(fit.scale, torch.full((2,), scale), rtol=1e-3, atol=1e-4)
    assert fit.translation.shape == (2, 1, 3)


def test_rigid_keeps_the_size() -> None:
    source = cloud(10)
    same, larger = moved(source, 1, 1.0), moved(source, 1, 1.5)
    torch.testing.assert_close(rigid_align(source, same), same, rtol=0, atol=1e-4)
    aligned = rigid_align(source, larger)
    torch.testing.assert_close(torch.pdist(aligned), torch.pdist(source), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(aligned.mean(0), larger.mean(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 17])
def test_batch_shapes(count: int) -> None:
    """No number of points and no batch size changes the meaning of the axes (spec: models 8.1, no. 11)."""
    source = cloud(2, 3, count)
    target = moved(source, 5, 1.0)
    torch.testing.assert_close(similarity_align(source, target), target, rtol=0, atol=1e-3)
    one = similarity_align(source[1, 2], target[1, 2])
    torch.testing.assert_close(one, similarity_align(source, target)[1, 2], rtol=0, atol=1e-4)


def test_mirrored_bodies_do_not_match() -> None:
    source = cloud(22)
    mirrored = source * torch.tensor([-1.0, 1, 1])
    fit = similarity_transform(source, mirrored)
    assert torch.linalg.det(fit.rotation).item() == pytest.approx(1, abs=1e-4)
    assert (fit.apply(source) - mirrored).norm(dim=-1).mean() > 0.1


def test_best_of_all_small_changes() -> None:
    source, target = cloud(12), cloud(12, seed=1)
    fit = similarity_transform(source, target)
    best = (fit.apply(source) - target).square().sum()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        twist = roma.rotvec_to_rotmat(0.05 * torch.randn(3, generator=generator))
        other = fit._replace(
            rotation=twist @ fit.rotation,
            scale=fit.scale * 1.01,
            translation=fit.translation + 0.01 * torch.randn(3, generator=generator),
        )
        assert (other.apply(source) - target).square().sum() >= best


def test_coinciding_points_land_on_the_mean() -> None:
    source, target = torch.ones(5, 3), cloud(5)
    aligned = similarity_align(source, target)
    torch.testing.assert_close(aligned, target.mean(0).expand(5, 3), rtol=0, atol=1e-5)
    assert torch.isfinite(rigid_align(source, target)).all()
