"""A sandbox: one process of the function, and the Runtime API that this process talks to.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import h11

from .http import Connection, Server, fields
from .template import Function

_VERSION = "/2018-06-01/runtime"
_ACCOUNT = "123456789012"
_ERROR_TYPE = "lambda-runtime-function-error-type"
_ERROR_BODY = "lambda-runtime-function-error-body"
# Chunks that may wait for a slow client before the function has to wait too.
_QUEUED_CHUNKS = 16


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


@dataclass
class Invocation:
    """An event on its way to the function, and the messages that come back."""

    event: bytes
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    messages: asyncio.Queue[Message] = field(default_factory=lambda: asyncio.Queue(_QUEUED_CHUNKS))
    ended: bool = False

    async def put(self, message: Message) -> None:
        """Hands a message on; waits while the client is slow. Nothing follows an `End`."""
        if self.ended:
            return
        self.ended = isinstance(message, End)
        await self.messages.put(message)


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
        self._runtime_api = Server(self._serve_runtime)
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts the process; that it cannot load the handler shows at the first invocation."""
        host, port = await self._runtime_api.start("127.0.0.1", 0)
        self._process = await asyncio.create_subprocess_exec(
            str(self._function.code / "bootstrap"),
            self._function.handler,
            cwd=self._function.code,
            env=self._environment(f"{host}:{port}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._watcher = asyncio.create_task(self._watch(self._process))

    async def invoke(self, event: bytes) -> AsyncIterator[Message]:
        """Hands `event` to the function and yields what comes back, up to and with the `End`."""
        invocation = Invocation(event)
        self._current = invocation
        self._waiting.put_nowait(invocation)
        if not self.alive:
            await invocation.put(self._exit_message())
        while True:
            message = await invocation.messages.get()
            yield message
            if isinstance(message, End):
                self._current = None
                return

    async def stop(self) -> None:
        """Ends the process and all that it started."""
        self._stop_timer()
        self._kill()
        if self._watcher is not None:
            await self._watcher
        await self._runtime_api.close()

    def _environment(self, runtime_api: str) -> dict[str, str]:
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
        function = self._function
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        environment = {
            "PYTHON": sys.executable,
            **function.environment,
            **os.environ,
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory),
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}",
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "LAMBDA_TASK_ROOT": str(function.code),
            "TZ": ":UTC",
            "_HANDLER": function.handler,
        }
        # On Lambda it points at our bootstrap, which is what runs here anyway.
        environment.pop("AWS_LAMBDA_EXEC_WRAPPER", None)
        return environment

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while output := await process.stdout.read(65536):
            # Within one log entry the runtime breaks lines with carriage returns.
            self._log(output.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n"))
        await process.wait()
        self._stop_timer()
        if self._current is not None:
            await self._current.put(self._exit_message())

    def _exit_message(self) -> End:
        status = None if self._process is None else self._process.returncode
        return self._exit_cause or End("Runtime.ExitError", f"Runtime exited with status {status}".encode())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _time_out(self, invocation: Invocation) -> None:
        message = f"{invocation.request_id} Task timed out after {self._function.timeout:.2f} seconds"
        self._log(message + "\n")
        self._exit_cause = End("Sandbox.Timedout", message.encode())
        self._kill()

    async def _serve_runtime(self, connection: Connection, request: h11.Request) -> None:
        call = (request.method.decode(), request.target.decode("latin-1").removeprefix(_VERSION))
        current = self._current.request_id if self._current is not None else ""
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
            await connection.respond(202, [("content-type", "application/json")], b'{"status":"OK"}\n')
            await self._finish(error)
        else:
            async for _ in connection.body():
                pass
            refusal = b'{"errorMessage":"Invalid request ID or path","errorType":"InvalidRequestID"}\n'
            await connection.respond(400, [("content-type", "application/json")], refusal)

    async def _serve_next(self, connection: Connection) -> None:
        invocation = await self._waiting.get()
        timeout = self._function.timeout
        self._timer = asyncio.get_running_loop().call_later(timeout, self._time_out, invocation)
        headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", invocation.request_id),
            ("lambda-runtime-deadline-ms", str(int((time.time() + timeout) * 1000))),
            (
                "lambda-runtime-invoked-function-arn",
                f"arn:aws:lambda:us-east-1:{_ACCOUNT}:function:{self._function.name}",
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
        error_type = connection.trailers.get(_ERROR_TYPE, "")
        await self._finish(End(error_type, base64.b64decode(connection.trailers.get(_ERROR_BODY, ""))))

    async def _finish(self, end: End) -> None:
        self._stop_timer()
        if self._current is not None:
            await self._current.put(end)
