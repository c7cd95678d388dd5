"""The inspector: a page on a port of its own that shows invocations as they happen, and sends test events."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11

from .access import is_foreign_page, is_loopback
from .events import function_url_event
from .http_server import ClientDisconnected, Connection, Server, field_values, response_head, url_of
from .invocation import Invocation, new_trace_id
from .journal import Journal, Update
from .pool import SandboxPool, Throttled
from .template import Function

_PAGE = Path(__file__).with_name("inspector.html")
_EVENT_LIMIT = 8 * 1024 * 1024  # bytes of a test event
_HEARTBEAT = 15  # seconds; without heartbeats the server would not notice a closed page
_RECONNECT_DELAY = 1000  # milliseconds after which a page reconnects
_NO_STORE = ("cache-control", "no-store")
_METHODS = {
    "/": "GET, HEAD",
    "/events": "GET, HEAD",
    "/search": "GET, HEAD",
    "/invocations": "GET, POST",
    "/requests": "POST",
}
_TEXTS = 100  # that are searched before others have their turn


@contextlib.asynccontextmanager
async def inspecting(
    pool: SandboxPool,
    journal: Journal,
    events: Path,
    function_url: str,
    port: int,
    others: Sequence[tuple[SandboxPool, str]] = (),
    admit: Callable[[Function, Any], Any] = lambda function, event: event,
) -> AsyncIterator[str]:
    """Serve the page on 127.0.0.1 until the block ends; the block gets the URL.

    Args:
        pool: The function's execution environments.
        journal: What the page shows.
        events: Folder of the test events; need not exist.
        function_url: Where the function is served.
        port: Port to listen on; 0 for any free port.
        others: Further functions, with their URLs.
        admit: Adds to a test event what the function requires of a request, such as a token.

    Raises:
        ListenError: The message says where and why.
    """
    inspector = _Inspector([(pool, function_url), *others], journal, events, admit)
    server = Server(inspector.serve)
    try:
        yield url_of(*await server.start("127.0.0.1", port))
    finally:
        await server.close()
        await inspector.close()


class _Inspector:
    def __init__(
        self,
        served: list[tuple[SandboxPool, str]],
        journal: Journal,
        events: Path,
        admit: Callable[[Function, Any], Any],
    ) -> None:
        self._served = served
        self._admit = admit
        self._journal = journal
        self._events = events
        self._invocations: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Cancel the invocations that the page started."""
        for task in self._invocations:
            task.cancel()
        await asyncio.gather(*self._invocations, return_exceptions=True)

    async def serve(self, connection: Connection, request: h11.Request) -> None:
        """Answer one request, unless a page of another origin may have sent it.

        Raises:
            ClientDisconnected: The browser closed the connection.
        """
        body = await connection.read_body(_EVENT_LIMIT)
        headers = field_values(request)
        path, _, query = request.target.decode("latin-1").partition("?")
        method = "GET" if request.method == b"HEAD" and path != "/invocations" else request.method.decode()
        call = (method, path)
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
        elif call == ("GET", "/search"):
            await _respond(connection, 200, {"ids": await self._search(query)})
        elif method == "GET" and path.startswith("/invocations/"):
            updates = self._journal.details(path.removeprefix("/invocations/"))
            await _respond(connection, *((404, {"message": "forgotten"}) if updates is None else (200, updates)))
        elif call in {("POST", "/invocations"), ("POST", "/requests")}:
            await self._invoke(connection, headers, body, query, path == "/requests")
        elif path in _METHODS:
            head = [("content-type", "application/json"), _NO_STORE, ("allow", _METHODS[path])]
            await connection.respond(405, head, b'{"message": "method not allowed"}')
        else:
            await _respond(connection, 404, {"message": "not found"})

    def _test_events(self) -> dict[str, Any]:
        found = {}
        for path in sorted(self._events.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):  # a file that is being edited
                found[path.name] = _json(path.read_bytes())
        return found

    async def _search(self, query: str) -> list[str]:
        """Return the IDs of the invocations that have all words of the query's `words`."""
        words = dict(parse_qsl(query)).get("words", "").lower().split(" ")
        found = []
        for number, (request_id, text) in enumerate(self._journal.texts(), 1):
            if all(word in text for word in words):
                found.append(request_id)
            if not number % _TEXTS:
                await asyncio.sleep(0)
        return found

    async def _stream(self, connection: Connection) -> None:
        """Send what is known and then what happens, as server-sent events."""
        functions = [{"name": pool.function.name, "url": url} for pool, url in self._served]
        hello: Update = {"kind": "hello", "function": functions[0]["name"], "url": functions[0]["url"]}
        if len(functions) > 1:
            hello["functions"] = functions
        queue = self._journal.subscribe()
        try:
            await connection.send(response_head(200, [("content-type", "text/event-stream"), _NO_STORE]))
            await connection.send(h11.Data(data=b"retry: %d\n" % _RECONNECT_DELAY + _event(hello)))
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT):  # wait_for() of Python 3.11 may swallow a cancellation
                        update = await queue.get()
                except TimeoutError:
                    await connection.send(h11.Data(data=b":\n\n"))
                    continue
                if update is None:
                    raise ClientDisconnected("the page reads too slowly and has to reconnect")
                await connection.send(h11.Data(data=_event(update)))
        finally:
            self._journal.unsubscribe(queue)

    async def _invoke(
        self, connection: Connection, headers: dict[str, str], body: bytes, query: str, is_request: bool
    ) -> None:
        """Send a test event, or the event that the function URL makes of a request."""
        # A page of another origin could send this type only after a preflight, which is refused.
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            await _respond(connection, 415, {"message": "the content type must be application/json"})
            return
        if len(body) > _EVENT_LIMIT:
            await _respond(connection, 413, {"message": f"at most {_EVENT_LIMIT} bytes are allowed, got more"})
            return
        try:
            event = _json(body)
        except ValueError as error:
            await _respond(connection, 400, {"message": f"not JSON: {error}"})
            return
        pools = {pool.function.name: pool for pool, _ in self._served}
        urls = {pool.function.name: url for pool, url in self._served}
        name = dict(parse_qsl(query)).get("function", next(iter(pools)))
        if name not in pools:
            await _respond(connection, 404, {"message": f"{name!r} is not served; choose one of {', '.join(pools)}"})
            return
        ids = (str(uuid.uuid4()), new_trace_id())
        try:
            event = _requested(event, urls[name], *ids) if is_request else event
        except (h11.LocalProtocolError, ValueError) as error:
            await _respond(connection, 400, {"message": str(error)})
            return
        invocation = Invocation(self._admit(pools[name].function, event), *ids)
        try:
            messages = await pools[name].invoke(invocation)
        except Throttled as error:
            await _respond(connection, 429, {"message": str(error)})
            return
        task = asyncio.create_task(_drain(messages))
        self._invocations.add(task)
        task.add_done_callback(self._invocations.discard)
        await _respond(connection, 202, {"id": invocation.request_id})


def _requested(value: Any, url: str, request_id: str, trace_id: str) -> dict[str, Any]:
    """Return the event that the function URL would make of a request.

    Raises:
        h11.LocalProtocolError: HTTP does not allow the method, the path or a header.
        ValueError: Something is missing, or has another type.
    """
    match value:
        case {"method": str(method), "path": str(path), "headers": [*pairs], "body": str(text)}:
            fields = [(str(name), str(content)) for name, content in pairs]
        case _:
            raise ValueError("a request has a method, a path, headers and a body")
    if not path.startswith("/"):
        raise ValueError(f"the path must begin with /, got {path!r}")
    body = text.encode()
    length = [("content-length", str(len(body)))] if body else []
    headers = [("host", urlsplit(url).netloc), *fields, *length]
    request = h11.Request(method=method, target=path, headers=headers)
    return function_url_event(request, body, "127.0.0.1", request_id, trace_id)


async def _drain(messages: AsyncIterator[object]) -> None:
    async for _ in messages:
        pass


def _refusal(headers: dict[str, str]) -> str | None:
    """Return why a page of another origin may have sent a request, or None if that is impossible."""
    if not is_loopback(headers.get("host", "")):
        return "the inspector answers only to the names of this machine's loopback interface, such as localhost"
    if is_foreign_page(headers):
        return "the inspector refuses requests of other origins"
    return None


def _protection(page: bytes) -> list[tuple[str, str]]:
    """Return headers that let the page run its own script and style and nothing else."""

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
    """Return the value of a JSON text, and refuse what Python reads and writes but a browser does not.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _event(update: Update) -> bytes:
    return f"data: {json.dumps(update)}\n\n".encode()


async def _respond(connection: Connection, status: int, value: Any) -> None:
    await connection.respond(status, [("content-type", "application/json"), _NO_STORE], json.dumps(value).encode())
