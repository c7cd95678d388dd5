"""A Lambda runtime for Python that streams responses.

This module is the whole public interface. A handler is ``handler(event, context)``, sync or async. It may return or
yield:

- a generator, an async generator or any iterator of ``bytes`` or ``str``: a raw stream;
- a `StreamingResponse`: status, headers and cookies, then the stream;
- an `EventSourceResponse`: a stream of `ServerSentEvent` with heartbeats;
- a dict with ``statusCode``: the buffered response format of function URLs;
- any other JSON value.

An `AsgiHandler` turns an ASGI application into a handler. Shortly before the Lambda timeout, `StreamDeadlineExceeded`
is raised in a handler that is still running. Below a decorator of a library that watches the function, `streaming`
lets that see the whole stream.
"""

from __future__ import annotations

# What is imported before the first invocation adds to the cold start, so the package avoids some modules of the
# standard library. These are the milliseconds that importing each takes on top of what the runtime needs anyway
# (python -X importtime, the least of 25 runs on CPython 3.11 and 3.13):
#
#   asyncio, logging    50, 9   imported when a handler needs them
#   json                    9   hence `_json`, the C module behind it; `json` also imports `re`
#   typing                  6   hence TYPE_CHECKING = False below, which type checkers read as typing.TYPE_CHECKING
#   traceback               4   `errors` formats stack traces itself
#   socket                  4   hence `_socket`, the C module behind it
#   threading               1   hence `_thread`
#   signal                  1   hence `_signal`
#
# Modules that take less than 0.3 ms, such as contextvars, are imported as usual.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .asgi import AsgiHandler
    from .deadline import StreamDeadlineExceeded
    from .enclosure import streaming
    from .event_stream import EventSourceResponse, ServerSentEvent
    from .responses import StreamingResponse

__all__ = [
    "AsgiHandler",
    "EventSourceResponse",
    "ServerSentEvent",
    "StreamDeadlineExceeded",
    "StreamingResponse",
    "streaming",
]

# Names are imported on first use, so that a function pays only for what it uses.
_MODULES = {
    "AsgiHandler": "asgi",
    "EventSourceResponse": "event_stream",
    "ServerSentEvent": "event_stream",
    "StreamDeadlineExceeded": "deadline",
    "StreamingResponse": "responses",
    "streaming": "enclosure",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
