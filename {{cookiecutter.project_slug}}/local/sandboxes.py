"""The sandboxes of a function: how many there are, which one takes an invocation, and who is told of it."""

from __future__ import annotations

import asyncio
import functools

from .function import Function
from .invocation import Chunk, End, Invocation
from .payload import Head, Response, buffered, capped, streamed
from .sandbox import Sandbox

# A process asks for its next event a moment after its last response, and a client may be faster.
_RETURN_TIME = 0.5  # seconds


# Invocations that may run at once where nothing else is said. Lambda has a thousand for an account.
_CONCURRENCY = 100


class Throttled(Exception):
    """As many invocations run already as may."""


class Observer:
    """Is told what happens. Here it does nothing with that."""

    def invoked(self, invocation: Invocation) -> None:
        """The function is given an event."""

    def head(self, invocation: Invocation, head: Head) -> None:
        """The response has begun."""

    def chunk(self, invocation: Invocation, data: bytes) -> None:
        """More of the response's body has come."""

    def ended(self, invocation: Invocation, end: End) -> None:
        """The response is over."""

    def log(self, text: str, request_id: str) -> None:
        """The function has written `text` in the invocation with that id, if it is known."""

    def refused(self, request: str, status: int, reason: str) -> None:
        """A request was answered without the function."""


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
