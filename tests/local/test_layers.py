"""The layers of `local/`, as the docstring of the package draws them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.layers import import_problems
from tests.helpers.support import TEMPLATE

LOCAL = TEMPLATE / "local"
LAYERS = {
    "cli": (
        *("__main__", "terminal", "reload", "sign_in", "probe", "proxy", "load", "imports", "build", "aws_data"),
        *("requirements", "new"),
    ),
    "http": ("function_url", "inspector", "issuer", "cors", "limits"),
    "sandbox": ("pool", "sandbox", "debugger", "runtime_api", "traces", "journal"),
    "model": ("events", "responses", "messages", "invocation"),
    "base": (
        *("archive", "client", "template", "environment", "aws", "aws_limits", "access"),
        *("http_server", "http_protocol"),
    ),
}


def test_imports_run_downward() -> None:
    assert import_problems(LOCAL, LAYERS) == []


def test_package_docstring_lists_layers() -> None:
    docstring = ast.get_docstring(ast.parse((LOCAL / "__init__.py").read_text(encoding="utf-8")))
    assert docstring is not None
    drawn = [line.split() for line in docstring.splitlines() if line.startswith("    ")]
    assert {layer: tuple(modules) for layer, *modules in drawn} == LAYERS


def test_template_import_starts_no_server() -> None:
    code = "import sys, local.template; print([name for name in sys.modules if name in ('asyncio', 'h11', 'socket')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=TEMPLATE, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


PLANTED = {
    "upward": ({"low": "from .high import x"}, ["low (base) imports high (top)"]),
    "absolute": ({"low": "import package.high"}, ["low (base) imports high (top)"]),
    "from package": ({"low": "from package.high import x"}, ["low (base) imports high (top)"]),
    "type checking": ({"low": "if TYPE_CHECKING:\n    from . import high"}, ["low (base) imports high (top)"]),
    "in a function": ({"low": "def f():\n    from .high import x"}, ["low (base) imports high (top)"]),
    "by call": ({"low": "__import__('package.high')"}, ["low (base) imports high (top)"]),
    "package root": ({"high": "from . import name"}, ["high imports the package root"]),
    "cycle": ({"low": "from .other import x", "other": "from .low import x"}, ["cycle: low <- other <- low"]),
    "unlisted": ({"new": ""}, ["new is in no layer"]),
    "allowed": ({"high": "import os\nfrom . import low\nfrom .other import x", "other": "from .low import x"}, []),
}


@pytest.mark.parametrize(("sources", "problems"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_imports_are_found(tmp_path: Path, sources: dict[str, str], problems: list[str]) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name in ("__init__", "high", "low", "other"):
        (package / f"{name}.py").touch()
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    found = import_problems(package, {"top": ["high"], "base": ["low", "other"]})
    assert [sorted(problem.split()) for problem in found] == [sorted(problem.split()) for problem in problems]


def test_missing_module_is_found(tmp_path: Path) -> None:
    assert import_problems(tmp_path, {"top": ["high"]}) == ["high does not exist"]
