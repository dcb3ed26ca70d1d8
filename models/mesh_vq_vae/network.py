"""The mesh tokenizer: body mesh ↔ a short sequence of discrete tokens (spec: models 1)."""

from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from models.mesh_vq_vae.graph_conv import FullyConvAE
from models.mesh_vq_vae.quantiser import Quantised, make_quantiser
from moro.body.topology import connection_hash, load_connection_matrices
from moro.errors import MoroError
from moro.io.weights import below, load_strict, load_tensors, own_tensors


class Reconstruction(NamedTuple):
    """What training needs of one pass."""

    mesh: Tensor  # (B, V, 3)
    latents: Tensor  # (B, J, C) before quantisation
    quantised: Quantised


class MeshVQVAE(nn.Module):
    """Mesh (B, V, 3) ↔ tokens (B, J); state dict `fully_conv_ae.*`, `vq_vae.*` (spec: models 1.3, 1.4).

    Meshes are in metres and in the canonical frame of spec: models 1.6; B is any number of meshes (the caller
    folds frames into it). connection_hash names the tables the autoencoder was made of.

    center  the autoencoder sees the difference to a mean mesh, kept as `center` (V, 3) in the state dict; a
            third less error after the same number of steps (docs/deviations.md). Not in released files
    """

    center: Tensor | None

    def __init__(self, fully_conv_ae: FullyConvAE, quantiser: nn.Module, connection_hash: str = "",
                 center: bool = False) -> None:
        super().__init__()
        self.fully_conv_ae = fully_conv_ae
        self.vq_vae = quantiser
        self.connection_hash = connection_hash
        self.register_buffer("center", torch.zeros(fully_conv_ae.num_vertices, 3) if center else None)

    @property
    def num_tokens(self) -> int:
        return self.fully_conv_ae.num_tokens

    @property
    def num_vertices(self) -> int:
        return self.fully_conv_ae.num_vertices

    def encode(self, mesh: Tensor) -> Tensor:
        """(B, V, 3) → token ids (B, J) int64; (B, J, Q) from a chain of Q quantisers."""
        return self.vq_vae.encode(self._latents(mesh))

    def decode(self, tokens: Tensor, quantize: bool = True) -> Tensor:
        """Token ids (B, J) → mesh (B, V, 3); with quantize=False from embeddings (B, J, C) as they are."""
        return self._mesh(self.vq_vae.decode(tokens) if quantize else tokens)

    def get_codebook(self) -> Tensor:
        """(K, C); (Q, K, C) from a chain."""
        return self.vq_vae.codebook

    def forward(self, mesh: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode, quantise, decode; in training mode the codebook moves (generator: EMAQuantiser.forward)."""
        latents = self._latents(mesh)
        quantised = self.vq_vae(latents, generator)
        return Reconstruction(self._mesh(quantised.quantised), latents, quantised)

    def _latents(self, mesh: Tensor) -> Tensor:
        return self.fully_conv_ae.encode(mesh if self.center is None else mesh - self.center)

    def _mesh(self, latents: Tensor) -> Tensor:
        mesh = self.fully_conv_ae.decode(latents)
        return mesh if self.center is None else mesh + self.center


def build_mesh_vqvae(cfg: DictConfig) -> MeshVQVAE:
    """The tokenizer described by `model.vqvae` (spec: models 7.4, 7.10); weights as initialised.

    Optional keys with their defaults: temperature 1.0, reset "first", reset_below 1.0, center false,
    meshconv.chunk_size null, meshconv.use_checkpoint false.
    MoroError: connection folder or tables missing, lists or sizes that do not fit.
    """
    graph = cfg.meshconv
    tables = load_connection_matrices(graph.connection_folder)
    autoencoder = FullyConvAE(
        tables, graph.connection_layer_lst, graph.channel_lst, graph.weight_num_lst, graph.residual_rate_lst,
        initial=graph.initial_connection_fn, chunk_size=graph.get("chunk_size"),
        use_checkpoint=bool(graph.get("use_checkpoint", False)),
    )
    if autoencoder.num_tokens != cfg.num_tokens or autoencoder.dim_token != cfg.embedding_dim:
        raise MoroError(f"The mesh autoencoder gives {autoencoder.num_tokens} tokens of "
                        f"{autoencoder.dim_token} channels, the config says num_tokens {cfg.num_tokens} and "
                        f"embedding_dim {cfg.embedding_dim}; change model.vqvae or its meshconv group.")
    quantiser = make_quantiser(
        cfg.num_quantizer, cfg.num_embeddings, cfg.embedding_dim, shared=cfg.shared_codebook, decay=cfg.decay,
        temperature=cfg.get("temperature", 1.0), reset=cfg.get("reset", "first"),
        reset_below=cfg.get("reset_below", 1.0),
    )
    used = {_table_name(name): tables[_table_name(name)] for name in graph.connection_layer_lst}
    return MeshVQVAE(autoencoder, quantiser, connection_hash(used), center=bool(cfg.get("center", False)))


def load_mesh_vqvae(path: str | Path, cfg: DictConfig) -> MeshVQVAE:
    """`build_mesh_vqvae` with the weights of a tokenizer file, in eval mode (spec: models 1.8).

    path  Lightning checkpoint (.ckpt; keys `mesh_vqvae.*`) or .safetensors (the same keys, with or without
          the prefix; float16 becomes float32). Body-model keys (`bm*`) are ignored. Or a checkpoint of the
          masked transformer, which carries its tokenizer as `vqvae.*`.
    MoroError: unreadable file, other keys or shapes than the network's, made for other connection tables.
    """
    tensors, metadata = load_tensors(path)
    network = build_mesh_vqvae(cfg)
    load_strict(network, tokenizer_tensors(tensors, str(path)), str(path))
    check_connection(metadata, network.connection_hash, str(path))
    return network.eval()


def tokenizer_tensors(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The network's own tensors in a file that holds them: no prefix, no body model (spec: models 1.8)."""
    tensors = own_tensors(tensors, where)
    carried = below(tensors, "vqvae.")  # by a checkpoint of the masked transformer
    return carried or {name.removeprefix("mesh_vqvae."): value for name, value in tensors.items()}


def check_connection(metadata: dict[str, str], connection: str, where: str) -> None:
    """MoroError if a file says it was trained on other connection tables; released files say nothing."""
    found = metadata.get("connection_hash")
    if found is not None and connection and found != connection:
        raise MoroError(f"{where} was trained with other connection matrices ({found[:12]}, here "
                        f"{connection[:12]}); set meshconv.connection_folder to those of its body.")


def _table_name(name: str) -> str:
    return "_" + Path(name).stem.removeprefix("_")
