"""Type aliases of the package. Only type checkers see them: modules import this file under ``if TYPE_CHECKING``."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol

#: One part of a stream's content. Text is sent as UTF-8.
Item = str | bytes | bytearray | memoryview
#: What a stream is made of.
Content = Iterable[Item] | AsyncIterable[Item]

#: ``handler(event, context)``, sync or async.
Handler = Callable[[Any, Any], Any]
#: Runs before the first invocation or before the process ends.
Hook = Callable[[], Coroutine[Any, Any, None]]

#: The error object that Lambda returns to the caller: errorMessage, errorType, requestId and stackTrace.
Report = dict[str, Any]
#: File, line and function name of an entry in a stack trace.
Frame = tuple[str, int | None, str]

#: An ASGI 3 application.
Application = Callable[[Any, Any, Any], Awaitable[None]]
#: An ASGI message.
Message = dict[str, Any]


class Guard(Protocol):
    """Held during a write to a response stream."""

    def acquire(self) -> None:
        """Wait until nothing else writes."""

    def release(self) -> None:
        """Let others write."""


class Expiry(Protocol):
    """What a handler may know of its deadline."""

    passed: bool
    activity: int

    def error(self) -> BaseException:
        """Return the exception to raise."""


class Writer(Protocol):
    """Where a handler writes its response with HTTP metadata itself."""

    #: Sends a part that is not the last one, faster than `write`, and tells whether the deadline has passed. It raises
    #: RuntimeApiError, for `note_failure`. None until a response has more than one part.
    send_part: Callable[[Any], bool] | None

    @property
    def deadline(self) -> Expiry:
        """The deadline of the invocation."""

    def start(self, metadata: bytes) -> None:
        """Set the HTTP metadata. It is sent with the first part of the body."""

    def write(self, part: bytes, last: bool) -> bool:
        """Send a part of the body. Tell whether that succeeded; a failure was reported."""

    def note_failure(self, error: Any) -> None:
        """Report an error of `send_part`."""
