"""A process that the function forked is not the runtime: it sends nothing, asks for no event and ends on its own.

Source: os.fork(2) copies descriptors, so that what a child writes to a socket goes into its parent's stream.
"""

from __future__ import annotations

import json
import threading
from typing import cast

import pytest
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import LIMIT, event

from streaming_runtime.event_stream import Heartbeat
from streaming_runtime.response_stream import ResponseStream
from streaming_runtime.runtime_api import RuntimeApiError

LEAVING = {
    "return": ("return 'child'", 0),
    "error": ("raise ValueError('in the child')", 1),
    "exit": ("sys.exit(3)", 3),
    "exit without status": ("sys.exit()", 0),
    "exit with text": ("sys.exit('enough')", 1),
    "exit with a large status": ("sys.exit(256 + 7)", 7),
}


@pytest.mark.traced
@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize(("statement", "status"), LEAVING.values(), ids=list(LEAVING))
def test_child_leaves_handler(sandbox: Sandbox, definition: str, statement: str, status: int) -> None:
    code = f"""
        import os, sys
        {definition} handler(event, context):
            if event == 2:
                return "next"
            child = os.fork()
            if child == 0:
                {statement}
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        """
    ended = sandbox.run(code, event(b"1"), event(b"2"))
    assert ended.bodies == [b"%d" % status, b'"next"'], ended.output
    assert [request.method for request in ended.requests] == ["GET", "POST", "GET", "POST", "GET"]
    assert ("[ERROR] ValueError: in the child" in ended.output) == ("ValueError" in statement)
    assert ("enough" in ended.errors) == ("enough" in statement)


STREAMING = {
    "next item": "yield 'from the child'",
    "end": "return",
    "error": "raise ValueError('in the child')",
}


@pytest.mark.traced
@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize("response", ["{}", "StreamingResponse({})", "EventSourceResponse({}, ping=0.001)"])
@pytest.mark.parametrize("statement", STREAMING.values(), ids=list(STREAMING))
def test_child_leaves_stream(sandbox: Sandbox, definition: str, response: str, statement: str) -> None:
    code = f"""
        import os
        from streaming_runtime import EventSourceResponse, StreamingResponse
        {definition} items():
            yield "one"
            yield "two"
            child = os.fork()
            if child == 0:
                {statement}
                return
            yield str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            yield "end"
        def handler(event, context):
            return {response.format("items()")}
        """
    ended = sandbox.run(code, event(), event())
    status = 0 if statement == "return" else 1
    assert len(ended.posts) == 2
    for post in ended.posts:
        body = post.body.rpartition(bytes(8))[2].decode()
        words = [line.removeprefix("data: ") for line in body.splitlines() if line and not line.startswith(":")]
        assert "".join(words) == f"onetwo{status}end"
        assert (post.whole, post.trailers) == (True, {})
    assert ended.status == 1
    assert ended.errors.count("\n") == 1  # the parent's, whose script has ended


@pytest.mark.traced
@pytest.mark.parametrize(("statement", "status"), [("pass", 0), ("raise ValueError", 1)], ids=["import", "error"])
def test_child_of_init(sandbox: Sandbox, statement: str, status: int) -> None:
    code = f"""
        import os
        child = os.fork()
        if child == 0:
            {statement}
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        def handler(event, context):
            return status
        """
    ended = sandbox.run(code, event())
    assert ended.bodies == [b"%d" % status], ended.output
    assert [request.method for request in ended.requests] == ["GET", "POST", "GET"]


def test_child_runs_no_shutdown_hooks(sandbox: Sandbox) -> None:
    code = """
        import os
        from streaming_runtime.event_loop import event_loop
        async def hook():
            print("hook in", "parent" if os.getpid() == parent else "child")
        event_loop.shutdown_hooks.append(hook)
        parent = os.getpid()
        def handler(event, context):
            child = os.fork()
            return "child" if child == 0 else os.waitpid(child, 0)[1]
        """
    ended = sandbox.run(code, event())
    assert ended.bodies == [b"0"]
    assert ended.output == "hook in parent\n"


def test_child_prints(sandbox: Sandbox) -> None:
    """What it printed without a line break goes out, as at the end of any process."""
    code = """
        import os, sys
        def handler(event, context):
            child = os.fork()
            if child == 0:
                sys.stdout.write("from the child")
                return
            return os.waitpid(child, 0)[1]
        """
    assert sandbox.run(code, event()).output == "from the child"


def test_child_does_not_wait_for_heartbeat() -> None:
    """The heartbeat's thread, which holds the lock while it sends, does not exist in the child."""
    sending, released = threading.Event(), threading.Event()

    class Stream:
        ended = forked = False

        def write(self, data: bytes, payload: bool = True) -> None:
            sending.set()
            released.wait()

    stream = Stream()
    heartbeat = Heartbeat(cast(ResponseStream, stream), 0.001)
    assert sending.wait(LIMIT)
    stream.forked = True
    with pytest.raises(RuntimeApiError, match="forked child"):
        heartbeat.write(b"x")
    released.set()
    heartbeat.stop()


POOLS = {
    "multiprocessing": """
        import multiprocessing
        def handler(event, context):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(abs, [-1, -2, -3])
        """,
    "concurrent.futures": """
        import concurrent.futures, multiprocessing
        def handler(event, context):
            context = multiprocessing.get_context("fork")
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                return list(pool.map(abs, [-1, -2, -3]))
        """,
}


@pytest.mark.parametrize("code", POOLS.values(), ids=list(POOLS))
def test_pool_of_children(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code, event(), event())
    assert [json.loads(body) for body in ended.bodies] == [[1, 2, 3]] * 2, ended.output
