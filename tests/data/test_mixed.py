"""Mixtures of data sets: plan, keys, random numbers, processes; the configurations that name them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.bedlam import BedlamDataset
from models.mask_transformer.data.egobody import EgoBodyDataset
from models.mask_transformer.data.mixed import MixedDataset
from models.mask_transformer.data.module import MotionDataModule, ResumableSampler, collate
from moro.config import compose_config
from moro.errors import MoroError


class Numbers(ClipDataset):
    """Samples that say which they are, with a random number."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"name": self.name, "index": index, "random": float(rng.random())}


def mixture(*sizes: int, probs: list[float] | None = None, seed: int = 0) -> MixedDataset:
    return MixedDataset([Numbers("abc"[n], size) for n, size in enumerate(sizes)], probs, seed)


def drawn(mixed: MixedDataset, epoch: int = 0) -> list[tuple[str, int]]:
    items = [mixed[epoch, place] for place in range(len(mixed))]
    return [(item["name"], item["index"]) for item in items]


class Epochs(Numbers):
    """Samples that say in which epoch they were drawn."""

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"epoch": epoch, **self.item(index, rng)}


# -------------------------------------------------------------------------------------------------- plan


def test_members_know_the_epoch() -> None:
    mixed = MixedDataset([Epochs("a", 3), Epochs("b", 3)], None)
    assert {mixed[epoch, place]["epoch"] for epoch in (0, 7) for place in range(6)} == {0, 7}
    assert mixed[2]["epoch"] == 0  # a plain index


def test_shares_and_replacement() -> None:
    """Spec: data 12.1, check 11."""
    plan = drawn(mixture(10, 1000, probs=[0.5, 0.5]))
    parts = {name: [index for other, index in plan if other == name] for name in "ab"}
    assert len(plan) == 1010 and len(parts["a"]) == len(parts["b"]) == 505
    assert set(parts["a"]) == set(range(10))  # with replacement: there are only 10
    assert len(set(parts["b"])) == 505  # without
    assert [name for name, _ in plan] != sorted(name for name, _ in plan)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 1.0)), min_size=1, max_size=3), st.integers(0, 5)
)
def test_any_mixture(members: list[tuple[int, float]], epoch: int) -> None:
    sizes, probs = zip(*members)
    mixed = mixture(*sizes, probs=list(probs))
    plan = drawn(mixed, epoch)
    for name, size, share in zip("abc", sizes, np.array(probs) / sum(probs)):
        indices = [index for other, index in plan if other == name]
        assert len(indices) == round(share * sum(sizes)) and all(0 <= index < size for index in indices)
        assert len(indices) > size or len(set(indices)) == len(indices)


def test_plan_is_drawn_anew_by_its_own_generator() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = [drawn(mixture(20, 20, seed=7), epoch) for epoch in (0, 1)]
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # the global one is left alone
    np.random.seed(2)
    torch.manual_seed(2)
    mixed = mixture(20, 20, seed=7)
    assert [drawn(mixed, epoch) for epoch in (0, 1)] == first and first[0] != first[1]
    assert drawn(mixture(20, 20, seed=8)) != first[0]
    assert drawn(pickle.loads(pickle.dumps(mixed)), 1) == first[1]  # a worker started by spawn


def test_a_sample_drawn_twice_is_two_samples() -> None:
    mixed = mixture(2, 100)
    items = [item for place in range(len(mixed)) if (item := mixed[3, place])["name"] == "a"]
    assert len(items) == 51 and len({item["random"] for item in items}) == 51
    assert [mixed[3, place]["random"] for place in range(5)] == [
        mixture(2, 100)[3, place]["random"] for place in range(5)
    ]


def test_processes_share_one_plan() -> None:
    """Every process plans alike and takes its part; a resumed one goes on where it was."""
    mixed = mixture(12, 20)
    ranks = [ResumableSampler(mixed, seed=0, rank=rank, world_size=2) for rank in (0, 1)]
    for sampler in ranks:
        sampler.set_epoch(4)
    places = [list(sampler) for sampler in ranks]
    assert len(places[0]) == len(places[1]) == 16
    assert sorted(places[0] + places[1]) == [(4, place) for place in range(32)]
    resumed = ResumableSampler(mixed, seed=0, rank=1, world_size=2, skip=6)
    resumed.set_epoch(4)
    assert list(resumed) == places[1][6:]


def test_bad_shares_and_empty_members() -> None:
    for probs in ([1.0], [0.5, -0.5], [0.0, 0.0]):
        with pytest.raises(MoroError, match="dataset.probs must hold 2 shares"):
            mixture(3, 3, probs=probs)
    with pytest.raises(MoroError, match="Numbers has no samples"):
        mixture(0, 3)[0]


# ------------------------------------------------------------------------------------------ video data


@pytest.fixture(scope="module")
def video(world) -> MotionDataModule:
    """Loaders of option=video_train on the two small worlds."""
    bedlam, egobody = world("bedlam"), world("egobody")
    bodies = Path(bedlam.cfg.dataset.bm_path)
    words = [f"dataset.roots.bedlam={bedlam.root}", f"dataset.roots.egobody={egobody.root}"]
    words += [f"dataset.bm_path={bodies}", "dataset.num_workers=0", "dataset.num_workers_val=0"]
    cfg = compose_config("config", ["option=video_train", *words])
    OmegaConf.set_struct(cfg, False)
    cfg.dataset.clip_len, cfg.dataset.overlap_len = 3, 1
    return MotionDataModule(cfg)


def test_members_give_the_same_keys_and_shapes(video: MotionDataModule) -> None:
    members = video.datasets("train")
    assert [type(member) for member in members] == [EgoBodyDataset, BedlamDataset]
    items = [member[0, 0] for member in members]
    shapes = [
        {key: tuple(value.shape) if torch.is_tensor(value) else type(value) for key, value in item.items()}
        for item in items
    ]
    assert shapes[0] == shapes[1]
    batch = collate(items)
    assert batch["crop_imgs"].shape == (2, 3, 3, 256, 256) and len(batch["img_paths"]) == 3
    assert batch["true_params"].tolist() == [False, True]


def test_loaders_of_the_mixture(video: MotionDataModule) -> None:
    batch = next(iter(video.train_dataloader()))
    assert batch["mesh"].shape[:2] == (2, 3)
    loaders = video.val_dataloader()
    assert [type(loader.dataset) for loader in loaders] == [EgoBodyDataset, BedlamDataset]
    assert "detected" not in loaders[0].dataset[0]  # boxes by the truth


# -------------------------------------------------------------------------------------- configurations


def config(*words: str) -> DictConfig:
    return compose_config("config", list(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data=video"], ("mixed", 60, 2, 1)),
        (["data=video_sf"], ("mixed", 1, 0, 5)),
        (["data=bedlam"], ("bedlam", 60, 2, 1)),
        (["data=bedlam_sf"], ("bedlam", 1, 0, 5)),
        (["option=video_train"], ("mixed", 60, 2, 1)),
        (["option=video_pretrain"], ("mixed", 1, 0, 5)),
    ],
)
def test_configurations(words: list[str], expected: tuple[str, int, int, int]) -> None:
    dataset = config(*words).dataset
    assert (dataset.name, dataset.clip_len, dataset.overlap_len, dataset.skip) == expected
    if dataset.name == "mixed":
        assert (list(dataset.sub_datasets), list(dataset.probs)) == (["egobody", "bedlam"], [0.5, 0.5])


def test_configurations_of_the_motion_stages() -> None:
    pose, motion = config("option=pose_pretrain").dataset, config("option=motion_pretrain").dataset
    assert pose.name == motion.name == "amass" and (pose.clip_len, motion.clip_len) == (1, 60)
    assert pose.noise == motion.noise and list(motion.noise.train.transl) == [0.0, 0.01, 0.03]
    assert config("option=video_train").dataset.roots.amass == "datasets/mask_transformer/AMASS"
