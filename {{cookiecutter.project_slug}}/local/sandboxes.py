"""The sandboxes of a function: how many there are, and which one serves a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .sandbox import Sandbox
from .template import Function

# A process asks for its next event a moment after its last response, and a client may be faster.
_RETURN_TIME = 0.5  # seconds


class Sandboxes:
    """The function's sandboxes: an idle one is used again, another is started when all are busy."""

    def __init__(self, function: Function, limit: int, log: Callable[[str], None]) -> None:
        """`limit` is how many invocations may run at once; `log` receives what the function writes to its log."""
        self.log = log
        self._function = function
        self._limit = limit
        self._all: set[Sandbox] = set()
        self._current: set[Sandbox] = set()  # those that run the code as it is now
        self._idle: list[Sandbox] = []
        self._returning: set[asyncio.Task[None]] = set()

    async def acquire(self) -> Sandbox | None:
        """A sandbox to invoke; None when the limit is reached."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + _RETURN_TIME
        while not self._idle and self._returning and (left := deadline - clock()) > 0:
            await asyncio.wait(self._returning, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        while self._idle:
            sandbox = self._idle.pop()
            if sandbox.alive:
                return sandbox
            await self._discard(sandbox)
        if len(self._current) >= self._limit:
            return None
        sandbox = Sandbox(self._function, self.log)
        self._all.add(sandbox)
        self._current.add(sandbox)
        await sandbox.start()
        return sandbox

    def release(self, sandbox: Sandbox) -> None:
        """Gives back a sandbox whose response is over; it is idle once its process asks for another event."""
        task = asyncio.create_task(self._return(sandbox))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def renew(self) -> None:
        """Lets no sandbox that runs now be used again: the code has changed."""
        idle, self._idle = self._idle, []
        self._current.clear()
        for sandbox in idle:
            await self._discard(sandbox)

    async def stop(self) -> None:
        """Ends every process."""
        await asyncio.gather(*(sandbox.stop() for sandbox in self._all), *self._returning)

    async def _return(self, sandbox: Sandbox) -> None:
        await sandbox.settled()
        if sandbox in self._current and sandbox.alive:
            self._idle.append(sandbox)
        else:
            await self._discard(sandbox)

    async def _discard(self, sandbox: Sandbox) -> None:
        self._current.discard(sandbox)
        await sandbox.stop()
        self._all.discard(sandbox)
