"""The function itself, called as Lambda's runtime calls it."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import app
from local.probe import probe
from streaming_runtime import StreamingResponse

EVENTS = Path(__file__).parent.parent / "events"
# Other files there are for other functions, or yours.
REQUESTS = sorted(path for path in EVENTS.glob("*.json") if path.stem in ("get", "post", "rest"))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Return one event loop for all tests, as for all invocations: the application's lifespan belongs to it."""
    with asyncio.Runner() as runner:
        yield runner
        runner.run(app.handler.shutdown())


@pytest.fixture(autouse=True)
def _no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "INTERVAL", 0)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def get(path: str, query: str = "", **headers: str) -> Any:
    """Return events/get.json for another path."""
    event = load(EVENTS / "get.json")
    return event | {"rawPath": path, "rawQueryString": query, "headers": event["headers"] | headers}


async def answer(event: Any) -> tuple[StreamingResponse, list[str]]:
    """Return the response to an event, and the parts of its body that are sent one by one."""
    response = await app.handler(event, None)
    content: Any = response.content
    async with aclosing(content):
        return response, [part.decode() async for part in content if part]


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_events_return_a_response(path: Path, runner: asyncio.Runner) -> None:
    assert runner.run(answer(load(path)))[0].status_code < 500


def test_event_that_is_not_http(runner: asyncio.Runner) -> None:
    with pytest.raises(ValueError, match="AsgiHandler requires the event of a function URL"):
        runner.run(answer({"name": "an event without HTTP"}))


def test_lines_are_sent_one_by_one(runner: asyncio.Runner) -> None:
    response, lines = runner.run(answer(load(EVENTS / "get.json")))
    assert [line.split()[0] for line in lines] == [*map(str, range(1, 11)), "end"]
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")


def test_lifespan_state_is_shared(runner: asyncio.Runner) -> None:
    environments = {runner.run(answer(get("/", "count=1")))[1][0].split()[-1] for _ in range(2)}
    assert len(environments) == 1


def test_events_resume_after_last_id(runner: asyncio.Runner) -> None:
    response, parts = runner.run(answer(get("/events", "count=5", **{"last-event-id": "3"})))
    assert response.headers["content-type"].startswith("text/event-stream")
    *ticks, end = [dict(line.split(": ", 1) for line in event.strip().splitlines()) for event in parts]
    assert [(tick["event"], tick["id"], json.loads(tick["data"])["number"]) for tick in ticks] == [
        ("tick", "4", 4),
        ("tick", "5", 5),
    ]
    assert end == {"event": "end", "data": "{}"}


def test_upload_receipt(runner: asyncio.Runner) -> None:
    response, parts = runner.run(answer(load(EVENTS / "post.json")))
    body = "Straße, 東京, 🚀".encode() + b"\n\x00\x01\xfe\xff"
    receipt = {"name": "a b", "tags": ["x", "y"], "session": "abc123", "size": 26}
    assert response.status_code == 201
    assert json.loads("".join(parts)) == receipt | {"sha256": hashlib.sha256(body).hexdigest()}


@pytest.mark.parametrize(
    ("event", "where"),
    [
        (get("/", "count=0"), ["query", "count"]),
        (get("/events", "count=many"), ["query", "count"]),
        (get("/events", **{"last-event-id": "-1"}), ["header", "last-event-id"]),
        (load(EVENTS / "post.json") | {"rawQueryString": "name="}, ["query", "name"]),
    ],
)
def test_invalid_request(event: Any, where: list[str], runner: asyncio.Runner) -> None:
    response, parts = runner.run(answer(event))
    assert response.status_code == 422
    assert [problem["loc"] for problem in json.loads("".join(parts))["detail"]] == [where]


def test_api_documentation(runner: asyncio.Runner) -> None:
    response, _ = runner.run(answer(get("/docs")))
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    _, parts = runner.run(answer(get("/openapi.json")))
    assert list(json.loads("".join(parts))["paths"]) == ["/", "/events", "/upload"]


def test_function_streams(serve: Callable[..., str]) -> None:
    result = probe(serve(STREAM_INTERVAL="0.05") + "events?count=20")
    assert (result.status, result.streamed) == (200, True)
    body = b"".join(data for _, data in result.chunks)
    assert (body.count(b"event: tick"), body.count(b"event: end")) == (20, 1)
