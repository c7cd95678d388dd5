"""The layers of the runtime: a module imports only from lower layers, or within its layer without a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from tests.runtime.conftest import SOURCE

from streaming_runtime import _types

PACKAGE = "streaming_runtime"
FOLDER = SOURCE / PACKAGE
# From the bottom to the top, as in docs/architecture.md.
LAYERS = {
    "types": ("_types",),
    "base": ("responses", "wire", "errors", "logs", "deadline"),
    "client": ("runtime_api",),
    "core": ("importer", "marshalling", "response_stream", "context", "event_loop"),
    "optional": ("asgi", "lifespan", "event_stream", "metrics"),
    "cycle": ("invocation",),
    "entry": ("__main__", "lifecycle", "workers", "snapstart"),
    "facade": ("__init__",),
}
HEIGHTS = {module: height for height, modules in enumerate(LAYERS.values()) for module in modules}
OPTIONAL = {"asgi", "lifespan", "event_stream", "metrics", "workers", "snapstart"}


def imports(source: str) -> set[str]:
    """The modules of the package that `source` imports anywhere, for type checkers too; ``__init__`` is the root."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [PACKAGE if node.level else "", node.module]))
            inner = base == PACKAGE
            names = [f"{base}.{alias.name}" if inner else base for alias in node.names]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            function = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            names = [
                str(argument.value)
                for argument in node.args
                if function in {"__import__", "import_module"} and isinstance(argument, ast.Constant)
            ]
        for name in names:
            top, _, rest = name.partition(".")
            if top == PACKAGE:
                module = rest.partition(".")[0]
                found.add(module if module in HEIGHTS else "__init__")
    return found


def problems(sources: dict[str, str]) -> list[str]:
    """What is wrong with the imports of these modules."""
    graph = {module: imports(source) for module, source in sources.items()}
    found = [
        f"{module} ({HEIGHTS[module]}) imports {other} ({HEIGHTS[other]})"
        for module, others in graph.items()
        for other in others
        if HEIGHTS[other] > HEIGHTS[module] or other == "__init__"
    ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        found.append(f"circle: {circle.args[1]}")
    return sorted(found)


def sources() -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}


def test_each_module_has_a_layer() -> None:
    assert sources().keys() == HEIGHTS.keys()


def test_imports_run_downward() -> None:
    assert problems(sources()) == []


WRONG = {
    "upward": ("wire", "from . import lifecycle", "wire (1) imports lifecycle (6)"),
    "upward by name": ("errors", "from .context import LambdaContext", "errors (1) imports context (3)"),
    "upward, absolute": ("wire", "import streaming_runtime.workers", "wire (1) imports workers (6)"),
    "for type checkers": ("logs", "if TYPE_CHECKING:\n    from .asgi import AsgiHandler", "logs (1) imports asgi (4)"),
    "in a function": ("logs", "def f():\n    from .metrics import Metrics", "logs (1) imports metrics (4)"),
    "by call": ("logs", "__import__('streaming_runtime.asgi')", "logs (1) imports asgi (4)"),
    "root": ("invocation", "from . import StreamingResponse", "invocation (5) imports __init__ (7)"),
    "root, absolute": ("lifecycle", "import streaming_runtime", "lifecycle (6) imports __init__ (7)"),
    "circle": ("wire", "from .errors import report", "circle: "),
}


@pytest.mark.parametrize(("module", "line", "problem"), WRONG.values(), ids=list(WRONG))
def test_wrong_import_is_found(module: str, line: str, problem: str) -> None:
    changed = sources()
    changed[module] += f"\n{line}\n"
    assert any(found.startswith(problem) for found in problems(changed))


def test_optional_modules_are_imported_on_demand() -> None:
    """At the top of a module that every function loads, they would make every cold start longer."""
    for module in HEIGHTS.keys() - OPTIONAL:
        body = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8")).body
        top = "\n".join(ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom))
        assert not imports(top) & OPTIONAL, module


def test_aliases_are_for_type_checkers_only() -> None:
    for module, source in sources().items():
        top = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not {"_types"} & imports("\n".join(map(ast.unparse, top))), module
    assert Path(str(_types.__file__)).parent == FOLDER
