"""The inspector: a page on a port of its own that shows invocations while they happen, and sends test events."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h11

from .http import ClientGone, Connection, Server, fields, response, url_of
from .invocation import Invocation
from .journal import Journal
from .sandbox import Sandboxes, Throttled

_PAGE = Path(__file__).with_name("inspector.html")
_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?", re.IGNORECASE)
_EVENT_LIMIT = 8 * 1024 * 1024  # bytes of an event that the page sends
_HEARTBEAT = 15  # seconds after which a page that is gone is noticed
_RETRY_TIME = 1000  # milliseconds after which a page asks again
_NO_STORE = ("cache-control", "no-store")


@contextlib.asynccontextmanager
async def inspecting(
    sandboxes: Sandboxes, journal: Journal, events: Path, function_url: str, port: int
) -> AsyncIterator[str]:
    """Serves the page on loopback until the block is left; gives its URL.

    Args:
        sandboxes: Where the function runs.
        journal: What is shown.
        events: Folder of the test events; need not exist.
        function_url: Where the function is served.
        port: Port to listen on; 0 takes any free one.

    Raises:
        CannotListen: The message says where and why.
    """
    inspector = _Inspector(sandboxes, journal, events, function_url)
    server = Server(inspector.serve)
    try:
        yield url_of(*await server.start("127.0.0.1", port))
    finally:
        await server.close()
        await inspector.close()


class _Inspector:
    def __init__(self, sandboxes: Sandboxes, journal: Journal, events: Path, function_url: str) -> None:
        self._sandboxes = sandboxes
        self._journal = journal
        self._events = events
        self._function_url = function_url
        self._invocations: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Waits no longer for the invocations that the page has begun."""
        for task in self._invocations:
            task.cancel()
        await asyncio.gather(*self._invocations, return_exceptions=True)

    async def serve(self, connection: Connection, request: h11.Request) -> None:
        """Answers one request, unless a page of another origin may have sent it.

        Raises:
            ClientGone: The browser broke the connection off.
        """
        body = await connection.whole_body(_EVENT_LIMIT)
        headers = fields(request)
        call = (request.method.decode(), request.target.decode("latin-1").partition("?")[0])
        if (refusal := _refusal(headers)) is not None:
            await _respond(connection, 403, {"message": refusal})
        elif call == ("GET", "/"):
            page = _PAGE.read_bytes()
            head = [("content-type", "text/html; charset=utf-8"), _NO_STORE, *_protection(page)]
            await connection.respond(200, head, page)
        elif call == ("GET", "/events"):
            await _respond(connection, 200, self._test_events())
        elif call == ("GET", "/invocations"):
            await self._stream(connection)
        elif call == ("POST", "/invocations"):
            await self._invoke(connection, headers, body)
        else:
            await _respond(connection, 404, {"message": "not found"})

    def _test_events(self) -> dict[str, Any]:
        found = {}
        for path in sorted(self._events.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):  # one that is being edited
                found[path.name] = _json(path.read_bytes())
        return found

    async def _stream(self, connection: Connection) -> None:
        """Sends what is known, and then what happens, as server-sent events."""
        name = self._sandboxes.function.name
        hello = {"kind": "hello", "function": name, "url": self._function_url}
        queue = self._journal.subscribe()
        try:
            await connection.send(response(200, [("content-type", "text/event-stream"), _NO_STORE]))
            await connection.send(h11.Data(data=b"retry: %d\n" % _RETRY_TIME + _event(hello)))
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT):  # wait_for of Python 3.11 may swallow a cancellation
                        message = await queue.get()
                except TimeoutError:
                    await connection.send(h11.Data(data=b":\n\n"))
                    continue
                if message is None:
                    raise ClientGone("the page is too slow; it will ask again")
                await connection.send(h11.Data(data=_event(message)))
        finally:
            self._journal.unsubscribe(queue)

    async def _invoke(self, connection: Connection, headers: dict[str, str], body: bytes) -> None:
        # A type that a page of another origin could send only after a preflight, which is refused.
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            await _respond(connection, 415, {"message": "an event is application/json"})
            return
        if len(body) > _EVENT_LIMIT:
            await _respond(connection, 413, {"message": f"an event takes at most {_EVENT_LIMIT} bytes"})
            return
        try:
            invocation = Invocation(_json(body))
        except ValueError as error:
            await _respond(connection, 400, {"message": f"not JSON: {error}"})
            return
        try:
            messages = await self._sandboxes.invoke(invocation)
        except Throttled as error:
            await _respond(connection, 429, {"message": str(error)})
            return
        task = asyncio.create_task(_exhaust(messages))
        self._invocations.add(task)
        task.add_done_callback(self._invocations.discard)
        await _respond(connection, 202, {"id": invocation.request_id})


async def _exhaust(messages: AsyncIterator[object]) -> None:
    async for _ in messages:
        pass


def _refusal(headers: dict[str, str]) -> str | None:
    """Why a request may be one of another origin's, if it may be.

    The name in `Host` counts as well: a name of an attacker's can be made to lead here (DNS rebinding).
    """
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        return "the inspector is served on loopback only"
    if headers.get("origin", f"http://{host}") != f"http://{host}":
        return "the inspector takes no requests of other origins"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "the inspector takes no requests of other sites"
    return None


def _protection(page: bytes) -> list[tuple[str, str]]:
    """Headers that let the page run its own script and style and nothing else."""

    def source(tag: bytes) -> str:
        found = re.search(rb"<%s>(.*?)</%s>" % (tag, tag), page, re.DOTALL)
        assert found is not None
        return f"'sha256-{base64.b64encode(hashlib.sha256(found[1]).digest()).decode()}'"

    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src {source(b'style')}; "
        f"script-src {source(b'script')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        ("content-security-policy", policy),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
    ]


def _json(text: bytes) -> Any:
    """The value of a JSON text; not all that Python reads and writes is JSON to a browser.

    Raises:
        ValueError: It is none.
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _event(message: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(message)}\n\n".encode()


async def _respond(connection: Connection, status: int, value: Any) -> None:
    await connection.respond(status, [("content-type", "application/json"), _NO_STORE], json.dumps(value).encode())
