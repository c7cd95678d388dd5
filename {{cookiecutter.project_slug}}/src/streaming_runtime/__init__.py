"""A Lambda runtime for Python whose responses stream.

This is the whole public interface. A handler is ``handler(event, context)``, sync or async, and may return or yield:

- a generator, an async generator or any iterator of ``bytes`` or ``str``: a raw stream;
- a `StreamingResponse`: status, headers and cookies, then the stream;
- an `EventSourceResponse`: a stream of `ServerSentEvent` with heartbeats;
- a dict with ``statusCode``: the format of a buffered function URL response;
- any other JSON value.

An `AsgiHandler` is a handler made of an ASGI application. A handler that is still at work shortly before Lambda would
end it gets a `StreamDeadlineExceeded`.
"""

from .response import StreamingResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .asgi import AsgiHandler
    from .deadline import StreamDeadlineExceeded
    from .event_stream import EventSourceResponse, ServerSentEvent

__all__ = [
    "AsgiHandler",
    "EventSourceResponse",
    "ServerSentEvent",
    "StreamDeadlineExceeded",
    "StreamingResponse",
]

# Imported when a handler asks for them: what a function does not use must not make its cold start longer.
_MODULES = {
    "AsgiHandler": "asgi",
    "EventSourceResponse": "event_stream",
    "ServerSentEvent": "event_stream",
    "StreamDeadlineExceeded": "deadline",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
