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

from __future__ import annotations

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
    from typing import Any

    from .asgi import AsgiHandler
    from .deadline import StreamDeadlineExceeded
    from .event_stream import EventSourceResponse, ServerSentEvent

    Item = str | bytes | bytearray | memoryview
    Content = Iterable[Item] | AsyncIterable[Item]

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

_BYTES = (bytes, bytearray, memoryview)


class StreamingResponse:
    """A stream with a status, headers and cookies of its own.

    Its name and the order of its arguments are Starlette's; `cookies` is Lambda's.

    Attributes:
        content: What is streamed.
        status_code: HTTP status.
        headers: Header values by name.
        cookies: Values of the ``Set-Cookie`` headers.
        ping: Seconds of silence after which a heartbeat is sent, or None; here always None.
    """

    ping: float | None = None

    def __init__(
        self,
        content: Content | Item,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        cookies: Sequence[str] | None = None,
    ) -> None:
        """Checks all that goes out before the stream, so that a mistake shows where it was made.

        Args:
            content: Iterable or async iterable of ``bytes`` or ``str``, or one of these alone. Text is sent as UTF-8.
            status_code: 200 to 599.
            headers: Headers by name. A ``Set-Cookie`` header becomes a cookie.
            media_type: Content type, unless `headers` has one; ``text/…`` gets a charset.
                Without either it is ``application/octet-stream``.
            cookies: Cookies as the ``Set-Cookie`` header has them, such as ``id=1; Path=/; HttpOnly``.

        Raises:
            ValueError: Lambda would not send this status, header or cookie.
        """
        if isinstance(cookies, str):
            raise ValueError("cookies must be a list of str, one for each cookie")
        self.content: Content = [content] if isinstance(content, (str, *_BYTES)) else content
        self.status_code = status_code
        self.headers = {wire.check_header_name(name).lower(): value for name, value in (headers or {}).items()}
        self.headers.setdefault("content-type", _content_type(media_type))
        self.cookies = list(cookies or ())
        self.metadata()

    def metadata(self) -> bytes:
        """Status, headers and cookies as Lambda takes them, from the attributes as they are now.

        Raises:
            ValueError: Lambda would not send them.
        """
        headers = {wire.check_header_name(name).lower(): value for name, value in self.headers.items()}
        cookies = [headers.pop("set-cookie")] if "set-cookie" in headers else []
        return wire.http_metadata(self.status_code, headers, [*self.cookies, *cookies])

    @staticmethod
    def encode(item: Item) -> bytes:
        """The bytes of one item of the content.

        Raises:
            TypeError: The item is neither ``bytes`` nor ``str``.
        """
        if type(item) is bytes:
            return item
        if isinstance(item, str):
            return item.encode()
        if isinstance(item, _BYTES):
            return bytes(item)
        raise TypeError(f"a stream is made of bytes or str, not {type(item).__name__}")

    def last_words(self, report: dict[str, Any]) -> bytes:
        """What is sent at the end of a stream whose deadline has passed, as `report` says; here nothing."""
        return b""


def _content_type(media_type: str | None) -> str:
    if media_type is None:
        return wire.OCTET_STREAM
    if media_type.startswith("text/") and "charset=" not in media_type.lower():
        return f"{media_type}; charset=utf-8"
    return media_type


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
