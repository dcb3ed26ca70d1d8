"""Vector quantisation with a codebook that follows the latents by moving averages (spec: models 1.4)."""

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.distributed import process_rank, sum_over_processes, world_size
from moro.errors import MoroError

_EPS = 1e-5  # of the Laplace smoothing
Reset = Literal["first", "random"]


class Quantised(NamedTuple):
    """What a quantiser returns; the scalars are () tensors."""

    quantised: Tensor  # (B, J, C), straight-through
    indices: Tensor  # (B, J) int64, or (B, J, Q) from a chain of Q quantisers
    commitment_loss: Tensor
    ortho_loss: Tensor
    entropy_loss: Tensor
    perplexity: Tensor
    coverage: Tensor


class EMAQuantiser(nn.Module):
    """Nearest code of a codebook E (K, C); in training the codes move to the mean of what they stand for.

    num_codes, dim   K, C
    decay            of the moving averages
    temperature      of the entropy term
    reset            what becomes of a code hardly used: "first" takes row k of the batch's latents for code k
                     (as the original), "random" a random row
    reset_below      uses per batch (moving average) below which a code counts as hardly used
    The state is changed in place and without gradient, hence is no business of an optimiser. Several
    processes, each with an equal share of a batch, do as one with the whole batch does: counts and sums are
    added up, and unused codes are replaced by rows of the whole batch.
    """

    def __init__(self, num_codes: int, dim: int, decay: float = 0.99, temperature: float = 1.0,
                 reset: Reset = "first", reset_below: float = 1.0) -> None:
        super().__init__()
        if reset not in ("first", "random"):
            raise MoroError(f"The quantiser's reset must be first or random, got {reset!r}.")
        self.num_codes, self.dim, self.decay, self.temperature = num_codes, dim, decay, temperature
        self.reset, self.reset_below = reset, reset_below
        self._embedding = nn.Embedding(num_codes, dim)
        self._embedding.weight.requires_grad_(False)
        self._ema_w = nn.Parameter(torch.randn(num_codes, dim), requires_grad=False)
        self.register_buffer("_ema_cluster_size", torch.zeros(num_codes))
        self.register_buffer("code_count", torch.ones(num_codes))

    @property
    def codebook(self) -> Tensor:
        """(K, C)"""
        return self._embedding.weight

    def encode(self, latents: Tensor) -> Tensor:
        """Nearest code, the first of equals: (..., C) → (...) int64."""
        return self._distances(latents.reshape(-1, self.dim)).argmin(-1).view(latents.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """(...) → (..., C)"""
        return self._embedding(indices)

    def forward(self, latents: Tensor, generator: torch.Generator | None = None) -> Quantised:
        """latents (B, J, C); moves the codebook when in training mode.

        generator  on the CPU, for what is drawn at a reset; the process-wide one if None. Several processes
                   must all give one, seeded alike
        """
        flat = latents.reshape(-1, self.dim)  # (N, C)
        indices = self.encode(flat)  # (N,)
        quantised = self.decode(indices)  # codes of before the update
        counts = torch.bincount(indices, minlength=self.num_codes).to(flat.dtype)  # (K,)
        if self.training:
            counts = sum_over_processes(counts)
            self._update(flat.detach(), indices, counts, generator)
        return Quantised(
            quantised=(flat + (quantised - flat).detach()).view(latents.shape),
            indices=indices.view(latents.shape[:-1]),
            commitment_loss=F.mse_loss(flat, quantised),
            ortho_loss=self._ortho_loss(),
            entropy_loss=self._entropy_loss(flat),
            perplexity=perplexity(counts),
            coverage=self._used().float().mean(),
        )

    def _distances(self, flat: Tensor) -> Tensor:
        """Squared distances (N, K); |x|² + |E|² - 2 x E^T, the order of spec: models 1.4."""
        squares = flat.square().sum(1, keepdim=True) + self.codebook.square().sum(1)
        return torch.addmm(squares, flat, self.codebook.t(), alpha=-2.0)

    @torch.no_grad()
    def _update(self, flat: Tensor, indices: Tensor, counts: Tensor,
                generator: torch.Generator | None) -> None:
        """Steps 1 to 3 of spec: models 1.4; `counts` (K,) are those of all processes."""
        sums = sum_over_processes(torch.zeros_like(self._ema_w).index_add_(0, indices, flat))
        substitutes = self._substitutes(flat, generator)
        size = self._ema_cluster_size
        size.lerp_(counts, 1 - self.decay)
        total = size.sum()
        size.copy_((size + _EPS) / (total + self.num_codes * _EPS) * total)
        self._ema_w.lerp_(sums, 1 - self.decay)
        self.code_count.lerp_(counts, 1 - self.decay)
        used = self._used().unsqueeze(1)  # (K, 1)
        self.codebook.copy_(torch.where(used, self._ema_w / size.unsqueeze(1), substitutes))

    def _used(self) -> Tensor:
        """(K,) whether a code is in use."""
        return self.code_count >= self.reset_below

    def _substitutes(self, flat: Tensor, generator: torch.Generator | None) -> Tensor:
        """(K, C) latents to replace unused codes; rows are repeated with noise when there are too few."""
        rows = len(flat) * world_size()
        repeats = math.ceil(self.num_codes / rows)
        drawn = self.reset == "random" or repeats > 1
        if drawn and generator is None and world_size() > 1:
            raise MoroError("With several processes the quantiser needs a generator that is the same in all.")
        order = torch.arange(repeats * rows)
        noise = torch.zeros(len(order), self.dim)
        if repeats > 1:
            noise = torch.randn(noise.shape, generator=generator) * (0.01 / math.sqrt(self.dim))
        if self.reset == "random":
            order = torch.randperm(len(order), generator=generator)
        order = order[: self.num_codes]
        return _rows_of_all(flat, order.to(flat.device) % rows) + noise[order].to(flat)

    def _ortho_loss(self) -> Tensor:
        """How far the used codes are from orthogonal: mean squared cosine, less that with themselves."""
        used = self._used().to(self.codebook.dtype)  # (K,)
        codes = F.normalize(self.codebook, dim=1) * used.unsqueeze(1)
        count = used.sum().clamp(min=1)
        return (codes @ codes.t()).square().sum() / count.square() - 1 / count

    def _entropy_loss(self, flat: Tensor) -> Tensor:
        """Mean entropy of the soft assignment. Natural logarithm over log2(K), as in the original."""
        p = torch.softmax(-self._distances(flat) / self.temperature, dim=-1)  # (N, K)
        return -(p * torch.log(p + 1e-10)).sum(-1).mean() / math.log2(self.num_codes)


def perplexity(counts: Tensor) -> Tensor:
    """Effective number of codes in use, of counts (..., K): 1 … K."""
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.exp(-(share * torch.log(share + 1e-10)).sum(-1))


def _rows_of_all(flat: Tensor, chosen: Tensor) -> Tensor:
    """Rows `chosen` (K,) of the batch that the processes' equal shares `flat` (N, C) make up → (K, C)."""
    place = chosen - process_rank() * len(flat)
    mine = (place >= 0) & (place < len(flat))
    own = flat.index_select(0, place.clamp(0, len(flat) - 1))
    return sum_over_processes(torch.where(mine.unsqueeze(1), own, 0.0))


class ResidualQuantiser(nn.Module):
    """A chain of quantisers, each for what the ones before left over; their codes add up (spec: models 1.4).

    shared  one codebook for all stages. Indices carry a last axis of length Q, the number of stages.
    """

    def __init__(self, num_quantisers: int, shared: bool, num_codes: int, dim: int, **options: Any) -> None:
        super().__init__()
        self.num_quantisers, self.num_codes, self.dim = num_quantisers, num_codes, dim
        count = 1 if shared else num_quantisers
        self.layers = nn.ModuleList(EMAQuantiser(num_codes, dim, **options) for _ in range(count))

    @property
    def codebook(self) -> Tensor:
        """(Q, K, C)"""
        return torch.stack([stage.codebook for stage in self._stages()])

    def encode(self, latents: Tensor) -> Tensor:
        """(..., C) → (..., Q)"""
        indices, rest = [], latents
        for stage in self._stages():
            indices.append(stage.encode(rest))
            rest = rest - stage.decode(indices[-1])
        return torch.stack(indices, dim=-1)

    def decode(self, indices: Tensor) -> Tensor:
        """(..., Q) → (..., C)"""
        return sum(stage.decode(i) for stage, i in zip(self._stages(), indices.unbind(-1), strict=True))

    def forward(self, latents: Tensor, generator: torch.Generator | None = None) -> Quantised:
        """As EMAQuantiser.forward; the scalars are means over the stages."""
        results, rest = [], latents
        for stage in self._stages():
            results.append(stage(rest, generator))
            rest = rest - results[-1].quantised.detach()
        scalars = [torch.stack(values).mean() for values in list(zip(*results, strict=True))[2:]]
        total = sum(result.quantised.detach() for result in results)
        indices = torch.stack([result.indices for result in results], dim=-1)  # (B, J, Q)
        return Quantised(latents + (total - latents).detach(), indices, *scalars)

    def _stages(self) -> list[EMAQuantiser]:
        return [self.layers[i % len(self.layers)] for i in range(self.num_quantisers)]


class NoQuantiser(nn.Module):
    """The latents themselves, unquantised (`num_quantizer: 0`)."""

    def encode(self, latents: Tensor) -> Tensor:
        raise MoroError("This tokenizer has no codebook (num_quantizer 0) and so no token ids; use latents.")

    decode = encode

    @property
    def codebook(self) -> Tensor:
        raise MoroError("This tokenizer has no codebook (num_quantizer 0); use latents.")

    def forward(self, latents: Tensor, generator: torch.Generator | None = None) -> Quantised:
        zero = latents.new_zeros(())
        no_ids = torch.empty(*latents.shape[:-1], 0, dtype=torch.int64, device=latents.device)
        return Quantised(latents, no_ids, zero, zero, zero, zero, zero)


def make_quantiser(num_quantisers: int, num_codes: int, dim: int, *, shared: bool = False,
                   **options: Any) -> nn.Module:
    """The quantiser for `model.vqvae.num_quantizer` = 0, 1 or more (spec: models 1.4).

    options  of EMAQuantiser
    """
    if num_quantisers == 0:
        return NoQuantiser()
    if num_quantisers == 1:
        return EMAQuantiser(num_codes, dim, **options)
    return ResidualQuantiser(num_quantisers, shared, num_codes, dim, **options)
