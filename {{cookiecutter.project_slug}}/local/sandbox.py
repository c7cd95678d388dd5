"""An execution environment: a process that runs the function for one invocation at a time."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import dataclasses
import io
import os
import signal
from collections.abc import Callable, Sequence

from .aws import CredentialsError, credentials
from .debugger import Debugger
from .environment import environment
from .http_server import ListenError
from .invocation import Invocation
from .messages import Chunk, PostedMessages, ResponseEnd
from .runtime_api import RuntimeApi
from .template import Function
from .traces import Span, TraceDaemon, nested

#: Receives what a function logs, and the request ID of the invocation that it logs in, which may be empty.
LogSink = Callable[[str, str], None]
#: Receives spans that a function recorded, and the request ID of the invocation that it recorded them in.
TraceSink = Callable[[Sequence[Span], str], None]

# Environment variables: what makes the runtime record spans, and where exporters of OpenTelemetry send theirs.
_RECORDS_SPANS = "STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# A person at a breakpoint needs time, and neither Lambda's timeout nor the runtime's deadline may interrupt.
_NO_TIMEOUT = 7 * 24 * 60 * 60.0  # seconds


class Sandbox:
    """Runs `bootstrap`, as Lambda does in an execution environment."""

    def __init__(
        self,
        function: Function,
        log: LogSink,
        traced: TraceSink,
        debugger: Debugger | None = None,
        sampled: bool = False,
    ) -> None:
        """Prepare an execution environment.

        Args:
            function: The function that it runs.
            log: Receives standard output and error, piece by piece.
            traced: Receives the spans that the function recorded.
            debugger: How an editor can debug the process, which then has no timeout.
            sampled: Whether to receive what libraries record only of sampled traces.
        """
        if debugger is not None:
            function = dataclasses.replace(function, timeout=_NO_TIMEOUT)
        self._function = function
        self._log = log
        self._traced = traced
        self._debugger = debugger
        self._log_request_id = ""  # of the invocation that current output belongs to
        # Why the process is about to exit, if more is known than its exit status.
        self._exit_cause: ResponseEnd | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._output = -1  # descriptor, while the process runs
        # Within one log entry the runtime separates lines with carriage returns.
        self._log_decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), True)
        self._runtime_api = RuntimeApi(function, self._record_init_error, self._time_out, self._receive_spans)
        self._watcher: asyncio.Task[None] | None = None
        self._trace_daemon = TraceDaemon(self._receive_spans, self._write_log) if sampled else None

    @property
    def alive(self) -> bool:
        """Whether the process runs and can be invoked."""
        return self._process is not None and self._process.returncode is None and self._exit_cause is None

    async def invoke(self, invocation: Invocation) -> PostedMessages:
        """Hand the event to the function and yield what comes back, up to and including the `ResponseEnd`."""
        self._read_output()  # of the previous invocation
        self._log_request_id = invocation.request_id
        self._runtime_api.offer(invocation)
        await self.start()
        if not self.alive:
            invocation.finish(self._exit_end())
        async for message in invocation.messages():
            if not isinstance(message, Chunk):
                self._read_output()  # log first what was written first
            yield message
        self._runtime_api.current = None

    async def settled(self) -> None:
        """Wait until the process waits for the next event or has ended."""
        await self._runtime_api.settled.wait()

    async def stop(self) -> None:
        """End the process and all that it started."""
        self._runtime_api.stop_timer()
        self._runtime_api.current = None
        if self._process is not None and self._process.returncode is None:
            self._exit_cause = self._exit_cause or ResponseEnd("Sandbox.Stopped")
            self._kill(self._process)
        await self._runtime_api.close()
        if self._trace_daemon is not None:
            self._trace_daemon.close()
        if self._watcher is not None:
            await self._watcher
        self._close_output()
        self._runtime_api.settled.set()  # also if it was stopped before it had a process

    async def start(self) -> None:
        """Start the process, unless it was started before."""
        if self._process is None and self._exit_cause is None:
            await self._start()

    async def _start(self) -> None:
        command = [str(self._function.bootstrap), self._function.handler]
        if self._debugger is not None:
            command = self._debugger.command(self._function.bootstrap)
        output_end = -1
        try:
            address = await self._runtime_api.start()
            variables = environment(self._function, address, await self._credentials())
            if self._trace_daemon is not None:
                variables["AWS_XRAY_DAEMON_ADDRESS"] = await self._trace_daemon.start()
            records = self._trace_daemon is not None or _RECORDS_SPANS in variables
            if records and not any(variables.get(name) for name in _ENDPOINTS):
                variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{address}"
            # Not asyncio's pipe, with which a process counts as running until every heir of its output has ended.
            self._output, output_end = os.pipe()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self._function.code,
                env=variables,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except (ListenError, OSError, ValueError) as error:  # ValueError: a variable that no environment can hold
            self._write_log(f"Cannot start {command[0]}: {error}\n")
            self._exit_cause = ResponseEnd("Runtime.InvalidEntrypoint", str(error).encode())
            self._runtime_api.settled.set()
            self._close_output()
        else:
            os.set_blocking(self._output, False)
            asyncio.get_running_loop().add_reader(self._output, self._read_output)
            self._watcher = asyncio.create_task(self._watch(self._process))
        finally:
            if output_end >= 0:
                os.close(output_end)

    async def _credentials(self) -> dict[str, str]:
        """Return the credentials of the profile. In a thread, because getting them may need the network."""
        try:
            return await asyncio.to_thread(credentials, self._function.aws.profile)
        except CredentialsError as error:
            self._write_log(f"No AWS credentials: {error}\n")
            return {}

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self._kill(process)  # and all that it started
        self._read_output()
        current = self._runtime_api.current
        if current is not None and self._exit_cause is None:
            self._write_log(f"{current.request_id} {self._exit_end().error_body.decode()}\n")
        await self._runtime_api.drain()
        if (current := self._runtime_api.current) is not None:
            current.finish(self._exit_end())

    def _write_log(self, text: str) -> None:
        self._log(text, self._log_request_id)

    def _receive_spans(self, spans: Sequence[Span]) -> None:
        # What is sent late may be of an earlier invocation.
        request_id = next((span.invocation for span in spans if span.invocation), self._log_request_id)
        self._log("".join(f"[TRACE] {'  ' * depth}{span}\n" for depth, span in nested(spans)), request_id)
        self._traced(spans, request_id)

    def _read_output(self) -> None:
        """Log what the process has written."""
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

    def _exit_end(self) -> ResponseEnd:
        """Return the end of an invocation whose process ended."""
        status = None if self._process is None else self._process.returncode
        how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        return self._exit_cause or ResponseEnd("Runtime.ExitError", f"Runtime exited with error: {how}".encode())

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _record_init_error(self, error: ResponseEnd) -> None:
        self._exit_cause = error

    def _time_out(self, invocation: Invocation, seconds: float) -> None:
        message = f"{invocation.request_id} Task timed out after {seconds:.2f} seconds"
        self._write_log(message + "\n")
        self._exit_cause = ResponseEnd("Sandbox.Timedout", message.encode())
        if self._process is not None:
            self._kill(self._process)
