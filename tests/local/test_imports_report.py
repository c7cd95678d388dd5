"""`make imports`: the tree of imports, and what was not used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.helpers.interpreters import other_interpreters
from tests.helpers.support import TEMPLATE

from local import imports

LOG = """
import time: self [us] | cumulative | imported package
import time:       100 |        100 | site
something else
import time:       200 |        200 |     b.c
import time:      1000 |       1200 |   b
import time:      2000 |       2000 |   d
import time:      3000 |       6200 | a
import time:      4000 |       4000 | e
"""


def test_tree_and_unused_modules(tmp_path: Path) -> None:
    for name in ("a", "b", "d", "e", "site"):
        (tmp_path / f"{name}.py").touch()
    tree = imports.read_tree(LOG)
    assert [module.name for module in tree] == ["site", "a", "e"]
    used = {str(tmp_path / "a.py"), str(tmp_path / "d.py"), "<frozen site>"}
    assert [*imports.report(tree, used, [tmp_path], 1)] == [
        "6 modules, 10 ms",
        "",
        "   total     own",
        "     6.2     3.0  a",
        "     1.2     1.0    b",
        "     2.0     2.0    d",
        "     4.0     4.0  e",
        "",
        "not used: 2 modules, 5 ms",
        "             4.0  e",
        "             1.0  b",
    ]
    assert [*imports.report(tree, set(), [tmp_path], 7)][-1].endswith("known with Python 3.12 or later.")


FUNCTION = """
Resources:
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: src, Handler: app.handler, Runtime: python3.13}
"""
CODE = """
import used_module, unused_module

def handler(event, context):
    import imported_late
    yield used_module.answer()
    if event == 1:
        raise ValueError("it broke")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "runtime").symlink_to(TEMPLATE / "runtime")
    (tmp_path / "template.yaml").write_text(FUNCTION, encoding="utf-8")
    for name, code in {"app": CODE, "imported_late": "def f(): pass\n", "unused_module": "class A: pass\n"}.items():
        (tmp_path / "src" / f"{name}.py").write_text(code, encoding="utf-8")
    (tmp_path / "src" / "used_module.py").write_text("def answer():\n    return 'text'\n", encoding="utf-8")
    for name in ("PYTHONPATH", "PYTHONPROFILEIMPORTTIME", "IMPORTS_USED"):
        monkeypatch.setenv(name, "")  # which the command sets
    # Python 3.11 does not tell which code runs.
    newer = [python for version, python in other_interpreters().items() if version != "3.11"]
    monkeypatch.setenv("STREAMING_RUNTIME_PYTHON", sys.executable if sys.version_info >= (3, 12) else newer[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_first_answer(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the function's own process: what it imports at its start, and during the answer."""
    (project / "event.json").write_text("{}", encoding="utf-8")
    assert imports.main(["--event", "event.json", "--least", "0"]) == 0
    tree, _, unused = capsys.readouterr().out.partition("not used: ")
    for name in ("app", "used_module", "unused_module", "imported_late", "streaming_runtime.lifecycle"):
        assert f" {name}\n" in tree
    for name, expected in (("unused_module", True), ("imported_late", True), ("used_module", False), ("app", False)):
        assert (f" {name}\n" in unused) == expected, name


def test_failed_invocation(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "event.json").write_text("1", encoding="utf-8")
    assert imports.main(["--event", "event.json"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("imports: the invocation failed: ValueError\n")
    assert "it broke" in error
    assert "import time:" not in error
    assert imports.main(["--event", "missing.json"]) == 1
