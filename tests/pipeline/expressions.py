"""An evaluator of the expressions in GitHub's workflows, as far as ours use them. Unknown ones raise.

https://docs.github.com/en/actions/reference/workflows-and-actions/expressions
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>[A-Za-z_][\w.*-]*)|(?P<mark>&&|\|\||==|!=|[!(),]))")
Context = Mapping[str, Any]


def evaluate(expression: str, context: Context) -> Any:
    """Return the value of an expression, given without `${{ }}`."""
    return _Parser(expression, context).value()


def interpolate(value: Any, context: Context) -> Any:
    """Return `value` with each `${{ }}` evaluated. A text that is one expression keeps the type of its value."""
    if isinstance(value, dict):
        return {key: interpolate(inner, context) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolate(inner, context) for inner in value]
    if not isinstance(value, str):
        return value
    if whole := re.fullmatch(r"\$\{\{((?:(?!\}\}).)*)\}\}", value, re.DOTALL):
        return evaluate(whole[1], context)
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: as_text(evaluate(found[1], context)), value, flags=re.DOTALL)


def as_text(value: Any) -> str:
    """Return a value as GitHub writes it into a text."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Parser:
    def __init__(self, expression: str, context: Context) -> None:
        self._context = context
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while expression[at:].strip():
            found = _TOKEN.match(expression, at)
            if found is None or found.lastgroup is None:
                raise ValueError(f"unknown syntax {expression[at:]!r} in {expression!r}")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()

    def value(self) -> Any:
        result = self._either()
        if self._tokens:
            raise ValueError(f"unexpected tokens: {self._tokens}")
        return result

    def _next(self, *marks: str) -> str:
        if self._tokens and self._tokens[0][0] == "mark" and self._tokens[0][1] in marks:
            return self._tokens.pop(0)[1]
        return ""

    def _either(self) -> Any:
        result = self._both()
        while self._next("||"):
            other = self._both()
            result = result or other
        return result

    def _both(self) -> Any:
        result = self._compared()
        while self._next("&&"):
            other = self._compared()
            result = result and other
        return result

    def _compared(self) -> Any:
        result = self._single()
        while mark := self._next("==", "!="):
            other = self._single()
            # GitHub ignores the case of texts that it compares.
            same = result.lower() == other.lower() if isinstance(result, str) and isinstance(other, str) else False
            if not (isinstance(result, str) and isinstance(other, str)):
                same = (result or "") == (other or "")
            result = same is (mark == "==")
        return result

    def _single(self) -> Any:
        if self._next("!"):
            return not self._single()
        if self._next("("):
            result = self._either()
            assert self._next(")")
            return result
        kind, token = self._tokens.pop(0)
        if kind == "text":
            return token[1:-1].replace("''", "'")
        if self._next("("):
            arguments = []
            while not self._next(")"):
                arguments.append(self._either())
                self._next(",")
            return self._functions()[token](*arguments)
        return self._look_up(token)

    def _look_up(self, name: str) -> Any:
        if name in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[name]
        head, *rest = name.split(".")
        value: Any = self._context[head]  # an unknown context is a mistake, an unknown field is empty
        for part in rest:
            if part == "*":
                value = list(value.values())
            elif isinstance(value, list):
                value = [item.get(part) for item in value]
            else:
                value = (value or {}).get(part)
        return value

    def _functions(self) -> dict[str, Callable[..., Any]]:
        status = self._context.get("status", "success")
        return {
            "always": lambda: True,
            "cancelled": lambda: False,
            "contains": lambda where, what: what in (where or ""),
            "failure": lambda: status == "failure",
            "fromJSON": lambda text: json.loads(text),
            "join": lambda values, mark: mark.join(map(as_text, values)),
            "success": lambda: status == "success",
        }
