"""Graph convolutions on a fixed mesh and the fully convolutional mesh autoencoder (spec: models 1.2, 1.3).

A layer joins each output point p with its neighbours nb[p, m]. Every pair (p, m) has a C_out x C_in matrix of
its own, mixed from W matrices that all points share:

    conv[p] = bias + sum_m sum_w w_weights[p, m, w] weights[w] x[nb[p, m]]

The pairs' matrices are never formed (half a gigabyte per layer). The sum is taken either neighbours first
(mix the neighbours, then one of the matrices) or matrices first, whichever is cheaper; w after w, so that
what is in between stays in the processor's caches. A mix is one sparse product:
out[p] = sum over the pairs of p of coefficient * x[neighbour].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moro.errors import MoroError

SUM = 0  # embedding_bag's number of this mode
NARROW = 16  # channels; a product with so few columns is slow by itself
CPU_POINTS = 64_000  # vertices of a chunk of meshes whose activations stay in a processor's caches


class _Mix(torch.autograd.Function):
    """out[p] = sum over the pairs e of row p of coefficient[e] * x[column[e]].

    x (P_in, N), coefficient (E,), out (P_out, N). The gradient with respect to x is the same operation on the
    transposed pairs, so that neither direction scatters.
    """

    @staticmethod
    def forward(ctx, x: Tensor, coefficient: Tensor, pairs: "_Pairs") -> Tensor:
        ctx.save_for_backward(coefficient, *([x] if ctx.needs_input_grad[1] else []))
        ctx.pairs = pairs
        return _mix(x, coefficient, pairs.columns, pairs.offsets)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        coefficient, *x = ctx.saved_tensors
        pairs, grad = ctx.pairs, grad.contiguous()
        grad_x = grad_coefficient = None
        if ctx.needs_input_grad[0]:
            transposed = coefficient.index_select(0, pairs.transposed_order)
            grad_x = _mix(grad, transposed, pairs.transposed_columns, pairs.transposed_offsets)
        if ctx.needs_input_grad[1]:
            # embedding_bag's own; a graph within this one would be computed again and again by `checkpoint`
            grad_coefficient = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad, *x, pairs.columns, pairs.offsets, pairs.rows, SUM
            )
        return grad_x, grad_coefficient, None


def _mix(x: Tensor, coefficient: Tensor, columns: Tensor, offsets: Tensor) -> Tensor:
    return F.embedding_bag(columns, x, offsets, mode="sum", per_sample_weights=coefficient)


class _Pairs(nn.Module):
    """The valid (output, neighbour) pairs of one connection table, both ways; buffers, never saved."""

    rows: Tensor  # (E,) output point of each pair, ascending
    columns: Tensor  # (E,) input point of each pair
    offsets: Tensor  # (P_out,) first pair of each output point
    slots: Tensor  # (E,) place p * M + m of the pair in a (P_out, M) parameter
    transposed_columns: Tensor  # (E,) output point of each pair, pairs sorted by input point
    transposed_offsets: Tensor  # (P_in,)
    transposed_order: Tensor  # (E,) number of the pair in the first order

    def __init__(self, table: np.ndarray, num_inputs: int) -> None:
        super().__init__()
        neighbours = table[:, 1::2]  # (P_out, M)
        rows, place = np.nonzero(neighbours != num_inputs)
        columns = neighbours[rows, place]
        order = np.argsort(columns, kind="stable")
        counts = np.bincount(rows, minlength=len(table))
        transposed_counts = np.bincount(columns, minlength=num_inputs)
        self.num_inputs, (self.num_outputs, self.max_neighbours) = num_inputs, neighbours.shape
        self.mean_neighbours = round(float(np.float32(counts.mean())))
        for name, values, dtype in (
            ("rows", rows, torch.int32),
            ("columns", columns, torch.int32),
            ("offsets", np.cumsum(counts) - counts, torch.int32),
            ("slots", rows * self.max_neighbours + place, torch.int64),
            ("transposed_columns", rows[order], torch.int32),
            ("transposed_offsets", np.cumsum(transposed_counts) - transposed_counts, torch.int32),
            ("transposed_order", order, torch.int64),
        ):
            self.register_buffer(name, torch.from_numpy(values).to(dtype), persistent=False)

    def mix(self, x: Tensor, coefficient: Tensor) -> Tensor:
        """x (P_in, ..., C), coefficient (E,) → (P_out, ..., C)."""
        flat = x.reshape(len(x), -1)  # (P_in, N)
        if torch.is_grad_enabled():
            out = _Mix.apply(flat, coefficient, self)  # (P_out, N)
        else:  # no graph to be kept, nor to be collected later
            out = _mix(flat, coefficient, self.columns, self.offsets)
        return out.view(self.num_outputs, *x.shape[1:])


class LayerWeights(NamedTuple):
    """A layer's parameters in the order in which they are used; the same for all chunks of meshes."""

    coefficients: Tensor | None  # (W, E) of each pair and shared matrix
    matrices: Tensor | None  # (W, C_in, C_out)
    bias: Tensor | None  # (C_out,)
    share: Tensor | None  # (E,) of each pair in its output point's residual; None: the point itself
    weight_res: Tensor | None  # (C_out, C_in)


class GraphLayer(nn.Module):
    """One layer of spec: models 1.2 on points first, (P_in, B, C_in) → (P_out, B, C_out).

    It holds the graph alone: the parameters belong to the autoencoder (their names are those of the released
    files) and are handed in, put in order by `prepare`.
    """

    def __init__(self, table: np.ndarray, num_inputs: int, dim_in: int, dim_out: int, num_bases: int,
                 residual_rate: float, activate: bool) -> None:
        super().__init__()
        self.pairs = _Pairs(table, num_inputs)
        self.dim_in, self.dim_out, self.num_bases = dim_in, dim_out, num_bases
        self.residual_rate, self.activate = residual_rate, activate
        num_pairs = len(self.pairs.columns)
        neighbours_first = num_pairs * dim_in + self.pairs.num_outputs * dim_in * dim_out
        matrices_first = num_pairs * dim_out + num_inputs * dim_in * dim_out  # multiplications / (B W)
        self.matrices_first = matrices_first < neighbours_first

    def initial_parameters(self) -> dict[str, Tensor]:
        """Freshly drawn parameters, by name without the layer's number (spec: models 1.2, 1.3)."""
        pairs, new = self.pairs, {}
        slots = (pairs.num_outputs, pairs.max_neighbours)
        if self.residual_rate < 1:
            new["weights"] = torch.randn(self.num_bases, self.dim_out * self.dim_in)
            new["bias"] = torch.zeros(self.dim_out)
            new["w_weights"] = torch.randn(*slots, self.num_bases) / (pairs.mean_neighbours * self.num_bases)
        if self.residual_rate > 0:
            if pairs.num_inputs != pairs.num_outputs:
                new["p_neighbors"] = torch.randn(slots) / pairs.mean_neighbours
            if self.dim_in != self.dim_out:
                new["weight_res"] = torch.randn(self.dim_out, self.dim_in) / self.dim_out
        return new

    def prepare(self, weights: Tensor | None = None, bias: Tensor | None = None,
                w_weights: Tensor | None = None, p_neighbors: Tensor | None = None,
                weight_res: Tensor | None = None) -> LayerWeights:
        """Parameters as named in the released files (spec: models 1.2)."""
        pairs, W, C_in, C_out = self.pairs, self.num_bases, self.dim_in, self.dim_out
        coefficients = matrices = share = None
        if weights is not None:
            coefficients = w_weights.view(-1, W).index_select(0, pairs.slots).t().contiguous()  # (W, E)
            matrices = weights.view(W, C_out, C_in).transpose(1, 2)
        if p_neighbors is not None:
            share = p_neighbors.view(-1).index_select(0, pairs.slots).abs()
            total = share.new_zeros(pairs.num_outputs).index_add(0, pairs.rows, share)
            share = share / (total + 1e-8).index_select(0, pairs.rows)
        return LayerWeights(coefficients, matrices, bias, share, weight_res)

    def forward(self, x: Tensor, own: LayerWeights) -> Tensor:
        rate = self.residual_rate
        if rate == 0:
            return self._convolution(x, own)
        if rate == 1:
            return self._residual(x, own)
        return (1 - rate) ** 0.5 * self._convolution(x, own) + rate**0.5 * self._residual(x, own)

    def _convolution(self, x: Tensor, own: LayerWeights) -> Tensor:
        mix, W, C_in, C_out = self.pairs.mix, self.num_bases, self.dim_in, self.dim_out
        P, B, _ = x.shape
        if not self.matrices_first:
            out = own.bias.repeat(self.pairs.num_outputs * B, 1)
            for coefficient, matrix in zip(own.coefficients, own.matrices, strict=True):
                out.addmm_(mix(x, coefficient).view(-1, C_in), matrix)  # (P_out, B, C_in) -> (P_out B, C_in)
            out = out.view(-1, B, C_out)
        else:
            if C_out >= NARROW:
                products = (x @ matrix for matrix in own.matrices)
            else:  # all in one: (P_in, B, W C_out) -> (P_in, B, W, C_out) -> (W, P_in, B, C_out)
                products = x @ own.matrices.transpose(0, 1).reshape(C_in, W * C_out)
                products = products.view(P, B, W, C_out).permute(2, 0, 1, 3).contiguous()
            out = own.bias.repeat(self.pairs.num_outputs, B, 1)
            for product, coefficient in zip(products, own.coefficients, strict=True):
                out += mix(product, coefficient)
        return F.elu(out, inplace=not torch.is_grad_enabled()) if self.activate else out

    def _residual(self, x: Tensor, own: LayerWeights) -> Tensor:
        x = x if own.weight_res is None else x @ own.weight_res.t()
        return x if own.share is None else self.pairs.mix(x, own.share)


class FullyConvAE(nn.Module):
    """The mesh autoencoder: the first half of the layers encodes, the second decodes (spec: models 1.3).

    tables          name → table (P_out, 1 + 2M) int32 (moro.body.topology.load_connection_matrices)
    layer_names     (L,) table of each layer, "pool0" or "_pool0"; L even
    channels        (L,) C_out of each layer; the first layer reads 3 channels, the last writes 3
    weight_nums     (L,) number W of shared matrices; residual_rates (L,) rho in [0, 1]
    initial         table whose rows are the input vertices
    chunk_size      meshes worked on together, bounds memory; None: as many as suit the device
    use_checkpoint  keep no activations for the backward pass, compute them again chunk by chunk
    MoroError: lists of different lengths, unknown tables, tables that do not follow on one another.
    """

    def __init__(self, tables: dict[str, np.ndarray], layer_names: Sequence[str], channels: Sequence[int],
                 weight_nums: Sequence[int], residual_rates: Sequence[float], *, initial: str = "_pool0",
                 chunk_size: int | None = None, use_checkpoint: bool = False) -> None:
        super().__init__()
        L = len(layer_names)
        if L == 0 or L % 2 or not L == len(channels) == len(weight_nums) == len(residual_rates):
            raise MoroError(f"The mesh autoencoder's lists must have one even length, got {L} connections, "
                            f"{len(channels)} channels, {len(weight_nums)} weight numbers and "
                            f"{len(residual_rates)} residual rates; check the meshconv config.")
        self.chunk_size, self.use_checkpoint = chunk_size, use_checkpoint
        self.num_vertices = num_points = len(_table(tables, initial))
        self._layers = nn.ModuleList()  # no parameters, no saved buffers: no trace in the state dict
        self._names: list[tuple[str, ...]] = []
        for l, name in enumerate(layer_names):
            table = _table(tables, name)
            ids = table[:, 1::2]
            if ids.max() > num_points or (np.arange(ids.shape[1]) < table[:, :1])[ids == num_points].any():
                raise MoroError(f"Layer {l} ({name}) of the mesh autoencoder does not follow on {num_points} "
                                "points; check connection_layer_lst and the connection folder.")
            dim_in = 3 if l == 0 else channels[l - 1]
            layer = GraphLayer(table, num_points, dim_in, channels[l], weight_nums[l],
                               float(residual_rates[l]), activate=l < L - 1)
            parameters = layer.initial_parameters()
            for key, value in parameters.items():
                self.register_parameter(f"{key}{l}", nn.Parameter(value))
            self._names.append(tuple(parameters))
            self._layers.append(layer)
            num_points = len(table)
        if num_points != self.num_vertices or channels[-1] != 3:
            raise MoroError(f"The mesh autoencoder ends at {num_points} points, {channels[-1]} channels, not "
                            f"{self.num_vertices} of 3; check connection_layer_lst and channel_lst.")
        self.num_tokens = self._layers[L // 2 - 1].pairs.num_outputs
        self.dim_token = channels[L // 2 - 1]

    def encode(self, mesh: Tensor) -> Tensor:
        """Mesh (B, V, 3), metres, canonical frame (spec: models 1.6) → latents (B, J, C)."""
        return self._run(mesh, 0, len(self._layers) // 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, J, C) → mesh (B, V, 3)."""
        return self._run(latents, len(self._layers) // 2, len(self._layers))

    def forward(self, mesh: Tensor) -> Tensor:
        return self.decode(self.encode(mesh))

    def weights_of(self, index: int) -> LayerWeights:
        """The parameters of one layer, ready for use."""
        parameters = {name: getattr(self, f"{name}{index}") for name in self._names[index]}
        return self._layers[index].prepare(**parameters)

    def layer(self, index: int, x: Tensor) -> Tensor:
        """One layer on points first: (P_in, B, C_in) → (P_out, B, C_out)."""
        return self._layers[index](x, self.weights_of(index))

    def _run(self, x: Tensor, start: int, end: int) -> Tensor:
        """Layers start … end - 1 on (B, P, C). In float32 throughout: bfloat16 resolves a metre to 4 mm."""
        expected = (self._layers[start].pairs.num_inputs, self._layers[start].dim_in)
        if x.ndim != 3 or x.shape[1:] != expected:
            raise MoroError(f"The mesh autoencoder expects (batch, {expected[0]}, {expected[1]}), got "
                            f"{tuple(x.shape)}; body model, connection matrices and config must fit.")

        if len(x) == 0:
            return x.new_zeros(0, self._layers[end - 1].pairs.num_outputs, self._layers[end - 1].dim_out)

        def chain(part: Tensor) -> Tensor:
            part = part.transpose(0, 1).contiguous()  # (P, B, C): a gathered row holds all meshes
            for layer, own in zip(self._layers[start:end], weights, strict=True):
                part = layer(part, own)
            return part.transpose(0, 1)  # (B, P, C)

        with torch.autocast(x.device.type, enabled=False):
            weights = [self.weights_of(l) for l in range(start, end)]
            dtype = getattr(self, f"{self._names[start][0]}{start}").dtype
            parts = x.to(dtype).split(self.chunk_size or self._suits(x))
            again = self.use_checkpoint and torch.is_grad_enabled()
            done = [checkpoint(chain, part, use_reentrant=False) if again else chain(part) for part in parts]
            return torch.cat(done) if len(done) > 1 else done[0].contiguous()

    def _suits(self, x: Tensor) -> int:
        """Meshes at once: on CPU few enough for its caches, more in training, where chunks add gradients."""
        if x.device.type != "cpu":
            return len(x)
        return max(1, CPU_POINTS * (2 if torch.is_grad_enabled() else 1) // self.num_vertices)


def _table(tables: dict[str, np.ndarray], name: str) -> np.ndarray:
    key = name.removesuffix(".npy").removesuffix(".npz")
    key = key if key.startswith("_") else f"_{key}"
    if key not in tables:
        raise MoroError(f"Connection table {key} is not among {', '.join(sorted(tables))}; "
                        "check the meshconv config.")
    return tables[key]
