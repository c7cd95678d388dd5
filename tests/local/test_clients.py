"""The code of docs/clients.md, against a function whose process dies once and which fails once."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from tests.helpers.documents import document
from tests.local.conftest import TIMEOUT, Serve, needs_chromium

HANDLER = """
    from streaming_runtime import EventSourceResponse, ServerSentEvent

    def events(last):
        for number in range(last + 1, 6):
            if number == 2 and not last:
                os._exit(1)
            if number == 4 and last == 1:
                raise RuntimeError("failed")
            yield ServerSentEvent({"number": number}, event="step", id=str(number))
        yield ServerSentEvent({}, event="end")

    def lines(broken):
        yield "one\\n"
        if broken:
            raise RuntimeError("broken")
        yield "two\\n"

    def handler(event, context):
        if event["rawPath"] == "/events":
            return EventSourceResponse(events(int(event["headers"].get("last-event-id", 0))))
        if event["rawPath"] == "/":
            return StreamingResponse("<title>A page</title>", media_type="text/html")
        return StreamingResponse(lines("broken" in event["rawQueryString"]), media_type="text/plain")
    """
EVENTS = [
    'step {"number": 1}',
    'step {"number": 2}',
    'step {"number": 3}',
    'error {"errorType": "RuntimeError"}',
    'step {"number": 4}',
    'step {"number": 5}',
    "end {}",
]


def code(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)```", document("docs/clients.md"), re.DOTALL | re.MULTILINE)
    return str(found)


def test_python_continues_after_break(serve: Serve) -> None:
    source = code("python").replace("https://YOUR-URL/", serve(HANDLER).url)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    breaks = [f"again after {number}: RemoteProtocolError" for number in (1, 3)]
    assert done.stdout.splitlines() == [EVENTS[0], breaks[0], *EVENTS[1:4], breaks[1], *EVENTS[4:]], done.stderr


@pytest.mark.parametrize(("query", "status", "shown"), [("", 0, "one\ntwo\n"), ("?broken", 18, "one\n")])
def test_curl_notices_break(query: str, status: int, shown: str, serve: Serve) -> None:
    command = code("sh").replace("https://YOUR-URL/", serve(HANDLER).url).strip() + query
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (status, shown)


@pytest.mark.slow
@needs_chromium
def test_javascript_continues_after_break(serve: Serve, browser: Any) -> None:
    url = serve(HANDLER).url
    page = browser.new_page()
    page.goto(url)
    found = page.evaluate(
        "async () => {" + code("js") + "const found = [];"
        "for await (const {type, data} of events('/events')) found.push(`${type} ${data}`); return found; }"
    )
    page.close()
    assert found == EVENTS
