"""Type aliases of the package. Only type checkers see them: modules import this file under ``if TYPE_CHECKING``."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from typing import Any

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
