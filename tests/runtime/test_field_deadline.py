"""The deadline in code that swallows it, in nested event loops, and in libraries that it damages.

Sources: https://github.com/erdewit/nest_asyncio (a nested run takes the current task away from the loop) and
https://github.com/python-trio/trio (an exception within its scheduler leaves `trio.run` locked for the process).
"""

from __future__ import annotations

import json
import textwrap
import time

import pytest
from tests.helpers.sandbox import Ended, Sandbox
from tests.helpers.scripted_api import due, event

from streaming_runtime import deadline

pytestmark = pytest.mark.slow

HUGE: dict[str, str | None] = {"STREAMING_RUNTIME_DEADLINE_MARGIN_MS": "3600000"}
IMPORTS = "import asyncio, contextlib, os, sys, time, weakref\n"


def check_error(ended: Ended, number: int = 0) -> None:
    assert json.loads(ended.posts[number].body)["errorType"] == "StreamDeadlineExceeded", ended.output


SWALLOWING = {
    "bare except": """
        def handler(event, context):
            try:
                time.sleep(60)
            except:
                pass
            {then}
        """,
    "variable": """
        kept = []
        def handler(event, context):
            try:
                time.sleep(60)
            except BaseException as error:
                kept.append(error)
            {then}
        """,
    "__del__": """
        class Slow:
            def __del__(self):
                time.sleep(60)
        def handler(event, context):
            slow = Slow()
            del slow
            {then}
        """,
    "suppress": """
        def handler(event, context):
            with contextlib.suppress(BaseException):
                time.sleep(60)
            {then}
        """,
    "finally with return": """
        def wait():
            try:
                time.sleep(60)
            finally:
                return
        def handler(event, context):
            wait()
            {then}
        """,
}


@pytest.mark.parametrize("code", SWALLOWING.values(), ids=list(SWALLOWING))
def test_swallowed_in_sync_code(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(
        IMPORTS + textwrap.dedent(code.format(then="time.sleep(60)")), due(milliseconds=1200), environment=HUGE
    )
    check_error(ended)


ASYNC_SWALLOWING = {
    "waits": ("await asyncio.sleep(60)", "await asyncio.sleep(60)"),
    "waits, then blocks": ("await asyncio.sleep(60)", "time.sleep(60)"),
    "blocks, then waits": ("time.sleep(60)", "await asyncio.sleep(60)"),
    "blocks": ("time.sleep(60)", "time.sleep(60)"),
    "yields to the loop": ("while True: await asyncio.sleep(0)", "await asyncio.sleep(60)"),
}


@pytest.mark.traced
@pytest.mark.parametrize(("first", "then"), ASYNC_SWALLOWING.values(), ids=list(ASYNC_SWALLOWING))
def test_swallowed_in_async_code(sandbox: Sandbox, first: str, then: str) -> None:
    code = f"""{IMPORTS}
async def handler(event, context):
    if event == 2:
        return asyncio.current_task().cancelling()
    try:
        {first}
    except BaseException:
        pass
    {then}
"""
    ended = sandbox.run(code, due(b"1", 1200), event(b"2"), environment=HUGE)
    check_error(ended)
    assert ended.bodies[1] == b"0"


CLEANING = {
    "finally": ("def", "try:\n        time.sleep(60)\n    finally:\n        time.sleep(0.3); print('cleaned up')"),
    "except": (
        "def",
        "try:\n        time.sleep(60)\n    except BaseException:\n        time.sleep(0.3); print('cleaned up'); raise",
    ),
    "with": ("def", "with slow():\n        time.sleep(60)"),
    "another error": (
        "def",
        "try:\n        time.sleep(60)\n    except BaseException:\n        try:\n            1 / 0\n"
        "        except ZeroDivisionError:\n            time.sleep(0.3); print('cleaned up')\n        raise",
    ),
    "async": (
        "async def",
        "try:\n        await asyncio.sleep(60)\n    finally:\n        await asyncio.sleep(0.3); print('cleaned up')",
    ),
    "async, blocking": (
        "async def",
        "try:\n        time.sleep(60)\n    finally:\n        await asyncio.sleep(0.3); print('cleaned up')",
    ),
    "async, blocking cleanup": (
        "async def",
        "try:\n        await asyncio.sleep(60)\n    finally:\n        time.sleep(0.3); print('cleaned up')",
    ),
    "async, several times": (
        "async def",
        "try:\n        await asyncio.sleep(60)\n    finally:\n        for _ in range(6): await asyncio.sleep(0.05)\n"
        "        print('cleaned up')",
    ),
}


@pytest.mark.traced
@pytest.mark.parametrize(("definition", "body"), CLEANING.values(), ids=list(CLEANING))
def test_cleanup_is_not_interrupted(sandbox: Sandbox, definition: str, body: str) -> None:
    code = f"""{IMPORTS}
@contextlib.contextmanager
def slow():
    try:
        yield
    finally:
        time.sleep(0.3)
        print('cleaned up')
{definition} handler(event, context):
    {body}
"""
    ended = sandbox.run(code, due(milliseconds=1200), environment=HUGE)
    check_error(ended)
    assert ended.output.startswith("cleaned up\n[ERROR] StreamDeadlineExceeded")


@pytest.mark.parametrize(("length", "handled"), [(3, False), (25, True)])
def test_chain_of_errors_in_cleanup(length: int, handled: bool) -> None:
    """A chain that is too long to follow counts as a cleanup, which must not be interrupted."""
    error = ValueError()
    for number in range(length):
        following = ValueError(number)
        following.__context__ = error
        error = following
    assert deadline._is_handled(error) is handled


def test_quick_answer_after_the_deadline(sandbox: Sandbox) -> None:
    """A handler that catches the deadline has 50 ms for an answer of its own."""
    code = f"""{IMPORTS}
from streaming_runtime import StreamDeadlineExceeded
def handler(event, context):
    try:
        time.sleep(60)
    except StreamDeadlineExceeded:
        pass
    return "partly"
"""
    assert sandbox.run(code, due(), environment=HUGE).bodies == [b'"partly"']


# What nest_asyncio does: run the loop within a task, which is not the current one meanwhile.
NESTED = """
    import asyncio
    def run_nested(coroutine):
        loop, outer = asyncio.get_running_loop(), asyncio.current_task()
        task = loop.create_task(coroutine)
        asyncio.tasks._leave_task(loop, outer)
        try:
            while not task.done():
                loop._run_once()
        finally:
            asyncio.tasks._enter_task(loop, outer)
            task.cancel()
        return task.result()
    async def handler(event, context):
        if event == 1:
            run_nested(asyncio.sleep(60))
        return run_nested(asyncio.sleep(0, "served"))
    """


def test_nested_event_loop(sandbox: Sandbox) -> None:
    started = time.monotonic()
    ended = sandbox.run(NESTED, due(b"1"), event(b"2"), environment=HUGE)
    check_error(ended)
    assert ended.bodies[1] == b'"served"'
    assert time.monotonic() - started < 30


# What matters of trio: a lock that an exception within the scheduler leaves locked.
FAKE_TRIO = """
import time
running = []
def run(async_function, *arguments):
    if running:
        raise RuntimeError("Attempted to call run() from inside a run()")
    running.append(async_function)
    result = async_function(*arguments)
    running.clear()
    return result
def sleep(seconds):
    time.sleep(seconds)
"""
WITH_TRIO = """
    import os, trio
    {definition} handler(event, context):
        if event == 1:
            trio.run(trio.sleep, 60)
        return trio.run(os.getpid)
    """


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_damaged_library_replaces_process(sandbox: Sandbox, definition: str) -> None:
    """The process ends after its report, and Lambda starts another. What follows must not fail for good."""
    (sandbox.task / "trio.py").write_text(FAKE_TRIO)
    ended = sandbox.run(WITH_TRIO.format(definition=definition), event(b"0"), due(b"1"), event(b"2"), environment=HUGE)
    check_error(ended, 1)
    assert [request.method for request in ended.requests] == ["GET", "POST", "GET", "POST"]
    assert ended.status == 1
    assert (
        ended.errors == "streaming_runtime: the deadline interrupted trio, which cannot run again; ending the process\n"
    )


def test_own_asyncio_is_not_damaged(sandbox: Sandbox) -> None:
    code = f"""{IMPORTS}
def handler(event, context):
    return asyncio.run(asyncio.sleep(60 if event == 1 else 0, "served"))
"""
    ended = sandbox.run(code, due(b"1"), event(b"2"), environment=HUGE)
    check_error(ended)
    assert ended.bodies[1] == b'"served"'
