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
_RETRY = 0.05  # seconds until what did not react to the first signal is treated as stuck

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
        in_handler: Whether the handler's code runs, which may be interrupted, or the runtime's, which may not.
        passed: Whether the time is up.
    """

    __slots__ = ("_break_off", "_cancelled", "_deadline_ms", "_loop", "_task", "in_handler", "passed")

    def __init__(self, deadline_ms: int, break_off: Callable[[], None]) -> None:
        """`deadline_ms`: milliseconds since the epoch. `break_off` makes a send that blocks fail."""
        self.in_handler = False
        self.passed = False
        self._deadline_ms = deadline_ms
        self._break_off = break_off
        self._loop: AbstractEventLoop | None = None
        self._task: Task[Any] | None = None
        self._cancelled = False

    def __enter__(self) -> None:
        global _current
        left = self._deadline_ms / 1000 - time.time()
        # A deadline in the past is an emulator's, not Lambda's. A function with its own use for the signal keeps it.
        if _margin and left > 0 and _signal.getsignal(_signal.SIGALRM) is _on_alarm:
            _current = self
            _signal.setitimer(_signal.ITIMER_REAL, max(left - _margin, left / 2), _RETRY)

    def __exit__(self, *_: object) -> None:
        global _current
        if _current is self:
            _current = None
            _signal.setitimer(_signal.ITIMER_REAL, 0)

    def watch(self, loop: AbstractEventLoop, task: Task[Any] | None) -> None:
        """From here on the handler runs as `task`, which is to be cancelled."""
        self._loop, self._task = loop, task

    def release(self) -> None:
        """From here on the handler runs as sync code again, which is to be raised in."""
        self._loop = None

    def check(self) -> None:
        """To be called when the runtime's code is done and the handler's code goes on.

        Raises:
            StreamDeadlineExceeded: The time was up meanwhile.
        """
        if self.passed and self._loop is None:
            raise self.exceeded()

    def exceeded(self) -> StreamDeadlineExceeded:
        """The exception to raise, which says how much time is left."""
        left = max(0, self._deadline_ms - int(time.time() * 1000))
        return StreamDeadlineExceeded(f"the handler was still at work {left} ms before Lambda's deadline")

    def translate(self, error: BaseException) -> BaseException:
        """`error`, or the exception to report in its place if it is the cancellation that came from here."""
        if not self._cancelled:
            return error
        from asyncio import CancelledError

        if not isinstance(error, CancelledError):
            return error
        assert self._task is not None
        self._task.uncancel()
        return self.exceeded().with_traceback(error.__traceback__)

    def expire(self, frame: FrameType | None) -> None:
        """The timer's signal, in the main thread, between any two steps of whatever runs there, which is `frame`.

        Raises:
            StreamDeadlineExceeded: In the handler's code.
        """
        again, self.passed = self.passed, True
        if not again and self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)
        elif self.in_handler and not (self._loop is not None and _is_event_loop(frame)):
            # Sync code; or async code that blocks the event loop, so that the cancellation cannot reach it.
            _signal.setitimer(_signal.ITIMER_REAL, 0)
            self._loop = None
            raise self.exceeded()
        elif again and not self.in_handler:
            self._break_off()

    def _cancel(self) -> None:
        if self._loop is not None and self._task is not None and not self._task.done():
            _signal.setitimer(_signal.ITIMER_REAL, 0)
            self._cancelled = self._task.cancel()


def _is_event_loop(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__") in ("selectors", "asyncio.base_events")


def _on_alarm(_signal_number: int, frame: FrameType | None) -> None:
    if _current is not None:
        _current.expire(frame)
