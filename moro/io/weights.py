"""Weights on disk: read without running foreign code, loaded whole or not at all (spec: models 8.1, 8.2)."""

import hashlib
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from moro.errors import MoroError
from moro.io.atomic import atomic_path

METADATA_KEY = "moro"  # where our checkpoints keep their metadata
BODY_MODEL = "bm"  # prefix of body model buffers inside released checkpoints (spec: models 1.8, 3.1)
_log = logging.getLogger(__name__)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a weight file, on the CPU; floating point of any width becomes float32.

    path      .safetensors (metadata from its header), or a torch file (.ckpt, .pth, .pt): a Lightning
              checkpoint with `state_dict`, or a plain dictionary of tensors; metadata: its entry "moro"
    Configuration objects, optimiser states and the like beside the weights are not built; a torch file is
    mapped into memory, so they take no room either.
    MoroError: no such file, unreadable, or no weights inside.
    """
    path = Path(path)
    if not path.is_file():
        raise MoroError(f"Weights not found: {path} does not exist; download or train them, or correct it.")
    if path.suffix == ".safetensors":
        tensors, metadata = _load_safetensors(path)
    else:
        tensors, metadata = _load_torch(path)
    return {name: _single(value) for name, value in tensors.items()}, metadata


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str],
                 half: bool = False) -> None:
    """Write a .safetensors file; half=True stores floating point as float16."""
    def stored(value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        return value.half() if half and value.is_floating_point() else value

    with atomic_path(path) as temporary:
        safetensors.torch.save_file({k: stored(v) for k, v in tensors.items()}, temporary, metadata)


def load_strict(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Load `tensors` into `module`; MoroError naming every missing, unexpected and misshapen key.

    where  the file, for the message. On an error the module is left as it was.
    """
    check_fit(module, tensors, where)
    module.load_state_dict(tensors)


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """MoroError of `load_strict`, without loading."""
    own = module.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - own.keys())
    misshapen = [f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
                 for name in sorted(own.keys() & tensors.keys()) if own[name].shape != tensors[name].shape]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    faults = [f"{len(names)} {kind} ({', '.join(names)})" for kind, names in kinds if names]
    if faults:
        raise MoroError(f"{where} does not fit this {type(module).__name__}: {'; '.join(faults)}; "
                        "use the file made for this configuration.")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values: the same for equal weights, whatever file they come from."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update((tensors[name].detach().cpu() + 0).numpy().tobytes())  # -0.0 is 0.0
    return found.hexdigest()


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


def own_tensors(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Without the body model's buffers that released checkpoints carry: licensed data, which comes from the
    user's own file. They are counted in the log.
    """
    kept = {name: value for name, value in tensors.items() if not name.startswith(BODY_MODEL)}
    if len(kept) < len(tensors):
        _log.info("%s: ignored %d body model tensors", where, len(tensors) - len(kept))
    return kept


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise MoroError(f"{path} is not a readable safetensors file ({error}); fetch it again.") from error


def _load_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    options = {"map_location": "cpu", "mmap": zipfile.is_zipfile(path)}
    try:
        try:
            content = torch.load(path, weights_only=True, **options)
        except pickle.UnpicklingError:  # some checkpoints carry configurations or paths as foreign objects
            content = torch.load(path, weights_only=False, pickle_module=_INERT_PICKLE, **options)
    except Exception as error:  # a damaged file can fail in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise MoroError(f"{path} is not a readable torch file ({reason}); fetch it again.") from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    tensors_only = isinstance(weights, dict) and all(isinstance(v, Tensor) for v in weights.values())
    if not tensors_only or not weights:
        raise MoroError(f"{path} holds no dictionary of weights; give a checkpoint or a plain state dict.")
    metadata = content.get(METADATA_KEY, {})
    return dict(weights), {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}


class _Inert:
    """Stands in for any object of a file that is not a tensor; takes what it is given and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    def add(self, item: object) -> None: ...


class _InertUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers; every other class or function of the file becomes `_Inert`, so
    that nothing a file names is ever called.
    """

    _allowed = {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"),
                ("torch._utils", "_rebuild_parameter"), ("torch", "Size")}

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in self._allowed else _Inert


def _inert_load(file: BinaryIO, **options: Any) -> Any:
    """In the place of pickle.load, which torch calls on the head of files of its old format."""
    return _InertUnpickler(file, **options).load()


_INERT_PICKLE = SimpleNamespace(Unpickler=_InertUnpickler, load=_inert_load, __name__="inert_pickle")


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
