"""`make imports`: what a function imports until the end of its first answer, as a tree with milliseconds.

The function runs in its own process, as for `make invoke`, and Python reports each import:
https://docs.python.org/3/using/cmdline.html#cmdoption-X. A module is "not used" if none of its functions ran, neither
when it was imported nor for the answer: the function may do without the import, or do it later.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .events import EventError, read_event
from .function_url import LogWriter
from .invocation import Invocation
from .messages import ResponseEnd
from .pool import SandboxPool
from .template import Function, Template, TemplateError

_LINE = re.compile(r"import time: +(\d+) \| +\d+ \|( +)(\S+)")
# Python runs this first: it writes the path of each file of which a function runs, once.
_SITE = """
import os, sys

def watch(write, seen):
    def started(code, _):
        # The code of a module or a class, unlike that of a function, has no fast locals.
        if code.co_flags & 1 and code.co_filename not in seen:
            seen.add(code.co_filename)
            write(f"{code.co_filename}\\n".encode())
        return sys.monitoring.DISABLE

    sys.monitoring.use_tool_id(sys.monitoring.PROFILER_ID, "make imports")
    sys.monitoring.register_callback(sys.monitoring.PROFILER_ID, sys.monitoring.events.PY_START, started)
    sys.monitoring.set_events(sys.monitoring.PROFILER_ID, sys.monitoring.events.PY_START)

if hasattr(sys, "monitoring") and "_HANDLER" in os.environ:
    watch(open(os.environ["IMPORTS_USED"], "ab", buffering=0).write, set())
"""


@dataclass
class Module:
    """An imported module.

    Attributes:
        name: Its full name.
        own: Milliseconds of its own code.
        imports: What it imports first, in order.
    """

    name: str
    own: float
    imports: list[Module] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Milliseconds with all that it imports."""
        return self.own + sum(module.total for module in self.imports)

    def all(self) -> Iterator[Module]:
        """Yield the module and all that it imports."""
        yield self
        for module in self.imports:
            yield from module.all()


def read_tree(log: str) -> list[Module]:
    """Return the modules that a log of `-X importtime` has at the top, with what they import."""
    waiting: list[tuple[int, Module]] = []  # depth and module: a module's line follows those of its imports
    for own, indent, name in _LINE.findall(log):
        depth, module = len(indent), Module(name, int(own) / 1000)
        first = len(waiting)
        while first and waiting[first - 1][0] > depth:
            first -= 1
        module.imports = [of for _, of in waiting[first:]]
        waiting[first:] = [(depth, module)]
    return [module for _, module in waiting]


def report(tree: list[Module], used: set[str], folders: list[Path], least: float) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        tree: What was imported.
        used: Paths of the files of which a function ran.
        folders: Where modules are.
        least: Milliseconds below which a module is left out.
    """
    modules = [module for top in tree for module in top.all()]
    yield f"{len(modules)} modules, {sum(module.own for module in modules):.0f} ms"
    yield ""
    yield "   total     own"
    for top in tree:
        yield from _lines(top, 0, least)
    if not used:
        yield ""
        yield "Which of them were not used is known with Python 3.12 or later."
        return
    unused = sorted(
        ((module.own, module.name) for module in modules if _is_unused(module.name, used, folders)), reverse=True
    )
    yield ""
    yield f"not used: {len(unused)} modules, {sum(own for own, _ in unused):.0f} ms"
    for own, name in unused:
        if own >= least:
            yield f"        {own:8.1f}  {name}"


def _lines(module: Module, depth: int, least: float) -> Iterator[str]:
    if module.total >= least:
        yield f"{module.total:8.1f}{module.own:8.1f}  {'  ' * depth}{module.name}"
        for imported in module.imports:
            yield from _lines(imported, depth + 1, least)


def _is_unused(name: str, used: set[str], folders: list[Path]) -> bool:
    """Return whether none of a module's functions ran. Modules without a Python file are not counted."""
    path = name.replace(".", "/")
    files = [folder / f"{path}{end}" for folder in folders for end in (".py", "/__init__.py")]
    found = [str(file) for file in files if file.is_file()]
    # Python has the modules of its own start in itself.
    return bool(found) and not used.intersection((*found, f"<frozen {name}>"))


def measure(function: Function, event: Any) -> tuple[str, set[str]]:
    """Invoke a function once.

    Returns:
        What it logged, with Python's report, and the paths of the files of which a function ran.

    Raises:
        RuntimeError: The invocation failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        used = Path(folder, "used")
        used.touch()
        Path(folder, "sitecustomize.py").write_text(_SITE, encoding="utf-8")
        path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        os.environ.update(PYTHONPATH=path, PYTHONPROFILEIMPORTTIME="1", IMPORTS_USED=str(used))
        log, failed = asyncio.run(_invoke(function, event))
        files = set(used.read_text(encoding="utf-8").splitlines())
    if failed:
        own = "".join(line for line in log.splitlines(keepends=True) if "import time:" not in line)
        raise RuntimeError(f"the invocation failed: {failed}\n{own}")
    return log, files


async def _invoke(function: Function, event: Any) -> tuple[str, str]:
    """Return what the function logged, and the type of its error; empty if it succeeded."""
    log, failed = io.StringIO(), ""
    pool = SandboxPool(function, LogWriter(log), 1)
    try:
        async for message in await pool.invoke(Invocation(event)):
            if isinstance(message, ResponseEnd):
                failed = message.error_type or ""
    finally:
        await pool.stop()
    return log.getvalue(), failed


def main(arguments: list[str] | None = None) -> int:
    """Print the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local.imports", description=__doc__)
    parser.add_argument("--template", type=Path, default=Path("template.yaml"), help="SAM template")
    parser.add_argument("--function", default="StreamFunction", help="logical ID of the function")
    parser.add_argument("--event", default="events/get.json", help="event file of the first invocation")
    parser.add_argument("--least", type=float, default=2, help="leave out what takes fewer milliseconds (default: 2)")
    options = parser.parse_args(arguments)
    try:
        function = Template(options.template).function(options.function)
        log, used = measure(function, read_event(options.event))
    except (TemplateError, EventError, RuntimeError) as error:
        print(f"imports: {error}", file=sys.stderr)
        return 1
    folders = [function.code, function.bootstrap.parent, *map(Path, (sysconfig.get_path("stdlib"), *sys.path))]
    for line in report(read_tree(log), used, folders, options.least):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
