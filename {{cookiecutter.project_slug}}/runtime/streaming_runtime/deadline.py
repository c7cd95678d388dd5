"""Ends a handler in order shortly before Lambda would kill it in the middle of whatever it does.

A timer's signal interrupts what the handler waits for: sync code is raised in, async code is cancelled. What is being
sent is never interrupted halfway, unless the client is too slow to take it.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable
    from types import FrameType
    from typing import Any
else:
    import _signal  # the C module: importing `signal` around it takes longer than importing this package

#: Environment variable: how long before Lambda's deadline the handler is ended, in milliseconds; 0 turns it off.
MARGIN_VARIABLE = "STREAMING_RUNTIME_DEADLINE_MARGIN_MS"
_DEFAULT_MARGIN_MS = "500"
_AGAIN = 0.05  # seconds between signals: what did not react to one is treated as stuck at the next

_LONGEST = 24 * 60 * 60.0  # seconds; more than Lambda gives, and no more than a timer takes

#: The handler's code runs: it is interrupted.
HANDLER = 1
#: The runtime waits until the other side has taken what is sent: it is broken off if that takes long.
SENDING = 2
#: Any other code of the runtime: it goes on.
IDLE = 0

_margin = 0.0  # seconds; 0 while it is off
_current: Deadline | None = None


class StreamDeadlineExceeded(BaseException):
    """Lambda is about to end the invocation.

    Like `KeyboardInterrupt` it is no `Exception`: a loop that retries on errors must not swallow it.
    """


def setup() -> None:
    """Reads the margin and takes the timer's signal, once in a process.

    Raises:
        ValueError: The environment variable does not hold a number.
    """
    global _margin
    value = os.environ.get(MARGIN_VARIABLE, _DEFAULT_MARGIN_MS)
    if not value.isdecimal():
        raise ValueError(f"{MARGIN_VARIABLE} must be milliseconds, or 0 for no deadline, not {value!r}")
    _margin = int(value) / 1000
    if _margin:
        _signal.signal(_signal.SIGALRM, _on_alarm)


class Deadline:
    """The deadline of one invocation, which is watched within its ``with`` block.

    Attributes:
        doing: `HANDLER`, `SENDING` or `IDLE`: what may be interrupted, and how.
        passed: Whether the time is up.
    """

    doing = IDLE
    passed = False
    _loop: AbstractEventLoop | None = None
    _task: Task[Any] | None = None
    _called = False  # the event loop was asked to cancel the task
    _cancelled = False  # and did so
    _raised: StreamDeadlineExceeded | None = None  # in what blocked the event loop
    _delivered = False  # the handler knows; what it does to end is not interrupted
    _stuck = False  # what is being sent was so at the last signal

    def __init__(self, deadline_ms: int, break_off: Callable[[], None]) -> None:
        """`deadline_ms`: milliseconds since the epoch. `break_off` makes a send that blocks fail."""
        self._deadline_ms = deadline_ms
        self._break_off = break_off

    def __enter__(self) -> None:
        global _current
        left = min(self._deadline_ms / 1000 - time.time(), _LONGEST)
        # A deadline in the past is an emulator's, not Lambda's. A function with its own use for the signal keeps it.
        if _margin and left > 0 and _signal.getsignal(_signal.SIGALRM) is _on_alarm:
            _current = self
            _signal.setitimer(_signal.ITIMER_REAL, max(left - _margin, left / 2), _AGAIN)

    def __exit__(self, *_: object) -> None:
        global _current
        if _current is self:
            _current = None
            _signal.setitimer(_signal.ITIMER_REAL, 0)

    def watch(self, loop: AbstractEventLoop, task: Task[Any] | None) -> None:
        """From here on the handler runs as `task`, which is to be cancelled."""
        self._loop, self._task = loop, task
        self._called = False  # a call for the task before may have come too late for that

    def release(self) -> None:
        """From here on the handler runs as sync code again, which is to be raised in."""
        self._loop = None

    def exceeded(self) -> StreamDeadlineExceeded:
        """The exception to raise, which says how much time is left."""
        left = max(0, self._deadline_ms - int(time.time() * 1000))
        return StreamDeadlineExceeded(f"the invocation was not over {left} ms before Lambda's deadline")

    def settle(self, error: BaseException) -> BaseException:
        """Takes notice that `error` ended the handler; gives what to report, if that is the deadline in other words."""
        self._delivered, self._stuck = self.passed, False
        if self._cancelled and type(error).__name__ == "CancelledError":
            assert self._task is not None
            self._task.uncancel()
            late = self.exceeded().with_traceback(error.__traceback__)
            late.__context__ = self._raised or error.__context__
            return late
        group = error if issubclass(type(error), BaseExceptionGroup) else None
        if self.passed and isinstance(group, BaseExceptionGroup) and group.subgroup(StreamDeadlineExceeded) is not None:
            late = self.exceeded()
            late.__cause__ = error
            return late
        return error

    def expire(self, frame: FrameType | None) -> None:
        """The timer's signal, in the main thread, between any two steps of whatever runs there, which is `frame`.

        Raises:
            StreamDeadlineExceeded: In the handler's code.
        """
        self.passed = True
        if self.doing == SENDING:
            if self._stuck:
                self._break_off()
            self._stuck = True
        elif self.doing == IDLE or self._delivered:
            pass
        elif self._loop is None:
            self._delivered = True
            raise self.exceeded()
        elif not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._cancel)
        elif not _is_event_loop(frame):
            # Something blocks the event loop, so that the cancellation cannot reach the task.
            from asyncio import current_task

            self._delivered = current_task(self._loop) is self._task
            self._raised = self.exceeded()
            raise self._raised

    def _cancel(self) -> None:
        if not self._delivered and self._task is not None and not self._task.done():
            self._delivered = self._cancelled = True
            self._task.cancel()


def _is_event_loop(frame: FrameType | None) -> bool:
    name = str(frame.f_globals.get("__name__")) if frame is not None else ""
    # asyncio.events calls what may block.
    return name == "selectors" or (name.startswith("asyncio.") and name != "asyncio.events")


def _on_alarm(_signal_number: int, frame: FrameType | None) -> None:
    if _current is not None:
        _current.expire(frame)
