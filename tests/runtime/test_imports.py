"""The cold start's budget: the modules that are imported before a handler needs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.helpers.sandbox import SOURCE, Sandbox
from tests.helpers.scripted_api import event

HEAVY = {"asyncio", "concurrent", "dataclasses", "email", "http", "http.client", "inspect", "ssl", "typing", "urllib"}
# The runtime needs these modules of the standard library; some versions of Python import something heavy for them.
NEEDED = {"binascii", "json", "os", "sys", "time"}
# These are imported when a handler needs them, or a smaller module replaces them.
NOT_NEEDED = {"asyncio", "logging", "signal", "socket", "threading", "traceback"}


def imported_by(python: str, program: str) -> set[str]:
    """The modules that an interpreter has imported after `program`; -S leaves site-packages out."""
    command = (python, "-B", "-I", "-S", "-c", f"import sys\n{program}\nprint(*sys.modules)")
    return set(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.split())


def test_import_is_light() -> None:
    modules = imported_by(sys.executable, f"sys.path.insert(0, {str(SOURCE)!r})\nimport streaming_runtime")
    assert "streaming_runtime" in modules
    assert HEAVY & modules == set()


@pytest.mark.parametrize("failing", [False, True], ids=["at first", "after an error"])
def test_sync_handler_imports_nothing_heavy(sandbox: Sandbox, failing: bool) -> None:
    code = f"""
        import sys
        def handler(event, context):
            yield " "
            if {failing} and event == 1:
                raise ValueError
            yield " ".join(sys.modules)
        """
    ended = sandbox.run(code, event(b"1"), event(b"2"), python=sandbox.python_without_site())
    modules = set(ended.bodies[-1].decode().split())
    assert "streaming_runtime.invocation" in modules
    assert HEAVY & modules <= imported_by(sandbox.python, "import " + ", ".join(sorted(NEEDED)))
    assert not NOT_NEEDED & modules


def test_async_handler_imports_asyncio(sandbox: Sandbox) -> None:
    code = """
        import sys
        before = "asyncio" in sys.modules
        async def handler(event, context):
            return [before, "asyncio" in sys.modules]
        """
    assert [json.loads(body) for body in sandbox.run(code, event()).bodies] == [[False, True]]


@pytest.mark.traced
@pytest.mark.parametrize("own", [False, True], ids=["default", "of the function"])
def test_collector_waits_during_init(sandbox: Sandbox, own: bool) -> None:
    """Nothing is collected while the function is imported; what is there then is not looked at again."""
    code = f"""
        import gc
        def collections():
            return sum(of["collections"] for of in gc.get_stats())
        at_init, before = gc.get_threshold(), collections()
        many = [[] for _ in range(20_000)]
        meanwhile = collections() - before
        if {own}:
            gc.set_threshold(1000, 5, 5)
        def handler(event, context):
            return [at_init[0], meanwhile, gc.get_threshold(), gc.isenabled(), gc.get_freeze_count() > 20_000]
        """
    [found] = [json.loads(body) for body in sandbox.run(code, event()).bodies]
    usual = json.loads(
        subprocess.check_output([sandbox.python, "-c", "import gc, json; print(json.dumps(gc.get_threshold()))"])
    )
    assert found == [0, 0, [1000, 5, 5] if own else usual, True, not own]
