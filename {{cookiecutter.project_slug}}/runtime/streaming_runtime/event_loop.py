"""The event loop of the process, and the hooks that run on it before the first invocation and at the end."""

from __future__ import annotations

import os

from . import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import Runner
    from collections.abc import Coroutine
    from contextvars import Context
    from typing import Any

    from ._types import Hook
    from .deadline import Deadline


class EventLoop:
    """The one event loop of the process. It is created when something first runs on it.

    It outlives invocations, because clients that a module keeps are bound to it.

    Attributes:
        startup_hooks: Run before the first invocation.
        shutdown_hooks: Run before the process ends, if there is time.
    """

    def __init__(self) -> None:
        self.startup_hooks: list[Hook] = []
        self.shutdown_hooks: list[Hook] = []
        self._runner: Runner | None = None

    def run(
        self, coroutine: Coroutine[Any, Any, Any], context: Context | None = None, deadline: Deadline | None = None
    ) -> Any:
        """Run `coroutine` as a task, and return its result.

        Args:
            coroutine: What to run.
            context: The context variables of the task. Default: a copy of the current ones.
            deadline: The deadline to apply to the task, or None. It must not be in the activity HANDLER yet: before the
                task runs, the deadline would be raised inside asyncio, and the next invocation would find the task.
        """
        # Imported here: importing asyncio takes longer than starting the runtime, and only async handlers need it.
        import asyncio
        from contextlib import suppress

        if self._runner is None:
            runner = asyncio.Runner()
            # Log text goes to the descriptors 0 to 2, even after the function closed them.
            low: list[int] = []
            try:
                while logs.is_destination(number := os.open(os.devnull, os.O_RDONLY)):
                    low.append(number)
                os.close(number)
                runner.get_loop()
            finally:
                for number in low:
                    os.close(number)
            self._runner = runner

        # Not by `Runner.run`, which replaces the handler of SIGINT at the start and at the end of each run.
        loop = self._runner.get_loop()
        task = loop.create_task(coroutine, context=context)
        if deadline is not None:
            deadline.watch(loop, task)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            if not task.done():  # the signal interrupted the event loop rather than the task, which must clean up
                task.cancel()
                with suppress(asyncio.CancelledError):
                    loop.run_until_complete(task)
            raise
        finally:
            if deadline is not None:
                deadline.release()

    def close(self) -> None:
        """Cancel what still runs on the event loop, so that its threads do not keep the process alive."""
        assert self._runner is not None
        self._runner.close()


#: The event loop that serves all invocations.
event_loop = EventLoop()
