"""The quantiser beyond anchor B: its terms by definition, gradients, resets, chains, no quantiser."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mesh_vq_vae.quantiser import EMAQuantiser, NoQuantiser, ResidualQuantiser, make_quantiser
from moro.errors import MoroError


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 6), tokens=st.integers(1, 9), dim=st.integers(1, 5), codes=st.integers(2, 12),
       seed=st.integers(0, 99))
def test_terms_equal_their_definitions(batch: int, tokens: int, dim: int, codes: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantiser = EMAQuantiser(codes, dim, temperature=0.7).eval()
    quantiser.code_count.copy_(torch.rand(codes) + 0.5)
    quantiser.code_count[0] = 2.0
    x = torch.randn(batch, tokens, dim)
    out = quantiser(x)
    D = torch.cdist(x.flatten(0, 1).double(), quantiser.codebook.double()).square()
    p = torch.softmax(-D / 0.7, -1)
    assert torch.equal(out.indices.flatten(), D.argmin(1))
    torch.testing.assert_close(out.quantised, quantiser.codebook[out.indices])
    torch.testing.assert_close(out.commitment_loss, (out.quantised - x).square().mean())
    entropy = -(p * (p + 1e-10).log()).sum(1).mean() / math.log2(codes)
    torch.testing.assert_close(out.entropy_loss, entropy.float(), rtol=1e-4, atol=1e-5)
    used = torch.nn.functional.normalize(quantiser.codebook[quantiser.code_count >= 1], dim=1)
    ortho = (used @ used.t()).square().sum() / len(used) ** 2 - 1 / len(used)
    torch.testing.assert_close(out.ortho_loss, ortho, rtol=1e-4, atol=1e-6)
    share = torch.bincount(out.indices.flatten(), minlength=codes) / (batch * tokens)
    torch.testing.assert_close(out.perplexity, torch.exp(-(share * (share + 1e-10).log()).sum()))


def test_evaluation_and_gradients_leave_the_codebook_alone() -> None:
    quantiser = EMAQuantiser(8, 3).eval()
    before = {k: v.clone() for k, v in quantiser.state_dict().items()}
    x = torch.randn(2, 5, 3, requires_grad=True)
    out = quantiser(x)
    out.quantised.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))  # straight through
    assert all(torch.equal(v, before[k]) for k, v in quantiser.state_dict().items())
    assert not any(p.requires_grad for p in quantiser.parameters())
    quantiser.train()(x)
    assert quantiser.codebook.grad is None
    assert not torch.equal(quantiser.codebook, before["_embedding.weight"])


def test_first_of_equal_codes_is_taken() -> None:
    quantiser = EMAQuantiser(4, 2)
    quantiser.codebook.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]))
    assert quantiser.encode(torch.tensor([[1.0, 0], [0, 1]])).tolist() == [0, 1]


def far_from_codes(reset: str) -> EMAQuantiser:
    """A quantiser of 6 codes of which all but code 0 are unused."""
    quantiser = EMAQuantiser(6, 2, decay=0.9, reset=reset)
    quantiser.codebook.copy_(100 + torch.arange(12.0).view(6, 2))
    return quantiser


def test_reset_takes_the_first_latents_or_a_seeded_random_subset() -> None:
    x = torch.randn(2, 10, 2)
    rows = x.flatten(0, 1)
    first = far_from_codes("first")
    first(x)
    assert torch.equal(first.codebook[1:], rows[1:6])

    codebooks = []
    for seed in (1, 1, 2):
        quantiser = far_from_codes("random")
        quantiser(x, torch.Generator().manual_seed(seed))
        codebooks.append(quantiser.codebook[1:].clone())
    assert torch.equal(codebooks[0], codebooks[1]) and not torch.equal(codebooks[0], codebooks[2])
    which = (codebooks[0][:, None] == rows).all(-1)  # every code is one of the latents, none twice
    assert which.sum(1).eq(1).all() and which.sum(0).max() == 1


def test_small_batches_need_a_lower_bound_of_use() -> None:
    """Of 40 codes each is used once in two batches: hardly used by the original's measure, but used."""
    codes = torch.arange(40.0).view(40, 1)
    counts = []
    for below in (1.0, 0.1):
        quantiser = EMAQuantiser(40, 1, decay=0.9, reset="random", reset_below=below)
        quantiser.codebook.copy_(codes)
        quantiser._ema_w.copy_(codes)
        quantiser._ema_cluster_size.fill_(1)
        for step in range(60):
            latents = codes[step % 2 :: 2].view(1, 20, 1)
            quantiser(latents, torch.Generator().manual_seed(step))
        counts.append(int((quantiser.codebook.flatten().sort().values - codes[:, 0]).abs().lt(0.2).sum()))
    assert counts[0] < 40 and counts[1] == 40


@pytest.mark.parametrize("reset", ["first", "random"])
def test_fewer_latents_than_codes_are_repeated_with_a_little_noise(reset: str) -> None:
    quantiser = far_from_codes(reset)
    x = torch.tensor([[[0.0, 0], [50, 50]]])
    quantiser(x, torch.Generator().manual_seed(0))
    distance = torch.cdist(quantiser.codebook[1:], x[0]).min(1).values
    assert distance.max() < 0.1 and distance.unique().numel() == 5


def test_latents_of_a_used_code_draw_it_to_their_mean() -> None:
    quantiser = EMAQuantiser(2, 1, decay=0.5)
    quantiser.codebook.copy_(torch.tensor([[-1.0], [1.0]]))
    x = torch.tensor([[[-3.0], [-1.0], [2.0], [4.0]]])
    for _ in range(40):
        quantiser(x)
    torch.testing.assert_close(quantiser.codebook.flatten(), torch.tensor([-2.0, 3.0]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_residual_chain_adds_up_and_refines(shared: bool) -> None:
    torch.manual_seed(0)
    chain = make_quantiser(3, 16, 2, shared=shared)
    assert isinstance(chain, ResidualQuantiser)
    assert {name.rsplit(".", 1)[0] for name in chain.state_dict()} == {
        f"layers.{i}{suffix}" for i in range(1 if shared else 3) for suffix in ("", "._embedding")}
    x = torch.randn(4, 5, 2)
    out = chain.eval()(x)
    assert out.indices.shape == (4, 5, 3) and chain.codebook.shape == (3, 16, 2)
    assert torch.equal(chain.encode(x), out.indices)
    torch.testing.assert_close(chain.decode(out.indices), out.quantised)
    for _ in range(50):
        out = chain.train()(x)
    assert (out.quantised - x).square().mean() < 0.1 * x.square().mean()


def test_without_quantiser_latents_pass_and_ids_are_refused() -> None:
    quantiser = make_quantiser(0, 16, 2)
    x = torch.randn(3, 4, 2)
    out = quantiser(x)
    assert isinstance(quantiser, NoQuantiser) and torch.equal(out.quantised, x) and out.commitment_loss == 0
    assert not quantiser.state_dict()
    for refused in (quantiser.encode, quantiser.decode):
        with pytest.raises(MoroError, match="no codebook"):
            refused(x)


def test_unknown_reset_is_refused() -> None:
    with pytest.raises(MoroError, match="reset must be first or random"):
        EMAQuantiser(4, 2, reset="last")
