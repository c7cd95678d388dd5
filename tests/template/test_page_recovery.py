"""The page of the `sse` example in a browser, against a server that refuses some requests."""

import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.helpers.support import TEMPLATE
from tests.local.conftest import browser, needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]
__all__ = ["browser"]

PAGE = (TEMPLATE / "examples/sse/src/page.html").read_text(encoding="utf-8")


class Server(ThreadingHTTPServer):
    """Serves the page, and events by a script: a status other than 200, or the steps to send before the end."""

    daemon_threads = True

    def __init__(self, script: list[int | range], delay: int = 5) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.script = script
        self.delay = delay  # milliseconds before the page's first attempt
        self.asked: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    """One answer of the server."""

    server: Server

    def do_GET(self) -> None:
        events = self.path.startswith("/events")
        if events:
            self.server.asked.append((self.path, self.headers["last-event-id"]))
        turn: int | range = self.server.script.pop(0) if events else 200
        self.send_response(200 if isinstance(turn, range) else turn)
        self.send_header("content-type", "text/event-stream" if events else "text/html")
        self.end_headers()
        if not events:
            self.wfile.write(PAGE.replace("const DELAY = 500", f"const DELAY = {self.server.delay}").encode())
        elif isinstance(turn, range):
            self.wfile.write(b"retry: 5\n\n")
            for step in turn:
                data = f'{{"step": {step}, "of": 4, "name": "a step", "time": "12:00:00"}}'
                self.wfile.write(f"event: step\nid: {step}\ndata: {data}\n\n".encode())
            if turn.stop == 5:
                self.wfile.write(b"event: end\ndata: {}\n\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("status", [429, 502, 503])
def test_page_recovers_from_refused_reconnection(status: int, page: Any) -> None:
    """The browser never reconnects after such a status: the page does, and asks for the steps it does not have."""
    script: list[int | range] = [range(1, 3), status, status, range(3, 4), status, range(4, 5)]
    with closing(Server(script)) as server:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator("#state")).to_have_text("Done")
        expect(page.locator("#steps .number")).to_have_text(["1", "2", "3", "4"])
    assert server.asked == [
        ("/events", None),
        ("/events", "2"),
        *[("/events?last=2", None)] * 2,
        ("/events?last=2", "3"),
        ("/events?last=3", None),
    ]


@pytest.mark.parametrize("first", [429, 502])
def test_page_recovers_from_refused_first_request(first: int, page: Any) -> None:
    with closing(Server([first, range(1, 5)])) as server:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator("#state")).to_have_text("Done")
        expect(page.locator("#steps .number")).to_have_text(["1", "2", "3", "4"])
    assert server.asked == [("/events", None)] * 2


def test_page_gives_up_after_repeated_refusals(page: Any) -> None:
    with closing(Server([429] * 10)) as server:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator("#state")).to_have_text("The server sends no events")
        expect(page.locator("#button")).to_have_text("Start again")
    assert len(server.asked) == 6


def test_stop_cancels_the_next_attempt(page: Any) -> None:
    with closing(Server([429, 429], delay=3_600_000)) as server:
        page.clock.install()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator("#state")).to_have_text("Connecting again")
        page.locator("#button").click()
        page.clock.run_for(7_200_000)
        expect(page.locator("#state")).to_have_text("Stopped")
    assert len(server.asked) == 1
