"""The `demo` keys: refused before the long part if they make no sense (spec: data 9.1)."""

import torch
from omegaconf import DictConfig

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.video.yolo import choose_tracker

PRECISIONS = {"32": False, "bf16": True, "bf16-mixed": True}  # whether bfloat16 where it is safe
ALIASES = {"32-true": "32", "fp32": "32"}


def check_demo(cfg: DictConfig) -> None:
    """Raises MoroError for a value of `demo` that could not be used once the work is done."""
    demo = cfg.demo
    _check_number("max_people", demo.max_people, int, "a whole number of 1 or more")
    _check_number("focal_length", demo.focal_length, float, "a number of pixels above 0")
    choose_tracker(demo.tracker)
    choose_device(demo.device)
    low_precision(demo.precision)
    body = cfg.dataset.model_type
    if demo.refine and load_body_model(cfg.dataset.bm_path, body).landmark_regressor is None:
        raise MoroError(f"demo.refine=true, but body {body} has no landmarks; set demo.refine=false.")
    if demo.fit_body is not None:
        try:
            load_body_model(cfg.dataset.bm_path, str(demo.fit_body))
        except MoroError as error:
            raise MoroError(f"demo.fit_body={demo.fit_body}: {error}") from error


def choose_device(name: str) -> torch.device:
    """cuda, else mps, else cpu for `auto`. Raises MoroError for what torch does not know or have."""
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise MoroError(f"demo.device={name} is no device; use auto, cpu, cuda, cuda:<n> or mps.") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(has_mps)}.get(device.type, 0)
    if (device.index or 0) >= count:
        raise MoroError(f"demo.device={name}: torch finds no such device here; use demo.device=auto.")
    return device


def low_precision(name: str | int) -> bool:
    """Whether the network computes in bfloat16. Raises MoroError for what is neither that nor float32."""
    word = ALIASES.get(str(name), str(name))
    if word not in PRECISIONS:
        raise MoroError(f"demo.precision={name} is not offered; use one of {', '.join(PRECISIONS)}.")
    return PRECISIONS[word]


def _check_number(name: str, value: object, kind: type, wanted: str) -> None:
    """None, or a number above zero."""
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value < float("inf")):
        raise MoroError(f"demo.{name}={value} must be {wanted} (or null).")
