"""A sandbox: one process of the function, and the Runtime API that this process talks to.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import h11

from .function import ACCOUNT, Function, environment, region
from .http import CannotListen, ClientGone, Connection, Server, fields
from .invocation import ERROR_TYPE, Chunk, End, Invocation, Message

_VERSION = "/2018-06-01/runtime"
_JSON = [("content-type", "application/json")]
_ACCEPTED = b'{"status":"OK"}\n'
# What a function has at the least to become ready before its first event.
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib
_INIT_TIME = 10  # seconds
# How long what a process has sent may take to be read once it has ended.
_LAST_WORDS_TIME = 5  # seconds

#: Receives what a function writes, and the id of the invocation in which it does, which may be empty.
Log = Callable[[str, str], None]


class Sandbox:
    """Runs `bootstrap` and serves it the Runtime API, on a port of its own; one invocation at a time."""

    def __init__(self, function: Function, log: Log) -> None:
        """`log` receives what the function writes to its standard output and error, piece by piece."""
        self._function = function
        self._log = log
        self._waiting: asyncio.Queue[Invocation] = asyncio.Queue(1)
        self._current: Invocation | None = None
        self._log_of = ""  # the invocation that what is written belongs to, by its id
        # Why the process is about to exit, where more is known than its exit status.
        self._exit_cause: End | None = None
        self._process: asyncio.subprocess.Process | None = None
        # Set while the process waits for an event, and when it can take none any more.
        self._settled = asyncio.Event()
        self._output = -1  # descriptor, while the process runs
        # Within one log entry the runtime breaks lines with carriage returns.
        self._log_decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), True)
        self._runtime_api = Server(self._serve_runtime)
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs and can be invoked."""
        return self._process is not None and self._process.returncode is None and self._exit_cause is None

    async def invoke(self, invocation: Invocation) -> AsyncIterator[Message]:
        """Hands the event to the function and yields what comes back, up to and with the `End`."""
        self._read_output()  # of the invocation before
        self._log_of = invocation.request_id
        self._current = invocation
        self._waiting.put_nowait(invocation)
        self._start_timer(invocation, max(_INIT_TIME, self._function.timeout))
        if self._process is None:
            await self._start()
        if not self.alive:
            invocation.end(self._exit_message())
        async for message in invocation.messages():
            if not isinstance(message, Chunk):
                self._read_output()  # what was written before comes before
            yield message
        self._current = None

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
        self._close_output()
        self._settled.set()  # also of one that was broken off before it had a process

    async def _start(self) -> None:
        bootstrap = str(self._function.code / "bootstrap")
        output_end = -1
        try:
            host, port = await self._runtime_api.start("127.0.0.1", 0)
            # A pipe of our own: asyncio's keeps a process "running" until the last heir of its output has ended.
            self._output, output_end = os.pipe()
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
        except (CannotListen, OSError, ValueError) as error:  # ValueError: a variable that no environment can hold
            self._write_log(f"Cannot start {bootstrap}: {error}\n")
            self._exit_cause = End("Runtime.InvalidEntrypoint", str(error).encode())
            self._settled.set()
            self._close_output()
        else:
            os.set_blocking(self._output, False)
            asyncio.get_running_loop().add_reader(self._output, self._read_output)
            self._watcher = asyncio.create_task(self._watch(self._process))
        finally:
            if output_end >= 0:
                os.close(output_end)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self._kill(process)  # what it has started
        self._read_output()
        self._close_output()
        self._stop_timer()
        self._settled.set()
        if self._current is not None:
            if self._exit_cause is None:
                self._write_log(f"{self._current.request_id} {self._exit_message().error_body.decode()}\n")
            if self._waiting.empty():
                # What the process has sent may still be on its way.
                await self._runtime_api.idle(_LAST_WORDS_TIME)
        if self._current is not None:
            self._current.end(self._exit_message())

    def _write_log(self, text: str) -> None:
        self._log(text, self._log_of)

    def _read_output(self) -> None:
        """Logs what the process has written."""
        while self._output >= 0:
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return
            if text := self._log_decoder.decode(data, final=not data):
                self._write_log(text)
            if not data:
                self._close_output()

    def _close_output(self) -> None:
        if self._output >= 0:
            asyncio.get_running_loop().remove_reader(self._output)
            os.close(self._output)
            self._output = -1

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
        self._write_log(message + "\n")
        self._exit_cause = End("Sandbox.Timedout", message.encode())
        if self._process is not None:
            self._kill(self._process)

    async def _serve_runtime(self, connection: Connection, request: h11.Request) -> None:
        call = (request.method.decode(), request.target.decode("latin-1").removeprefix(_VERSION))
        current = self._current.request_id if self._current is not None else None
        headers = fields(request)
        if call == ("GET", "/invocation/next"):
            await connection.whole_body()
            await self._serve_next(connection)
        elif call == ("POST", f"/invocation/{current}/response"):
            assert self._current is not None
            content_type = headers.get("content-type", "application/octet-stream")
            if not await self._current.answer(content_type, connection):
                raise ClientGone("a second response, or one that broke off")
            await connection.respond(202, _JSON, _ACCEPTED)
        elif call in {("POST", f"/invocation/{current}/error"), ("POST", "/init/error")}:
            error = End(headers.get(ERROR_TYPE, "Runtime.Unknown"), await connection.whole_body())
            if call[1] == "/init/error":
                self._exit_cause = error
                self._settled.set()
            await connection.respond(202, _JSON, _ACCEPTED)
            if self._current is not None:
                self._current.end(error)
        else:
            await connection.whole_body()
            refusal = b'{"errorMessage":"Invalid request ID or path","errorType":"InvalidRequestID"}\n'
            await connection.respond(400, _JSON, refusal)

    async def _serve_next(self, connection: Connection) -> None:
        self._stop_timer()
        if self._current is not None and self._waiting.empty():
            # The event was taken before. The process goes on without having ended its response.
            self._current.end(End("Runtime.TruncatedResponse"))
        self._settled.set()
        invocation = await self._waiting.get()
        if connection.gone:  # the runtime has given this call up, and will ask again or has
            self._waiting.put_nowait(invocation)
            raise ClientGone("the runtime does not wait any more")
        self._settled.clear()
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
