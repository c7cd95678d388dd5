"""A function URL on localhost: an HTTP server that turns requests into invocations and streams the responses.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TextIO

import h11

from .access import host_name, is_loopback
from .cors import cors_headers, is_preflight
from .events import function_url_event, match_route, rest_api_event
from .http_server import ClientDisconnected, Connection, Server, field_values, response_head, url_of
from .invocation import Invocation, new_trace_id
from .journal import Observer
from .limits import REQUEST_LIMIT, TokenBucket
from .messages import Chunk, ResponseEnd, ResponseHead, ResponseMessages
from .pool import SandboxPool, Throttled
from .template import Function

_JSON = ("content-type", "application/json")
_THROTTLED = b'{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}'
_NO_ROUTE = b'{"message":"Missing Authentication Token"}'  # as API Gateway says it
_METHODS = ("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
_TRACE_ROOT = re.compile(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}")
_SAMPLED = re.compile(r"(?:^|;)\s*Sampled=([01])\s*(?:;|$)")


@contextlib.asynccontextmanager
async def serving(pool: SandboxPool, host: str, port: int, allowed_hosts: Iterable[str] = ()) -> AsyncIterator[str]:
    """Serve the function of `pool` until the block ends; the block gets the URL.

    Args:
        pool: The execution environments, which are stopped at the end.
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
        allowed_hosts: Names that requests may have in `Host`, besides `host` and those of the loopback interface.

    Raises:
        ListenError: The message says where and why.
    """
    server = Server(_FunctionUrl(pool, [host, *allowed_hosts]).serve)
    try:
        yield url_of(*await server.start(host, port))
    finally:
        await server.close()
        await pool.stop()


@contextlib.contextmanager
def running(
    function: Function,
    limit: int | None = None,
    observer: Observer | None = None,
    limits: bool = False,
    allowed_hosts: Iterable[str] = (),
    sampled: bool = False,
) -> Iterator[str]:
    """Serve `function` in a thread until the block ends, for code that is not asynchronous; the block gets the URL.

    Args:
        function: What to serve.
        limit: How many invocations may run concurrently; by default the function's reserved concurrency.
        observer: What to tell about each invocation; by default the log goes to standard output.
        limits: Whether Lambda's limits of size and bandwidth apply to a response.
        allowed_hosts: Names that requests may have in `Host`, besides those of the loopback interface.
        sampled: Whether to sample traces, unless the client decides.
    """
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        pool = SandboxPool(function, observer or LogWriter(sys.stdout), limit, limits, sampled=sampled)
        async with serving(pool, "127.0.0.1", 0, allowed_hosts) as url:
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


class LogWriter(Observer):
    """Writes what the function logs to a file, unchanged."""

    def __init__(self, file: TextIO) -> None:
        """Write to `file`."""
        self._file = file

    def log(self, text: str, request_id: str) -> None:
        """Write `text`."""
        self._file.write(text)
        self._file.flush()


class _FunctionUrl:
    """Answers HTTP requests with the function's responses."""

    def __init__(self, pool: SandboxPool, allowed_hosts: Iterable[str]) -> None:
        """Invoke the function of `pool` for requests to `allowed_hosts` and the loopback interface."""
        self._pool = pool
        self._allowed_hosts = frozenset(map(host_name, allowed_hosts))

    async def serve(self, connection: Connection, request: h11.Request) -> None:
        """Answer one request.

        Raises:
            ClientDisconnected: The client closed the connection.
        """
        headers = field_values(request)
        if request.method == b"CONNECT":  # a request for a tunnel
            head = [("connection", "close"), _METHODS]
            await self._refuse(connection, request, 405, head, b"", "function URLs do not support CONNECT")
            raise ClientDisconnected("after CONNECT the client may send anything")
        host = headers.get("host", "localhost")
        if not is_loopback(host) and host_name(host) not in self._allowed_hosts:
            # Such a name may lead here by DNS rebinding, and the function may have the shell's credentials.
            await connection.read_body(0)
            reason = f"host {host!r} is not allowed. To allow it, use --allow-host {host_name(host)}"
            body = json.dumps({"Message": reason}).encode()
            await self._refuse(connection, request, 403, [_JSON], body, reason)
            return
        if request.target == b"*":  # OPTIONS for the server as a whole
            await connection.read_body(0)
            await self._refuse(connection, request, 204, [_METHODS], b"", "OPTIONS *, answered by the URL")
            return
        body = await connection.read_body(REQUEST_LIMIT)
        request_id = str(uuid.uuid4())
        trace_header = headers.get("x-amzn-trace-id", "")
        known, flag = _TRACE_ROOT.search(trace_header), _SAMPLED.search(trace_header)
        trace_id = known[0] if known else new_trace_id()
        common = [
            ("x-amzn-requestid", request_id),
            ("x-amzn-trace-id", trace_id.replace("Root", "root")),
        ]
        cors = self._pool.function.cors
        if cors is not None and "origin" in headers:
            preflight = is_preflight(request.method.decode(), headers)
            common += cors_headers(cors, headers["origin"], preflight)
            if preflight:
                await self._refuse(connection, request, 200, common, b"", "CORS preflight, answered by the URL")
                return
        if len(body) > REQUEST_LIMIT:
            reason = f"Request must be smaller than {REQUEST_LIMIT} bytes for the InvokeFunction operation"
            message = b'{"Message":"%s"}' % reason.encode()
            await self._refuse(connection, request, 413, [*common, _JSON], message, reason)
            return
        event = self._event(request, body, connection.peer, request_id, trace_id)
        if event is None:
            reason = "no event of the API in template.yaml has this method and path"
            await self._refuse(connection, request, 403, [*common, _JSON], _NO_ROUTE, reason)
            return
        invocation = Invocation(event, request_id, trace_id, flag[1] == "1" if flag else None)
        invocation.abort_client = connection.shutdown
        writer = _ResponseWriter(connection, common, invocation)
        try:
            async with contextlib.aclosing(await self._pool.invoke(invocation)) as messages:
                await self._forward(messages, writer)
        except Throttled as error:
            await self._refuse(connection, request, 429, [*common, _JSON], _THROTTLED, str(error))
        if invocation.client_disconnected:
            raise ClientDisconnected("the client disconnected before the end of the response")

    def _event(self, request: h11.Request, body: bytes, peer: str, request_id: str, trace_id: str) -> Any:
        """Return the event of the function's URL, or of its API; None if the API has no route for the request."""
        routes = self._pool.function.routes
        if not routes:
            return function_url_event(request, body, peer, request_id, trace_id)
        path = request.target.decode("latin-1").partition("?")[0]
        if (route := match_route(routes, request.method.decode(), path)) is None:
            return None
        return rest_api_event(request, body, peer, request_id, trace_id, *route)

    async def _refuse(
        self,
        connection: Connection,
        request: h11.Request,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        reason: str,
    ) -> None:
        line = f"{request.method.decode()} {request.target.decode('latin-1')}"
        self._pool.observer.refused(line, status, reason)
        await connection.respond(status, headers, body)

    async def _forward(self, messages: ResponseMessages, writer: _ResponseWriter) -> None:
        """Send a response chunk by chunk, as it is made."""
        bucket = TokenBucket(asyncio.get_running_loop().time) if self._pool.limits else None
        async for message in messages:
            match message:
                case ResponseHead():
                    await writer.start(message)
                case Chunk(data):
                    if bucket is not None:
                        await asyncio.sleep(bucket.take(len(data)))
                    await writer.send(h11.Data(data=data))
                case ResponseEnd(""):
                    await writer.send(h11.EndOfMessage())
                case ResponseEnd():
                    await writer.fail()


class _ResponseWriter:
    """Sends one response. Once the client has disconnected or the response has failed, it sends nothing."""

    def __init__(self, connection: Connection, headers: list[tuple[str, str]], invocation: Invocation) -> None:
        """Send `headers` with the head of the response."""
        self._connection = connection
        self._headers = headers
        self._invocation = invocation
        self._started = self._failed = False

    async def start(self, head: ResponseHead) -> None:
        """Send the head of the function's response."""
        self._started = True
        await self.send(response_head(head.status, [*head.headers, *self._headers]))

    async def send(self, *events: h11.Event) -> None:
        """Send `events`. A disconnected client does not stop the function, so its output is still read."""
        if self._invocation.client_disconnected or self._failed:
            return
        try:
            await self._connection.send(*events)
        except ClientDisconnected:
            self._invocation.client_disconnected = True

    async def fail(self) -> None:
        """Tell the client that the response failed: by status 502 before the head, else by aborting the connection."""
        if self._invocation.client_disconnected or self._failed:
            return
        self._failed = True
        if self._started:
            self._connection.abort()
            return
        try:
            await self._connection.respond(502, [*self._headers, _JSON], b"Internal Server Error")
        except ClientDisconnected:
            self._invocation.client_disconnected = True
