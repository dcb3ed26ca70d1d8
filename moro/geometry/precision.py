"""Geometry in float32, whatever precision the networks around it run in."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Switch autocast off inside `function`, whose first argument is a tensor.

    Matrix products would otherwise run in bfloat16: eight bits are a centimetre at three metres.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(args[0].device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapped
