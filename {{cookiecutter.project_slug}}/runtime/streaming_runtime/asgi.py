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
from time import monotonic
from urllib.parse import quote, unquote, urlencode

from . import wire
from .deadline import HANDLER
from .event_loop import event_loop
from .lifespan import Lifespan
from .responses import StreamingResponse
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from ._types import Application, Message, Writer

_PIECE_SIZE = 64 * 1024  # bytes of the request body in one message
# An application may ask for a disconnect repeatedly and gets an immediate answer. After this many answers, the event
# loop runs, in case the application asks without end.
_DISCONNECTS = 100
_TURN = 0.002  # seconds for which an application may send without a turn for others on the event loop
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
        return await _Content(*await self._request(event, context)).response(self._app)

    async def respond(self, event: Any, context: object, writer: Writer) -> None:
        """Serve a request like `__call__`, but in the caller's task, and with a response that goes to `writer`.

        Raises:
            StreamDeadlineExceeded: The deadline ended the response.
            Exception: As `__call__`, and anything that the application raised during or after its response.
        """
        await _Response(*await self._request(event, context), writer).run(self._app)

    async def _request(self, event: Any, context: object) -> tuple[dict[str, Any], bytes]:
        """Start the lifespan, and return the scope and the body of the request."""
        try:
            scope, body = _request(event, self._root_path)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            expected = "the event of a function URL (payload 2.0) or a REST API (1.0)"
            raise ValueError(f"AsgiHandler requires {expected}; reading this one failed with {error!r}") from error
        if self._lifespan is None or not self._lifespan.running:
            await self.startup()
        assert self._lifespan is not None
        scope["state"], scope["aws.event"], scope["aws.context"] = self._lifespan.state.copy(), event, context
        return scope, body

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


# The runtime prefers `respond`, which it finds here. A subclass with a `__call__` of its own keeps that.
AsgiHandler.__call__.respond = AsgiHandler.respond  # type: ignore[attr-defined]


class _Disconnected(OSError):
    """Raised in an application that sends after the client has disconnected."""

    def __init__(self) -> None:
        super().__init__("the client has disconnected")


class _Cycle:
    """One request: what the application receives, and the order in which it may send."""

    def __init__(self, scope: dict[str, Any], body: bytes) -> None:
        self._scope = scope
        self._request = deque(body[start : start + _PIECE_SIZE] for start in range(0, len(body) or 1, _PIECE_SIZE))
        self._bodiless = scope["method"] == "HEAD"
        self._started = False  # the application has started its response
        self._complete = False  # the application has sent the last part
        self._over = False  # the response has ended, completely or not
        self._disconnects = 0  # messages about it
        self._changed: asyncio.Event | None = None  # once something waits

    def _start(self, status: int, headers: dict[str, str], cookies: list[str]) -> None:
        """Prepare the response. A subclass does."""

    async def _deliver(self, part: bytes, last: bool) -> None:
        """Return when `part` is on the wire. A subclass does."""

    def _is_over(self) -> bool:
        return self._over

    async def _receive(self) -> Message:
        if self._request and not self._is_over():
            piece = self._request.popleft()
            return {"type": "http.request", "body": piece, "more_body": bool(self._request)}
        if not self._is_over():
            await self._until(self._is_over)
            await asyncio.sleep(0)  # let the sender of the end continue first: a listener might cancel it
        self._disconnects += 1
        if self._disconnects % _DISCONNECTS == 0:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        if self._is_over():
            await asyncio.sleep(0)  # let the event loop deliver a pending cancellation
            raise _Disconnected
        expected = "http.response.body" if self._started else "http.response.start"
        if kind != expected:
            raise RuntimeError(f"Expected ASGI message '{expected}', but got '{kind}'.")
        if not self._started:
            self._start(message["status"], *_headers(message))
            self._started = True
            self._bodiless = self._bodiless or message["status"] in wire.WITHOUT_CONTENT
            self._notify()
            return
        part = message.get("body", b"")
        if type(part) is not bytes:
            if not isinstance(part, (bytes, bytearray, memoryview)):
                raise TypeError(f"the body of a response must be bytes, not {type(part).__name__}")
            part = bytes(part)
        await self._deliver(b"" if self._bodiless else part, not message.get("more_body", False))

    def _incomplete(self) -> RuntimeError:
        missing = "completing" if self._started else "starting"
        return RuntimeError(f"ASGI callable returned without {missing} response.")

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed = self._changed or asyncio.Event()
            await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed.clear()

    def _finish(self) -> None:
        self._over = True
        self._notify()


class _Response(_Cycle):
    """A response that is written as the application sends it. The application runs in the task of the invocation."""

    def __init__(self, scope: dict[str, Any], body: bytes, writer: Writer) -> None:
        super().__init__(scope, body)
        self._writer = writer
        self._disconnected = False
        self._task = asyncio.current_task()
        self._grace_timer: asyncio.TimerHandle | None = None
        self._expired = False  # the grace period
        self._send_part: Callable[[bytes], bool] | None = None
        self._turn_end = monotonic() + _TURN

    async def run(self, app: Application) -> None:
        """Run the application until it has ended, with its background tasks."""
        assert self._task is not None
        cancelling = self._task.cancelling()
        failure: BaseException | None = None
        try:
            await app(self._scope, self._receive, self._send)
        except asyncio.CancelledError:
            if not self._expired or self._task.cancelling() > cancelling + 1:
                raise
        except Exception as error:
            failure = _actual(error)
        finally:
            self._finish()
            if self._grace_timer is not None:
                self._grace_timer.cancel()
            if self._expired:
                self._task.uncancel()
        if failure is not None and not isinstance(failure, _Disconnected):
            raise failure
        if not (self._complete or self._disconnected):
            raise self._writer.deadline.error() if self._writer.deadline.passed else self._incomplete()

    def _is_over(self) -> bool:
        return self._over or self._writer.deadline.passed

    def _start(self, status: int, headers: dict[str, str], cookies: list[str]) -> None:
        self._writer.start(wire.http_metadata(status, headers, cookies))

    def _expire(self) -> None:
        assert self._task is not None
        self._expired = True
        self._task.cancel()

    async def _send(self, message: Message) -> None:
        send_part = self._send_part
        if (
            send_part is not None
            and message["type"] == "http.response.body"
            and type(part := message.get("body")) is bytes
            and message.get("more_body")
            and not self._writer.deadline.passed
        ):  # most parts of a long stream: the calls below would take longer than the system needs to send them
            try:
                late = send_part(part)
            except RuntimeApiError as error:
                self._writer.note_failure(error)
                self._disconnect()
            if late or monotonic() > self._turn_end:
                await self._yield()
        else:
            await super()._send(message)

    async def _deliver(self, part: bytes, last: bool) -> None:
        self._complete = last
        if not self._writer.write(part, last):
            self._disconnect()
        if last:
            self._finish()
        else:
            self._send_part = None if self._bodiless else self._writer.send_part
            if self._writer.deadline.passed or monotonic() > self._turn_end:
                await self._yield()

    async def _yield(self) -> None:
        """Let others on the event loop run. Raises at the deadline."""
        deadline = self._writer.deadline
        deadline.activity = HANDLER
        await asyncio.sleep(0)  # this also delivers a pending cancellation
        if deadline.passed:
            raise deadline.error()
        self._turn_end = monotonic() + _TURN

    def _finish(self) -> None:
        self._send_part = None
        super()._finish()

    def _disconnect(self) -> NoReturn:
        """Give the application time to end, and raise in its `send`."""
        self._disconnected = True
        self._finish()
        self._grace_timer = asyncio.get_running_loop().call_later(_GRACE_PERIOD, self._expire)
        raise _Disconnected


class _Content(_Cycle):
    """A response for other code to send: the content of a `StreamingResponse`. The application runs in its own task.

    When the next part of the body is asked for, the previous one is on the wire. Only then does the application's
    `send` return: that is the backpressure.
    """

    def __init__(self, scope: dict[str, Any], body: bytes) -> None:
        super().__init__(scope, body)
        self._response: StreamingResponse | None = None
        self._parts: deque[bytes] = deque()
        self._sent = self._delivered = 0  # parts of the body: sent by the application, on the wire
        self._ended = False  # the application has ended
        self._raised: list[BaseException] = []  # by the application, and not yet raised to the caller

    async def response(self, app: Application) -> StreamingResponse:
        """Start the application, and wait until it has started its response."""
        self._task = asyncio.create_task(self._run(app))
        await self._wait(lambda: self._response is not None or self._ended)
        if self._response is None:
            self._finish()
            raise self._failure()
        return self._response

    def __aiter__(self) -> _Content:
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
        raise self._failure()

    async def aclose(self) -> None:
        """Wait until the application has ended. If its response was aborted, cancel it after a grace period."""
        grace = None if self._over else _GRACE_PERIOD
        self._finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._wait(lambda: self._ended)
        if self._raised:
            raise self._raised.pop()

    async def _run(self, app: Application) -> None:
        try:
            await app(self._scope, self._receive, self._send)
        except StopAsyncIteration as error:  # an iteration would take this for the end of the response
            raised = RuntimeError("ASGI callable raised StopAsyncIteration")
            self._raised.append(raised.with_traceback(error.__traceback__))
        except BaseException as error:
            # A task would raise SystemExit in the event loop, where nothing reports it.
            actual = _actual(error)
            if not isinstance(actual, _Disconnected):  # the caller knows
                self._raised.append(actual)
        self._ended = True
        self._notify()

    def _start(self, status: int, headers: dict[str, str], cookies: list[str]) -> None:
        self._response = StreamingResponse(self, status, headers, cookies=cookies)
        if "content-type" not in headers:  # the application decides, as with any server
            self._response.headers.pop("content-type", None)

    async def _deliver(self, part: bytes, last: bool) -> None:
        self._parts.append(part)
        self._complete = last
        self._sent = number = self._sent + 1
        self._notify()
        await self._until(lambda: self._delivered >= number or self._over)
        if self._delivered < number:
            raise _Disconnected

    async def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait for the application. A cancellation is passed on to it, whose traceback shows where it was."""
        try:
            await self._until(condition)
        except asyncio.CancelledError:
            self._finish()
            self._task.cancel()
            await asyncio.wait((self._task,))
            if self._raised:
                raise self._raised.pop() from None
            raise

    def _failure(self) -> BaseException:
        return self._raised.pop() if self._raised else self._incomplete()


def _actual(error: BaseException) -> BaseException:
    """Return `error`, or the OSError that Starlette has taken for a disconnect."""
    context = error.__context__
    return context if type(error).__name__ == "ClientDisconnect" and isinstance(context, OSError) else error


def _headers(message: Message) -> tuple[dict[str, str], list[str]]:
    """Return the headers and cookies of the start of a response."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in message.get("headers", ()):
        name, value = _header_text(raw_name).lower(), _header_text(raw_value)
        if name == "set-cookie":
            cookies.append(value)
        elif name not in wire.HOP_BY_HOP:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers, cookies


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
