"""An async handler and the content it returns run in one task.

Sources: https://docs.python.org/3/library/asyncio-task.html#asyncio.timeout and
https://anyio.readthedocs.io/en/stable/synchronization.html#locks (only the owning task may release a lock).
"""

from __future__ import annotations

import json

import pytest
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import due, event

RESPONSES = {
    "raw": "items()",
    "response": "StreamingResponse(items())",
    "events": "EventSourceResponse(items())",
}
IMPORTS = """
    import asyncio, contextlib, sys
    from streaming_runtime import EventSourceResponse, StreamingResponse
"""


def text(body: bytes) -> str:
    """What was streamed, as text of any of the three responses."""
    lines = body.rpartition(bytes(8))[2].decode().splitlines()
    return "".join(line.removeprefix("data: ") for line in lines if not line.startswith(":"))


@pytest.mark.parametrize("response", RESPONSES.values(), ids=list(RESPONSES))
def test_current_task(sandbox: Sandbox, response: str) -> None:
    code = f"""{IMPORTS}
    class Content:
        def __init__(self, task):
            self.task, self.count = task, 0
        def __aiter__(self):
            return self
        async def __anext__(self):
            self.count += 1
            if self.count > 2:
                raise StopAsyncIteration
            return str(asyncio.current_task() is self.task)
        async def aclose(self):
            print("closed in", "the" if asyncio.current_task() is self.task else "another", "task")
    async def handler(event, context):
        task = asyncio.current_task()
        def items():
            return Content(task)
        return {response}
    """
    ended = sandbox.run(code, event(), event())
    assert [text(body) for body in ended.bodies] == ["TrueTrue"] * 2
    assert ended.output == "closed in the task\n" * 2


@pytest.mark.own_interpreter
@pytest.mark.parametrize("response", RESPONSES.values(), ids=list(RESPONSES))
def test_anyio_lock(sandbox: Sandbox, response: str) -> None:
    pytest.importorskip("anyio")
    code = f"""{IMPORTS}
    import anyio
    lock = anyio.Lock()
    async def handler(event, context):
        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(lock)
        async def items():
            async with stack:
                yield "held"
        return {response}
    """
    ended = sandbox.run(code, event(), event(), event())
    assert [text(body) for body in ended.bodies] == ["held"] * 3
    assert all(post.trailers == {} for post in ended.posts)


def test_timeout_fires_in_content(sandbox: Sandbox) -> None:
    code = f"""{IMPORTS}
    async def handler(event, context):
        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(asyncio.timeout(0.05))
        async def items():
            try:
                async with stack:
                    yield "one"
                    await asyncio.sleep(60)
            except TimeoutError:
                yield "timed out"
        return StreamingResponse(items())
    """
    ended = sandbox.run(code, event(), event())
    assert [text(body) for body in ended.bodies] == ["onetimed out"] * 2


def test_task_group_spans_content(sandbox: Sandbox) -> None:
    code = f"""{IMPORTS}
    async def handler(event, context):
        stack = contextlib.AsyncExitStack()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        queue = asyncio.Queue()
        async def produce():
            for number in range(3):
                await asyncio.sleep(0)
                await queue.put(str(number))
            await queue.put(None)
        group.create_task(produce())
        async def items():
            async with stack:
                while (item := await queue.get()) is not None:
                    yield item
        return StreamingResponse(items())
    """
    ended = sandbox.run(code, event(), event())
    assert [text(body) for body in ended.bodies] == ["012"] * 2


def test_failing_task_of_group(sandbox: Sandbox) -> None:
    """It cancels the task that entered the group, which by then sends the content."""
    code = f"""{IMPORTS}
    async def handler(event, context):
        stack = contextlib.AsyncExitStack()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        started = asyncio.Event()
        async def fail():
            await started.wait()
            raise KeyError("in the group")
        group.create_task(fail())
        async def items():
            async with stack:
                yield "one"
                started.set()
                await asyncio.sleep(60)
        return StreamingResponse(items())
    """
    ended = sandbox.run(code, event(), event())
    assert [text(body) for body in ended.bodies] == ["one"] * 2
    for post in ended.posts:
        assert post.trailers["lambda-runtime-function-error-type"] == "ExceptionGroup"


def test_context_variables_span_content(sandbox: Sandbox) -> None:
    code = f"""{IMPORTS}
    import contextvars
    variable = contextvars.ContextVar("variable", default="unset")
    async def handler(event, context):
        seen = variable.get()
        token = variable.set("set")
        async def items():
            yield seen + " " + variable.get()
            variable.reset(token)
            yield " " + variable.get()
        return StreamingResponse(items())
    """
    ended = sandbox.run(code, event(), event())
    assert [text(body) for body in ended.bodies] == ["unset set unset"] * 2


def test_background_task_goes_on(sandbox: Sandbox) -> None:
    """The event loop does not stop between the return and the first item."""
    code = f"""{IMPORTS}
    async def handler(event, context):
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(done.set)
        async def items():
            yield str(done.is_set())
            await done.wait()
            yield " done"
        return StreamingResponse(items())
    """
    assert text(sandbox.run(code, event()).bodies[0]) == "False done"


def test_sync_content_of_async_handler(sandbox: Sandbox) -> None:
    """Sync content may itself run an event loop, so it is sent outside of one."""
    code = f"""{IMPORTS}
    async def handler(event, context):
        def items():
            yield "one"
            yield asyncio.run(asyncio.sleep(0, "two"))
        return StreamingResponse(items())
    """
    ended = sandbox.run(code, event(), event())
    assert [text(body) for body in ended.bodies] == ["onetwo"] * 2


def test_deadline_reaches_entered_scope(sandbox: Sandbox) -> None:
    code = f"""{IMPORTS}
    async def handler(event, context):
        if event == 2:
            return "served"
        stack = contextlib.AsyncExitStack()
        stack.callback(print, "left")
        await stack.enter_async_context(asyncio.timeout(60))
        async def items():
            async with stack:
                yield "one"
                await asyncio.sleep(60)
        return StreamingResponse(items())
    """
    environment = {"STREAMING_RUNTIME_DEADLINE_MARGIN_MS": "3600000"}
    ended = sandbox.run(code, due(b"1"), event(b"2"), environment=environment)
    assert ended.posts[0].trailers["lambda-runtime-function-error-type"] == "StreamDeadlineExceeded"
    assert ended.output.startswith("left\n[ERROR] StreamDeadlineExceeded")
    assert json.loads(ended.bodies[1]) == "served"
