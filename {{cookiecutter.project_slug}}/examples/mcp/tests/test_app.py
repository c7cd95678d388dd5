"""The function itself: its tool as a client sees it, and its handler called as Lambda's runtime calls it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.server import MCPServer

import app
from streaming_runtime import StreamingResponse

EVENTS = Path(__file__).parent.parent / "events"
# Other files there are for other functions, or yours.
REQUESTS = sorted(path for path in EVENTS.glob("*.json") if path.stem in ("get", "post", "rest", "tools-call"))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Return one event loop for all tests, as for all invocations: the application's lifespan starts only once."""
    with asyncio.Runner() as runner:
        yield runner
        runner.run(app.handler.shutdown())


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


async def answer(event: Any) -> tuple[StreamingResponse, str]:
    """Return the response to an event, and its whole body."""
    response = await app.handler(event, None)
    content: Any = response.content
    async with aclosing(content):
        return response, b"".join([part async for part in content]).decode()


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_events_return_a_response(path: Path, runner: asyncio.Runner) -> None:
    assert runner.run(answer(load(path)))[0].status_code < 500


def test_event_that_is_not_http(runner: asyncio.Runner) -> None:
    with pytest.raises(ValueError, match="AsgiHandler requires the event of a function URL"):
        runner.run(answer({"name": "an event without HTTP"}))


def test_tool_call_streams_progress(runner: asyncio.Runner) -> None:
    response, text = runner.run(answer(load(EVENTS / "tools-call.json")))
    assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    *reports, result = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert [report["method"] for report in reports] == ["notifications/progress"] * app.STEPS
    assert [report["params"]["progress"] for report in reports] == [*range(1, app.STEPS + 1)]
    assert (result["id"], result["result"]["structuredContent"]) == (1, {"result": 9592})


def test_get_is_not_allowed(runner: asyncio.Runner) -> None:
    event = load(EVENTS / "get.json") | {"rawPath": "/mcp"}
    response, _ = runner.run(answer(event | {"headers": event["headers"] | {"accept": "text/event-stream"}}))
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def call(limit: int, server: MCPServer | str = app.server) -> tuple[Any, list[tuple[float, float | None]]]:
    """Return the result of the tool, and the progress that it reported."""
    reports = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total))

    async with Client(server) as client:
        return await client.call_tool("count_primes", {"limit": limit}, progress_callback=report), reports


@pytest.mark.parametrize(("limit", "count"), [(2, 1), (3, 2), (4, 2), (29, 10), (30, 10), (1000, 168)])
def test_tool_counts_primes(limit: int, count: int, runner: asyncio.Runner) -> None:
    result, reports = runner.run(call(limit))
    assert result.structured_content == {"result": count}
    assert reports == [(step, app.STEPS) for step in range(1, app.STEPS + 1)]


@pytest.mark.parametrize("limit", [1, 1_000_001])
def test_limit_out_of_range(limit: int, runner: asyncio.Runner) -> None:
    result, reports = runner.run(call(limit))
    assert (result.is_error, reports) == (True, [])


def test_tool_description(runner: asyncio.Runner) -> None:
    async def tools() -> Any:
        async with Client(app.server) as client:
            return (await client.list_tools()).tools

    (tool,) = runner.run(tools())
    assert (tool.name, tool.description) == ("count_primes", app.count_primes.__doc__)
    assert list(tool.input_schema["properties"]) == ["limit"]


def test_client_through_url(serve: Callable[..., str], runner: asyncio.Runner) -> None:
    result, reports = runner.run(call(100, serve() + "mcp"))
    assert result.structured_content == {"result": 25}
    assert [step for step, _ in reports] == [*range(1, app.STEPS + 1)]
