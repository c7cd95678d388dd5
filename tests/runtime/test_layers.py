"""The layers of the runtime, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
from importlib import import_module

from tests.helpers.layers import import_problems, imports
from tests.helpers.sandbox import SOURCE

FOLDER = SOURCE / "streaming_runtime"
LAYERS = {
    "entry": ("__main__", "lifecycle", "workers", "snapstart"),
    "cycle": ("invocation", "enclosure", "telemetry"),
    "optional": ("asgi", "lifespan", "event_stream", "metrics", "decorators"),
    "core": ("importer", "marshalling", "response_stream", "context", "event_loop"),
    "client": ("runtime_api",),
    "base": ("responses", "wire", "errors", "logs", "deadline", "threads"),
    "types": ("_types",),
}
MODULES = {module for modules in LAYERS.values() for module in modules}
# Imported on demand, so that functions that do not use them start no later.
ON_DEMAND = {
    "telemetry",
    "asgi",
    "lifespan",
    "event_stream",
    "metrics",
    "workers",
    "snapstart",
    "enclosure",
    "decorators",
    "threads",
}


def loaded_with(module: str) -> set[str]:
    """Return the modules that `module` imports when it is imported itself."""
    body = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8")).body
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {
        name
        for node in top
        if isinstance(node, ast.ImportFrom) and node.level
        for name in ([node.module] if node.module else [alias.name for alias in node.names])
    }


def test_imports_run_downward() -> None:
    assert import_problems(FOLDER, LAYERS) == []


def test_optional_modules_load_on_demand() -> None:
    assert {module: loaded_with(module) & ON_DEMAND for module in sorted(MODULES - ON_DEMAND)} == {
        module: set() for module in MODULES - ON_DEMAND
    }


def test_aliases_are_for_type_checkers() -> None:
    """Nothing imports `_types` at run time, though it could."""
    assert import_module("streaming_runtime._types").__name__ == "streaming_runtime._types"
    assert "_types" in set(imports(FOLDER, "invocation"))
    assert [module for module in sorted(MODULES) if "_types" in loaded_with(module)] == []
