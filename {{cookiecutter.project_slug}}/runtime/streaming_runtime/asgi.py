"""Turns an ASGI application into a Lambda handler: FastAPI, Starlette, Litestar, Django, MCP servers and others.

Applications follow https://asgi.readthedocs.io/en/latest/specs/www.html; the events are those of
https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html (payload 2.0) and
https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html (REST API, 1.0).
"""

from __future__ import annotations

import asyncio
from binascii import a2b_base64
from collections import deque
from contextlib import suppress
from urllib.parse import quote, unquote, urlencode

from . import wire
from .event_loop import event_loop
from .lifespan import Lifespan
from .responses import StreamingResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._types import Application, Message

_PIECE_SIZE = 64 * 1024  # bytes of the request body in one message
# An application may ask for a disconnect repeatedly and gets an immediate answer. After this many answers, the event
# loop runs, in case the application asks without end.
_DISCONNECTS = 100
_GRACE_PERIOD = 0.1  # seconds in which an application may end on its own after a disconnect


class AsgiHandler:
    """A handler that serves each event as an HTTP request to an ASGI application and streams its response.

    Create it once, when the function's module is imported. The application's lifespan runs once: it starts before the
    first invocation and ends with the process.
    """

    def __init__(self, app: Application, root_path: str = "") -> None:
        """Register the lifespan with the runtime.

        Args:
            app: ASGI 3 application.
            root_path: Path under which clients reach the application, such as ``/api``. The paths of the events may or
                may not include it. Default: the stage of a REST API that is called by its own domain.
        """
        self._app = app
        self._root_path = f"/{root_path.strip('/')}".rstrip("/")
        self._lifespan: Lifespan | None = None
        event_loop.startup_hooks.append(self.startup)
        event_loop.shutdown_hooks.append(self.shutdown)

    async def __call__(self, event: Any, context: object) -> StreamingResponse:
        """Call the application, and return once it has started its response.

        The caller must close the content of the response with ``aclose()``. That waits until the application has ended,
        with its background tasks, and raises what the application raised after the complete response.

        Args:
            event: From a function URL or a REST API. The application can read it from ``scope["aws.event"]``.
            context: Lambda's context object, in ``scope["aws.context"]``.

        Raises:
            ValueError: `event` is neither of these.
            RuntimeError: The application's lifespan failed to start, or it ended without a response.
            Exception: Anything that the application raised before its response.
        """
        try:
            scope, body = _request(event, self._root_path)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            expected = "the event of a function URL (payload 2.0) or a REST API (1.0)"
            raise ValueError(f"AsgiHandler requires {expected}; reading this one failed with {error!r}") from error
        await self.startup()
        assert self._lifespan is not None
        scope |= {"state": self._lifespan.state.copy(), "aws.event": event, "aws.context": context}
        return await _Cycle(self._app, scope, body).response()

    async def startup(self) -> None:
        """Start the application's lifespan, unless it already runs on this event loop.

        Raises:
            RuntimeError: The application reported a failure.
        """
        if self._lifespan is None or self._lifespan.loop is not asyncio.get_running_loop():
            self._lifespan = Lifespan(self._app)
        try:
            await self._lifespan.startup()
        except Exception:
            self._lifespan = None
            raise

    async def shutdown(self) -> None:
        """End the application's lifespan, if it runs on this event loop.

        Raises:
            RuntimeError: The application reported a failure.
        """
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is not None and lifespan.loop is asyncio.get_running_loop():
            await lifespan.shutdown()


class _Disconnected(OSError):
    """Raised in an application that sends after the client has disconnected."""


class _Cycle:
    """One request and the content of its response. The application runs in its own task.

    When the runtime asks for the next part of the body, the previous one is on the wire. Only then does the
    application's `send` return: that is the backpressure.
    """

    def __init__(self, app: Application, scope: dict[str, Any], body: bytes) -> None:
        self._request = deque(body[start : start + _PIECE_SIZE] for start in range(0, len(body) or 1, _PIECE_SIZE))
        self._bodiless = scope["method"] == "HEAD"
        self._response: StreamingResponse | None = None
        self._parts: deque[bytes] = deque()
        self._sent = self._delivered = 0  # parts of the body: sent by the application, on the wire
        self._complete = False  # the application has sent the last part
        self._over = False  # the response has ended, completely or not
        self._ended = False  # the application has ended
        self._disconnects = 0  # messages about it
        self._raised: list[BaseException] = []  # by the application, and not yet raised to the runtime
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(app, scope))

    async def response(self) -> StreamingResponse:
        """Wait until the application has started its response."""
        await self._wait(lambda: self._response is not None or self._ended)
        if self._response is None:
            self._finish()
            raise self._failure("starting")
        return self._response

    def __aiter__(self) -> _Cycle:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        self._delivered = self._sent - len(self._parts)
        self._notify()
        await self._wait(lambda: bool(self._parts) or self._complete or self._ended)
        if self._parts:
            return self._parts.popleft()
        self._finish()
        if self._complete:
            raise StopAsyncIteration
        raise self._failure("completing")

    async def aclose(self) -> None:
        """Wait until the application has ended. If its response was aborted, cancel it after a grace period."""
        grace = None if self._over else _GRACE_PERIOD
        self._finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._wait(lambda: self._ended)
        if self._raised:
            raise self._raised.pop()

    async def _run(self, app: Application, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except _Disconnected:
            pass  # the runtime knows
        except StopAsyncIteration as error:  # an iteration would take this for the end of the response
            raised = RuntimeError("ASGI callable raised StopAsyncIteration")
            self._raised.append(raised.with_traceback(error.__traceback__))
        except BaseException as error:
            # A task would raise SystemExit in the event loop, where nothing reports it.
            self._raised.append(error)
        self._ended = True
        self._notify()

    async def _receive(self) -> Message:
        if self._request and not self._over:
            piece = self._request.popleft()
            return {"type": "http.request", "body": piece, "more_body": bool(self._request)}
        if not self._over:
            await self._until(lambda: self._over)
            await asyncio.sleep(0)  # let the sender of the end continue first: a listener might cancel it
        self._disconnects += 1
        if self._disconnects % _DISCONNECTS == 0:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        if self._over:
            raise _Disconnected("the client has disconnected")
        expected = "http.response.start" if self._response is None else "http.response.body"
        if kind != expected:
            raise RuntimeError(f"Expected ASGI message '{expected}', but got '{kind}'.")
        if self._response is None:
            self._response = _response(self, message)
            self._bodiless = self._bodiless or message["status"] in wire.WITHOUT_CONTENT
            self._notify()
            return
        part = message.get("body", b"")
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise TypeError(f"the body of a response must be bytes, not {type(part).__name__}")
        self._parts.append(b"" if self._bodiless else bytes(part))
        self._complete = not message.get("more_body", False)
        self._sent = number = self._sent + 1
        self._notify()
        await self._until(lambda: self._delivered >= number or self._over)
        if self._delivered < number:
            raise _Disconnected("the client has disconnected")

    async def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait for the runtime. A cancellation is passed on to the application, whose traceback shows where it was."""
        try:
            await self._until(condition)
        except asyncio.CancelledError:
            self._finish()
            self._task.cancel()
            await asyncio.wait((self._task,))
            if self._raised:
                raise self._raised.pop() from None
            raise

    def _failure(self, missing: str) -> BaseException:
        failure = RuntimeError(f"ASGI callable returned without {missing} response.")
        return self._raised.pop() if self._raised else failure

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed.clear()

    def _finish(self) -> None:
        self._over = True
        self._notify()


def _response(content: _Cycle, message: Message) -> StreamingResponse:
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in message.get("headers", ()):
        name, value = _header_text(raw_name).lower(), _header_text(raw_value)
        if name == "set-cookie":
            cookies.append(value)
        elif name not in wire.HOP_BY_HOP:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    response = StreamingResponse(content, message["status"], headers, cookies=cookies)
    if (
        "content-type" not in headers and "content-type" in response.headers
    ):  # the application decides, as with any server
        del response.headers["content-type"]
    return response


def _header_text(raw: object) -> str:
    if not isinstance(raw, (bytes, bytearray, memoryview)):
        raise TypeError(f"header names and values must be bytes, not {type(raw).__name__}")
    return bytes(raw).decode("latin-1")


def _request(event: Any, root_path: str) -> tuple[dict[str, Any], bytes]:
    """Return the scope and the body of the request in `event`."""
    context = event["requestContext"]
    if "http" in context:
        http = context["http"]
        method, protocol, source_ip = http["method"], http.get("protocol"), http.get("sourceIp")
        raw_path, query = event["rawPath"], event.get("rawQueryString") or ""
        headers = {name.lower(): [value] for name, value in event["headers"].items()}
        if event.get("cookies"):
            headers["cookie"] = ["; ".join(event["cookies"])]
    else:
        method, protocol = event["httpMethod"], context.get("protocol")
        source_ip = (context.get("identity") or {}).get("sourceIp")
        raw_path, stage = event["path"], f"/{context.get('stage')}"
        if not root_path and (context.get("path") or "").rstrip("/") == f"{stage}{raw_path}".rstrip("/"):
            root_path = stage  # part of the URL, unless a custom domain maps to the stage
            raw_path = quote(root_path) + raw_path
        parameters = event.get("multiValueQueryStringParameters") or event.get("queryStringParameters") or {}
        query = urlencode(parameters, doseq=True)
        single = {name: [value] for name, value in (event.get("headers") or {}).items()}
        headers = {}
        for name, values in (event.get("multiValueHeaders") or single).items():
            headers.setdefault(name.lower(), []).extend(values)

    def header(name: str, default: str) -> str:
        return str(headers.get(name, [default])[0])

    path, raw = unquote(raw_path), raw_path.encode()
    if not f"{path}/".startswith(f"{root_path}/"):
        path, raw = root_path + path, quote(root_path).encode() + raw
    scheme = header("x-forwarded-proto", "https")
    body = event.get("body") or ""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": (protocol or "HTTP/1.1").removeprefix("HTTP/").replace("2.0", "2"),
        "method": method.upper(),
        "scheme": scheme,
        "path": path,
        "raw_path": raw,
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": [
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, values in headers.items()
            for value in values
        ],
        "client": (source_ip, 0) if source_ip else None,
        "server": _server(header("host", context.get("domainName") or ""), header("x-forwarded-port", ""), scheme),
    }
    return scope, a2b_base64(body) if event.get("isBase64Encoded") else body.encode()


def _server(host: str, forwarded_port: str, scheme: str) -> tuple[str, int]:
    """Return host and port of a Host header, and of a proxy's header for the port."""
    if host.startswith("["):  # IPv6
        name, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    else:
        name, _, port = host.partition(":")
    for digits in (forwarded_port, port):
        if digits.isascii() and digits.isdecimal() and len(digits) <= 5 and 0 < int(digits) < 65536:
            return name, int(digits)
    return name, 80 if scheme == "http" else 443
