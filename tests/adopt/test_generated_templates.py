"""Whatever a template looks like: adoption adds what it should and nothing else, and undoing leaves not a byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.adopt.support import FUNCTION, adopt, expected
from tests.helpers.rendering import load_yaml

Lines = list[str]

pytestmark = pytest.mark.slow

# Texts that look like parts of a template, or like its end, and are none.
TRAPS = (
    "# HelloFunction: Properties: Layers:",
    "# AWS_LAMBDA_EXEC_WRAPPER: /opt/other",
    "#Outputs:",
    '# \'a quote, "another", {braces}, [brackets] and a colon:',
    "# \u00e9\u4e2d\U0001f600\ttab",
)
SCALARS = (
    "plain",
    "plain text over",
    '"double # quoted"',
    '"with\\ttab and \\u00e9"',
    '"a\ttab"',
    "'single ''quoted'' : {x}'",
    "'Environment:'",
    "12",
    "true",
    "2010-09-09",
    "!Ref Stage",
    '!Sub "${AWS::Region}-#{x}"',
    "!GetAtt [OtherFunction, Arn]",
    "&anchor anchored",
    '"' + "long " * 60 + '"',
    "{a: 1, b: [x, y]}",
    "[]",
    "{}",
    "",
)
MULTILINE = (
    ("|", "first", "", "  HelloFunction:", "# no comment"),
    (">-", "folded", "text"),
    ("|+", "kept", "", ""),
    ("|2-", "  indented", "Outputs:"),
    ("plain over", "two lines", "and three"),
    ('"quoted over', "two: lines", '# and three"'),
    ("'single", "", "with a blank line'"),
)


class Writer:
    """Draws how each part of a template is written."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.step = self.one(2, 2, 3, 4)
        self.noise = self.one(True, False)
        self.anchored = False

    def one(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def between(self, column: int) -> Lines:
        """Return blank lines and comments, or nothing."""
        if not self.noise:
            return []
        kinds = self.random.choices(["blank", "spaces", "here", "left", "right"], k=self.one(0, 1, 2))
        columns = {"here": column, "left": max(0, column - self.step), "right": column + self.step}
        return [
            "" if kind == "blank" else " " * column if kind == "spaces" else " " * columns[kind] + self.one(*TRAPS)
            for kind in kinds
        ]

    def key(self, name: str) -> str:
        return str(self.one(name, name, name, f'"{name}"', f"'{name}'"))

    def comment(self) -> str:
        return str(self.one("", "", "  " + self.one(*TRAPS), " ")) if self.noise else ""

    def scalar(self) -> str:
        value = self.one(*SCALARS)
        if value.startswith("&"):
            if self.anchored:
                return "*anchor"
            self.anchored = True
        return str(value)

    def entry(self, name: str, column: int, value: str | None = None) -> Lines:
        """Return a key with a scalar."""
        indentation, below = " " * column, " " * (column + self.step)
        if value is None and self.one(False, False, True):
            first, *rest = self.one(*MULTILINE)
            return [f"{indentation}{self.key(name)}: {first}", *(below + line if line else "" for line in rest)]
        value = self.scalar() if value is None else value
        return [f"{indentation}{self.key(name)}: {value}{self.comment()}"]

    def mapping(self, name: str, column: int, parts: list[Callable[[int], Lines]]) -> Lines:
        """Return a key with a block mapping."""
        lines = [f"{' ' * column}{self.key(name)}:{self.comment()}", *self.between(column + self.step)]
        for part in parts:
            lines += [*part(column + self.step), *self.between(column + self.step)]
        return lines

    def others(self, count: int) -> list[Callable[[int], Lines]]:
        """Return entries that nobody looks at."""
        names = [f"Other{number}" for number in range(self.random.randint(0, count))]
        return [partial(self.entry, name) for name in names]

    def shuffled(self, parts: list[Any]) -> list[Any]:
        return self.random.sample(parts, len(parts))

    def layers(self, column: int) -> Lines:
        key, items = " " * column + self.key("Layers"), ["!Ref Shared", '"arn:aws:lambda:us-east-1:1:layer:x:1"']
        items = items[: self.one(1, 2)]
        match self.one("indented", "same column", "flow", "empty", "nothing"):
            case "indented":
                return [f"{key}:", *(" " * (column + self.step) + f"- {item}{self.comment()}" for item in items)]
            case "same column":
                return [f"{key}:", *(" " * column + f"-   {item}" for item in items)]
            case "flow":
                return [f"{key}: [{', '.join(items)}]{self.comment()}"]
            case "empty":
                return [f"{key}: []"]
            case _:
                return [f"{key}:{self.comment()}"]

    def environment(self, column: int) -> Lines:
        wrapper = self.one(None, None, "/opt/other", '"/opt/other"', "!Sub /opt/${Stage}")
        match self.one("block", "block", "flow", "flow variables", "nothing"):
            case "block":
                parts = self.others(2)
                if wrapper or not parts:
                    value = wrapper or "/opt/other"
                    parts.append(lambda column: self.entry("AWS_LAMBDA_EXEC_WRAPPER", column, value))
                variables = lambda column: self.mapping("Variables", column, self.shuffled(parts))  # noqa: E731
                return self.mapping("Environment", column, [variables])
            case "flow":
                inner = f"AWS_LAMBDA_EXEC_WRAPPER: {wrapper}" if wrapper else "OTHER: x"
                return [f"{' ' * column}{self.key('Environment')}: {{Variables: {{{inner}}}}}{self.comment()}"]
            case "flow variables":
                inner = self.one("", "OTHER: x", "OTHER: x,", "'OTHER': \"y\"")
                variables = lambda column: [f"{' ' * column}Variables: {{{inner}}}"]  # noqa: E731
                return self.mapping("Environment", column, [variables])
            case _:
                return [f"{' ' * column}{self.key('Environment')}:{self.comment()}"]

    def events(self, column: int) -> Lines:
        type_ = self.one("Api", "SQS")
        event = lambda column: self.mapping("Event", column, [lambda column: self.entry("Type", column, type_)])  # noqa: E731
        return self.mapping("Events", column, [event])

    def function(self, name: str, column: int) -> Lines:
        runtime = self.one("python3.13", '"python3.11"', "!Ref Python")
        if self.one(False, False, False, True):
            inner = f"Type: AWS::Serverless::Function, Properties: {{Runtime: {runtime}, CodeUri: src}}"
            return [f"{' ' * column}{self.key(name)}: {{{inner}}}{self.comment()}"]
        parts: list[Callable[[int], Lines]] = [
            lambda column: self.entry("Runtime", column, runtime),
            lambda column: self.entry("CodeUri", column, "src/"),
            *self.others(3),
            *(part for part in (self.layers, self.environment, self.events) if self.one(False, True)),
        ]
        top: list[Callable[[int], Lines]] = [
            lambda column: self.entry("Type", column, "AWS::Serverless::Function"),
            lambda column: self.mapping("Properties", column, self.shuffled(parts)),
        ]
        if self.one(False, False, True):
            top.append(lambda column: self.entry("Condition", column, "IsProduction"))
        return self.mapping(name, column, self.shuffled(top))

    def outputs(self, column: int) -> Lines:
        output = lambda column: self.mapping("Out", column, [lambda column: self.entry("Value", column, "x")])  # noqa: E731
        choice = self.one("block", "block", "flow", "empty", "nothing")
        if choice == "block":
            return self.mapping("Outputs", column, [output])
        inner = {"flow": " {Out: {Value: x}}", "empty": " {}", "nothing": ""}[choice]
        return [f"{' ' * column}{self.key('Outputs')}:{inner}{self.comment()}"]

    def template(self) -> str:
        names = self.shuffled([FUNCTION, "OtherFunction"])
        resources: list[Callable[[int], Lines]] = [
            *(partial(self.function, name) for name in names),
            lambda column: self.mapping(
                "Topic", column, [lambda column: self.entry("Type", column, "AWS::SNS::Topic")]
            ),
        ]
        path: list[Callable[[int], Lines]] = [partial(self.entry, "AWS_LAMBDA_EXEC_WRAPPER", value="/opt/global")]
        for name in ("Variables", "Environment", "Function"):
            path = [partial(self.mapping, name, parts=path)]
        sections: list[Callable[[int], Lines]] = [
            lambda column: self.entry("Description", column),
            lambda column: self.mapping("Resources", column, self.shuffled(resources)),
        ]
        if self.one(False, False, True):
            sections.append(lambda column: self.mapping("Globals", column, path))
        if self.one(True, True, False):
            sections.append(self.outputs)
        if self.one(False, False, True):
            sections.append(lambda column: self.entry("Metadata", column))
        lines = [*self.one([], ["---"], ["# first"]), *self.between(0)]
        for section in self.shuffled(sections):
            lines += [*section(0), *self.between(0)]
        lines += self.one([], [], ["..."], [""])
        line_break = self.one("\n", "\n", "\r\n")
        return str(self.one("", "", "\ufeff") + line_break.join(lines) + self.one(line_break, line_break, ""))


# A number rather than the hundreds of choices that it stands for: Hypothesis takes a second to draw that many.
templates = st.integers(0, 2**32 - 1).map(lambda seed: Writer(seed).template())


def without_nulls(mapping: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping without what CloudFormation refuses in JSON."""
    return {key: value for key, value in mapping.items() if value is not None}


def parsed(text: str) -> dict[str, Any] | None:
    """Return the template, or None where the pieces do not make one."""
    try:
        return load_yaml(text)
    except Exception:
        return None


@settings(max_examples=300)
@given(templates)
@example(f"Resources:\n  {FUNCTION}:\n    Type: AWS::Serverless::Function\n    Properties:\n      A: |\n        x")
def test_adoption_adds_nothing_else(text: str) -> None:
    before = parsed(text)
    if before is None:
        return
    adoption = adopt(text)
    assert load_yaml(adoption.text) == expected(before)
    assert adoption.undo() == text
    assert not adopt(adoption.text).alone


@settings(max_examples=100)
@given(templates, st.booleans())
def test_functions_are_adopted_one_by_one(text: str, last_first: bool) -> None:
    """Two functions, taken back in either order."""
    before = parsed(text)
    if before is None:
        return
    first = adopt(text)
    second = adopt(first.text, "OtherFunction")
    assert load_yaml(second.text) == expected(expected(before), "OtherFunction")
    assert not second.shared
    first.scaffolds = second.scaffolds = [*first.scaffolds, *second.scaffolds]
    second.shared, first.shared = (first.shared, []) if not last_first else ([], first.shared)
    order = (second, first) if last_first else (first, second)
    assert order[1].undo(order[0].undo(second.text)) == text


@settings(max_examples=100)
@given(templates)
def test_json_becomes_json(text: str) -> None:
    before = parsed(text)
    if before is None:
        return
    before = json.loads(json.dumps(before, default=str), object_hook=without_nulls)
    for indent in (None, 2):
        source = json.dumps(before, indent=indent)
        adoption = adopt(source)
        after = json.loads(adoption.text)
        assert after["Resources"]["HelloFunction"]["Properties"]["Environment"]["Variables"]
        assert adoption.undo() == source
