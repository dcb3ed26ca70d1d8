"""Offsets of a detector's landmarks on rendered bodies."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from models.mask_transformer.data.open_motion import Motion
from models.recovery.reading_bias import IMAGE_SIZE, Shown, distance_in_image, fit_offsets, shown_people
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.refinement import holder_of
from moro.body.skeleton import LANDMARK_NAMES
from moro.geometry.camera import project


@pytest.fixture(scope="module")
def body(repository: Path) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


@pytest.fixture(scope="module")
def people(body: BodyModel) -> list[tuple[Shown, np.ndarray]]:
    rng = np.random.default_rng(0)
    rotvec = torch.from_numpy(rng.normal(0, 0.3, (40, 22, 3))).float()
    rotvec[:, 0] += torch.tensor([np.pi / 2, 0, 0])  # upright in a z-up world
    motion = Motion("any", "walk", rotvec, torch.zeros(40, 3))
    with torch.no_grad():
        return list(islice(shown_people(body, [motion], rng), 40))


def read_with(shown: Shown, offset: np.ndarray) -> np.ndarray:
    """Pixels (33, 2) of landmarks that lie off by (33, 3) in the frames of their limbs."""
    turn = shown.rotations[[holder_of(name) for name in LANDMARK_NAMES]]
    moved = shown.landmarks + (turn @ torch.from_numpy(offset).float()[..., None])[..., 0]
    return project(moved, shown.K).numpy()


def test_offsets_are_found_among_outliers(people: list[tuple[Shown, np.ndarray]]) -> None:
    rng = np.random.default_rng(1)
    shown = [one for one, _ in people]
    truth = rng.normal(0, 0.03, (33, 3))
    pixels = np.stack([read_with(one, truth) for one in shown]) + rng.normal(0, 1.0, (len(shown), 33, 2))
    pixels[::7] += 80.0  # some are read somewhere else
    visibility = np.ones((len(shown), 33))
    visibility[::5, 4] = 0.1
    found = fit_offsets(shown, pixels, visibility)
    np.testing.assert_allclose(found.offset, truth, atol=0.006)
    assert found.readings[4] == 32 and found.readings[5] == 40
    assert (found.after < found.before).mean() > 0.8


def test_people_stand_in_the_picture(people: list[tuple[Shown, np.ndarray]]) -> None:
    for shown, picture in people[:6]:
        assert picture.shape == (*IMAGE_SIZE[::-1], 3) and picture.dtype == np.uint8
        image = project(shown.landmarks, shown.K).numpy()
        inside = ((image >= 0) & (image < IMAGE_SIZE)).all(-1)
        assert inside.mean() > 0.9
        nose, feet = image[LANDMARK_NAMES.index("nose")], image[-2:]
        assert (feet[:, 1] > nose[1]).all()


def test_a_reading_of_somebody_turned_is_far_off(people: list[tuple[Shown, np.ndarray]]) -> None:
    class Read:
        def __init__(self, xy: np.ndarray) -> None:
            self.xy = xy

    shown, _ = people[0]
    right = read_with(shown, np.zeros((33, 3)))
    assert distance_in_image(shown, Read(right)) < 0.01  # type: ignore[arg-type]
    assert distance_in_image(shown, Read(right + 60)) > 0.06  # type: ignore[arg-type]
