"""All text is plain English: no banned phrase, short test names, and Markdown without leftovers of edits."""

from __future__ import annotations

import ast
import re
from functools import cache
from itertools import pairwise
from statistics import mean

import pytest
from tests.helpers.support import ROOT, source_files

# Words that a technical editor would replace, as patterns; a space stands for any space, line breaks included.
BANNED = (
    "anew",
    "as it is so",
    "at once",  # write "immediately" or "concurrently"
    "belongs into",
    "by itself",  # write "automatically"
    "gives",  # write "returns" or "prints"
    "is no",
    "is (?-i:none)",  # unlike Python's None
    "it takes",  # write "requires"
    "lest",
    "mend(?:s|ed|ing)?",  # write "fix"
    "of such a one",
    "takes no(?:tice| notice)",
    "that there",
    "what of that",
    "whoever",
)
# A line break in a comment or between the parts of a string does not hide a phrase.
BETWEEN_WORDS = r"""(?:\s|["']\s*\n\s*f?["']|\n\s*\#)+"""

LEFT_OUT = {
    "tests/docs/test_language.py": "holds the list",
    "uv.lock": "generated",
    "LICENSE": "a text of others",
    "tests/local/published/": "recorded by others",
}
DATA = (".json", ".png", ".svg")  # but for cookiecutter.json, whose prompts people read


@cache
def texts() -> dict[str, str]:
    """Return the texts of this repository by their paths."""
    paths = [
        path
        for path in source_files()
        if not path.startswith(tuple(LEFT_OUT)) and (not path.endswith(DATA) or path == "cookiecutter.json")
    ]
    found = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    # What an earlier version said of itself stays as it was said.
    found["CHANGELOG.md"] = re.split(r"\n## (?!Unreleased)", found["CHANGELOG.md"])[0]
    return found


def occurrences(phrase: str, text: str) -> list[str]:
    """Return the line numbers of a phrase in a text, each with what was found there."""
    pattern = re.compile(rf"\b{phrase.replace(' ', BETWEEN_WORDS)}\b", re.IGNORECASE | re.VERBOSE)
    return [f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]}" for found in pattern.finditer(text)]


@pytest.mark.parametrize("phrase", BANNED)
def test_phrase_is_not_used(phrase: str) -> None:
    assert [f"{path}:{found}" for path, text in texts().items() for found in occurrences(phrase, text)] == []


@pytest.mark.parametrize(
    ("phrase", "text", "count"),
    [
        ("mend(?:s|ed|ing)?", "We recommend that you amend it.", 0),
        ("mend(?:s|ed|ing)?", "Mends what was mended.", 2),
        ("lest", "the oldest", 0),
        ("at once", "# answers at\n    # once", 1),
        ("at once", 'print("answers at "\n      "once")', 1),
        ("is (?-i:none)", 'the default is "none"; if it is None', 0),
        ("is (?-i:none)", "There is none.", 1),
    ],
)
def test_phrase_search(phrase: str, text: str, count: int) -> None:
    assert len(occurrences(phrase, text)) == count


def test_what_is_left_out_exists() -> None:
    assert [path for path in LEFT_OUT if not (ROOT / path).exists()] == []


def test_test_names_are_short() -> None:
    names = [
        node.name
        for path, text in texts().items()
        if path.endswith(".py") and "tests/" in path
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > 60] == []
    assert mean(map(len, names)) <= 35


MARKDOWN = [path for path in source_files() if path.endswith(".md") and not path.startswith(tuple(LEFT_OUT))]


def prose(path: str) -> list[str]:
    """Return the lines of a document, empty where they are code, tables, headings or Jinja."""
    text = re.sub(r"^ *```.*?^ *```", lambda block: "\n" * block[0].count("\n"), texts()[path], flags=re.S | re.M)
    return ["" if line.startswith(("|", "#", "{%")) else line for line in text.splitlines()]


@pytest.mark.parametrize("path", MARKDOWN)
def test_markdown_lines_are_short(path: str) -> None:
    """Links and Jinja cannot be broken, so their lines may be longer."""
    free = [line for line in prose(path) if "](" not in line and "://" not in line and "{{" not in line]
    assert [line for line in free if len(line) > 100] == []


# Of a line that continues a paragraph: code and Jinja are not broken, and an item of a list begins a line of its own.
FIRST_WORD = re.compile(r"\s*(?![-*] |\d+\. )(`[^`]+`\S*|(?!\{\{)[^`\s]\S*)(?!\S*\{\{)")


@pytest.mark.parametrize("path", MARKDOWN)
def test_markdown_paragraphs_are_filled(path: str) -> None:
    """An edit leaves no short line in the middle of a paragraph."""
    stubs = [
        line
        for line, following in pairwise(prose(path))
        if line and (word := FIRST_WORD.match(following)) and len(line) < 50 and len(line) + 1 + len(word[1]) <= 100
    ]
    assert stubs == []
