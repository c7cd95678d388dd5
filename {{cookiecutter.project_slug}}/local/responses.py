"""The response for the client, made from what the runtime posts.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-response-payload
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from .aws_limits import AWS_LIMITS, MB
from .events import HOP_BY_HOP
from .messages import Chunk, PostedMessages, PostStart, ResponseEnd, ResponseHead, ResponseMessages

#: The content type of a response that begins with its HTTP metadata.
HTTP_INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response"
_DELIMITER = bytes(8)
_METADATA_LIMIT = 16 * 1024  # bytes, delimiter included
_BUFFERED_LIMIT: int = AWS_LIMITS["buffered"]["most"] * MB + 100  # bytes of a buffered response
_STREAMED_LIMIT: int = AWS_LIMITS["stream"]["most"] * MB  # bytes of a streamed response
# What JSON that does not have the expected format may raise.
_MALFORMED = (AttributeError, OverflowError, RecursionError, TypeError, ValueError)
# The URL sets these itself; the function's own values go out under another name.
_REMAPPED = frozenset({"content-length", "date", "www-authenticate"})


async def streamed(messages: PostedMessages, log: Callable[[str], None]) -> ResponseMessages:
    """Yield a response as a URL with `InvokeMode: RESPONSE_STREAM` sends it: HTTP metadata at its start is its head.

    Metadata that is malformed, or incomplete at the end, makes the response fail; `log` gets the reason.
    """
    metadata: bytearray | None = None  # what has arrived of it, while it is incomplete
    failed = False
    async for message in messages:
        match message:
            case _ if failed:  # the runtime may still send the rest
                continue
            case PostStart(content_type) if content_type == HTTP_INTEGRATION_RESPONSE:
                metadata = bytearray()
            case PostStart(content_type):
                yield ResponseHead(200, [("content-type", content_type)])
            case Chunk(data) if metadata is not None:
                metadata += data
                try:
                    parts = _split(bytes(metadata))
                except ValueError as error:
                    failed = True
                    yield _failure(f"The response's HTTP metadata is malformed: {error}", log)
                    continue
                if parts is not None:
                    metadata = None
                    yield parts[0]
                    if parts[1]:
                        yield Chunk(parts[1])
            case ResponseEnd("") if metadata is not None:
                yield _failure("The response's HTTP metadata is malformed: it does not end", log)
            case _:
                yield message


async def buffered(messages: PostedMessages, log: Callable[[str], None]) -> ResponseMessages:
    """Yield a response as a URL with `InvokeMode: BUFFERED` sends it: in one piece, when it is complete.

    JSON in payload format 2.0 is decoded. Anything else is the body. So is HTTP metadata, which only a URL that streams
    understands. A malformed or too long response fails; `log` gets the reason.
    """
    content_type = ""
    posted = bytearray()
    async for message in messages:
        match message:
            case PostStart(content_type):
                pass
            case Chunk(data):
                if len(posted) <= _BUFFERED_LIMIT:
                    posted += data
            case ResponseEnd("") if len(posted) > _BUFFERED_LIMIT:
                reason = f"A buffered response may have at most {_BUFFERED_LIMIT} bytes, got more. Stream it instead"
                yield _failure(reason, log)
            case ResponseEnd(""):
                try:
                    head, body = _decode(content_type, bytes(posted))
                except _MALFORMED as error:
                    yield _failure(f"The response is malformed: {error}", log)
                    continue
                yield head
                if body:
                    yield Chunk(body)
                yield message
            case ResponseEnd():
                yield message


async def collected(messages: PostedMessages, log: Callable[[str], None]) -> ResponseMessages:
    """Yield a response in one piece, when it is complete, as for a function that runs on Lambda's own Python client.

    That client returns a dict with `statusCode` as JSON, and the URL decodes it. Here the streaming runtime did.
    """
    head, body = None, b""
    async for message in streamed(messages, log):
        match message:
            case ResponseHead():
                head = message
            case Chunk(data):
                body += data
            case ResponseEnd(error_type):
                if head is not None and not error_type:
                    yield head
                    if body:
                        yield Chunk(body)
                yield message


async def size_limited(messages: ResponseMessages, log: Callable[[str], None]) -> ResponseMessages:
    """Yield the response up to Lambda's limit; a longer one fails there, and `log` gets the reason.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
    """
    left = _STREAMED_LIMIT
    async for message in messages:
        match message:
            case Chunk() | ResponseEnd() if left < 0:  # the function goes on
                continue
            case Chunk(data) if len(data) > left:
                yield Chunk(data[:left])
                yield _failure(f"A response may have at most {_STREAMED_LIMIT} bytes, got more", log)
                left = -1
            case Chunk(data):
                left -= len(data)
                yield message
            case _:
                yield message


def _failure(message: str, log: Callable[[str], None]) -> ResponseEnd:
    log(message + "\n")
    return ResponseEnd("Runtime.InvalidResponse", json.dumps({"errorMessage": message}).encode())


def _split(start: bytes) -> tuple[ResponseHead, bytes] | None:
    """Return the head from the metadata at the start of a response, and what has arrived of the body with it.

    Returns:
        None while the metadata is incomplete.

    Raises:
        ValueError: Lambda does not accept the metadata.
    """
    encoded, delimiter, body = start.partition(_DELIMITER)
    if len(encoded) + len(_DELIMITER) > _METADATA_LIMIT:
        raise ValueError(f"at most {_METADATA_LIMIT} bytes are allowed, got more")
    if not delimiter:
        return None
    try:
        return _head(json.loads(encoded)), body
    except _MALFORMED as error:
        raise ValueError(f"{error}: {encoded[:200]!r}") from error


def _head(metadata: dict[str, Any]) -> ResponseHead:
    headers = [(str(name).lower(), str(value)) for name, value in (metadata.get("headers") or {}).items()]
    headers = [(name, value) for name, value in headers if name not in HOP_BY_HOP]
    headers = [(f"x-amzn-remapped-{name}" if name in _REMAPPED else name, value) for name, value in headers]
    headers += [("set-cookie", cookie) for cookie in metadata.get("cookies") or []]
    return ResponseHead(metadata.get("statusCode", 200), headers)


def _decode(content_type: str, posted: bytes) -> tuple[ResponseHead, bytes]:
    try:
        payload = json.loads(posted)
    except ValueError:
        kind = "application/octet-stream" if content_type == HTTP_INTEGRATION_RESPONSE else content_type
        return ResponseHead(200, [("content-type", kind)]), posted
    if not isinstance(payload, dict) or "statusCode" not in payload:
        text = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        return ResponseHead(200, [("content-type", "application/json")]), text.encode()
    headers = {str(name).lower(): value for name, value in (payload.get("headers") or {}).items()}
    head = _head(
        {
            "statusCode": int(payload["statusCode"]),
            "headers": {"content-type": "application/json", **headers},
            "cookies": payload.get("cookies"),
        }
    )
    body = payload.get("body", "")
    text = body if isinstance(body, str) else json.dumps(body)
    return head, base64.b64decode(text) if payload.get("isBase64Encoded") else text.encode()
