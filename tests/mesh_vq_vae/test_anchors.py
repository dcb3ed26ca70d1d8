"""Numeric anchors A and B of spec: models 9, and the released tokenizer's parameters."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from models.mesh_vq_vae.network import MeshVQVAE, build_mesh_vqvae
from models.mesh_vq_vae.quantiser import EMAQuantiser
from moro.config import compose_config
from tests.mesh_vq_vae.twin import filled

FILL = {"weights": (1.5, 0.7), "bias": (0.05, 1.0), "w_weights": (1.0, 0.3), "p_neighbors": (0.5, 0.9)}


def close(value: torch.Tensor, expected: float | list[float], atol: float = 2e-6) -> None:
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=atol)


@pytest.fixture(scope="module")
def network(shared_dir: Path) -> MeshVQVAE:
    """The released tokenizer by the default configuration, filled by the anchor's rule."""
    cfg = compose_config("mesh_vq_vae/config").model.vqvae
    cfg.meshconv.connection_folder = str(shared_dir / "reference_data" / "smplx_ConnectionMatrices")
    network = build_mesh_vqvae(cfg).eval()
    with torch.no_grad():
        for name, parameter in network.fully_conv_ae.named_parameters():
            kind, layer = re.fullmatch(r"(\D+)(\d+)", name).groups()
            parameter.copy_(filled(*FILL[kind], int(layer), parameter.shape))
        network.get_codebook().copy_(filled(1, 1.1, 0, (512, 9)))
    return network


@pytest.fixture(scope="module")
def mesh() -> torch.Tensor:
    v = np.arange(9383)[:, None]
    return torch.from_numpy((0.5 * np.sin(0.01 * v + np.arange(3))).astype(np.float32))[None]


@torch.no_grad()
def test_anchor_a_encoder(network: MeshVQVAE, mesh: torch.Tensor) -> None:
    z = network.fully_conv_ae.encode(mesh)
    assert z.shape == (1, 87, 9)
    close(torch.stack([z.mean(), z.std(unbiased=False), z.min()]), [0.031967, 0.349772, -0.680840])
    close(z[0, 0], [-0.360444, -0.444089, 0.562537, 0.574350, -0.457612, -0.410369, 0.619502, 0.415807,
                    -0.476794])
    close(z[0, 86], [-0.236566, -0.120042, 0.326181, 0.145604, -0.273891, -0.128188, 0.277283, 0.068921,
                     -0.229540])


@torch.no_grad()
def test_anchor_a_activations(network: MeshVQVAE, mesh: torch.Tensor) -> None:
    x, means = mesh.transpose(0, 1).contiguous(), []
    for layer in range(14):
        x = network.fully_conv_ae.layer(layer, x)
        means.append(x.abs().mean())
    close(torch.stack(means), [0.512971, 0.168965, 0.140069, 0.038748, 0.066801, 0.032628, 0.279248, 1.095090,
                               0.613947, 1.085122, 0.640071, 0.506683, 0.263456, 4.256669])


@torch.no_grad()
def test_anchor_a_tokens_and_decoder(network: MeshVQVAE, mesh: torch.Tensor) -> None:
    ids = network.encode(mesh)
    assert ids.dtype == torch.int64 and ids.shape == (1, 87)
    assert ids[0, :12].tolist() == [396, 131, 186, 415, 80, 263, 118, 15, 142, 153, 476, 437]
    assert int(ids.sum()) == 21219
    out = network.decode(ids)
    close(out[0, 0], [9.696189, -14.530544, 17.114037])
    close(out[0, 9382], [11.413130, -9.596788, 6.342893])
    close(out.abs().mean(), 9.813927)
    embeddings = network.get_codebook()[ids]
    assert torch.equal(network.decode(embeddings, quantize=False), out)


def test_anchor_b_quantiser_step() -> None:
    quantiser = EMAQuantiser(4, 2, decay=0.9, temperature=1.0)
    quantiser.codebook.copy_(filled(2, 1.1, 0.3, (4, 2)))
    with torch.no_grad():
        quantiser._ema_w.copy_(filled(1, 0.8, 0.5, (4, 2)))
    out = quantiser(filled(1, 0.9, 0, (2, 3, 2)))
    assert out.indices.tolist() == [[0, 1, 2], [2, 0, 1]]
    close(out.commitment_loss, 0.850162)
    close(out.ortho_loss, 0.418325)
    assert f"{float(out.entropy_loss):.6f}" == "0.000053"
    close(torch.stack([out.perplexity, out.coverage]), [3.0, 0.75])
    state = quantiser.state_dict()
    close(state["_ema_cluster_size"], [0.199997, 0.199997, 0.199997, 0.00001], atol=5e-7)
    close(state["code_count"], [1.1, 1.1, 1.1, 0.9])
    close(state["_ema_w"].flatten(), [0.510850, 1.042524, 0.915485, 0.212309, -0.598381, -0.975849, -0.749041,
                                      -0.163946])
    close(state["_embedding.weight"].flatten(), [2.554291, 5.212707, 4.577501, 1.061562, -2.991955, -4.879325,
                                                 -0.772765, 0.016814])


def test_released_parameter_counts(network: MeshVQVAE) -> None:
    assert sum(p.numel() for p in network.fully_conv_ae.parameters()) == 7_257_285
    assert sum(p.numel() for p in network.parameters()) == 7_266_501


@pytest.mark.parametrize(("group", "num_tokens"), [("small", 546), ("full", 13)])
def test_the_other_sizes_build(shared_dir: Path, group: str, num_tokens: int) -> None:
    cfg = compose_config("mesh_vq_vae/config", [f"meshconv={group}"]).model.vqvae
    cfg.meshconv.connection_folder = str(shared_dir / "reference_data" / "smplx_ConnectionMatrices")
    network = build_mesh_vqvae(cfg)
    assert network.num_tokens == num_tokens
    assert OmegaConf.select(cfg, "meshconv.channel_lst")[-1] == 3
