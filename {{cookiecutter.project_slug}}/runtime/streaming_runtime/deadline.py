"""Ends a handler shortly before the Lambda timeout, while there is time left to clean up and to report the error.

A timer sends a signal to the process. It interrupts the handler wherever it is: an exception is raised in sync code,
async code is cancelled. A send is never interrupted halfway, unless the client does not read what was sent.
"""

from __future__ import annotations

import os
import sys
import time
from _weakref import ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType
    from typing import Any

    from ._types import Frame
else:
    import _signal  # rather than `signal`, for the cold start: see __init__.py

#: Environment variable: how long before the Lambda timeout the handler is ended, in milliseconds; 0 turns this off.
MARGIN_VARIABLE = "STREAMING_RUNTIME_DEADLINE_MARGIN_MS"
_DEFAULT_MARGIN_MS = "500"
_REPEAT_INTERVAL = 0.05  # seconds between signals: a send or an event loop that missed one is stuck at the next
_LONGEST_WAIT = 24 * 60 * 60.0  # seconds: longer than any invocation, and short enough for a timer

_CONTEXT: Any = BaseException.__dict__["__context__"]  # a subclass may define an attribute of this name
_CHAIN_LIMIT = 20  # errors in a cleanup that followed each other
# Event loops that cannot run again in a process after an exception was raised inside their scheduler. asyncio can.
_FRAGILE = frozenset({"curio", "gevent", "trio", "twisted"})

# Activities of the main thread:
#: The handler's code runs.
HANDLER = 1
#: The runtime sends and waits until the other side has read what was sent.
SENDING = 2
#: Any other code of the runtime runs.
IDLE = 0

# States of a deadline: see `Deadline`.
_PENDING = "pending"
_REQUESTED = "requested"
_RAISED = "raised"
_CANCELLED = "cancelled"
_SETTLED = "settled"


class StreamDeadlineExceeded(BaseException):
    """The Lambda timeout is about to end the invocation.

    Like `KeyboardInterrupt`, this is not an `Exception`: a loop that retries on errors must not catch it.

    Attributes:
        thread: Stack of the thread in which the function's code was running, if that was not the main thread.
    """

    thread: Sequence[Frame] = ()


class Deadline:
    """The deadline of one invocation, in force within its ``with`` block.

    From the margin on, the timer sends a signal every 50 ms. What it does depends on the activity of the main thread
    and on how much the handler knows already:

    ========== =========================================== ============================ ==========
    state      activity or event                           action                       next state
    ========== =========================================== ============================ ==========
    any        signal: IDLE                                none                         same
    any        signal: SENDING, for the first time         none                         same
    any        signal: SENDING, still in the same send     abort the connection         same
    pending    signal: HANDLER, sync code                  raise in the handler         raised
    pending    signal: HANDLER, async code                 ask the event loop to cancel requested
    requested  signal: HANDLER, and the event loop waits   none                         same
    requested  signal: HANDLER blocks the event loop       raise in the handler         raised
    requested  signal: something else blocks the loop      raise there                  same
    requested  the event loop's turn (`_cancel`)           cancel the handler's task    cancelled
    requested  `watch`: another task runs the handler      none                         pending
    raised     signal: HANDLER cleans up                   none                         same
    raised     signal: HANDLER swallowed it                as in pending                as there
    cancelled  signal: HANDLER cleans up                   none                         same
    cancelled  signal: HANDLER swallowed it                as in pending                as there
    settled    signal: HANDLER cleans up                   none                         same
    any        `settle`: the handler ended in time         none                         same
    any        `settle`: it ended after the first signal   none                         settled
    ========== =========================================== ============================ ==========

    The handler swallowed the exception if that is neither handled nor referenced at two signals in a row. So a handler
    that catches it has 50 ms for an answer of its own.

    Attributes:
        activity: `HANDLER`, `SENDING` or `IDLE`: what may be interrupted, and how.
        passed: Whether there was a signal.
    """

    activity = IDLE
    passed = False
    _state = _PENDING
    _loop: AbstractEventLoop | None = None
    _task: Task[Any] | None = None
    _raised: StreamDeadlineExceeded | None = None  # in other code, which blocked the event loop
    _delivered: ref[Any] | None = None  # what the handler got: the exception, or the message of its cancellation
    _cancellations = _undone = 0
    _swallowed = False  # at the last signal, the handler seemed to have swallowed it
    _thread: Sequence[Frame] = ()
    _stalled = False  # the current send was already in progress at the last signal

    def __init__(self, deadline_ms: int, abort: Callable[[], None]) -> None:
        """Prepare the deadline.

        Args:
            deadline_ms: The Lambda timeout, in milliseconds since the epoch.
            abort: Makes a blocking send fail.
        """
        self._deadline_ms = deadline_ms
        self._abort = abort

    def __enter__(self) -> None:
        _timer.start(self, self._deadline_ms / 1000 - time.time())

    def __exit__(self, *_: object) -> None:
        _timer.stop(self)
        self._task = None  # asyncio.all_tasks takes time for each task that is still referenced

    def watch(self, loop: AbstractEventLoop, task: Task[Any] | None) -> None:
        """Switch to async mode: on expiry, cancel `task`, which runs the handler."""
        self._loop, self._task = loop, task
        if self._state is _REQUESTED:  # but the task before ended first
            self._state = _PENDING

    def release(self) -> None:
        """Switch back to sync mode: on expiry, raise inside the handler."""
        self._loop = None

    def error(self) -> StreamDeadlineExceeded:
        """Return the exception to raise, with the time that is left in its message."""
        left = max(0, self._deadline_ms - int(time.time() * 1000))
        return StreamDeadlineExceeded(f"the handler was still running {left} ms before the Lambda timeout")

    def settle(self, error: BaseException) -> BaseException:
        """Note that `error` ended the handler.

        Returns:
            The error to report: StreamDeadlineExceeded in place of its consequences in async code.
        """
        self._stalled = False
        if self.passed:
            self._state = _SETTLED
        while self._cancellations > self._undone and self._task is not None:
            self._task.uncancel()
            self._undone += 1
        if self._cancellations and _is_cancellation(error):
            late = self.error().with_traceback(error.__traceback__)
            late.__context__ = self._raised or error.__context__
            late.thread = self._thread
            return late
        group = error if issubclass(type(error), BaseExceptionGroup) else None
        if self.passed and isinstance(group, BaseExceptionGroup) and group.subgroup(StreamDeadlineExceeded) is not None:
            late = self.error()
            late.__cause__ = error
            return late
        return error

    def expire(self, frame: FrameType | None) -> None:
        """Handle the timer's signal, which interrupted the main thread in `frame`.

        Raises:
            StreamDeadlineExceeded: In the handler's code.
        """
        self.passed = True
        if self.activity == SENDING:
            if self._stalled:
                self._abort()
            self._stalled = True
        elif self.activity == HANDLER:
            if self._loop is None:
                self._expire_sync(frame)
            else:
                self._expire_async(self._loop, frame)

    def _expire_sync(self, frame: FrameType | None) -> None:
        if self._state is _RAISED and self._is_swallowed(_is_handled(sys.exception())):
            self._state = _PENDING
        if self._state in (_PENDING, _REQUESTED):
            self._raise_in_handler(frame)

    def _expire_async(self, loop: AbstractEventLoop, frame: FrameType | None) -> None:
        if self._state in (_RAISED, _CANCELLED) and self._is_swallowed(self._is_cleaning_up(frame)):
            self._state = _PENDING
        if self._state is _PENDING:
            self._state = _REQUESTED
            loop.call_soon_threadsafe(self._cancel)
        elif self._state is _REQUESTED:
            # If the event loop is blocked, the cancellation cannot reach the task.
            if self._is_running(frame):
                self._raise_in_handler(frame)
            elif not _is_event_loop(frame):
                _timer.note_damage(frame)
                self._raised = self.error()
                raise self._raised

    def _raise_in_handler(self, frame: FrameType | None) -> None:
        self._state = _RAISED
        _timer.note_damage(frame)
        error = self.error()
        self._delivered = ref(error)
        try:
            raise error
        finally:
            del error  # which its traceback would reference by this frame

    def _cancel(self) -> None:
        # A handler may run the event loop itself, as nest_asyncio does, and get a cancellation only after that.
        task = self._task
        if self._state is _REQUESTED and task is not None and not (task.done() or self._is_running(sys._getframe())):
            self._state = _CANCELLED
            from .threads import user_thread

            self._thread = user_thread()
            message = _Message(self.error())
            self._delivered = ref(message)
            self._cancellations += 1
            task.cancel(message)

    def _is_running(self, frame: FrameType | None) -> bool:
        """Whether the handler's task is among the callers of `frame`."""
        own = self._task.get_coro().cr_frame if self._task is not None else None  # type: ignore[union-attr]
        return own is not None and any(caller is own for caller in _callers(frame))

    def _is_cleaning_up(self, frame: FrameType | None) -> bool:
        """Whether async code handles the exception that it got; while it waits, whether anything references that."""
        if self._is_running(frame):
            return _is_handled(sys.exception())
        if self._state is _CANCELLED and self._task is not None:
            self._task._cancel_message = None  # type: ignore[attr-defined]  # this reference is asyncio's
        return self._delivered is not None and self._delivered() is not None

    def _is_swallowed(self, handled: bool) -> bool:
        swallowed, self._swallowed = self._swallowed and not handled, not handled
        return swallowed


class _Message(str):
    """The message of a cancellation. Unlike an ordinary str, it can be referenced weakly."""


class _Timer:
    """The process's timer, which has one deadline at most.

    Attributes:
        current: The deadline in force, or None.
        damaged: Name of a library that the deadline interrupted and that cannot run again in this process, or "".
    """

    current: Deadline | None = None
    damaged = ""
    _margin = 0.0  # seconds; 0 turns the timer off

    def configure(self) -> None:
        value = os.environ.get(MARGIN_VARIABLE, _DEFAULT_MARGIN_MS)
        if not value.isdecimal():
            raise ValueError(f"{MARGIN_VARIABLE} must be milliseconds, or 0 for no deadline, not {value!r}")
        self._margin = int(value) / 1000
        if self._margin:
            _signal.signal(_signal.SIGALRM, self._on_alarm)

    def start(self, deadline: Deadline, left: float) -> None:
        """Put `deadline` in force, `left` seconds before the Lambda timeout."""
        left = min(left, _LONGEST_WAIT)
        # Only an emulator sends a deadline in the past. A function that handles the signal itself keeps it.
        if self._margin and left > 0 and _signal.getsignal(_signal.SIGALRM) == self._on_alarm:
            self.current = deadline
            _signal.setitimer(_signal.ITIMER_REAL, max(left - self._margin, left / 2), _REPEAT_INTERVAL)

    def stop(self, deadline: Deadline) -> None:
        if self.current is deadline:
            self.current = None
            _signal.setitimer(_signal.ITIMER_REAL, 0)

    def note_damage(self, frame: FrameType | None) -> None:
        """Note a fragile library among the callers of `frame`, in which an exception is about to be raised."""
        for caller in _callers(frame):
            package = str(caller.f_globals.get("__name__")).partition(".")[0]
            if package in _FRAGILE:
                self.damaged = package

    def _on_alarm(self, _signal_number: int, frame: FrameType | None) -> None:
        if self.current is not None:  # a late signal may find none
            self.current.expire(frame)


_timer = _Timer()


def setup() -> None:
    """Read the margin from the environment and handle the timer's signal. Called once per process.

    Raises:
        ValueError: The environment variable does not hold a number.
    """
    _timer.configure()


def _is_cancellation(error: BaseException) -> bool:
    """Whether `error` is asyncio's CancelledError, which does not exist before something imports asyncio."""
    exceptions = sys.modules.get("asyncio.exceptions")
    return exceptions is not None and issubclass(type(error), exceptions.CancelledError)


def damaged_library() -> str:
    """Return the name of a library that the deadline damaged, so that the process must be replaced, or ""."""
    return _timer.damaged


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_handled(error: BaseException | None) -> bool:
    """Whether `error`, which is being handled, is the deadline, its cancellation, or an error in the cleanup."""
    for _ in range(_CHAIN_LIMIT):
        if error is None or issubclass(type(error), StreamDeadlineExceeded) or _is_cancellation(error):
            break
        error = _CONTEXT.__get__(error)
    return error is not None


def _is_event_loop(frame: FrameType | None) -> bool:
    name = str(frame.f_globals.get("__name__")) if frame is not None else ""
    # asyncio.events is left out: it runs callbacks, which may be what blocks.
    return name == "selectors" or (name.startswith("asyncio.") and name != "asyncio.events")
