"""A stream with HTTP metadata: the response class that handlers return."""

from __future__ import annotations

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._types import Content, Item, Report

_BYTES = (bytes, bytearray, memoryview)


class StreamingResponse:
    """A stream with its own status, headers and cookies.

    The name and the order of the arguments are Starlette's; `cookies` is Lambda's.

    Attributes:
        status_code: HTTP status.
        headers: Header values by name.
        cookies: Values of the ``Set-Cookie`` headers.
        ping: Seconds of silence after which a heartbeat is sent, or None. Always None in this class.
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
        """Check everything that is sent before the stream, so that the traceback of a mistake points to its origin.

        Args:
            content: Iterable or async iterable of ``bytes`` or ``str``, or a single item. Text is sent as UTF-8.
                With a status of 204, 205 or 304 it is iterated, but not sent.
            status_code: 200 to 599.
            headers: Headers by name. A ``Set-Cookie`` header becomes a cookie.
            media_type: Content type, unless `headers` sets one; ``text/…`` gets a charset.
                The default is ``application/octet-stream``, and none for a status of 204, 205 or 304.
            cookies: Values of ``Set-Cookie`` headers, such as ``id=1; Path=/; HttpOnly``.

        Raises:
            ValueError: Lambda would reject this status, header or cookie.
        """
        if isinstance(cookies, str):
            raise ValueError("cookies must be a list of str, one for each cookie")
        if hasattr(content, "__code__"):
            name = getattr(content, "__name__", "")
            raise TypeError(f"content is the function '{name}', not what that returns: call it, as in `{name}()`")
        # In a private attribute, because X-Ray's SDK iterates the public ones of what a handler returns.
        self._content: Content = [content] if isinstance(content, (str, *_BYTES)) else content
        self.status_code = status_code
        self.headers = {wire.check_header_name(name).lower(): value for name, value in (headers or {}).items()}
        if media_type is not None or status_code not in wire.WITHOUT_CONTENT:
            self.headers.setdefault("content-type", _content_type(media_type))
        self.cookies = list(cookies or ())
        self.metadata()

    @property
    def content(self) -> Content:
        """The items to stream."""
        return self._content

    @content.setter
    def content(self, content: Content) -> None:
        self._content = content

    def __deepcopy__(self, _memo: object) -> StreamingResponse:
        """Return a copy with the same content, because a generator cannot be copied."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), headers=dict(self.headers), cookies=list(self.cookies))
        return twin

    def metadata(self) -> bytes:
        """Encode the current status, headers and cookies the way Lambda expects them.

        Raises:
            ValueError: Lambda would reject one of them.
        """
        return wire.http_metadata(self.status_code, self.headers, self.cookies)

    @staticmethod
    def encode(item: Item) -> bytes:
        """Encode one item of the content.

        Raises:
            TypeError: The item is neither ``bytes`` nor ``str``.
        """
        if type(item) is bytes:
            return item
        if isinstance(item, str):
            return item.encode()
        if isinstance(item, _BYTES):
            return bytes(item)
        remedy = 'json.dumps(…) + "\\n" makes a line of JSON, EventSourceResponse makes events'
        raise TypeError(f"a stream is made of bytes or str, not {type(item).__name__}; {remedy}")

    def final_chunk(self, report: Report) -> bytes:
        """Return what is sent before the end of a stream that failed after its first byte. Nothing, in this class."""
        return b""


def _content_type(media_type: str | None) -> str:
    if media_type is None:
        return wire.OCTET_STREAM
    if media_type.startswith("text/") and "charset=" not in media_type.lower():
        return f"{str.__str__(media_type)}; charset=utf-8"  # an f-string would show an Enum member by its name
    return media_type
