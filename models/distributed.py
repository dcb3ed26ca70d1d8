"""What the processes of one training run agree on, and how they share the work (docs/scaling.md).

Without several processes every function here hands back what it was given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn

from moro.errors import MoroError


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of what all processes hand over, without gradient; all must call it, with equal shapes."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_processes(tensor: Tensor) -> Tensor:
    """As `sum_over_processes`, divided by their number."""
    return sum_over_processes(tensor) / world_size() if world_size() > 1 else tensor


def means_over_processes(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar, in one exchange."""
    if world_size() == 1:
        return dict(values)
    means = mean_over_processes(torch.stack([value.detach().float() for value in values.values()]))
    return dict(zip(values, means.unbind(), strict=True))


def log_weight(samples: int) -> int:
    """`batch_size` for Lightning's log: of what processes with unequal shares log it takes the weighted mean.

    It divides the sum of the weights by the number of processes, and rounds; hence multiples of that.
    """
    return samples * world_size()


def shard_of(size: int, rank: int, processes: int) -> range:
    """Every n-th of `size` samples, each in one process only: sums over processes count none twice.

    Raises MoroError if there is none for some process, which would leave the others waiting for it.
    """
    if size < processes:
        raise MoroError(f"a data set of {size} samples cannot be shared by {processes} processes; "
                        "use fewer devices (trainer.devices) for it")
    return range(rank, size, processes)


# ------------------------------------------------------------------------------------------------ strategies


def steps_fused(system: pl.LightningModule) -> bool:
    """Whether AdamW may update all weights in one pass over memory, three times as fast on CPU.

    Not under mixed precision, where Lightning refuses to clip its gradients.
    """
    return system._trainer is None or "mixed" not in str(system.trainer.precision)


def build_trainer(find_unused: bool = False, **settings: Any) -> pl.Trainer:
    """Lightning's Trainer; on several devices DDP, or FSDP with strategy="fsdp".

    find_unused  DDP: some parameters get no gradient in some steps
    settings     arguments of the Trainer; any other `strategy` is handed on as it is
    Our loaders share the data themselves, and codebooks are kept equal by sums, so buffers (body models of
    100 MB among them) are not sent around at every step.
    Raises MoroError if a job of a sweep would have to start processes: they would each start the sweep anew.
    """
    settings = {"use_distributed_sampler": False, **settings}
    wanted = settings.pop("strategy", None)
    ours = wanted in (None, "auto", "fsdp")
    trainer = pl.Trainer(strategy="auto" if ours else wanted, **settings)  # knows how many devices there are
    if trainer.world_size > 1 and _starts_processes_in_sweep(trainer):
        raise MoroError("a job of a sweep (-m) cannot use several devices unless SLURM starts its processes; "
                        "set trainer.devices=1, or see docs/scaling.md")
    if not ours:
        return trainer
    strategy: Strategy
    if wanted == "fsdp":
        strategy = ModelParallelStrategy(trainer.world_size, 1, save_distributed_checkpoint=False)
    elif trainer.world_size > 1:
        strategy = DDPStrategy(
            find_unused_parameters=find_unused, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
    else:
        return trainer
    return pl.Trainer(strategy=strategy, **settings)


def _starts_processes_in_sweep(trainer: pl.Trainer) -> bool:
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return sweep and environment is not None and not environment.creates_processes_externally


def shard_parameters(
    modules: Sequence[nn.Module], mesh: Any, methods: Mapping[nn.Module, Sequence[str]]
) -> None:
    """Spread the parameters of each of `modules` over the processes (FSDP); inner modules come first.

    mesh     the device mesh of Lightning's ModelParallelStrategy
    methods  those that are called from outside beside `forward`
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method  # a slow import

    if any(isinstance(module, FSDPModule) for module in modules):
        return  # of an earlier run of the trainer
    for module in modules:
        fully_shard(module, mesh=mesh["data_parallel"])
    for module, names in methods.items():
        for name in names:
            register_fsdp_forward_method(module, name)
