"""The cold start's budget: what is imported before a handler asks for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.runtime.conftest import SOURCE, Sandbox, event

HEAVY = {"asyncio", "concurrent", "dataclasses", "email", "http", "http.client", "inspect", "ssl", "typing", "urllib"}
# What the runtime needs of the standard library; some versions of Python import something heavy for these.
NEEDED = {"binascii", "json", "os", "sys", "time"}
# What waits for a handler that needs it, or has a smaller module in its place.
NOT_NEEDED = {"asyncio", "logging", "signal", "socket", "threading", "traceback"}


def imported_by(python: str, program: str) -> set[str]:
    """The modules that an interpreter holds after `program`; -S leaves out what site-packages import at the start."""
    command = (python, "-B", "-I", "-S", "-c", f"import sys\n{program}\nprint(*sys.modules)")
    return set(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.split())


def test_importing_the_package_pulls_in_nothing_heavy() -> None:
    modules = imported_by(sys.executable, f"sys.path.insert(0, {str(SOURCE)!r})\nimport streaming_runtime")
    assert "streaming_runtime" in modules
    assert HEAVY & modules == set()


@pytest.mark.parametrize("failing", [False, True], ids=["well", "after an error"])
def test_a_sync_handler_is_served_without_anything_heavy(sandbox: Sandbox, failing: bool) -> None:
    code = f"""
        import sys
        def handler(event, context):
            yield " "
            if {failing} and event == 1:
                raise ValueError
            yield " ".join(sys.modules)
        """
    ended = sandbox.run(
        code, event(b"1"), event(b"2"), environment={"STREAMING_RUNTIME_PYTHON": sandbox.python_without_site()}
    )
    modules = set(ended.bodies[-1].decode().split())
    assert "streaming_runtime.invocation" in modules
    assert HEAVY & modules <= imported_by(sandbox.python, "import " + ", ".join(sorted(NEEDED)))
    assert not NOT_NEEDED & modules


def test_an_async_handler_brings_asyncio_in(sandbox: Sandbox) -> None:
    code = """
        import sys
        before = "asyncio" in sys.modules
        async def handler(event, context):
            return [before, "asyncio" in sys.modules]
        """
    assert [json.loads(body) for body in sandbox.run(code, event()).bodies] == [[False, True]]
