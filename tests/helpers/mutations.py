"""Break one line of the template at a time, and show whether `make check` or the tests of that part notice it.

The lines are drawn at random, the same ones for the same seed, and changed mechanically, so that the breakages are not
chosen to be noticed.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.support import ROOT, user_environment

PROJECT = "{{cookiecutter.project_slug}}"
# What is broken, and the tests of that part.
AREAS = {
    "hooks": (
        ("hooks/*.py", "filters.py", "questions.py"),
        "template/test_answers.py template/test_bake.py template/test_fuzz.py template/test_upgrades.py "
        "template/test_questions.py",
    ),
    "adopt": (("adopt/adopting/*.py",), "adopt"),
    "template": (
        (f"{PROJECT}/*.yaml", f"{PROJECT}/*.toml", f"{PROJECT}/pipeline/*.yaml", "templates/resources/*.yaml"),
        "template/test_bake.py template/test_generated.py template/test_planted_faults.py "
        "template/test_combinations.py template/test_sam.py local/test_templates.py pipeline",
    ),
    "workflows": ((f"{PROJECT}/.github/workflows/*.yml",), "template/test_bake.py pipeline"),
    "runtime": ((f"{PROJECT}/runtime/streaming_runtime/**/*.py", f"{PROJECT}/runtime/bootstrap"), "runtime"),
    "local URL": ((f"{PROJECT}/local/**/*.py",), "local template/test_sam.py"),
}
# Changes that make no difference, by the file and the changed line, with the reason.
EQUIVALENT = {
    (
        f"{PROJECT}/.github/workflows/ci.yml",
        "timeout-minutes: 16",
    ): "fifteen minutes are already more than a build needs",
    (f"{PROJECT}/pipeline/oidc.yaml", "- Sid: WatchAlarmsx"): "the name of a statement is for readers only",
}

OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">", "in": "not in", "not in": "in"}
OPPOSITE |= {"is": "is not", "is not": "is", "and": "or", "or": "and", "true": "false", "false": "true"}
OPPOSITE |= {"True": "False", "False": "True"}


@dataclass(frozen=True)
class Breakage:
    """A line of a file in this repository (counted from 1), before and after the change."""

    path: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n  - {self.before.strip()}\n  + {self.after.strip()}"


def of_python(text: str) -> Iterator[tuple[int, str]]:
    """The ways to break Python code: the number of a line, counted from 1, and the changed line."""
    lines = [line.encode() for line in text.splitlines()]
    tree = ast.parse(text)
    # Docstrings have no effect, and in Python 3.11 the parts of an f-string have no position.
    docstrings = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    left_out = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    left_out |= {id(node) for node in docstrings}

    def replaced(start: tuple[int, int], end: tuple[int, int], pattern: str, new: str) -> Iterator[tuple[int, str]]:
        if start[0] == end[0]:
            line = lines[start[0] - 1]
            old = line[start[1] : end[1]].decode()
            if (changed := re.sub(pattern, new, old, count=1, flags=re.DOTALL)) != old:
                yield start[0], (line[: start[1]] + changed.encode() + line[end[1] :]).decode()

    for node in ast.walk(tree):
        if id(node) in left_out or not isinstance(node, ast.expr | ast.stmt):
            continue
        start, end = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
        match node:
            case ast.Compare(comparators=[_]) | ast.BoolOp():
                [first, second, *_] = node.values if isinstance(node, ast.BoolOp) else [node.left, *node.comparators]
                between = (first.end_lineno or 0, first.end_col_offset or 0), (second.lineno, second.col_offset)
                for word, opposite in OPPOSITE.items():
                    yield from replaced(*between, rf"^(\)* *){re.escape(word)}( *\(*)$", rf"\1{opposite}\2")
            case ast.UnaryOp(op=ast.Not()):
                yield from replaced(start, end, "^not ", "")
            case ast.Constant(value=bool()):
                yield from replaced(start, end, ".+", str(not node.value))
            case ast.Constant(value=int(value)):
                yield from replaced(start, end, ".+", str(value + 1))
            case ast.Constant(value=str() | bytes()):
                yield from replaced(start, end, r"""(?<!['"])(['"])$""", r"x\1")
            case ast.Return(value=ast.expr()):
                yield from replaced(start, end, ".+", "return None")
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Break() | ast.Continue():
                yield from replaced(start, end, ".+", "pass")
            case ast.If() | ast.While() | ast.IfExp():
                test = (
                    (node.test.lineno, node.test.col_offset),
                    (node.test.end_lineno or 0, node.test.end_col_offset or 0),
                )
                yield from replaced(*test, "^(.+)$", r"not (\1)")


def of_text(text: str) -> Iterator[tuple[int, str]]:
    """The ways to break YAML, TOML and shell, with or without Jinja: drop a line, or change its value or condition."""
    for number, line in enumerate(text.splitlines(), 1):
        parts = re.fullmatch(r"\s*(?:- )?(?:([\w.-]+)(?::| =) +)?(.*?)(?: +# .*)?", line)
        assert parts, "the pattern matches every line"
        key, value = parts.groups()
        if not value or value.startswith("#") or key in {"name", "Description", "description"}:
            continue  # these have no effect
        if condition := re.fullmatch(r"(\s*\{%-? (?:el)?if )(.+?)( -?%\}.*)", line):
            yield number, f"{condition[1]}not ({condition[2]}){condition[3]}"
        elif value.startswith("{%"):
            continue
        elif key and (changed := OPPOSITE.get(value) or re.sub(r"""(\d+|\w)(['"]?)$""", _altered, value)) != value:
            yield number, changed.join(line.rsplit(value, 1))
        else:
            yield number, ""


def _altered(end: re.Match[str]) -> str:
    return (str(int(end[1]) + 1) if end[1].isdecimal() else end[1] + "x") + end[2]


def drawn(area: str, count: int, seed: int) -> list[Breakage]:
    """Draw `count` breakages of different lines of an area: each file is as likely, and each line of a file."""
    ways: dict[str, dict[int, list[Breakage]]] = {}
    for path in sorted(path for pattern in AREAS[area][0] for path in ROOT.glob(pattern)):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        for line, after in of_python(text) if path.suffix == ".py" else of_text(text):
            breakage = Breakage(name, line, text.splitlines()[line - 1], after)
            ways.setdefault(name, {}).setdefault(line, []).append(breakage)
    chance, found = random.Random(f"{seed} {area}"), list[Breakage]()
    while len(found) < count:
        lines = ways[chance.choice(list(ways))]
        breakage = chance.choice(lines.pop(chance.choice(list(lines))))
        # Skip these only here, so that the other draws of a seed stay the same.
        if (breakage.path, breakage.after.strip()) not in EQUIVALENT:
            found.append(breakage)
    return found


def seen(clone: Path, area: str) -> str:
    """What fails in a clone, in one line of output, or nothing."""
    tests = [f"tests/{name}" for name in AREAS[area][1].split()]
    processes = str(2 * len(os.sched_getaffinity(0)))
    pytest = (
        "python",
        "-m",
        "pytest",
        "-x",
        "-q",
        "-rfE",
        "--timeout",
        "120",
        "--numprocesses",
        processes,
        "--dist",
        "worksteal",
    )
    # The tools are those of the environment that runs this; the slowest tests come last.
    lint, quick = ("make", "--old-file", ".venv/ready", "lint"), ("-m", "not slow")
    for command in (lint, (*pytest, *quick, *tests), (*pytest, *quick), (*pytest, *tests)):
        done = subprocess.run(command, cwd=clone, env=user_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            output = (done.stdout + done.stderr).strip().splitlines()
            told = [line for line in output if line.startswith(("FAILED ", "ERROR tests")) or ": error:" in line]
            return "\n    ".join(told[:1] or output[-3:] or [f"exit status {done.returncode}"])
    return ""


def main() -> int:
    """Print each breakage with what noticed it; the exit status is 1 if more than one in twenty was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=7, help="which breakages are drawn (default: %(default)s)")
    parser.add_argument("--each", type=int, default=8, help="breakages in each area (default: %(default)s)")
    parser.add_argument("--area", choices=AREAS, action="append", help="only this area; may be repeated")
    parser.add_argument("--list", action="store_true", help="list the breakages without running anything")
    options = parser.parse_args()
    breakages = [(area, found) for area in options.area or AREAS for found in drawn(area, options.each, options.seed)]
    if options.list:
        print(*(f"{area}: {found}" for area, found in breakages), sep="\n")
        return 0
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        subprocess.run(("git", "clone", "--quiet", ROOT, clone), check=True)
        (clone / ".venv").symlink_to(sys.prefix)
        for area in options.area or AREAS:
            print(f"{area}: running without a breakage", flush=True)
            if why := seen(clone, area):
                print(f"{area}: the tests fail without a breakage; fix them first: {why}", file=sys.stderr)
                return 2
        for number, (area, found) in enumerate(breakages, 1):
            began, path = time.monotonic(), clone / found.path
            whole = path.read_text(encoding="utf-8")
            lines = whole.split("\n")
            lines[found.line - 1] = found.after
            path.write_text("\n".join(lines), encoding="utf-8")
            why = seen(clone, area)
            path.write_text(whole, encoding="utf-8")
            missed += not why
            took = f"{time.monotonic() - began:.0f} s"
            print(f"{number}/{len(breakages)} {area}: {found}\n  {why or 'NOT NOTICED'} ({took})", flush=True)
    print(f"{len(breakages) - missed} of {len(breakages)} breakages were noticed")
    return int(missed * 20 > len(breakages))


if __name__ == "__main__":
    sys.exit(main())
