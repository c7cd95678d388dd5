"""An invocation between the client and the Runtime API: the event one way, the messages of its response the other."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11

from .function import ACCOUNT, Function, region
from .http import ClientGone, Connection, Server, fields

#: Name of a header, and of a trailer behind a response that failed midway.
#: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
ERROR_TYPE = "lambda-runtime-function-error-type"
# How long a client may take for the rest of a response whose invocation is over.
_PATIENCE = 10  # seconds
_ERROR_BODY = "lambda-runtime-function-error-body"
_VERSION = "/2018-06-01/runtime"
_JSON = [("content-type", "application/json")]
_ACCEPTED = b'{"status":"OK"}\n'
# What a function has at the least to become ready before its first event.
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib
_INIT_TIME = 10  # seconds
# How long what a process has sent may take to be read once it has ended.
_LAST_WORDS_TIME = 5  # seconds


@dataclass(frozen=True)
class Begin:
    """The runtime has begun to post a response, of this content type."""

    content_type: str


@dataclass(frozen=True)
class Chunk:
    """Bytes of the response, HTTP metadata included, as the runtime sent them."""

    data: bytes


@dataclass(frozen=True)
class End:
    """The response is over; if `error_type` is set it failed, before a `Begin` or after."""

    error_type: str = ""
    error_body: bytes = b""


Message = Begin | Chunk | End


def new_trace_id() -> str:
    """The id of a trace that begins now.

    https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
    """
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"


class EventError(Exception):
    """There is no event, or none of its kind."""


def read_event(file: str) -> Any:
    """The event in a file; for `-` the one on standard input.

    Raises:
        EventError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise EventError(f"cannot read the event: {error}") from error
    except (RecursionError, ValueError) as error:
        raise EventError(f"{file} is not JSON: {error}") from error


class Invocation:
    """An event on its way to the function, and the messages that come back."""

    def __init__(self, event: Any, request_id: str = "", trace_id: str = "") -> None:
        """An invocation with `event`, any JSON value; Lambda's id of it and X-Ray's are new if not given."""
        self.event = event
        self.encoded = json.dumps(event).encode()
        self.request_id = request_id or str(uuid.uuid4())
        self.trace_id = trace_id or new_trace_id()
        #: Whether the client went away before the end.
        self.client_gone = False
        #: Called when the client has not taken the rest some time after the invocation is over.
        self.give_up: Callable[[], None] | None = None
        self._answers: asyncio.Queue[_Post | End] = asyncio.Queue()
        self._post: _Post | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._over = False

    async def answer(self, content_type: str, connection: Connection) -> bool:
        """Lets `messages` read a response from the runtime's connection; returns whether it was taken whole.

        Who reads the messages sets the pace, so that a function whose client is slow has to wait.
        """
        if self._post is not None:
            return False
        self._post = _Post(content_type, connection, asyncio.get_running_loop().create_future())
        self._answers.put_nowait(self._post)
        return await self._post.whole

    def end(self, message: End) -> None:
        """Says how the invocation ended, for the case that its response does not.

        Whoever reads the messages gets what has arrived of a response, if they are not too slow.
        """
        if self._over:
            return
        self._answers.put_nowait(message)
        if self._post is not None:
            self._post.connection.end_input()
        self._lose_patience()

    async def messages(self) -> AsyncGenerator[Message]:
        """What comes back, up to and with the `End`."""
        answer = await self._answers.get()
        if isinstance(answer, _Post):
            yield Begin(answer.content_type)
            try:
                async for data in answer.connection.body():
                    yield Chunk(data)
            except ClientGone:
                answer.whole.set_result(False)
                # The process has ended, or goes on and will ask for the next event.
                answer = await self._answers.get()
            else:
                answer.whole.set_result(True)
                answer = _end(answer.connection.trailers)
        assert isinstance(answer, End)
        self._over = True
        self._lose_patience()
        yield answer
        if self._patience is not None:
            self._patience.cancel()

    def _lose_patience(self) -> None:
        if self.give_up is not None and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(_PATIENCE, self.give_up)


@dataclass(frozen=True)
class _Post:
    content_type: str
    connection: Connection
    whole: asyncio.Future[bool]


def _end(trailers: dict[str, str]) -> End:
    try:
        error_body = base64.b64decode(trailers.get(_ERROR_BODY, ""))
    except ValueError:
        error_body = b""
    return End(trailers.get(ERROR_TYPE, ""), error_body)


class RuntimeApi:
    """Serves one process of a function the Runtime API, on a port of its own; one invocation at a time.

    https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html

    Attributes:
        current: The invocation of which not all has come back.
        settled: Set while the process waits for an event, and when it can take none any more.
    """

    def __init__(
        self, function: Function, fail: Callable[[End], None], time_out: Callable[[Invocation, float], None]
    ) -> None:
        """`fail` is told that the process could not become ready; `time_out`, that its seconds are over."""
        self.current: Invocation | None = None
        self.settled = asyncio.Event()
        self._function = function
        self._fail = fail
        self._time_out = time_out
        self._waiting: asyncio.Queue[Invocation] = asyncio.Queue(1)
        self._server = Server(self._serve)
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> str:
        """Listens; gives host and port.

        Raises:
            CannotListen: The message says why.
        """
        host, port = await self._server.start("127.0.0.1", 0)
        return f"{host}:{port}"

    def offer(self, invocation: Invocation) -> None:
        """Makes it the answer to the process when that asks for its next event."""
        self.current = invocation
        self._waiting.put_nowait(invocation)
        self._start_timer(invocation, max(_INIT_TIME, self._function.timeout))

    async def finish(self) -> None:
        """Takes what a process that has ended may have sent, and is still on its way."""
        self.stop_timer()
        self.settled.set()
        if self.current is not None and self._waiting.empty():
            await self._server.idle(_LAST_WORDS_TIME)

    async def close(self) -> None:
        """Listens no longer."""
        await self._server.close()

    def stop_timer(self) -> None:
        """Lets the process take its time."""
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self, invocation: Invocation, seconds: float) -> None:
        self.stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_out, invocation, seconds)

    async def _serve(self, connection: Connection, request: h11.Request) -> None:
        call = (request.method.decode(), request.target.decode("latin-1").removeprefix(_VERSION))
        current = self.current.request_id if self.current is not None else None
        headers = fields(request)
        if call == ("GET", "/invocation/next"):
            await connection.whole_body()
            await self._serve_next(connection)
        elif call == ("POST", f"/invocation/{current}/response"):
            assert self.current is not None
            content_type = headers.get("content-type", "application/octet-stream")
            if not await self.current.answer(content_type, connection):
                raise ClientGone("a second response, or one that broke off")
            await connection.respond(202, _JSON, _ACCEPTED)
        elif call in {("POST", f"/invocation/{current}/error"), ("POST", "/init/error")}:
            error = End(headers.get(ERROR_TYPE, "Runtime.Unknown"), await connection.whole_body())
            if call[1] == "/init/error":
                self._fail(error)
                self.settled.set()
            await connection.respond(202, _JSON, _ACCEPTED)
            if self.current is not None:
                self.current.end(error)
        else:
            await connection.whole_body()
            refusal = b'{"errorMessage":"Invalid request ID or path","errorType":"InvalidRequestID"}\n'
            await connection.respond(400, _JSON, refusal)

    async def _serve_next(self, connection: Connection) -> None:
        self.stop_timer()
        if self.current is not None and self._waiting.empty():
            # The event was taken before. The process goes on without having ended its response.
            self.current.end(End("Runtime.TruncatedResponse"))
        self.settled.set()
        invocation = await self._waiting.get()
        if connection.gone:  # the runtime has given this call up, and will ask again or has
            self._waiting.put_nowait(invocation)
            raise ClientGone("the runtime does not wait any more")
        self.settled.clear()
        timeout = self._function.timeout
        self._start_timer(invocation, timeout)
        headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", invocation.request_id),
            ("lambda-runtime-deadline-ms", str(int((time.time() + timeout) * 1000))),
            (
                "lambda-runtime-invoked-function-arn",
                f"arn:aws:lambda:{region()}:{ACCOUNT}:function:{self._function.name}",
            ),
            ("lambda-runtime-trace-id", f"{invocation.trace_id};Parent={os.urandom(8).hex()};Sampled=0"),
        ]
        await connection.respond(200, headers, invocation.encoded)
