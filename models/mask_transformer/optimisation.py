"""Optimiser and learning-rate schedules from configuration (spec: models 3.12, 7.5)."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer, lr_scheduler

from moro.errors import MoroError


def build_optimizer(
    parameters: Iterable[nn.Parameter], optim: Mapping[str, Any], fused: bool = False
) -> dict[str, Any]:
    """AdamW on what is trained and the schedule of `optim.scheduler`, as Lightning wants them.

    optim  lr, weight_decay, scheduler (see `build_scheduler`; None: constant rate)
    fused  steps in one pass over memory (models.distributed.steps_fused)
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = AdamW(trained, lr=optim["lr"], weight_decay=optim["weight_decay"], fused=fused or None)
    schedule = optim.get("scheduler")
    if schedule is None:
        return {"optimizer": optimizer}
    interval = schedule.get("interval", "epoch")
    scheduler = build_scheduler(optimizer, schedule)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


def build_scheduler(optimizer: Optimizer, spec: Mapping[str, Any]) -> lr_scheduler.LRScheduler:
    """A torch scheduler by class name and `args`; SequentialLR and ChainedScheduler nest as torch allows.

    spec  name; args (a mapping); schedulers and, for SequentialLR, milestones
    Raises MoroError for an unknown name or arguments the class does not take.
    """
    name = spec.get("name")
    kind = getattr(lr_scheduler, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler)):
        raise MoroError(f"optim.scheduler: '{name}' is no scheduler of torch.optim.lr_scheduler")
    try:
        if name in ("SequentialLR", "ChainedScheduler"):
            parts = [build_scheduler(optimizer, part) for part in spec["schedulers"]]
            if name == "ChainedScheduler":
                return lr_scheduler.ChainedScheduler(parts, optimizer)
            composite = (lr_scheduler.SequentialLR, lr_scheduler.ChainedScheduler)
            if any(isinstance(part, composite) for part in parts[1:]):
                raise MoroError(
                    "optim.scheduler: torch cannot switch to a SequentialLR or ChainedScheduler inside a "
                    "SequentialLR; write its parts and milestones into the outer one"
                )
            return lr_scheduler.SequentialLR(optimizer, parts, [int(step) for step in spec["milestones"]])
        arguments = dict(spec.get("args") or {})
        if "T_max" in arguments:  # runs shorter than the warm-up never come to the cosine
            arguments["T_max"] = max(1, arguments["T_max"])
        return kind(optimizer, **arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise MoroError(f"optim.scheduler: {name} cannot be built ({error})") from error
