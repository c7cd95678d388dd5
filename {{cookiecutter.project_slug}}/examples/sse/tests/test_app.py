"""The function itself, called as Lambda's runtime calls it, and its events through the URL."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import app
from local.probe import probe
from streaming_runtime import EventSourceResponse, ServerSentEvent, StreamingResponse

EVENTS = Path(__file__).parent.parent / "events"
# Other files there are for other functions, or yours.
STATUSES = {"get": 200, "rest": 200, "resume": 200, "post": 404}
REQUESTS = sorted(path for path in EVENTS.glob("*.json") if path.stem in STATUSES)
ALL = [*range(1, len(app.STEPS) + 1)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "INTERVAL", 0)


def request(method: str = "GET", path: str = "/events", **headers: str) -> dict[str, Any]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"rawPath": path, "headers": names, "requestContext": {"http": {"method": method, "path": path}}}


def events_of(response: StreamingResponse) -> list[ServerSentEvent]:
    assert isinstance(response, EventSourceResponse)
    assert isinstance(response.content, Iterator)
    events = list(response.content)
    assert all(isinstance(event, ServerSentEvent) and event.encode() for event in events)
    return events


def steps(response: StreamingResponse) -> list[int]:
    events = [event for event in events_of(response) if event.event == "step"]
    assert [event.id for event in events] == [event.data["step"] for event in events]
    return [event.data["step"] for event in events]


@pytest.mark.parametrize("event", REQUESTS, ids=lambda path: path.stem)
def test_events_return_a_response(event: Path) -> None:
    response = app.handler(json.loads(event.read_text(encoding="utf-8")), None)
    assert response.status_code == STATUSES[event.stem]
    if event.stem == "resume":
        assert steps(response) == ALL[3:]


def test_page() -> None:
    response = app.handler(request(path="/"), None)
    assert response.headers == {"content-type": "text/html; charset=utf-8"}
    assert response.content == [app.PAGE]
    assert 'new EventSource(last ? `events?last=${last}` : "events")' in app.PAGE


def test_rest_api_event() -> None:
    request = {"httpMethod": "GET", "path": "/events", "headers": {"Last-Event-ID": "3"}}
    assert steps(app.handler(request, None)) == ALL[3:]
    assert app.handler({**request, "path": "/"}, None).content == [app.PAGE]
    assert app.handler({**request, "httpMethod": "POST"}, None).status_code == 404


@pytest.mark.parametrize(("method", "path"), [("POST", "/events"), ("HEAD", "/"), ("GET", "/events/"), ("GET", "/x")])
def test_unknown_route(method: str, path: str) -> None:
    assert app.handler(request(method, path), None).status_code == 404


def test_all_steps_and_end() -> None:
    first, *between, end = events_of(app.handler(request(), None))
    assert first.encode() == b"retry: 1000\n"
    assert [event.data["name"] for event in between] == list(app.STEPS)
    assert (end.event, end.id, end.data) == ("end", None, {"steps": len(app.STEPS)})


@pytest.mark.parametrize("seen", [0, *ALL])
def test_resume_after_last_id(seen: int) -> None:
    response = app.handler(request(last_event_id=str(seen)), None)
    assert ALL[:seen] + steps(response) == ALL


def test_header_case() -> None:  # API Gateway passes headers on unchanged
    assert steps(app.handler(request(Last_Event_ID="7"), None)) == ALL[7:]


def test_last_step_in_the_url() -> None:
    """The page has it there when it reconnects; the header of a later reconnection by the browser comes first."""
    event = request() | {"queryStringParameters": {"last": "7"}}
    assert steps(app.handler(event, None)) == ALL[7:]
    assert steps(app.handler(event | {"headers": {"last-event-id": "8"}}, None)) == ALL[8:]
    assert steps(app.handler(request() | {"queryStringParameters": None}, None)) == ALL


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "٣٣٣٣٣٣٣٣٣٣", "9" * 5000])
def test_invalid_id_starts_over(value: str) -> None:
    assert steps(app.handler(request(last_event_id=value), None)) == ALL


def test_id_beyond_the_end() -> None:
    assert [event.event for event in events_of(app.handler(request(last_event_id="999"), None))] == [None, "end"]


def test_heartbeat_interval() -> None:
    assert app.handler(request(), None).ping == 10


def test_function_streams(serve: Callable[..., str]) -> None:
    result = probe(f"{serve(STREAM_INTERVAL='0.02')}events")
    assert result.status == 200
    assert result.streamed
    body = b"".join(data for _, data in result.chunks).decode()
    assert [line for line in body.splitlines() if line.startswith("id:")] == [f"id: {step}" for step in ALL]
