"""The execution environments of a function: which one serves an invocation, and how many there may be."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Awaitable, Callable

from .debugger import Debugger
from .events import through_distribution
from .invocation import Invocation
from .journal import Observer
from .messages import Chunk, ResponseEnd, ResponseHead, ResponseMessages
from .responses import buffered, collected, size_limited, streamed
from .sandbox import Sandbox
from .template import ORIGIN_SECRET, Function

# A process asks for its next event a moment after its last response, and a client may be faster.
_RETURN_TIMEOUT = 0.5  # seconds
# Concurrent invocations where neither the template nor the command line sets a limit. Lambda allows 1,000 an account.
_CONCURRENCY = 100


class Throttled(Exception):
    """The concurrency limit is reached."""


class SandboxPool:
    """The function's execution environments: idle ones are reused, and another is started when all are busy.

    Attributes:
        function: The function that they run.
        observer: What is told about each invocation.
        limits: Whether Lambda's limits of size and bandwidth apply to a response.
        before_invocation: What to wait for before each invocation. It may call `update`.
    """

    def __init__(
        self,
        function: Function,
        observer: Observer,
        concurrency: int | None = None,
        limits: bool = False,
        debugger: Debugger | None = None,
        sampled: bool = False,
    ) -> None:
        """Create a pool without any execution environment.

        Args:
            function: The function that they run.
            observer: What to tell about each invocation.
            concurrency: How many invocations may run concurrently; overrides the function's reserved concurrency.
            limits: Whether Lambda's limits of size and bandwidth apply to a response.
            debugger: How an editor can debug the function, which then has one execution environment.
            sampled: Whether to sample the trace of an invocation whose caller did not decide, and to receive what
                libraries record of sampled ones.
        """
        self.function = function
        self.observer = observer
        self.limits = limits
        self.before_invocation: Callable[[], Awaitable[None]] | None = None
        self._concurrency = concurrency if debugger is None else 1
        self._debugger = debugger
        self._sampled = sampled
        self._sandboxes: set[Sandbox] = set()
        self._current: set[Sandbox] = set()  # those that run the present code
        self._idle: list[Sandbox] = []
        self._returning: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None  # what starts a process before it is needed
        self._stopped = False

    async def invoke(self, invocation: Invocation) -> ResponseMessages:
        """Find an execution environment, and return the response, which runs the function while it is read.

        Raises:
            Throttled: The concurrency limit is reached.
        """
        if self.before_invocation is not None:
            await self.before_invocation()
        return self._run(await self._acquire(), invocation)

    async def update(self, function: Function) -> None:
        """Use `function` from the next invocation on, and none of the present execution environments."""
        self.function = function
        idle, self._idle = self._idle, []
        self._current.clear()
        for sandbox in idle:
            await self._discard(sandbox)
        await self.start_debugging()

    async def start_debugging(self) -> None:
        """If the function is debugged, start the process that an editor can attach to, unless there is one."""
        if self._debugger is not None and not self._sandboxes and not self._stopped:
            sandbox = self._add()
            self._starting = asyncio.create_task(sandbox.start())
            self._idle.append(sandbox)
        await self._started()

    async def stop(self) -> None:
        """End every process."""
        self._stopped = True
        await self._started()
        await asyncio.gather(*(sandbox.stop() for sandbox in self._sandboxes), *self._returning)

    async def _run(self, sandbox: Sandbox, invocation: Invocation) -> ResponseMessages:
        try:
            if invocation.sampled is None:
                invocation.sampled = self._sampled
            self.observer.invoked(invocation)
            if secrets := {**self.function.environment, **os.environ}.get(ORIGIN_SECRET, "").split():
                # On AWS the distribution in front does this. The observer has seen what the client sent.
                invocation.encoded = json.dumps(through_distribution(invocation.event, secrets[0])).encode()
            log = functools.partial(self.observer.log, request_id=invocation.request_id)
            decode = streamed if self.function.streams else collected if self.function.plain else buffered
            response = decode(sandbox.invoke(invocation), log)
            async for message in size_limited(response, log) if self.limits else response:
                match message:
                    case ResponseHead():
                        self.observer.head_received(invocation, message)
                    case Chunk(data):
                        self.observer.chunk_received(invocation, data)
                    case ResponseEnd():
                        self.observer.ended(invocation, message)
                yield message
        finally:
            task = asyncio.create_task(self._return(sandbox))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)

    async def _acquire(self) -> Sandbox:
        await self._started()
        clock = asyncio.get_running_loop().time
        deadline = clock() + _RETURN_TIMEOUT
        while not self._idle and self._returning and (left := deadline - clock()) > 0:
            await asyncio.wait(self._returning, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        while self._idle:
            sandbox = self._idle.pop()
            if sandbox.alive:
                return sandbox
            await self._discard(sandbox)
        if len(self._sandboxes) >= (limit := self._limit()):
            raise Throttled(f"the concurrency limit of {limit} is reached")
        return self._add()

    def _add(self) -> Sandbox:
        sandbox = Sandbox(self.function, self.observer.log, self.observer.traced, self._debugger, self._sampled)
        self._sandboxes.add(sandbox)
        self._current.add(sandbox)
        return sandbox

    def _limit(self) -> int:
        for limit in (self._concurrency, self.function.concurrency):
            if limit is not None:
                return limit
        return _CONCURRENCY

    async def _return(self, sandbox: Sandbox) -> None:
        # An execution environment is idle once its process asks for another event.
        await sandbox.settled()
        if sandbox in self._current and sandbox.alive:
            self._idle.append(sandbox)
        else:
            await self._discard(sandbox)
            await self.start_debugging()

    async def _started(self) -> None:
        if self._starting is not None:
            await self._starting

    async def _discard(self, sandbox: Sandbox) -> None:
        self._current.discard(sandbox)
        await self._started()
        await sandbox.stop()
        self._sandboxes.discard(sandbox)
