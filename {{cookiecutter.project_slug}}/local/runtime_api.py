"""The server side of the Runtime API: what one process of a function asks for its events, and posts responses to.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable

import h11

from .access import is_foreign_page
from .aws import ACCOUNT
from .http_server import ClientDisconnected, Connection, Server, field_values
from .invocation import ERROR_TYPE, Invocation
from .messages import ResponseEnd
from .template import Function
from .traces import OTHER_PATHS, SPANS_PATH, SpanSink, read_spans

_VERSION = "/2018-06-01/runtime"
_HEAD_LIMIT = 2 * 1024 * 1024  # bytes; an error trailer or an X-Ray header may have up to 1 MiB
_JSON = [("content-type", "application/json")]
_PROTOBUF = [("content-type", "application/x-protobuf")]
_ACCEPTED = b'{"status":"OK"}\n'
_FORBIDDEN = b'{"errorMessage":"Only the process of this execution environment may call","errorType":"Forbidden"}\n'
_UNKNOWN_CALL = b'{"errorMessage":"Invalid request ID or path","errorType":"InvalidRequestID"}\n'
# Calls that report why the process cannot become ready.
_START_ERRORS = {("POST", "/init/error"), ("POST", "/restore/error")}
# The least time that a function has to become ready for its first event.
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib
_INIT_TIMEOUT = 10  # seconds
# How long reading what a process sent may take after the process has ended.
_FINAL_READ_TIMEOUT = 5  # seconds


class RuntimeApi:
    """Serves the Runtime API to one process of a function, on a port of its own, one invocation at a time.

    Attributes:
        current: The invocation whose response is not complete, if any.
        settled: Set while the process waits for an event, and once it cannot take another.
    """

    def __init__(
        self,
        function: Function,
        on_init_error: Callable[[ResponseEnd], None],
        on_timeout: Callable[[Invocation, float], None],
        on_spans: SpanSink,
    ) -> None:
        """Create a Runtime API that does not listen yet.

        Args:
            function: The function that the process runs.
            on_init_error: Called when the process reports that it cannot become ready.
            on_timeout: Called with an invocation that has not ended after this many seconds.
            on_spans: Called with spans that the process has recorded.
        """
        self.current: Invocation | None = None
        self.settled = asyncio.Event()
        self._function = function
        self._on_init_error = on_init_error
        self._on_timeout = on_timeout
        self._on_spans = on_spans
        self._waiting: asyncio.Queue[Invocation] = asyncio.Queue(1)
        self._server = Server(self._serve, _HEAD_LIMIT)
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> str:
        """Start to listen, and return host and port.

        Raises:
            ListenError: The message says why.
        """
        host, port = await self._server.start("127.0.0.1", 0)
        self._address = f"{host}:{port}"
        return self._address

    def offer(self, invocation: Invocation) -> None:
        """Hand out the invocation when the process asks for its next event."""
        self.current = invocation
        self._waiting.put_nowait(invocation)
        self._start_timer(invocation, max(_INIT_TIMEOUT, self._function.timeout))

    async def drain(self) -> None:
        """Read what a process that has ended sent before."""
        self.stop_timer()
        self.settled.set()
        if self.current is not None and self._waiting.empty():
            await self._server.wait_idle(_FINAL_READ_TIMEOUT)

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    def stop_timer(self) -> None:
        """Cancel the timeout of the current invocation."""
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self, invocation: Invocation, seconds: float) -> None:
        self.stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._on_timeout, invocation, seconds)

    async def _serve(self, connection: Connection, request: h11.Request) -> None:
        call = (request.method.decode(), request.target.decode("latin-1").removeprefix(_VERSION))
        current = self.current.request_id if self.current is not None else None
        headers = field_values(request)
        if headers.get("host") != self._address or is_foreign_page(headers):  # events may hold credentials
            await connection.read_body(0)
            await connection.respond(403, _JSON, _FORBIDDEN)
        elif call == ("GET", "/invocation/next"):
            await connection.read_body()
            await self._serve_next(connection)
        elif call == ("GET", "/restore/next"):  # no snapshot is taken, so the process is restored immediately
            await connection.read_body()
            await connection.respond(200, _JSON, b"")
        elif call == ("POST", f"/invocation/{current}/response"):
            assert self.current is not None
            content_type = headers.get("content-type", "application/octet-stream")
            if not await self.current.receive_post(content_type, connection):
                raise ClientDisconnected("a second response, or an incomplete one")
            await connection.respond(202, _JSON, _ACCEPTED)
        elif call in {("POST", f"/invocation/{current}/error"), *_START_ERRORS}:
            error = ResponseEnd(headers.get(ERROR_TYPE, "Runtime.Unknown"), await connection.read_body())
            if call in _START_ERRORS:
                self._on_init_error(error)
                self.settled.set()
            await connection.respond(202, _JSON, _ACCEPTED)
            if self.current is not None:
                self.current.finish(error)
        elif call == ("POST", SPANS_PATH):
            await self._receive_spans(connection, headers.get("content-encoding", ""))
        elif call[0] == "POST" and call[1] in OTHER_PATHS:
            await connection.read_body()
            await connection.respond(200, _PROTOBUF, b"")
        else:
            await connection.read_body()
            await connection.respond(400, _JSON, _UNKNOWN_CALL)

    async def _receive_spans(self, connection: Connection, encoding: str) -> None:
        try:
            spans = read_spans(await connection.read_body(), encoding)
        except ValueError as error:
            await connection.respond(400, _JSON, json.dumps({"message": str(error)}).encode())
        else:
            self._on_spans(spans)
            await connection.respond(200, _PROTOBUF, b"")

    async def _serve_next(self, connection: Connection) -> None:
        self.stop_timer()
        if self.current is not None and self._waiting.empty():
            # The process took the event before and goes on without having ended its response.
            self.current.finish(ResponseEnd("Runtime.TruncatedResponse"))
        self.settled.set()
        invocation = await self._waiting.get()
        if connection.peer_closed:  # the runtime gave up this call and will ask again, or already has
            self._waiting.put_nowait(invocation)
            raise ClientDisconnected("the runtime closed the connection while it waited for an event")
        self.settled.clear()
        timeout = self._function.timeout
        self._start_timer(invocation, timeout)
        arn = f"arn:aws:lambda:{self._function.aws.region}:{ACCOUNT}:function:{self._function.name}"
        headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", invocation.request_id),
            ("lambda-runtime-deadline-ms", str(int((time.time() + timeout) * 1000))),
            ("lambda-runtime-invoked-function-arn", arn),
            (
                "lambda-runtime-trace-id",
                f"{invocation.trace_id};Parent={os.urandom(8).hex()};Sampled={int(bool(invocation.sampled))}",
            ),
        ]
        await connection.respond(200, headers, invocation.encoded)
