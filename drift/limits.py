"""The figures and lists of `local/aws_limits.toml`, and their table in the documents."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = ROOT / "{{cookiecutter.project_slug}}" / "local" / "aws_limits.toml"
DOCUMENT = ROOT / "docs" / "limits-and-cost.md"
_HEADER = "| limit | figures | source | date |\n|---|---|---|---|\n"
# What an entry says of its figures.
_ABOUT = ("what", "source", "page", "date")
# A longer list is counted.
_LONGEST_LIST = 8


def load() -> dict[str, Any]:
    """Return the content of the file."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def entries(limits: dict[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each entry with its name, such as `timeout.linted`."""
    if "date" in limits:
        yield name, limits
    for key, value in limits.items():
        if isinstance(value, dict):
            yield from entries(value, f"{name}.{key}".lstrip("."))


def figures(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the figures and lists of an entry, without those of the entries below it."""
    nested = {key for key, value in entry.items() if isinstance(value, dict) and "date" in value}
    return {key: value for key, value in entry.items() if key not in nested and key not in _ABOUT}


def table() -> str:
    """Return the file as a Markdown table."""
    return _HEADER + "".join(_row(name, entry) for name, entry in entries(load()))


def _row(name: str, entry: dict[str, Any]) -> str:
    shown = "; ".join(f"{key} {_shown(value)}" for key, value in figures(entry).items())
    package = entry["source"] if "page" not in entry else f"{entry['source']} ([page]({entry['page']}))"
    source = f"[page]({package})" if package.startswith("https:") else package
    return f"| `{name}`: {entry['what']} | {shown} | {source} | {entry['date']} |\n"


def _shown(value: Any) -> str:
    if not isinstance(value, (list, dict)):
        return f"`{value}`"
    if len(value) > _LONGEST_LIST:
        return f"({len(value)} of them)"
    return ", ".join(f"`{item}`" for item in (value.values() if isinstance(value, dict) and _is_flat(value) else value))


def _is_flat(value: dict[str, Any]) -> bool:
    return all(isinstance(item, str) for item in value.values())


if __name__ == "__main__":
    print(table(), end="")
