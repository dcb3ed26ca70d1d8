"""What this machine can do at most: a large matrix product, and moving memory."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Options, Row, Run

MEGABYTES = 512  # more than any cache holds


def rows(options: Options) -> list[Row]:
    side, megabytes = (128, 1) if options.quick else (2048, MEGABYTES)
    return [
        Row(
            "ceilings.matmul", "matrix product, float32", f"{side} x {side}", partial(product, side),
            twin=False, gflop=2 * side**3 / 1e9,
        ),
        Row(
            "ceilings.copy", "copy of memory", f"{megabytes} MB read, as much written",
            partial(copy, megabytes), twin=False,
        ),
    ]  # fmt: skip


def product(side: int, variant: str) -> Run:
    a, b = torch.randn(side, side), torch.randn(side, side)
    out = torch.empty(side, side)
    return lambda: {"product": torch.mm(a, b, out=out)}


def copy(megabytes: int, variant: str) -> Run:
    source = torch.zeros(megabytes * 1_000_000, dtype=torch.uint8)
    target = torch.zeros_like(source)

    def run() -> dict[str, Tensor]:
        return {"copied": target.copy_(source)}

    return run
