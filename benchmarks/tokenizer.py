"""The mesh tokenizer beside its plain twin, which forms the matrix of every pair of neighbours."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from benchmarks.harness import Options, Row, Run, Target
from models.mesh_vq_vae.network import MeshVQVAE, build_mesh_vqvae
from moro.body.topology import load_connection_matrices
from moro.config import compose_config
from tests.mesh_vq_vae.twin import PlainAutoencoder

RELEASE, OPEN = "release", "open"
MESHES_AT_ONCE = 8  # of the largest batch


def rows(options: Options) -> list[Row]:
    return [*_rows_of(RELEASE, options), *_rows_of(OPEN, options)]


def _rows_of(kind: str, options: Options) -> Iterator[Row]:
    """Targets are those of the release size."""
    quick, skip = options.quick, missing_tables(options) if kind == RELEASE else None
    folder = str(options.tables) if kind == RELEASE else None
    aims = kind == RELEASE

    def row(
        name: str, what: str, batch: int, make: Callable[..., Run], aim: Target, twin: bool = True
    ) -> Row:
        size = f"{kind}, batch {batch}"
        target, prepare = aim if aims else Target(), partial(make, kind, folder, batch)
        # gradients are sums over many meshes in another order
        tolerance = 1e-3 if make is train else 2e-4
        return Row(
            f"tokenizer.{kind}.{name}-{batch}", what, size, prepare, target,
            twin=twin, units=batch, tolerance=tolerance, skip=skip,
        )  # fmt: skip

    for batch in (2,) if quick else (1, 8, 64):
        aim = Target(speedup=25, mb=500 if batch == 8 else None)
        yield row("encode", "tokenizer encode", batch, encode, aim)
        yield row("decode", "tokenizer decode", batch, decode, aim)
    for batch in (2,) if quick else (8, 32):
        aim = Target(speedup=8, memory_share=0.25)
        yield row("train", "autoencoder forward + backward", batch, train, aim)
    batch = 4 if quick else 256
    yield row(
        "chunks", "the same, chunked and recomputed", batch, train_in_chunks, Target(mb=12_000), twin=False
    )


def missing_tables(options: Options) -> str | None:
    """Why nothing of release size can be built, if so."""
    if options.tables.is_dir():
        return None
    return "SMPL-X's connection matrices were not found; name their folder with --tables"


def tokenizer_config(kind: str, folder: str | None) -> DictConfig:
    """`model.vqvae` at release size or of the open body.

    folder  of the connection matrices; None: as configured
    """
    cfg = compose_config("mesh_vq_vae/config", [f"preset={kind}"])
    if folder is not None:
        cfg.model.vqvae.meshconv.connection_folder = folder
    return OmegaConf.create(OmegaConf.to_container(cfg.model.vqvae, resolve=True))


@cache
def build(variant: str, kind: str, folder: str | None, chunk: int | None = None) -> MeshVQVAE:
    """The network with random weights, the same for both variants.

    chunk  meshes worked on together and recomputed in the backward pass
    """
    cfg = tokenizer_config(kind, folder)
    cfg.meshconv.chunk_size, cfg.meshconv.use_checkpoint = chunk, chunk is not None
    torch.manual_seed(0)
    network = build_mesh_vqvae(cfg)
    if variant == "plain":
        network.fully_conv_ae = plain_autoencoder(cfg.meshconv, network)
    return network.eval()


def plain_autoencoder(graph: DictConfig, network: MeshVQVAE) -> PlainAutoencoder:
    """The twin of the network's autoencoder, sharing its parameters."""
    plain = PlainAutoencoder(
        load_connection_matrices(Path(graph.connection_folder)),
        graph.connection_layer_lst,
        graph.channel_lst,
        graph.weight_num_lst,
        graph.residual_rate_lst,
        initial=graph.initial_connection_fn,
    )
    plain.load_state_dict(network.fully_conv_ae.state_dict(), assign=True)
    return plain


def meshes(network: MeshVQVAE, batch: int) -> Tensor:
    """(batch, V, 3) of the size of a body, metres."""
    return 0.3 * torch.randn(batch, network.num_vertices, 3, generator=torch.Generator().manual_seed(1))


def encode(kind: str, folder: str | None, batch: int, variant: str) -> Run:
    network = build(variant, kind, folder)
    mesh = meshes(network, batch)

    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        latents = network.fully_conv_ae.encode(mesh)
        return {"latents": latents, "ids": network.vq_vae.encode(latents)}

    return run


def decode(kind: str, folder: str | None, batch: int, variant: str) -> Run:
    network = build(variant, kind, folder)
    codes = len(network.get_codebook())
    ids = torch.randint(codes, (batch, network.num_tokens), generator=torch.Generator().manual_seed(2))

    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        return {"mesh": network.decode(ids)}

    return run


def train(kind: str, folder: str | None, batch: int, variant: str, chunk: int | None = None) -> Run:
    """Reconstruction without quantisation, and the gradient of every parameter."""
    network = build(variant, kind, folder, chunk)
    autoencoder, mesh = network.fully_conv_ae.train(), meshes(network, batch)

    def run() -> dict[str, Tensor]:
        autoencoder.zero_grad(set_to_none=True)
        loss = (autoencoder(mesh) - mesh).norm(dim=-1).mean()
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in autoencoder.named_parameters()}
        return {"loss": loss.detach(), **gradients}

    return run


def train_in_chunks(kind: str, folder: str | None, batch: int, variant: str) -> Run:
    return train(kind, folder, batch, variant, MESHES_AT_ONCE)
