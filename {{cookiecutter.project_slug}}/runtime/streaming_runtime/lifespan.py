"""The lifespan of an ASGI application: https://asgi.readthedocs.io/en/latest/specs/lifespan.html"""

from __future__ import annotations

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import Application, Message


_FOREVER = 1e9  # seconds


class Lifespan:
    """An application's lifespan on one event loop.

    It is a single task, so that the application can leave there what it entered there.

    Attributes:
        loop: The event loop.
        state: What the application stores for its requests.
        running: Whether the application is ready for requests on the running event loop.
    """

    def __init__(self, app: Application) -> None:
        """Start the task on the running event loop."""
        self.loop = asyncio.get_running_loop()
        self.state: dict[str, Any] = {}
        self._started, self._stopping, self._stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._begun = self._stop_received = False
        self._failure: BaseException | None = None
        self._task = asyncio.create_task(self._run(app))

    @property
    def running(self) -> bool:
        return self._started.is_set() and self._failure is None and self.loop is asyncio.get_running_loop()

    async def startup(self) -> None:
        """Wait until the application is ready.

        Raises:
            RuntimeError: The application reported a failure.
        """
        await self._wait_for(self._started)

    async def shutdown(self) -> None:
        """Ask the application to shut down, and wait until it has.

        Raises:
            RuntimeError: The application reported a failure.
        """
        self._stopping.set()
        await self._wait_for(self._stopped)

    async def _wait_for(self, event: asyncio.Event) -> None:
        await event.wait()
        if self._failure is not None:
            raise self._failure

    async def _run(self, app: Application) -> None:
        asgi = {"version": "3.0", "spec_version": "2.0"}
        try:
            await app({"type": "lifespan", "asgi": asgi, "state": self.state}, self._receive, self._send)
        except BaseException as error:
            # An application without a lifespan raises an error instead of answering, which the specification allows.
            unsupported = not self._started.is_set() and isinstance(error, Exception)
            if self._failure is None and not unsupported:
                self._failure = error
        self._started.set()
        self._stopped.set()

    async def _receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        if self._stop_received:  # nothing more comes, until the event loop is closed
            await asyncio.sleep(_FOREVER)
        self._stop_received = True
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._failure = RuntimeError(message.get("message") or kind)
        elif kind not in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent on the lifespan.")
        (self._started if kind.startswith("lifespan.startup.") else self._stopped).set()
