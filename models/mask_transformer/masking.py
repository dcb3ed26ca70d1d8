"""Which tokens are hidden, and what the network sees in their place (spec: models 4).

Random numbers come from the generator given, or from one of each sample, on its own device (None: torch's
default one on the CPU), so that a run is repeatable whatever the device of the network.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from models.mask_transformer.draws import Source, uniform
from moro.errors import MoroError

MODES = ("random", "joint", "frame", "full", "inference")


class MaskedTokens(NamedTuple):
    """Input of the network and what it shall predict."""

    ids: Tensor  # (B, F, J) int64, some replaced by the mask id or a random code
    labels: Tensor  # (B, F, J) int64, the mask id where nothing is to be predicted


def select_scheme(schedule: Sequence[tuple[int, str]], step: int) -> str:
    """Name of the masking scheme at a training step (spec: models 4.1).

    schedule  [end_step, name] pairs; the first with step < end_step or end_step < 0 holds
    Raises MoroError if none holds.
    """
    for end_step, name in schedule:
        if end_step < 0 or step < end_step:
            return name
    raise MoroError(f"model.mask_scheme has no entry for step {step}; end it with one whose end step is -1.")


def draw_mode(scheme: str, probabilities: Mapping[str, float], generator: Generator | None = None) -> str:
    """One of the modes joined by "+" in `scheme`, by their probabilities renormalised (spec: models 4.1)."""
    modes = scheme.split("+")
    for mode in modes:
        check_mode(mode)
    if len(modes) == 1:
        return modes[0]
    missing = [mode for mode in modes if mode not in probabilities]
    if missing:
        raise MoroError(f"model.scheme_prob has no probability for {', '.join(missing)}.")
    weights = torch.tensor([float(probabilities[mode]) for mode in modes])
    if (weights < 0).any() or weights.sum() <= 0:
        raise MoroError(f"model.scheme_prob must hold a positive probability for one of {', '.join(modes)}.")
    device = "cpu" if generator is None else generator.device
    return modes[int(torch.multinomial(weights.to(device), 1, generator=generator))]


def check_mode(mode: str) -> None:
    """Raise MoroError unless `mode` is one of the five."""
    if mode not in MODES:
        raise MoroError(f"Unknown masking mode '{mode}'; choose from {', '.join(MODES)}.")


def mask_ratio(batch: int, tau: float, generator: Source = None) -> Tensor:
    """Share (B,) of tokens to hide per sample: cos(pi u / 2), u uniform in [0, tau) (spec: models 4.2)."""
    return torch.cos(uniform((batch,), generator).double() * tau * math.pi / 2)


def rounded(share: Tensor | float, total: int, least: int = 0) -> Tensor:
    """round(share * total), halves to the even side, at least `least`; int64."""
    share = torch.as_tensor(share, dtype=torch.float64)
    return (share * total).round().long().clamp(min=least)


def lowest(scores: Tensor, count: Tensor) -> Tensor:
    """Mark the `count` lowest scores of each row; of equal scores the one that comes first.

    scores   (B, N)
    count    (B,) int64
    returns  (B, N) bool
    """
    order = scores.argsort(dim=1, stable=True)
    chosen = torch.arange(scores.shape[1], device=scores.device) < count.to(scores.device)[:, None]
    return torch.zeros_like(chosen).scatter(1, order, chosen)


def build_mask(
    mode: str,
    shape: tuple[int, int, int],
    counts: Tensor,
    starts: Tensor | None = None,
    generator: Source = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Mask with given numbers of hidden positions (random), token indices (joint) or frames (frame).

    shape    (B, F, J)
    counts   (B,) int64;   starts (B,) int64, first frame (frame only)
    returns  (B, F, J) bool, True where hidden
    """
    B, F, J = shape
    if mode == "random":
        mask = lowest(uniform((B, F * J), generator, device), counts).view(B, F, J)
    elif mode == "joint":
        mask = lowest(uniform((B, J), generator, device), counts)[:, None].expand(B, F, J)
    elif mode == "frame":
        frame = torch.arange(F)
        inside = (frame >= starts[:, None]) & (frame < (starts + counts)[:, None])  # (B, F)
        mask = inside.to(device)[:, :, None].expand(B, F, J)
    else:
        mask = torch.ones(B, F, J, dtype=torch.bool, device=device)
    return mask


def training_mask(
    mode: str,
    shape: tuple[int, int, int],
    tau: float = 1.0,
    generator: Source = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Mask of one training batch (spec: models 4.2); "inference" starts with everything hidden (4.4).

    shape    (B, F, J);  tau: `mask_tau`
    returns  (B, F, J) bool, True where hidden
    """
    check_mode(mode)
    B, F, J = shape
    ratio = mask_ratio(B, tau, generator)
    counts = rounded(ratio, {"joint": J, "frame": F}.get(mode, F * J), least=1)
    starts = None
    if mode == "frame":
        starts = ((F - counts) * uniform((B,), generator).double()).round().long()
    return build_mask(mode, shape, counts, starts, generator, device)


def validation_mask(
    mode: str,
    shape: tuple[int, int, int],
    ratio: float = 0.2,
    generator: Source = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Mask with a fixed ratio, frames in mid-clip (spec: models 4.5); "inference" hides everything."""
    check_mode(mode)
    B, F, J = shape
    counts = rounded(ratio, {"joint": J, "frame": F}.get(mode, F * J)).expand(B)
    starts = F // 2 - torch.div(counts, 2, rounding_mode="floor")
    return build_mask(mode, shape, counts, starts, generator, device)


def remask(confidence: Tensor, ratio: Tensor | float) -> Tensor:
    """Second-pass mask of the "inference" scheme: the least certain positions of the clip (spec: models 4.4).

    confidence  (B, F, J)  probability of the predicted id in the first pass
    ratio       (B,) from `mask_ratio` in training, or the fixed `mask_ratio` in validation
    returns     (B, F, J) bool
    """
    flat = confidence.flatten(1)
    counts = rounded(ratio, flat.shape[1], least=1).expand(len(flat))
    return lowest(flat, counts).view_as(confidence)


def corrupt(
    ids: Tensor,
    mask: Tensor,
    num_codes: int,
    prob_rid: float = 0.0,
    prob_mid: float = 1.0,
    full_label: bool = False,
    generator: Source = None,
) -> MaskedTokens:
    """Hide tokens and make the labels (spec: models 4.3).

    ids       (B, F, J) true codes in [0, num_codes)
    mask      (B, F, J) bool
    prob_rid  share of hidden positions that get a random code (0 for mode full, validation and test)
    prob_mid  share of the others that get the mask id `num_codes` (1 for mode full); the rest keep their code
    full_label  labels everywhere, not only where hidden
    """
    mask_id = num_codes
    replaced = mask & (uniform(ids.shape, generator, ids.device) < prob_rid)
    hidden = mask & ~replaced & (uniform(ids.shape, generator, ids.device) < prob_mid)
    codes = (uniform(ids.shape, generator, ids.device) * num_codes).long()
    seen = torch.where(replaced, codes, ids).masked_fill(hidden, mask_id)
    labels = ids if full_label else ids.masked_fill(~mask, mask_id)
    return MaskedTokens(seen, labels)
