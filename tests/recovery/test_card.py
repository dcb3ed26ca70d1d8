"""scripts/open/card.py: the figures of model card and README are those of the last benchmark."""

import json

import pytest

from moro.errors import MoroError
from moro.io.documents import with_parts
from scripts.open.card import DOCUMENTS, ROOT, tables

RESULTS = json.loads((ROOT / "docs/open_results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_hold_the_measured_figures(document) -> None:
    text = document.read_text(encoding="utf-8")
    assert "<!-- hidden: start -->" in text and with_parts(text, tables(RESULTS)) == text


def test_a_table_says_what_was_measured() -> None:
    made = tables(RESULTS)
    value = RESULTS["held-out"]["hidden"]["MoRo"]["PA-MPJPE"]
    assert made["hidden"].splitlines()[2].startswith(f"| PA-MPJPE | {value:.1f} | ")
    camera = RESULTS["real video"]["cam02"]
    clean, occluded = (camera[kind]["MoRo"]["PA-MPJPE [mm]"] for kind in ("clean", "occluded"))
    row = next(line for line in made["cameras"].splitlines() if line.startswith("| cam02"))
    assert row.endswith(f"| {round(100 * (occluded / clean - 1))} % |") and f"| {occluded:.1f} |" in row
    lines = [table.splitlines() for table in made.values()]
    assert all(len({line.count("|") for line in table}) == 1 for table in lines)  # as many cells in every row


@pytest.mark.parametrize("text", ["<!-- nothing: start -->\n<!-- nothing: end -->", "no marks", ""])
def test_a_table_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(MoroError, match="there are clean, "):
        with_parts(text, tables(RESULTS))
