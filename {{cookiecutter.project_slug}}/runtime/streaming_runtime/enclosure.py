"""`streaming`: a handler whose decorators see its whole stream.

Most libraries that watch a function wrap its handler, and look at the call. A handler that streams has returned before
its first chunk is sent: spans and metrics end too early, and errors midway are not seen. Below `streaming` the stream
is sent within the call, so that whatever encloses the call encloses the stream.
"""

from __future__ import annotations

import functools

from .decorators import remedy, watching_decorator
from .invocation import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import Handler


def streaming(function: Handler) -> Handler:
    """Send the stream of the handler `function` within its call, so that the decorators above enclose the stream.

    They get a dict with the status as ``statusCode`` after the last chunk, and a failure midway as an exception; the
    deadline is an `Exception` to them. Any other result than a stream is returned to them unchanged. Called by other
    code than the runtime, such as a test, the handler is as if it were not decorated.

    Args:
        function: The handler: a function, or an `AsgiHandler`. Decorators that change the response may be below this
            one, but none of a library that watches the function.

    Raises:
        TypeError: `function` has a decorator of such a library.
    """
    if (watching := watching_decorator(function)) is not None:
        raise TypeError(f"@streaming must be below {watching}, which would not see the stream: {remedy(function)}")

    @functools.wraps(function, updated=())
    def handler(event: Any, context: Any) -> Any:
        if current.exchange is None:
            return function(event, context)
        return current.exchange.enclose(function, event, context)

    return handler
