"""What the documents claim has a test, and names a source."""

from __future__ import annotations

import ast
import re

import pytest
from tests.support import ROOT

BEHAVIOURS = ROOT / "docs" / "function-url.md"
SURE = re.compile(r"chosen|\[(documented|recorded)\]\(https://[^)\s]+\)(, \[recorded\]\(https://[^)\s]+\))?")


def rows() -> list[list[str]]:
    """The cells of the table's rows, without its head."""
    text = BEHAVIOURS.read_text(encoding="utf-8").partition("## What it costs")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_has_as_many_behaviours_as_it_should_and_each_only_once() -> None:
    names = [row[0] for row in rows()]
    assert len(names) >= 25
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_behaviour_has_a_source_and_tests_that_there_are(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row)
    assert SURE.fullmatch(row[2])
    tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[4])
    assert ", ".join(f"`{file}::{name}`" for file, name in tests) == row[4]
    for file, name in tests:
        module = ast.parse((ROOT / "tests" / "local" / file).read_text(encoding="utf-8"))
        assert name in [node.name for node in module.body if isinstance(node, ast.FunctionDef)], (file, name)
