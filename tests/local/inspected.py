"""A function and its inspector, served in a thread; at the end nothing may be left running."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.helpers.gates import Fifo
from tests.local.conftest import TIMEOUT, function, write_handler

from local.function_url import serving
from local.inspector import inspecting
from local.journal import Journal, Update
from local.pool import SandboxPool
from local.template import Function


class Stream:
    """A page's subscription, read as `EventSource` does."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        connection.request("GET", "/invocations")
        self.response = connection.getresponse()
        assert (self.response.status, self.response.headers["content-type"]) == (200, "text/event-stream")

    def next(self) -> Update:
        """Return the next update; fail if none arrives."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                message: Update = json.loads(line.removeprefix(b"data: "))
                return message
        raise AssertionError("the stream has ended")

    def close(self) -> None:
        """Close the subscription."""
        self.response.close()
        self._connection.close()

    def until(self, kind: str) -> list[Update]:
        """Return the next updates, up to and including the first one of this kind."""
        messages = [self.next()]
        while messages[-1]["kind"] != kind:
            messages.append(self.next())
        return messages


@dataclass
class Inspected:
    """A function and its inspector.

    Attributes:
        url: Where the function is.
        inspector: Where the inspector is.
        gate: Each byte lets one `wait()` of a handler return.
        told: What handlers sent with `tell(data)`.
        events: Folder of the test events, which does not exist yet.
        journal: What the inspector shows.
        stack: Ends all of it.
        stop: Ends the servers before the stack does.
    """

    url: str
    inspector: str
    gate: Fifo
    told: Fifo
    events: Path
    journal: Journal
    stack: ExitStack
    stop: Callable[[], None]

    def connect(self, url: str) -> http.client.HTTPConnection:
        """Return a client, which connects with its first request."""
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
        return self.stack.enter_context(closing(connection))

    def call(self, path: str = "/") -> http.client.HTTPResponse:
        """Send GET to the function; return when the head of the response has arrived."""
        connection = self.connect(self.url)
        connection.request("GET", path)
        return connection.getresponse()

    def begin(self, path: str = "/", **headers: str) -> http.client.HTTPConnection:
        """Send GET to the function without waiting for the response."""
        connection = self.connect(self.url)
        connection.request("GET", path, headers=headers)
        return connection

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, Any]:
        """Send a request to the inspector; return status and JSON value of the response."""
        connection = self.connect(self.inspector)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def send(self, body: bytes) -> tuple[int, Any]:
        """Send a test event."""
        return self.ask("POST", "/invocations", {"content-type": "application/json"}, body)

    def subscribe(self) -> Stream:
        """Open the inspector's stream."""
        return Stream(self.connect(self.inspector))


@contextmanager
def inspected(
    folder: Path,
    source: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limit: int = 10,
    name: str = "Served",
    journal: Journal | None = None,
) -> Iterator[Inspected]:
    """Serve a handler's source and its inspector, which listens on `port`.

    Raises:
        AssertionError: A task is still running at the end.
    """
    folder.mkdir(exist_ok=True)
    write_handler(folder / "handlers", source)
    journal = journal or Journal()
    with ExitStack() as stack:
        gate, told = (stack.enter_context(closing(Fifo(folder / name))) for name in ("gate", "told"))
        variables = {"PYTHONPATH": str(folder / "handlers"), "GATE": str(gate.path), "TOLD": str(told.path)}
        servers = stack.enter_context(ExitStack())
        served = function(name=name, environment=variables)
        urls = servers.enter_context(_in_thread(served, limit, journal, folder / "events", host, port))
        yield Inspected(*urls, gate, told, folder / "events", journal, stack, servers.close)


@contextmanager
def _in_thread(
    function: Function, limit: int, journal: Journal, events: Path, host: str, port: int
) -> Iterator[tuple[str, str]]:
    started: Future[tuple[str, str]] = Future()
    ended: Future[set[asyncio.Task[Any]]] = Future()
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    async def serve() -> None:
        nonlocal loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        pool = SandboxPool(function, journal, limit)
        async with serving(pool, host, 0) as url, inspecting(pool, journal, events, url, port) as inspector:
            started.set_result((url, inspector))
            await stop.wait()
        await asyncio.sleep(0)  # lets the callbacks of ended tasks run
        ended.set_result(asyncio.all_tasks() - {asyncio.current_task()})

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            (ended if started.done() else started).set_exception(error)

    thread = threading.Thread(target=run, name="inspected function")
    thread.start()
    try:
        urls = started.result(TIMEOUT)
        try:
            yield urls
        finally:
            loop.call_soon_threadsafe(stop.set)
        assert ended.result(TIMEOUT) == set()
    finally:
        thread.join()
