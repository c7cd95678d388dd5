"""From JSON to the handler's event, and from the handler's result to what is sent."""

from __future__ import annotations

import os

from . import wire
from .errors import RuntimeFault, location
from .responses import StreamingResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .runtime_api import Invocation


def decode_event(invocation: Invocation) -> Any:
    """Return the event for the handler: the value of a JSON body, or the bytes of any other body.

    Raises:
        RuntimeFault: The content type is JSON, but the body is not.
    """
    kind = invocation.content_type
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        return invocation.body
    try:
        return wire.from_json(invocation.body)
    except (ValueError, RecursionError) as error:
        raise RuntimeFault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from error


class Reply:
    """A handler's result, ready to be sent.

    Attributes:
        content_type: Content type of the request that carries the response to Lambda.
        metadata: HTTP metadata to send first, or None for a raw stream.
        items: Iterable or async iterable over the body.
        response: The response object with the metadata, or None.
    """

    __slots__ = ("content_type", "items", "metadata", "response")

    def __init__(
        self, content_type: str, metadata: bytes | None, items: Any, response: StreamingResponse | None = None
    ) -> None:
        self.content_type = content_type
        self.metadata = metadata
        self.items = items
        self.response = response


def caller_buffers(event: Any) -> bool:
    """Whether `event` is from a caller that cannot read the HTTP metadata of a stream.

    These are load balancers, HTTP APIs, and what `STREAMING_RUNTIME_BUFFERED_CALLERS` names: `rest-api`, whose events
    look the same where it streams, and `direct` for callers without HTTP. An HTTP API differs from a function URL by
    its domain.
    """
    context = event.get("requestContext") if type(event) is dict else None
    if type(context) is not dict:
        return "direct" in os.environ.get("STREAMING_RUNTIME_BUFFERED_CALLERS", "")
    if "elb" in context:
        return True
    if "http" in context:
        own_domain = context.get("domainPrefix") == context.get("apiId")
        return not own_domain or ".execute-api." in str(context.get("domainName"))
    return "resourcePath" in context and "rest-api" in os.environ.get("STREAMING_RUNTIME_BUFFERED_CALLERS", "")


def reply_to(result: Any, buffered: bool = False) -> Reply:
    """Decide what is sent for a handler's `result`; a dict with `statusCode` stays one if the caller is `buffered`.

    Raises:
        RuntimeFault: A handler may not return `result`.
        ValueError: `result` is a buffered response with an invalid status, header, cookie or body.
    """
    if not buffered and isinstance(result, dict) and "statusCode" in result:
        result = _from_buffered(result)
    if isinstance(result, StreamingResponse):
        return Reply(wire.HTTP_INTEGRATION_RESPONSE, result.metadata(), result.content, result)
    if _is_iterator(result):
        return Reply(wire.OCTET_STREAM, None, result)
    if isinstance(result, (bytes, bytearray, memoryview)):
        return Reply(wire.OCTET_STREAM, None, [result])
    if hasattr(result, "__code__"):
        name = getattr(result, "__name__", "")
        problem = f"it is the function '{name}', not what that returns: call it, as in `return {name}()`"
        raise RuntimeFault("Runtime.MarshalError", f"Unable to marshal response: {problem}", location(result))
    try:
        encoded = wire.to_json(result).encode()
    except Exception as error:  # the value's own methods may raise anything
        raise RuntimeFault("Runtime.MarshalError", f"Unable to marshal response: {error}") from error
    return Reply("application/json", None, [encoded])


def streams(result: Any) -> bool:
    """Whether a handler's `result` is a stream."""
    if isinstance(result, dict):
        return "statusCode" in result and _is_iterator(result.get("body"))
    return isinstance(result, StreamingResponse) or _is_iterator(result)


def _is_iterator(value: object) -> bool:
    """Whether `value` is an iterator or async iterator, as in collections.abc, without the import."""
    return hasattr(type(value), "__next__") or hasattr(type(value), "__anext__")


def _from_buffered(result: dict[str, Any]) -> StreamingResponse:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
    body = result.get("body")
    if body is None:
        body = ""
    streams = _is_iterator(body)
    if not isinstance(body, str) and not streams:
        raise ValueError(f"body of a buffered response must be a str, not {type(body).__name__}")
    status_code = result["statusCode"]
    if isinstance(status_code, str) and status_code.isdecimal():
        status_code = int(status_code)
    headers = {name: _header_text(value) for name, value in (result.get("headers") or {}).items()}
    cookies: list[str] = []
    for name, values in (result.get("multiValueHeaders") or {}).items():
        if str(name).lower() == "set-cookie":  # the one header whose values must not be joined (RFC 9110, section 5.3)
            cookies += values
        else:
            headers[name] = ", ".join(map(_header_text, values))
    content: Any = body
    media_type = None if status_code in wire.WITHOUT_CONTENT else "application/json"
    if result.get("isBase64Encoded"):
        if streams:
            raise ValueError("isBase64Encoded is not allowed with a body that streams; yield bytes instead")
        from binascii import a2b_base64

        content, media_type = a2b_base64(body), None
    response = StreamingResponse(content, status_code, headers, media_type, result.get("cookies"))
    response.cookies += cookies
    return response


def _header_text(value: Any) -> Any:
    """Turn a number into text. Other types stay, so that their check can name the header."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)  # str() may show an Enum member by its name
    return str(value) if isinstance(value, (bool, float)) else value
