"""The documents show the figures of `aws_limits.toml`, each with its source."""

import re
from datetime import date
from typing import Any

import pytest
from drift.limits import DOCUMENT, entries, figures, load, table
from tests.helpers.support import ROOT, run, source_files

ENTRIES = dict(entries(load()))
# Files that quote what a tool or an older version says, or that test values beyond a limit.
ELSEWHERE = ("tests/", "findings/", "CHANGELOG.md", "uv.lock", "benchmarks/")


def test_table_in_documents() -> None:
    assert run("python", "-m", "drift.limits", cwd=ROOT).stdout in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_has_a_source(name: str) -> None:
    entry = ENTRIES[name]
    assert re.fullmatch(r"https://docs\.aws\.amazon\.com/\S+|([\w-]+ \d+\.\d+\.\d+(: [^;]+)?(; )?)+", entry["source"])
    assert date.fromisoformat(entry["date"]) <= date.today()
    assert entry["what"]
    assert figures(entry)


def numbers(value: Any) -> list[int]:
    """Return the numbers in a value at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int) else []


def spellings(entry: dict[str, Any]) -> list[str]:
    """Return how a document or a program would write the figures of an entry, as far as that can be recognized."""
    found = numbers(figures(entry))
    units = [unit for unit in ("MB", "seconds") if unit in entry["what"]]
    # Shorter times and small numbers without a unit have other meanings too.
    with_unit = [f"{figure} {unit}" for figure in found for unit in units if unit == "MB" or figure > 30]
    return [*with_unit, *(text for figure in found if figure > 1000 for text in (f"{figure}", f"{figure:,}"))]


def test_figure_is_in_one_place() -> None:
    texts = {text for entry in ENTRIES.values() for text in spellings(entry)} - {
        "30 MB",
        "32768",
        "120 seconds",
        "86,400",  # combinations of the options
    }  # have other meanings too
    texts |= {*figures(ENTRIES["cloudfront.policies"]).values()}
    pattern = re.compile(rf"(?<![\w.,-])({'|'.join(map(re.escape, texts))})(?![\w-])")
    found = {}
    for path in source_files():
        if path.endswith(("aws_limits.toml", ".png", ".svg")) or path.startswith(ELSEWHERE):
            continue
        text = (ROOT / path).read_text(encoding="utf-8").replace(table(), "")
        if hits := pattern.findall(text):
            found[path] = hits
    assert found == {}
