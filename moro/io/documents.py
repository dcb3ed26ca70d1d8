"""Figures in documents: tables of Markdown between marks that a program replaces."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from moro.errors import MoroError
from moro.io.atomic import atomic_path

_PART = re.compile(r"(<!-- (\w+): start -->\n).*?(<!-- \2: end -->)", re.DOTALL)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table, each with its line break."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def replace_parts(document: Path, parts: Mapping[str, str]) -> None:
    """Rewrite a document with its marked parts anew (see `with_parts`), atomically."""
    text = with_parts(document.read_text(encoding="utf-8"), parts)
    with atomic_path(document) as temporary:
        temporary.write_text(text, encoding="utf-8")


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """The text with `parts[NAME]` wherever it has `<!-- NAME: start -->`, up to `<!-- NAME: end -->`.

    Raises MoroError if the text has no marks, or one for which there is no part.
    """
    named = {name for _, name, _ in _PART.findall(text)}
    if not named or named - parts.keys():
        raise MoroError(f"The document asks for the parts {sorted(named)}; there are {', '.join(parts)}.")
    return _PART.sub(lambda found: found[1] + parts[found[2]] + found[3], text)
