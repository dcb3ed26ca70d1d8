"""Doubt among codes becomes millimetres of joints, and is held against errors."""

from types import SimpleNamespace

import pytest
import torch

from models.recovery import uncertainty
from models.recovery.uncertainty import Doubts, calibrate, joint_spread

FRAMES, TOKENS, CODES = 5, 2, 4


def system() -> SimpleNamespace:
    """Token j moves vertices 11 j to 11 j + 10 along x, by as many metres as its code says."""
    table = torch.tensor([[0.0], [0.1], [0.2], [0.2]])

    def decode_tokens(tokens: torch.Tensor, frames: slice) -> torch.Tensor:
        mesh = torch.zeros(*tokens.shape[:2], 22, 3)
        mesh[..., 0] = tokens[..., 0].repeat_interleave(11, dim=-1)
        return mesh[:, frames]

    return SimpleNamespace(
        decode_tokens=decode_tokens,
        mask_transformer=SimpleNamespace(embed=lambda ids: table[ids]),
        loss=SimpleNamespace(joint_regressor=torch.eye(22)),
    )


def spread_of(*codes: int) -> torch.Tensor:
    """Of logits in which token 0 may be any of `codes`, and token 1 is code 1."""
    logits = torch.full((1, CODES, FRAMES, TOKENS), -100.0)
    logits[:, list(codes), :, 0] = 0
    logits[:, 1, :, 1] = 0
    generator = torch.Generator().manual_seed(0)
    return joint_spread(system(), logits, samples=200, generator=generator)[0]


def test_only_what_the_codes_do_not_agree_about_is_uncertain() -> None:
    torch.testing.assert_close(spread_of(1), torch.zeros(FRAMES, 22), atol=1e-6, rtol=0)
    torch.testing.assert_close(spread_of(2, 3), torch.zeros(FRAMES, 22), atol=1e-6, rtol=0)  # the same mesh
    unsure = spread_of(0, 1)
    torch.testing.assert_close(unsure[:, :11], torch.full((FRAMES, 11), 0.05), atol=0.003, rtol=0)
    torch.testing.assert_close(unsure[:, 11:], torch.zeros(FRAMES, 11), atol=1e-6, rtol=0)


def test_errors_are_held_against_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = torch.linspace(0, 80, 40 * 22).view(40, 22)

    def doubts(*_: object) -> Doubts:
        return Doubts(10 + 1.5 * spread, spread, torch.rand(40, 22), spread < 40)

    monkeypatch.setattr(uncertainty, "doubts_of", doubts)
    found = calibrate(system(), [{}, {}], [0, 1])
    assert found.line == pytest.approx((10, 1.5), abs=1e-3)
    assert found.spearman["spread"] == pytest.approx(1)
    assert abs(found.spearman["doubt of the frame"]) < 0.2
    rows = list(found.bins.values())
    assert len(rows) == uncertainty.BINS and rows[0]["occluded [%]"] == 0 and rows[-1]["occluded [%]"] == 100
    assert all(one["error [mm]"] < two["error [mm]"] for one, two in zip(rows, rows[1:]))
