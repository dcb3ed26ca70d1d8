"""Masks, schemes and corruption (spec: models 4)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mask_transformer.masking import (
    corrupt,
    draw_mode,
    lowest,
    mask_ratio,
    remask,
    rounded,
    select_scheme,
    training_mask,
    validation_mask,
)
from moro.errors import MoroError

PROBABILITIES = {"inference": 0.4, "random": 0.4, "joint": 0.2, "frame": 0.2, "full": 0.1}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_scheme_schedule() -> None:
    schedule = [[10, "full"], [20, "joint"], [-1, "random+frame"]]
    assert [select_scheme(schedule, step) for step in (0, 9, 10, 19, 20, 999)] == [
        "full", "full", "joint", "joint", "random+frame", "random+frame",
    ]  # fmt: skip
    with pytest.raises(MoroError, match="mask_scheme"):
        select_scheme(schedule[:2], 20)


@pytest.mark.parametrize(
    ("scheme", "shares"),
    [
        ("inference+random", {"inference": 0.5, "random": 0.5}),
        ("random+joint+frame", {"random": 0.5, "joint": 0.25, "frame": 0.25}),
        ("full", {"full": 1.0}),
    ],
)
def test_modes_are_drawn_by_their_share(scheme: str, shares: dict[str, float]) -> None:
    generator = seeded()
    drawn = [draw_mode(scheme, PROBABILITIES, generator) for _ in range(1000)]
    for mode, share in shares.items():
        assert drawn.count(mode) / 1000 == pytest.approx(share, abs=0.06)


def test_bad_modes_are_named() -> None:
    with pytest.raises(MoroError, match="rnadom"):
        draw_mode("rnadom", PROBABILITIES)
    with pytest.raises(MoroError, match="scheme_prob"):
        draw_mode("random+joint", {"random": 1.0})
    with pytest.raises(MoroError, match="positive"):
        draw_mode("random+joint", {"random": 0.0, "joint": 0.0})
    with pytest.raises(MoroError, match="choose from"):
        training_mask("none", (1, 2, 3))


def test_rounding_goes_to_even() -> None:
    assert rounded(torch.tensor([0.25, 0.75, 0.05]), 2).tolist() == [0, 2, 0]  # 0.5, 1.5, 0.1
    assert rounded(0.2, 87).item() == 17


def test_ratio_has_the_mean_of_the_cosine() -> None:
    ratio = mask_ratio(20_000, 1.0, seeded())
    assert ratio.mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    assert mask_ratio(1000, 0.5, seeded()).min().item() >= math.cos(math.pi / 4) - 1e-6


def test_lowest_takes_the_first_of_equals() -> None:
    scores = torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 1.0, 2.0, 3.0]])
    chosen = lowest(scores, torch.tensor([2, 3]))
    assert chosen.tolist() == [[False, True, True, False], [True, True, True, False]]
    assert not lowest(scores, torch.tensor([0, 0])).any()


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from(["random", "joint", "frame", "full", "inference"]),
    frames=st.integers(1, 20),
    tokens=st.integers(1, 20),
    tau=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_training_mask_counts(mode: str, frames: int, tokens: int, tau: float, seed: int) -> None:
    mask = training_mask(mode, (3, frames, tokens), tau, seeded(seed))
    assert mask.shape == (3, frames, tokens) and mask.dtype == torch.bool
    ratio = mask_ratio(3, tau, seeded(seed))  # the ratio is the first thing drawn
    for sample, share in zip(mask, ratio.tolist()):
        rows, columns = sample.any(1), sample.any(0)
        if mode == "random":
            assert sample.sum() == max(1, round(frames * tokens * share))
        elif mode == "joint":
            assert columns.sum() == max(1, round(tokens * share)) and torch.equal(
                sample, columns.expand_as(sample)
            )
        elif mode == "frame":
            length = max(1, round(frames * share))
            hidden = rows.nonzero().flatten()
            assert len(hidden) == length and hidden[-1] - hidden[0] == length - 1  # one run
            assert torch.equal(sample, rows[:, None].expand_as(sample))
        else:
            assert sample.all()


def test_validation_masks() -> None:
    shape = (2, 60, 87)
    assert validation_mask("random", shape, 0.2, seeded()).sum((1, 2)).tolist() == [1044, 1044]
    assert validation_mask("joint", shape, 0.2, seeded()).any(1).sum(1).tolist() == [17, 17]
    frames = validation_mask("frame", shape, 0.2)[0].all(1).nonzero().flatten()
    assert frames.tolist() == list(range(24, 36))  # 12 frames from 30 - 6
    assert validation_mask("full", shape).all() and validation_mask("inference", shape).all()


def test_masks_repeat_with_their_generator() -> None:
    one, two = (training_mask("random", (2, 5, 6), 1.0, seeded(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_random_positions_are_uniform() -> None:
    generator = seeded()
    hits = sum(validation_mask("random", (50, 2, 5), 0.3, generator).float().sum(0) for _ in range(40))
    assert (hits / 2000 - 0.3).abs().max() < 0.05


def test_remask_hides_the_least_certain() -> None:
    confidence = torch.tensor([[[0.9, 0.1], [0.5, 0.2]], [[0.1, 0.2], [0.3, 0.4]]])
    assert remask(confidence, 0.5).tolist() == [
        [[False, True], [False, True]],
        [[True, True], [False, False]],
    ]
    assert remask(confidence, torch.tensor([0.0, 1.0])).sum((1, 2)).tolist() == [1, 4]


def test_corruption() -> None:
    ids = torch.randint(512, (4, 60, 87), generator=seeded())
    mask = training_mask("random", ids.shape, 0.5, seeded(1))
    tokens = corrupt(ids, mask, 512, prob_rid=0.1, prob_mid=0.7, generator=seeded(2))
    assert torch.equal(tokens.ids[~mask], ids[~mask])
    assert torch.equal(tokens.labels[mask], ids[mask]) and (tokens.labels[~mask] == 512).all()
    masked, true = tokens.ids[mask], ids[mask]
    assert (masked == 512).float().mean().item() == pytest.approx(0.9 * 0.7, abs=0.02)
    assert (masked == true).float().mean().item() == pytest.approx(0.9 * 0.3, abs=0.02)
    plain = corrupt(ids, mask, 512, full_label=True)
    assert (plain.ids[mask] == 512).all() and torch.equal(plain.labels, ids)
    assert ids.max() < 512  # the input stays
