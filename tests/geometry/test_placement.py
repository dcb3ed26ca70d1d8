"""Placing a body by its landmarks."""

import pytest
import torch

from moro.geometry.placement import place_by_landmarks


def _scene(frames: int = 80) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points (F, 12, 3) of a person, walking places (F, 3), rays (F, 12, 2)."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(1, 12, 3, generator=generator) * torch.tensor([0.25, 0.5, 0.15])
    points = points.expand(frames, -1, -1)
    time = torch.arange(frames) / 30
    place = torch.stack([time.sin(), 0.2 * (2 * time).cos(), 4 + time], -1)
    there = points + place[:, None]
    return points, place, there[..., :2] / there[..., 2:]


def test_exact_landmarks_give_the_place() -> None:
    points, place, rays = _scene()
    found = place_by_landmarks(points, rays, torch.ones(80, 12), place + torch.tensor([0.3, -0.2, 0.8]))
    assert (found - place).norm(dim=-1).max() < 0.01 and found.dtype == place.dtype


def test_gaps_are_bridged_and_outliers_ignored() -> None:
    points, place, rays = _scene()
    weight = torch.ones(80, 12)
    weight[30:50] = 0  # seen by nobody
    rays[:, 3] += 0.3  # one landmark is somebody else's
    found = place_by_landmarks(points, rays, weight, place + 1.0)
    error = (found - place).norm(dim=-1)
    assert error[:28].max() < 0.05 and error.max() < 0.12


def test_noise_does_not_shake_the_place() -> None:
    points, place, rays = _scene()
    noisy = rays + 0.003 * torch.randn(rays.shape, generator=torch.Generator().manual_seed(1))
    found = place_by_landmarks(points, noisy, torch.ones(80, 12), place)
    shaking = (found - place).diff(n=2, dim=0).norm(dim=-1).mean()
    assert shaking < 0.002 and (found - place).norm(dim=-1).mean() < 0.04


def test_nothing_seen_keeps_what_was_given() -> None:
    points, _, rays = _scene(40)
    line = torch.linspace(0, 1, 40)[:, None] * torch.tensor([1.0, 0, 2]) + torch.tensor([0.0, 0, 3])
    found = place_by_landmarks(points, rays, torch.zeros(40, 12), line)
    torch.testing.assert_close(found, line, atol=1e-3, rtol=0)


def test_standing_feet_stay() -> None:
    """The recovered leg sways by 3 cm twice a second, while the true foot stands."""
    points, place, rays = _scene()
    sway = 0.03 * (torch.arange(80) / 30 * 12).sin()
    feet = torch.stack([sway, 0 * sway, 0 * sway], -1)[:, None] - place[:, None]
    standing = torch.zeros(80, 1)
    standing[20:50] = 1
    loose = place_by_landmarks(points, rays, torch.ones(80, 12), place)
    held = place_by_landmarks(points, rays, torch.ones(80, 12), place, feet, standing)

    def steps(found: torch.Tensor) -> torch.Tensor:
        return (feet[:, 0] + found).diff(dim=0).norm(dim=-1)

    assert steps(held)[20:50].mean() < 0.4 * steps(loose)[20:50].mean()
    assert (held - place).norm(dim=-1).max() < 0.1
    torch.testing.assert_close(
        place_by_landmarks(points, rays, torch.ones(80, 12), place, feet, 0 * standing), loose
    )


def test_who_walks_out_of_the_picture_walks_on() -> None:
    """Nothing is seen from frame 50 on, the network has them stop there and says that a foot stands."""
    points, _, rays = _scene()
    place = torch.tensor([0.0, 0, 4]) + torch.arange(80)[:, None] / 30 * torch.tensor([1.0, 0, 0.5])
    there = points + place[:, None]
    weight = torch.ones(80, 12)
    weight[50:] = 0
    start = place.clone()
    start[50:] = place[50]
    feet, standing = torch.zeros(80, 1, 3), torch.zeros(80, 1)
    standing[50:] = 1
    found = place_by_landmarks(points, there[..., :2] / there[..., 2:], weight, start, feet, standing)
    assert (found - place).norm(dim=-1).max() < 0.2  # of a metre


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips(frames: int) -> None:
    points, place, rays = (part[:frames] for part in _scene())
    found = place_by_landmarks(points, rays, torch.ones(frames, 12), place + 0.2)
    assert (found - place).norm(dim=-1).max() < 0.02
