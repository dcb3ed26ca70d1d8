"""Names and shapes of the entries of the released files (keys.txt)."""

import functools
import itertools
import re
from pathlib import Path

import torch

Shapes = dict[str, tuple[int, ...]]


@functools.cache
def released(section: str) -> Shapes:
    """Name → shape of every entry of a section."""
    shapes: Shapes = {}
    for words in _lines()[section]:
        if words[0].startswith("@"):
            prefixes = _expand(words[1]) if len(words) > 1 else [""]
            included = released(words[0][1:]).items()
            shapes |= {prefix + name: shape for prefix in prefixes for name, shape in included}
        else:
            for name in _expand(words[0]):
                shapes |= _entries(name, words[1:])
    return shapes


def count(shapes: Shapes) -> int:
    """Numbers in all the tensors together."""
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def placeholders(shapes: Shapes, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of these shapes, each with a single zero behind it: a file of them is small at any size."""
    integers = ("num_batches_tracked", "faces_tensor", "parents", "lmk_faces_idx", "extra_joints_idxs")
    return {
        prefix + name: torch.zeros((), dtype=torch.int64 if name.endswith(integers) else None).expand(shape)
        for name, shape in shapes.items()
    }


@functools.cache
def _lines() -> dict[str, list[list[str]]]:
    sections: dict[str, list[list[str]]] = {}
    for line in Path(__file__).with_suffix(".txt").read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line.split())
    return sections


def _entries(name: str, words: list[str]) -> Shapes:
    kind, numbers = (words[0], words[1:]) if words and not words[0].isdigit() else ("", words)
    shape = tuple(map(int, numbers))
    if kind == "linear":
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    if kind == "norm":
        return {f"{name}.weight": shape, f"{name}.bias": shape}
    if kind == "bn":
        own = {f"{name}.{part}": shape for part in ("weight", "bias", "running_mean", "running_var")}
        return own | {f"{name}.num_batches_tracked": ()}
    assert not kind, kind
    return {name: shape}


def _expand(pattern: str) -> list[str]:
    """a{0-2}b{x,y} → a0bx, a0by, a1bx, ..."""
    parts = re.split(r"\{(.*?)\}", pattern)  # text and choices in turn
    choices = [[part] if n % 2 == 0 else _choices(part) for n, part in enumerate(parts)]
    return ["".join(picked) for picked in itertools.product(*choices)]


def _choices(text: str) -> list[str]:
    span = re.fullmatch(r"(\d+)-(\d+)", text)
    return [str(n) for n in range(int(span[1]), int(span[2]) + 1)] if span else text.split(",")
