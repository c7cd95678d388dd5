"""The sandboxes of a function: processes that serve one invocation at a time, and which of them takes the next."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import functools
import io
import os
import signal
from collections.abc import AsyncIterator, Callable

from .function import Function, environment
from .http import CannotListen
from .invocation import Chunk, End, Invocation, Message, RuntimeApi
from .journal import Observer
from .payload import Head, Response, buffered, capped, streamed

# A process asks for its next event a moment after its last response, and a client may be faster.
_RETURN_TIME = 0.5  # seconds
# Invocations that may run at once where nothing else is said. Lambda has a thousand for an account.
_CONCURRENCY = 100

#: Receives what a function writes, and the id of the invocation in which it does, which may be empty.
Log = Callable[[str, str], None]


class Sandbox:
    """Runs `bootstrap` for one invocation at a time."""

    def __init__(self, function: Function, log: Log) -> None:
        """`log` receives what the function writes to its standard output and error, piece by piece."""
        self._function = function
        self._log = log
        self._log_of = ""  # the invocation that what is written belongs to, by its id
        # Why the process is about to exit, where more is known than its exit status.
        self._exit_cause: End | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._output = -1  # descriptor, while the process runs
        # Within one log entry the runtime breaks lines with carriage returns.
        self._log_decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), True)
        self._runtime_api = RuntimeApi(function, self._fail, self._time_out)
        self._watcher: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs and can be invoked."""
        return self._process is not None and self._process.returncode is None and self._exit_cause is None

    async def invoke(self, invocation: Invocation) -> AsyncIterator[Message]:
        """Hands the event to the function and yields what comes back, up to and with the `End`."""
        self._read_output()  # of the invocation before
        self._log_of = invocation.request_id
        self._runtime_api.offer(invocation)
        if self._process is None:
            await self._start()
        if not self.alive:
            invocation.end(self._exit_message())
        async for message in invocation.messages():
            if not isinstance(message, Chunk):
                self._read_output()  # what was written before comes before
            yield message
        self._runtime_api.current = None

    async def settled(self) -> None:
        """Returns when the process waits for the next event, or has ended."""
        await self._runtime_api.settled.wait()

    async def stop(self) -> None:
        """Ends the process and all that it started."""
        self._runtime_api.stop_timer()
        self._runtime_api.current = None
        if self._process is not None and self._process.returncode is None:
            self._exit_cause = self._exit_cause or End("Sandbox.Stopped")
            self._kill(self._process)
        await self._runtime_api.close()
        if self._watcher is not None:
            await self._watcher
        self._close_output()
        self._runtime_api.settled.set()  # also of one that was broken off before it had a process

    async def _start(self) -> None:
        bootstrap = str(self._function.bootstrap)
        output_end = -1
        try:
            address = await self._runtime_api.start()
            # A pipe of our own: asyncio's keeps a process "running" until the last heir of its output has ended.
            self._output, output_end = os.pipe()
            self._process = await asyncio.create_subprocess_exec(
                bootstrap,
                self._function.handler,
                cwd=self._function.code,
                env=environment(self._function, address),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_end,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except (CannotListen, OSError, ValueError) as error:  # ValueError: a variable that no environment can hold
            self._write_log(f"Cannot start {bootstrap}: {error}\n")
            self._exit_cause = End("Runtime.InvalidEntrypoint", str(error).encode())
            self._runtime_api.settled.set()
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
        current = self._runtime_api.current
        if current is not None and self._exit_cause is None:
            self._write_log(f"{current.request_id} {self._exit_message().error_body.decode()}\n")
        await self._runtime_api.finish()
        if (current := self._runtime_api.current) is not None:
            current.end(self._exit_message())

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

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _fail(self, cause: End) -> None:
        self._exit_cause = cause

    def _time_out(self, invocation: Invocation, seconds: float) -> None:
        message = f"{invocation.request_id} Task timed out after {seconds:.2f} seconds"
        self._write_log(message + "\n")
        self._exit_cause = End("Sandbox.Timedout", message.encode())
        if self._process is not None:
            self._kill(self._process)


class Throttled(Exception):
    """As many invocations run already as may."""


class Sandboxes:
    """The function's sandboxes: an idle one is used again, another is started when all are busy."""

    def __init__(
        self, function: Function, observer: Observer, concurrency: int | None = None, limits: bool = False
    ) -> None:
        """Sandboxes of which none is started yet.

        Args:
            function: What runs in them.
            observer: Is told what happens.
            concurrency: How many invocations may run at once, whatever the function has reserved.
            limits: Whether a response has Lambda's size and bandwidth.
        """
        self.function = function
        self.observer = observer
        self.limits = limits
        self._concurrency = concurrency
        self._all: set[Sandbox] = set()
        self._current: set[Sandbox] = set()  # those that run the code as it is now
        self._idle: list[Sandbox] = []
        self._returning: set[asyncio.Task[None]] = set()

    async def invoke(self, invocation: Invocation) -> Response:
        """Finds a sandbox; gives the response, which runs the function while it is read, up to and with the `End`.

        Raises:
            Throttled: The limit is reached.
        """
        return self._run(await self._acquire(), invocation)

    async def renew(self, function: Function) -> None:
        """Lets no sandbox that runs now be used again: the function has changed."""
        self.function = function
        idle, self._idle = self._idle, []
        self._current.clear()
        for sandbox in idle:
            await self._discard(sandbox)

    async def stop(self) -> None:
        """Ends every process."""
        await asyncio.gather(*(sandbox.stop() for sandbox in self._all), *self._returning)

    async def _run(self, sandbox: Sandbox, invocation: Invocation) -> Response:
        try:
            self.observer.invoked(invocation)
            complain = functools.partial(self.observer.log, request_id=invocation.request_id)
            decode = streamed if self.function.streams else buffered
            response = decode(sandbox.invoke(invocation), complain)
            async for message in capped(response, complain) if self.limits else response:
                match message:
                    case Head():
                        self.observer.head(invocation, message)
                    case Chunk(data):
                        self.observer.chunk(invocation, data)
                    case End():
                        self.observer.ended(invocation, message)
                yield message
        finally:
            task = asyncio.create_task(self._return(sandbox))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _acquire(self) -> Sandbox:
        clock = asyncio.get_running_loop().time
        deadline = clock() + _RETURN_TIME
        while not self._idle and self._returning and (left := deadline - clock()) > 0:
            await asyncio.wait(self._returning, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        while self._idle:
            sandbox = self._idle.pop()
            if sandbox.alive:
                return sandbox
            await self._discard(sandbox)
        if len(self._all) >= (limit := self._limit()):
            raise Throttled(f"the concurrency limit of {limit} is reached")
        sandbox = Sandbox(self.function, self.observer.log)
        self._all.add(sandbox)
        self._current.add(sandbox)
        return sandbox

    def _limit(self) -> int:
        for limit in (self._concurrency, self.function.concurrency):
            if limit is not None:
                return limit
        return _CONCURRENCY

    async def _return(self, sandbox: Sandbox) -> None:
        # It is idle once its process asks for another event.
        await sandbox.settled()
        if sandbox in self._current and sandbox.alive:
            self._idle.append(sandbox)
        else:
            await self._discard(sandbox)

    async def _discard(self, sandbox: Sandbox) -> None:
        self._current.discard(sandbox)
        await sandbox.stop()
        self._all.discard(sandbox)
