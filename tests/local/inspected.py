"""A function and its inspector behind the tests of both: served in a thread, and gone without a trace at the end."""

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

from tests.local.conftest import PATIENCE, Fifo, function, write_handler

from local import serving
from local.function import Function
from local.inspector import inspecting
from local.journal import Journal, Message
from local.sandbox import Sandboxes


class Stream:
    """A page's subscription, as `EventSource` reads it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        connection.request("GET", "/invocations")
        self.response = connection.getresponse()
        assert (self.response.status, self.response.headers["content-type"]) == (200, "text/event-stream")

    def next(self) -> Message:
        """The next message; a test that waits in vain fails."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                message: Message = json.loads(line.removeprefix(b"data: "))
                return message
        raise AssertionError("the stream has ended")

    def close(self) -> None:
        """Leaves."""
        self.response.close()
        self._connection.close()

    def until(self, kind: str) -> list[Message]:
        """The next messages, up to and with the first one of this kind."""
        messages = [self.next()]
        while messages[-1]["kind"] != kind:
            messages.append(self.next())
        return messages


@dataclass
class Inspected:
    """What is served.

    Attributes:
        url: Where the function is.
        inspector: Where the inspector is.
        gate: Each byte lets one `wait()` of a handler return.
        told: What handlers said with `tell(data)`.
        events: Folder of the test events, which does not exist yet.
        journal: What the inspector shows.
        stack: Ends all of it.
        stop: Ends the servers, for a test that does not leave that to the stack.
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
        """A client; it connects with its first request."""
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        return self.stack.enter_context(closing(connection))

    def call(self, path: str = "/") -> http.client.HTTPResponse:
        """Calls the function; returns when the head of the response has come."""
        connection = self.connect(self.url)
        connection.request("GET", path)
        return connection.getresponse()

    def begin(self, path: str = "/", **headers: str) -> http.client.HTTPConnection:
        """Calls the function, and waits for nothing."""
        connection = self.connect(self.url)
        connection.request("GET", path, headers=headers)
        return connection

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, Any]:
        """Status and value of the inspector's answer."""
        connection = self.connect(self.inspector)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def send(self, body: bytes) -> tuple[int, Any]:
        """Sends a test event."""
        return self.ask("POST", "/invocations", {"content-type": "application/json"}, body)

    def subscribe(self) -> Stream:
        """Opens the inspector's stream."""
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
    """Serves a handler's source and its inspector, which listens on `port`.

    Raises:
        AssertionError: A task is left behind.
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
        sandboxes = Sandboxes(function, journal, limit)
        async with serving(sandboxes, host, 0) as url, inspecting(sandboxes, journal, events, url, port) as inspector:
            started.set_result((url, inspector))
            await stop.wait()
        await asyncio.sleep(0)  # in which the callbacks of what has ended run
        ended.set_result(asyncio.all_tasks() - {asyncio.current_task()})

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            (ended if started.done() else started).set_exception(error)

    thread = threading.Thread(target=run, name="inspected function")
    thread.start()
    try:
        urls = started.result(PATIENCE)
        try:
            yield urls
        finally:
            loop.call_soon_threadsafe(stop.set)
        assert ended.result(PATIENCE) == set()
    finally:
        thread.join()
