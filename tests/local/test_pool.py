"""How many execution environments a function has, and which one serves a request."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest
from tests.local.conftest import Serve
from tests.local.conftest import function as of_handler

from local.invocation import Invocation
from local.journal import Observer
from local.pool import SandboxPool, Throttled
from local.template import Function

THROTTLED = {"Reason": "ConcurrentInvocationLimitExceeded", "Type": "User", "message": "Rate Exceeded."}
GATED = """
    count = 0

    def handler(event, context):
        global count
        count += 1
        yield b"%d %d" % (os.getpid(), count)
        if event["rawPath"] != "/open":
            wait()
    """


def test_parallel_requests_and_reuse(serve: Serve) -> None:
    served = serve(GATED, limit=3)
    first = [served.start() for _ in range(3)]
    processes = {response.read1().split()[0] for response in first}
    assert len(processes) == 3
    for _ in range(2):
        status, body = served.get()
        assert (status, json.loads(body)) == (429, THROTTLED)
    served.gate.write(b"123")
    assert [response.read() for response in first] == [b"", b"", b""]

    second = [served.start() for _ in range(3)]
    bodies = [response.read1().split() for response in second]
    assert {body[0] for body in bodies} == processes
    assert [body[1] for body in bodies] == [b"2"] * 3
    served.gate.write(b"123")
    assert [response.read() for response in second] == [b"", b"", b""]


def test_throttled_connection_stays_usable(serve: Serve) -> None:
    served = serve(GATED, limit=1)
    busy = served.start()
    connection = served.connect()
    connection.request("HEAD", "/")
    response = connection.getresponse()
    assert (response.status, response.read()) == (429, b"")
    served.gate.write(b"1")
    process, _ = busy.read().split()
    connection.request("GET", "/open")
    assert connection.getresponse().read() == process + b" 2"


def test_limit_follows_function() -> None:
    function = of_handler(handler="app.handler")

    async def main() -> list[bool]:
        pool = SandboxPool(dataclasses.replace(function, concurrency=1), Observer())
        running = await pool.invoke(Invocation({}))
        refused = []
        for concurrency in (1, 2, 2):
            await pool.update(dataclasses.replace(function, concurrency=concurrency))
            try:
                await pool.invoke(Invocation({}))
            except Throttled:
                refused.append(True)
            else:
                refused.append(False)
        await running.aclose()
        await pool.stop()
        return refused

    assert asyncio.run(main()) == [True, False, True]


@pytest.fixture
def function() -> Function:
    """A function with variables of each kind."""
    variables = {
        "OF_TEMPLATE": "template",
        "OF_BOTH": "template",
        "AWS_LAMBDA_EXEC_WRAPPER": "/var/task/bootstrap",
        "_HANDLER": "other.handler",
    }
    return of_handler(name="Named", handler="app.handler", timeout=30, memory=512, environment=variables)
