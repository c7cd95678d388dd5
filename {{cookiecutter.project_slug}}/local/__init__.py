"""A Lambda function URL on localhost, without Docker and without AWS.

An HTTP server turns requests into invocations and streams what comes back; the function runs in sandboxes behind it.
https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from email.utils import formatdate
from typing import TextIO

import h11

from .function import Cors, Function
from .http import ClientGone, Connection, Server, fields, response, url_of
from .invocation import Chunk, End, Invocation, new_trace_id
from .journal import Observer
from .payload import Head, Response, function_url_event
from .sandbox import Sandboxes, Throttled

_MB = 1024 * 1024
_REQUEST_LIMIT = 6 * _MB  # bytes of a request's body
# Of a response that streams: https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
_BURST = 6 * _MB
_BANDWIDTH = 2 * _MB  # bytes a second
_JSON = ("content-type", "application/json")
_THROTTLED = b'{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}'
_TRACE_ROOT = re.compile(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}")


@contextlib.asynccontextmanager
async def serving(sandboxes: Sandboxes, host: str, port: int) -> AsyncIterator[str]:
    """Serves the function behind `sandboxes` until the block is left; gives the URL.

    Args:
        sandboxes: Where the function runs; they are stopped at the end.
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one.

    Raises:
        CannotListen: The message says where and why.
    """
    server = Server(_FunctionUrl(sandboxes).serve)
    try:
        yield url_of(*await server.start(host, port))
    finally:
        await server.close()
        await sandboxes.stop()


@contextlib.contextmanager
def running(
    function: Function, limit: int | None = None, observer: Observer | None = None, limits: bool = False
) -> Iterator[str]:
    """The same in a thread of its own, for code that is not asynchronous: serves on a free port and gives the URL.

    What the function writes to its log goes to standard output, unless there is an `observer`.
    """
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        sandboxes = Sandboxes(function, observer or Log(sys.stdout), limit, limits)
        async with serving(sandboxes, "127.0.0.1", 0) as url:
            started.set_result((url, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="local function URL")
    thread.start()
    try:
        url, stop = started.result()
        try:
            yield url
        finally:
            stop()
    finally:
        thread.join()


class Log(Observer):
    """Shows what the function writes, as it is."""

    def __init__(self, file: TextIO) -> None:
        """`file` receives it."""
        self._file = file

    def log(self, text: str, request_id: str) -> None:
        """Prints `text`."""
        self._file.write(text)
        self._file.flush()


class _FunctionUrl:
    """Answers HTTP requests with what the function makes of them."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        """`sandboxes` is where the function runs."""
        self._sandboxes = sandboxes

    async def serve(self, connection: Connection, request: h11.Request) -> None:
        """Answers one request.

        Raises:
            ClientGone: The client broke the connection off.
        """
        headers = fields(request)
        if request.method == b"CONNECT":  # it asks for a tunnel
            await self._refuse(
                connection, request, 405, [("connection", "close")], b"", "not a method of function URLs"
            )
            raise ClientGone("it would not speak HTTP from here on")
        body = await connection.whole_body(_REQUEST_LIMIT)
        request_id = str(uuid.uuid4())
        known = _TRACE_ROOT.search(headers.get("x-amzn-trace-id", ""))
        trace_id = known[0] if known else new_trace_id()
        common = [
            ("date", formatdate(usegmt=True)),
            ("x-amzn-requestid", request_id),
            ("x-amzn-trace-id", trace_id.replace("Root", "root")),
        ]
        cors = self._sandboxes.function.cors
        if cors is not None and "origin" in headers:
            preflight = request.method == b"OPTIONS" and "access-control-request-method" in headers
            common += _cors_headers(cors, headers["origin"], preflight)
            if preflight:
                await self._refuse(connection, request, 200, common, b"", "answered by the URL, as CORS has it")
                return
        if len(body) > _REQUEST_LIMIT:
            why = f"Request must be smaller than {_REQUEST_LIMIT} bytes for the InvokeFunction operation"
            await self._refuse(connection, request, 413, [*common, _JSON], b'{"Message":"%s"}' % why.encode(), why)
            return
        event = function_url_event(request, body, connection.peer, request_id, trace_id)
        invocation = Invocation(event, request_id, trace_id)
        invocation.give_up = connection.cut
        answer = _Answer(connection, common, invocation)
        try:
            async with contextlib.aclosing(await self._sandboxes.invoke(invocation)) as messages:
                await self._pass_on(answer, messages)
        except Throttled as error:
            await self._refuse(connection, request, 429, [*common, _JSON], _THROTTLED, str(error))
        if invocation.client_gone:
            raise ClientGone("the client went away before the end")

    async def _refuse(
        self,
        connection: Connection,
        request: h11.Request,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        why: str,
    ) -> None:
        line = f"{request.method.decode()} {request.target.decode('latin-1')}"
        self._sandboxes.observer.refused(line, status, why)
        await connection.respond(status, headers, body)

    async def _pass_on(self, answer: _Answer, messages: Response) -> None:
        """Sends a response chunk by chunk as it is made."""
        bucket = _Bucket(asyncio.get_running_loop().time) if self._sandboxes.limits else None
        async for message in messages:
            match message:
                case Head():
                    await answer.begin(message)
                case Chunk(data):
                    if bucket is not None:
                        await asyncio.sleep(bucket.take(len(data)))
                    await answer.send(h11.Data(data=data))
                case End(""):
                    await answer.send(h11.EndOfMessage())
                case End():
                    await answer.fail()


class _Bucket:
    """A token bucket: what it holds may be sent at once, and it fills at Lambda's bandwidth."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens: float = _BURST
        self._filled_at = clock()

    def take(self, size: int) -> float:
        """Takes `size` bytes; gives the seconds to wait before they may be sent."""
        now = self._clock()
        self._tokens = min(_BURST, self._tokens + (now - self._filled_at) * _BANDWIDTH) - size
        self._filled_at = now
        return max(0.0, -self._tokens / _BANDWIDTH)


class _Answer:
    """What goes to the client, of which nothing more goes once it is gone or the response has failed."""

    def __init__(self, connection: Connection, headers: list[tuple[str, str]], invocation: Invocation) -> None:
        """`headers` are sent with every head."""
        self._connection = connection
        self._headers = headers
        self._invocation = invocation
        self._started = self._failed = False

    async def begin(self, head: Head) -> None:
        """Sends the head of the function's response."""
        self._started = True
        await self.send(response(head.status, [*head.headers, *self._headers]))

    async def send(self, *events: h11.Event) -> None:
        """Sends `events`. A client that is gone does not stop the function, whose output is still taken in."""
        if self._invocation.client_gone or self._failed:
            return
        try:
            await self._connection.send(*events)
        except ClientGone:
            self._invocation.client_gone = True

    async def fail(self) -> None:
        """Tells the client that there is no whole response: by status 502, or by an aborted connection."""
        if self._invocation.client_gone or self._failed:
            return
        self._failed = True
        if self._started:
            self._connection.abort()
            return
        try:
            await self._connection.respond(502, [*self._headers, _JSON], b"Internal Server Error")
        except ClientGone:
            self._invocation.client_gone = True


def _cors_headers(cors: Cors, origin: str, preflight: bool) -> list[tuple[str, str]]:
    """What the URL adds to a response for a page of `origin`; nothing if that may not read it.

    https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html#urls-cors
    """
    if origin in cors.allow_origins:
        headers = [("access-control-allow-origin", origin), ("vary", "Origin")]
    elif "*" in cors.allow_origins:
        headers = [("access-control-allow-origin", "*")]
    else:
        return []
    if cors.allow_credentials:
        headers.append(("access-control-allow-credentials", "true"))
    if cors.expose_headers and not preflight:
        headers.append(("access-control-expose-headers", ",".join(cors.expose_headers)))
    if preflight:
        headers.append(("access-control-allow-methods", ",".join(cors.allow_methods)))
        headers.append(("access-control-allow-headers", ",".join(cors.allow_headers)))
        if cors.max_age is not None:
            headers.append(("access-control-max-age", str(cors.max_age)))
    return headers
