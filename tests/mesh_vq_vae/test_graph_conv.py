"""Graph layers and the autoencoder: the fast layer against its plain twin, chunks, parameters, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.mesh_vq_vae.graph_conv import FullyConvAE, GraphLayer
from moro.errors import MoroError
from tests.mesh_vq_vae.twin import dense_layer, random_table, transpose_table


def run_both(table: np.ndarray, num_inputs: int, dim_in: int, dim_out: int, num_bases: int, rate: float,
             last: bool, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Output and all gradients of the fast layer and of the twin."""
    torch.manual_seed(0)
    layer = GraphLayer(table, num_inputs, dim_in, dim_out, num_bases, rate, activate=not last)
    parameters = {k: v.to(dtype).requires_grad_() for k, v in layer.initial_parameters().items()}
    x = torch.randn(2, num_inputs, dim_in, dtype=dtype, requires_grad=True)
    results = []
    fast = layer(x.transpose(0, 1), layer.prepare(**parameters)).transpose(0, 1)
    plain = dense_layer(x, table, parameters, dim_out, num_bases, rate, last)
    for out in (fast, plain):
        leaves = {"x": x, **parameters}
        grads = torch.autograd.grad(out.sin().sum(), list(leaves.values()))
        results.append({"out": out, **{f"grad {k}": g for k, g in zip(leaves, grads)}})
    return results[0], results[1]


@settings(max_examples=40, deadline=None)
@given(
    num_inputs=st.integers(5, 30), num_outputs=st.integers(1, 30), neighbours=st.integers(1, 5),
    dims=st.tuples(st.integers(1, 6), st.integers(1, 6)), num_bases=st.integers(1, 4),
    rate=st.sampled_from([0.0, 0.3, 1.0]), last=st.booleans(), seed=st.integers(0, 1000),
)
def test_fast_layer_equals_its_plain_twin(num_inputs: int, num_outputs: int, neighbours: int,
                                          dims: tuple[int, int], num_bases: int, rate: float, last: bool,
                                          seed: int) -> None:
    table = random_table(num_inputs, num_outputs, neighbours, seed)
    if rate == 1.0 or num_outputs == num_inputs:
        last = False
    fast, plain = run_both(table, num_inputs, *dims, num_bases, rate, last)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("name", "dim_in", "dim_out", "num_bases", "rate"), [
    ("_pool4", 8, 16, 9, 0.0), ("_unpool4", 16, 8, 9, 0.0), ("_pool5", 8, 8, 0, 1.0),
    ("_unpool3", 4, 4, 0, 1.0),
])
def test_fast_layer_equals_its_plain_twin_on_the_original_tables(
    smplx_tables: dict[str, np.ndarray], name: str, dim_in: int, dim_out: int, num_bases: int, rate: float
) -> None:
    table = smplx_tables[name]
    num_inputs = int(table[:, 1::2].max())  # the padding id
    fast, plain = run_both(table, num_inputs, dim_in, dim_out, num_bases, rate, False, torch.float32)
    for key, value in plain.items():
        torch.testing.assert_close(fast[key], value, rtol=1e-4, atol=2e-5, msg=lambda m, n=key: f"{n}: {m}")


def test_both_orders_of_contraction_are_used() -> None:
    table = random_table(20, 20, 4, seed=0)
    assert GraphLayer(table, 20, 8, 2, 3, 0.0, True).matrices_first
    assert not GraphLayer(table, 20, 2, 8, 3, 0.0, True).matrices_first


def test_an_input_without_outputs_gets_a_zero_gradient() -> None:
    table = random_table(6, 2, 2, seed=1)
    used = np.unique(table[:, 1::2])
    layer = GraphLayer(table, 6, 3, 3, 2, 0.0, True)
    x = torch.randn(6, 1, 3, requires_grad=True)
    layer(x, layer.prepare(**layer.initial_parameters())).sum().backward()
    unused = [i for i in range(6) if i not in used]
    assert unused and (x.grad[unused] == 0).all()


def small_autoencoder(**options: object) -> FullyConvAE:
    pool0 = random_table(20, 20, 4, seed=0)
    pool1 = random_table(20, 7, 6, seed=1)
    tables = {"_pool0": pool0, "_pool1": pool1, "_unpool1": transpose_table(pool1, 20), "_unpool0": pool0}
    torch.manual_seed(0)
    return FullyConvAE(tables, ["pool0", "pool1", "unpool1", "unpool0"], [5, 4, 5, 3], [3, 0, 0, 3],
                       [0, 1, 1, 0], **options)


@pytest.mark.parametrize("options", [{"chunk_size": 2}, {"chunk_size": 3, "use_checkpoint": True}])
def test_chunks_and_checkpoints_change_nothing(options: dict[str, object]) -> None:
    meshes = torch.randn(7, 20, 3)
    plain, chunked = small_autoencoder(), small_autoencoder(**options)
    for network in (plain, chunked):
        network(meshes).square().sum().backward()
    torch.testing.assert_close(chunked(meshes), plain(meshes))
    for (name, p), q in zip(plain.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_a_graph_can_be_used_twice() -> None:
    network, mesh = small_autoencoder(), torch.randn(2, 20, 3, requires_grad=True)
    loss = network(mesh).square().sum()
    first = torch.autograd.grad(loss, [mesh, network.w_weights0], retain_graph=True)
    second = torch.autograd.grad(loss, [mesh, network.w_weights0])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_empty_batch_and_sizes() -> None:
    network = small_autoencoder()
    assert (network.num_vertices, network.num_tokens, network.dim_token) == (20, 7, 4)
    assert network.encode(torch.zeros(0, 20, 3)).shape == (0, 7, 4)


def test_autocast_leaves_the_autoencoder_in_float32() -> None:
    network, mesh = small_autoencoder(), torch.randn(2, 20, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(mesh), network(mesh.float()))
        assert network(mesh).dtype == torch.float32


def test_initialisation_has_the_stated_spread() -> None:
    table = random_table(4000, 4000, 8, seed=0)
    layer = GraphLayer(table, 4000, 4, 6, 5, 0.3, True)
    assert layer.pairs.mean_neighbours == round(float(np.float32(table[:, 0].mean())))
    new = layer.initial_parameters()
    assert new["bias"].eq(0).all()
    assert new["w_weights"].std() * layer.pairs.mean_neighbours * 5 == pytest.approx(1, rel=0.02)
    assert new["weight_res"].std() == pytest.approx(1 / 6, rel=0.4)


def test_bad_input_is_named() -> None:
    network = small_autoencoder()
    with pytest.raises(MoroError, match=r"expects \(batch, 20, 3\), got \(2, 19, 3\)"):
        network.encode(torch.zeros(2, 19, 3))
    table = random_table(20, 20, 4, seed=0)
    with pytest.raises(MoroError, match="Connection table _pool9 is not among"):
        FullyConvAE({"_pool0": table}, ["pool0", "pool9"], [4, 3], [2, 2], [0, 0])
    with pytest.raises(MoroError, match="must have one even length"):
        FullyConvAE({"_pool0": table}, ["pool0", "pool0"], [4, 3], [2], [0, 0])
    with pytest.raises(MoroError, match="does not follow on 20 points"):
        FullyConvAE({"_pool0": table, "_pool1": random_table(30, 20, 4, seed=1)}, ["pool0", "pool1"], [4, 3],
                    [2, 2], [0, 0])
