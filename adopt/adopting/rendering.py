"""The text of what is added: YAML in block or flow style, or JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from .document import Data, boolean_data, mapping_data, scalar_data, sequence_data

# What no YAML parser reads as anything but this text; the second form is for block style, where colons are safe too.
_FLOW_PLAIN = re.compile(
    r"(?!(?:true|false|yes|no|on|off|null|y|n)\Z)[A-Za-z/][A-Za-z0-9_./-]*", re.IGNORECASE | re.ASCII
)
_BLOCK_PLAIN = re.compile(_FLOW_PLAIN.pattern + r"(:{1,2}[A-Za-z0-9_./-]+)*", re.IGNORECASE | re.ASCII)


class Intrinsic:
    """An intrinsic function of CloudFormation on a name, such as `Ref`.

    Attributes:
        name: The function: `Ref` or `GetAtt`.
        argument: The logical ID, with `.Attribute` for `GetAtt`.
    """

    def __init__(self, name: str, argument: str) -> None:
        self.name = name
        self.argument = argument

    def to_json(self) -> dict[str, Any]:
        """Return the long form."""
        return {"Ref": self.argument} if self.name == "Ref" else {f"Fn::{self.name}": self.argument.split(".", 1)}


class Compact(dict[str, Any]):
    """A mapping that is written on one line."""


def to_data(value: Any, is_json: bool) -> Data:
    """Return what `document.to_data` makes of the text of `value`."""
    if isinstance(value, Intrinsic):
        return to_data(value.to_json(), True) if is_json else (f"!{value.name}", value.argument)
    if isinstance(value, dict):
        return mapping_data({key: to_data(of, is_json) for key, of in value.items()})
    if isinstance(value, list):
        return sequence_data([to_data(item, is_json) for item in value])
    return boolean_data(value) if isinstance(value, bool) else scalar_data(value)


def flow(value: Any, is_json: bool = False) -> str:
    """Return `value` on one line."""
    if is_json:
        return json.dumps(value, default=Intrinsic.to_json)
    if isinstance(value, Intrinsic):
        return f"!{value.name} {value.argument}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(of)}" for key, of in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return _scalar(value, _FLOW_PLAIN)


def block(key: str, value: Any, step: int) -> list[str]:
    """Return the lines of a block mapping's entry, the first one without indentation."""
    if isinstance(value, dict) and not isinstance(value, Compact):
        lines = [line for name, of in value.items() for line in block(name, of, step)]
        return [f"{key}:", *(" " * step + line for line in lines)]
    return [f"{key}: {item(value)}"]


def item(value: Any) -> str:
    """Return a value as it stands behind a key or a dash in block style."""
    return _scalar(value, _BLOCK_PLAIN) if isinstance(value, (str, bool)) else flow(value)


def indented_json(value: Any, step: int, column: int, line_break: str) -> str:
    """Return `value` on as many lines as JSON usually has, all but the first one at `column` or further right."""
    lines = json.dumps(value, default=Intrinsic.to_json, indent=step).split("\n")
    return (line_break + " " * column).join(lines)


def _scalar(value: str | bool, plain: re.Pattern[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if plain.fullmatch(value) else json.dumps(value)
