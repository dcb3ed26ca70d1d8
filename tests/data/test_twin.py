"""Items are those built step by step as the original does: the same bits with `compat`, else the same picture
within one grey level."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.mask_transformer.data.base import ClipDataset
from tests.data.conftest import World
from tests.data.twin import GREY_LEVEL, Item, plain_bedlam, plain_egobody, plain_image

Plain = Callable[[ClipDataset, int, np.random.Generator], Item]


def compare(dataset: ClipDataset, plain: Plain, index: int, seed: int, compat: bool) -> None:
    made = dataset.item(index, np.random.default_rng(seed))
    tensors = {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}
    expected = plain(dataset, index, np.random.default_rng(seed))
    assert tensors.keys() == expected.keys()
    for key, value in tensors.items():
        if compat or key == "contact_label":
            assert torch.equal(value, expected[key]), key
        else:
            atol = GREY_LEVEL if key == "crop_imgs" else 1e-5
            torch.testing.assert_close(value, expected[key], atol=atol, rtol=1e-6)
    assert made["crop_imgs"].std() > 0.1


@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize(("name", "plain"), [("egobody", plain_egobody), ("bedlam", plain_bedlam)])
def test_clips(world: Callable[[str], World], name: str, plain: Plain, compat: bool) -> None:
    for prob in (0.0, 1.0):  # of a body-part crop
        dataset = world(name).build("train", compat=compat, extreme_crop_aug_prob=prob)
        for index in range(2):
            compare(dataset, plain, index, index, compat)


@pytest.mark.parametrize("compat", [True, False])
def test_single_images(world: Callable[[str], World], compat: bool) -> None:
    dataset = world("coco").build("train", compat=compat, augment=True)
    for seed in range(12):  # turned or not, mirrored or not, coloured or not
        compare(dataset, plain_image, seed % len(dataset), seed, compat)
