"""What a handler may return, and what becomes of it: content type, HTTP metadata, and the items of the body."""

from __future__ import annotations

import json
import sys

from . import wire
from .errors import RuntimeFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
    from typing import Any

    Item = str | bytes | bytearray | memoryview
    Content = Iterable[Item] | AsyncIterable[Item]

_BINARY = "application/octet-stream"
_BYTES = (bytes, bytearray, memoryview)


def item_bytes(item: Item) -> bytes:
    """The bytes of one item of a stream.

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


class StreamingResponse:
    """A stream with a status, headers and cookies of its own.

    Its name and the order of its arguments are Starlette's; `cookies` is Lambda's.

    Attributes:
        content: What is streamed.
        status_code: HTTP status.
        headers: Header values by name.
        cookies: Values of the ``Set-Cookie`` headers.
        ping: Seconds of silence after which a heartbeat is sent, or None; here always None.
        encode: Makes bytes of one item of the content.
    """

    ping: float | None = None
    encode = staticmethod(item_bytes)

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

    def last_words(self, report: dict[str, Any]) -> bytes:
        """What is sent at the end of a stream whose deadline has passed, as `report` says; here nothing."""
        return b""


class Reply:
    """A handler's result, ready to be sent.

    Attributes:
        content_type: Of the request that carries the response to Lambda.
        metadata: HTTP metadata to send first, or None for a stream without.
        items: Iterable or async iterable over the body.
        response: What the handler returned, if it has metadata.
    """

    __slots__ = ("content_type", "items", "metadata", "response")

    def __init__(
        self, content_type: str, metadata: bytes | None, items: Any, response: StreamingResponse | None = None
    ) -> None:
        self.content_type = content_type
        self.metadata = metadata
        self.items = items
        self.response = response


def reply_to(result: Any) -> Reply:
    """Decides what is sent for `result`.

    Raises:
        RuntimeFault: `result` is none of the things that a handler may return.
        ValueError: It is a buffered response with a status, header, cookie or body that may not be sent.
    """
    if isinstance(result, dict) and "statusCode" in result:
        result = _from_buffered(result)
    kind = type(result)
    if isinstance(result, StreamingResponse):
        return Reply(wire.HTTP_INTEGRATION_RESPONSE, result.metadata(), result.content, result)
    # What makes an iterator, as collections.abc has it; importing that would take longer than this package.
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return Reply(_BINARY, None, result)
    if isinstance(result, _BYTES):
        return Reply(_BINARY, None, [result])
    try:
        encoded = to_json(result).encode()
    except Exception as error:  # whatever the value's own methods raise
        raise RuntimeFault("Runtime.MarshalError", f"Unable to marshal response: {error}") from error
    return Reply("application/json", None, [encoded])


def to_json(value: object, allow_nan: bool = True) -> str:
    """`value` as JSON, a `decimal.Decimal` with all of its digits and `bytes` as text, as awslambdaric encodes it.

    Raises:
        TypeError: A part of it has no JSON form.
        ValueError: It holds itself; or, without `allow_nan`, a float or Decimal that is no finite number.
    """
    decimals: list[str] = []
    mark = ""

    def default(other: object) -> object:
        nonlocal mark
        if isinstance(other, bytes):
            return other.decode()
        decimal = sys.modules.get("decimal")
        if decimal is None or not isinstance(other, decimal.Decimal):
            raise TypeError(
                f"Object of type {type(other).__name__} is not JSON serializable; "
                "make it a JSON value first, such as a date by isoformat()"
            )
        if not other.is_finite():
            return float("nan") if other.is_nan() else float(other)
        # The encoder takes no ready-made number. A string that no value can hold keeps its place.
        from os import urandom

        mark = mark or urandom(16).hex()
        decimals.append(str(other))
        return mark

    encoded = json.dumps(value, ensure_ascii=False, allow_nan=allow_nan, default=default)
    first, *others = encoded.split(f'"{mark}"') if mark else [encoded]
    return "".join([first, *(part for pair in zip(decimals, others, strict=True) for part in pair)])


def _content_type(media_type: str | None) -> str:
    if media_type is None:
        return _BINARY
    if media_type.startswith("text/") and "charset=" not in media_type.lower():
        return f"{media_type}; charset=utf-8"
    return media_type


def _from_buffered(result: dict[str, Any]) -> StreamingResponse:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    body = result.get("body")
    if body is None:
        body = ""
    if not isinstance(body, str):
        raise ValueError(f"body of a buffered response must be a str, not {type(body).__name__}")
    status_code = result["statusCode"]
    if isinstance(status_code, str) and status_code.isdecimal():
        status_code = int(status_code)
    headers = {name: _header_text(value) for name, value in (result.get("headers") or {}).items()}
    cookies: list[str] = []
    for name, values in (result.get("multiValueHeaders") or {}).items():
        if str(name).lower() == "set-cookie":  # the one header whose values a comma cannot join (RFC 9110, section 5.3)
            cookies += values
        else:
            headers[name] = ", ".join(map(_header_text, values))
    content: str | bytes = body
    media_type: str | None = "application/json"
    if result.get("isBase64Encoded"):
        from binascii import a2b_base64

        content, media_type = a2b_base64(body), None
    response = StreamingResponse(content, status_code, headers, media_type, result.get("cookies"))
    response.cookies += cookies
    return response


def _header_text(value: Any) -> Any:
    """A number as text; what else is not text is left to be refused with its name."""
    return str(value) if isinstance(value, (int, float)) else value
