"""The progress of a job as server-sent events, and a page that follows it in the browser."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming_runtime import EventSourceResponse, ServerSentEvent, StreamingResponse

INTERVAL = float(os.environ.get("STREAM_INTERVAL", "0.5"))  # seconds for each step of the job
RETRY = 1000  # milliseconds until a browser reconnects after a broken connection
PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

# An invented job. Replace it with real progress, stored where every invocation can read it (a table, a log).
STEPS = (
    "Find the photographs",
    "Leave out the blurred ones",
    "Straighten the horizons",
    "Even out the light",
    "Name the faces",
    "Sort them by day",
    "Pick one for the cover",
    "Lay out the pages",
    "Write the captions",
    "Bind the album",
)


def progress(done: int) -> Iterator[ServerSentEvent]:
    """Yield an event for each step after the first `done` ones, then an end marker."""
    yield ServerSentEvent(retry=RETRY)  # not an event for the page, but it sends the headers: the browser is connected
    for number, name in enumerate(STEPS[done:], start=done + 1):
        time.sleep(INTERVAL)
        data = {"step": number, "of": len(STEPS), "name": name, "time": time.strftime("%H:%M:%S")}
        yield ServerSentEvent(data, event="step", id=number)
    # A browser reconnects when a response ends, unless the page closes the stream.
    yield ServerSentEvent({"steps": len(STEPS)}, event="end")


def last_event_id(event: dict[str, Any]) -> int:
    """Return the last step that a reconnecting browser has seen; 0 at first."""
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    # The page itself reconnects after a status other than 200, and cannot set the header.
    last = headers.get("last-event-id") or (event.get("queryStringParameters") or {}).get("last", "")
    return int(last) if last.isdecimal() and len(last) < 10 else 0


def route(event: dict[str, Any]) -> tuple[Any, Any]:
    """Return method and path of a request to the function URL or a REST API."""
    if "httpMethod" in event:
        return event["httpMethod"], event.get("path")
    return event.get("requestContext", {}).get("http", {}).get("method"), event.get("rawPath")


def handler(event: dict[str, Any], context: Any) -> StreamingResponse:
    """Answer `GET /` with the page and `GET /events` with the job's progress.

    A job may take longer than Lambda's timeout: the browser reconnects and asks for the remaining steps.
    """
    match route(event):
        case "GET", "/":
            return StreamingResponse(PAGE, media_type="text/html")
        case "GET", "/events":
            return EventSourceResponse(progress(last_event_id(event)), ping=10)
        case _:
            return StreamingResponse("Not found. Try GET / or GET /events.\n", 404, media_type="text/plain")
