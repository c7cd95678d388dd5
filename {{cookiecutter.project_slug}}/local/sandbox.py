"""A sandbox: one process of the function, and the Runtime API that this process talks to.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import contextlib
import io
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import h11

from .environment import environment, region
from .http import Connection, Server, fields
from .template import Function

_VERSION = "/2018-06-01/runtime"
_ACCOUNT = "123456789012"
_ERROR_TYPE = "lambda-runtime-function-error-type"
_ERROR_BODY = "lambda-runtime-function-error-body"
# Chunks that may wait for a slow client before the function has to wait too.
_QUEUED_CHUNKS = 16
# What a function has at the least to become ready before its first event.
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib
_INIT_TIME = 10  # seconds
# How long a slow client may hold up what a process has sent that has ended since.
_LAST_WORDS_TIME = 5  # seconds


@dataclass(frozen=True)
class Head:
    """The response has begun; `content_type` is the runtime's."""

    content_type: str


@dataclass(frozen=True)
class Chunk:
    """Bytes of the response, metadata included, as the runtime sent them."""

    data: bytes


@dataclass(frozen=True)
class End:
    """The response is over; if `error_type` is set it failed, before a `Head` or after."""

    error_type: str = ""
    error_body: bytes = b""


Message = Head | Chunk | End


class Invocation:
    """An event on its way to the function, and the messages that come back."""

    def __init__(self, event: bytes) -> None:
        self.event = event
        self.request_id = str(uuid.uuid4())
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._room = asyncio.Semaphore(_QUEUED_CHUNKS)
        self._ended = False

    async def put(self, message: Head | Chunk) -> None:
        """Hands a message on; waits while the client is slow. Nothing follows the end."""
        await self._room.acquire()
        if not self._ended:
            self._messages.put_nowait(message)

    def end(self, message: End) -> None:
        """Hands the first end on, without waiting."""
        if not self._ended:
            self._ended = True
            self._messages.put_nowait(message)

    async def get(self) -> Message:
        """The next message."""
        message = await self._messages.get()
        self._room.release()
        return message


class Sandbox:
    """Runs `bootstrap` and serves it the Runtime API, on a port of its own; one invocation at a time."""

    def __init__(self, function: Function, log: Callable[[str], None]) -> None:
        """`log` receives what the function writes to its standard output and error, piece by piece."""
        self._function = function
        self._log = log
        self._waiting: asyncio.Queue[Invocation] = asyncio.Queue(1)
        self._current: Invocation | None = None
        # Why the process is about to exit, where more is known than its exit status.
        self._exit_cause: End | None = None
        self._process: asyncio.subprocess.Process | None = None
        # Set while the process waits for an event, and when it can take none any more.
        self._settled = asyncio.Event()
        # Within one log entry the runtime breaks lines with carriage returns.
        self._log_decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), True)
        self._runtime_api = Server(self._serve_runtime)
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs and can be invoked."""
        return self._process is not None and self._process.returncode is None and self._exit_cause is None

    async def start(self) -> None:
        """Starts the process; that it cannot be started or cannot load the handler shows at the first invocation."""
        host, port = await self._runtime_api.start("127.0.0.1", 0)
        bootstrap = str(self._function.code / "bootstrap")
        # A pipe of our own: asyncio's keeps a process "running" until the last heir of its output has ended.
        output, output_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                bootstrap,
                self._function.handler,
                cwd=self._function.code,
                env=environment(self._function, f"{host}:{port}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._log(f"Cannot start {bootstrap}: {error.strerror}\n")
            self._exit_cause = End("Runtime.InvalidEntrypoint", str(error).encode())
            self._settled.set()
        finally:
            os.close(output_end)
            if self._process is None:
                os.close(output)
        if self._process is not None:
            self._watcher = asyncio.create_task(self._watch(self._process, output))

    async def invoke(self, event: bytes) -> AsyncIterator[Message]:
        """Hands `event` to the function and yields what comes back, up to and with the `End`."""
        invocation = Invocation(event)
        self._current = invocation
        self._waiting.put_nowait(invocation)
        self._start_timer(invocation, max(_INIT_TIME, self._function.timeout))
        if not self.alive:
            invocation.end(self._exit_message())
        while True:
            message = await invocation.get()
            yield message
            if isinstance(message, End):
                self._current = None
                return

    async def settled(self) -> None:
        """Returns when the process waits for the next event, or has ended."""
        await self._settled.wait()

    async def stop(self) -> None:
        """Ends the process and all that it started."""
        self._stop_timer()
        self._current = None
        if self._process is not None and self._process.returncode is None:
            self._exit_cause = self._exit_cause or End("Sandbox.Stopped")
            self._kill(self._process)
        await self._runtime_api.close()
        if self._watcher is not None:
            await self._watcher

    async def _watch(self, process: asyncio.subprocess.Process, output: int) -> None:
        loop = asyncio.get_running_loop()
        os.set_blocking(output, False)
        loop.add_reader(output, self._take_output, output)
        await process.wait()
        self._kill(process)  # what it has started
        while self._take_output(output):
            pass
        loop.remove_reader(output)
        os.close(output)
        self._stop_timer()
        self._settled.set()
        if self._current is not None:
            if self._exit_cause is None:
                self._log(f"{self._current.request_id} {self._exit_message().error_body.decode()}\n")
            if self._waiting.empty():
                # What the process has sent may still be on its way.
                await self._runtime_api.idle(_LAST_WORDS_TIME)
        if self._current is not None:
            self._current.end(self._exit_message())

    def _take_output(self, output: int) -> bool:
        """Logs what the process has written; returns whether there may be more."""
        try:
            data = os.read(output, 65536)
        except BlockingIOError:
            return False
        if text := self._log_decoder.decode(data, final=not data):
            self._log(text)
        if not data:
            asyncio.get_running_loop().remove_reader(output)
        return bool(data)

    def _exit_message(self) -> End:
        status = None if self._process is None else self._process.returncode
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        return self._exit_cause or End("Runtime.ExitError", f"Runtime exited with error: {how}".encode())

    def _start_timer(self, invocation: Invocation, seconds: float) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_out, invocation, seconds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _time_out(self, invocation: Invocation, seconds: float) -> None:
        message = f"{invocation.request_id} Task timed out after {seconds:.2f} seconds"
        self._log(message + "\n")
        self._exit_cause = End("Sandbox.Timedout", message.encode())
        if self._process is not None:
            self._kill(self._process)

    async def _serve_runtime(self, connection: Connection, request: h11.Request) -> None:
        call = (request.method.decode(), request.target.decode("latin-1").removeprefix(_VERSION))
        current = self._current.request_id if self._current is not None else None
        headers = fields(request)
        if call == ("GET", "/invocation/next"):
            async for _ in connection.body():
                pass
            await self._serve_next(connection)
        elif call == ("POST", f"/invocation/{current}/response"):
            await self._serve_response(connection, headers)
            await connection.respond(202, [("content-type", "application/json")], b'{"status":"OK"}\n')
        elif call in {("POST", f"/invocation/{current}/error"), ("POST", "/init/error")}:
            body = b"".join([data async for data in connection.body()])
            error = End(headers.get(_ERROR_TYPE, "Runtime.Unknown"), body)
            if call[1] == "/init/error":
                self._exit_cause = error
                self._settled.set()
            await connection.respond(202, [("content-type", "application/json")], b'{"status":"OK"}\n')
            if self._current is not None:
                self._current.end(error)
        else:
            async for _ in connection.body():
                pass
            refusal = b'{"errorMessage":"Invalid request ID or path","errorType":"InvalidRequestID"}\n'
            await connection.respond(400, [("content-type", "application/json")], refusal)

    async def _serve_next(self, connection: Connection) -> None:
        self._stop_timer()
        if self._current is not None and self._waiting.empty():
            # The event was taken before. The process goes on without having ended its response.
            self._current.end(End("Runtime.TruncatedResponse"))
        self._settled.set()
        invocation = await self._waiting.get()
        self._settled.clear()
        timeout = self._function.timeout
        self._start_timer(invocation, timeout)
        headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", invocation.request_id),
            ("lambda-runtime-deadline-ms", str(int((time.time() + timeout) * 1000))),
            (
                "lambda-runtime-invoked-function-arn",
                f"arn:aws:lambda:{region()}:{_ACCOUNT}:function:{self._function.name}",
            ),
            ("lambda-runtime-trace-id", f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0"),
        ]
        await connection.respond(200, headers, invocation.event)

    async def _serve_response(self, connection: Connection, headers: dict[str, str]) -> None:
        assert self._current is not None
        invocation = self._current
        await invocation.put(Head(headers.get("content-type", "application/octet-stream")))
        async for data in connection.body():
            await invocation.put(Chunk(data))
        error_body = base64.b64decode(connection.trailers.get(_ERROR_BODY, ""))
        invocation.end(End(connection.trailers.get(_ERROR_TYPE, ""), error_body))
