"""Plain twin of the graph layers: the formulas of spec: models 1.2 as written, every pair's matrix formed."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.mesh_vq_vae.graph_conv import FullyConvAE


def dense_layer(x: Tensor, table: np.ndarray, parameters: dict[str, Tensor], dim_out: int, num_bases: int,
                rate: float, last: bool) -> Tensor:
    """x (B, P_in, C_in) → (B, P_out, C_out)."""
    B, P_in, C_in = x.shape
    ids = torch.from_numpy(table[:, 1::2].astype(np.int64))  # (P_out, M)
    mask = (ids != P_in).to(x)
    padded = torch.cat([x, x.new_zeros(B, 1, C_in)], dim=1)  # one zero point more
    out = x.new_zeros(())
    if rate < 1:
        matrices = parameters["weights"].reshape(num_bases, dim_out, C_in)
        coefficients = parameters["w_weights"] * mask[..., None]  # (P_out, M, W)
        theta = torch.einsum("pmw,woi->pmoi", coefficients, matrices)
        conv = parameters["bias"] + torch.einsum("pmoi,bpmi->bpmo", theta, padded[:, ids]).sum(2)
        out = out + (1 - rate) ** 0.5 * (conv if last else F.elu(conv))
    if rate > 0:
        y = padded @ parameters["weight_res"].t() if "weight_res" in parameters else padded
        if "p_neighbors" in parameters:
            q = parameters["p_neighbors"].abs() * mask
            q = q / (q.sum(1, keepdim=True) + 1e-8)
            residual = torch.einsum("pm,bpmi->bpi", q, y[:, ids])
        else:
            residual = y[:, :P_in]
        out = out + rate**0.5 * residual
    return out


def random_table(num_inputs: int, num_outputs: int, max_neighbours: int, seed: int) -> np.ndarray:
    """A connection table (P_out, 1 + 2M) with rows of any length; some inputs may have no output."""
    random = np.random.default_rng(seed)
    table = np.tile(np.array([num_inputs, -1], np.int32), (num_outputs, max_neighbours))  # (P_out, 2M)
    counts = random.integers(1, max_neighbours + 1, num_outputs)
    counts[0] = max_neighbours
    for row, count in zip(table, counts):
        row[: 2 * count : 2] = random.choice(num_inputs, count, replace=False)
        row[1 : 2 * count : 2] = np.arange(count)
    return np.concatenate([counts[:, None], table], axis=1).astype(np.int32)


def transpose_table(table: np.ndarray, num_inputs: int) -> np.ndarray:
    """The table that joins the same pairs the other way round."""
    pairs = [(int(i), p) for p, row in enumerate(table) for i in row[1::2] if i != num_inputs]
    rows = [[p for i, p in pairs if i == q] for q in range(num_inputs)]
    width = max(map(len, rows))
    result = np.tile(np.array([len(table), -1], np.int32), (num_inputs, width))
    for line, row in zip(result, rows):
        line[: 2 * len(row) : 2], line[1 : 2 * len(row) : 2] = row, 0
    return np.concatenate([np.array([[len(r)] for r in rows]), result], axis=1).astype(np.int32)


def filled(amplitude: float, frequency: float, phase: float, shape: tuple[int, ...]) -> Tensor:
    """The fill rule S(a, w, p) of spec: models 9."""
    values = amplitude * np.sin(frequency * np.arange(int(np.prod(shape))) + phase)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


class PlainAutoencoder(FullyConvAE):
    """The autoencoder with `dense_layer` for a layer; same parameters and names."""

    def __init__(self, tables: dict[str, np.ndarray], layer_names: Sequence[str], *sizes: Sequence[float],
                 **options: object) -> None:
        super().__init__(tables, layer_names, *sizes, **options)
        self.tables = [tables["_" + name.removeprefix("_")] for name in layer_names]

    def _run(self, x: Tensor, start: int, end: int) -> Tensor:
        for l in range(start, end):
            layer, last = self._layers[l], l == len(self._layers) - 1
            parameters = {name: getattr(self, f"{name}{l}") for name in self._names[l]}
            x = dense_layer(x, self.tables[l], parameters, layer.dim_out, layer.num_bases,
                            layer.residual_rate, last)
        return x
