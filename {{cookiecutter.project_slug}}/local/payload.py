"""Between HTTP and the function: the event of a request, and the response made of what the runtime posts.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11

from .http import fields, joined, response
from .invocation import Begin, Chunk, End, EventError, Message

#: The content type of a response that begins with its HTTP metadata.
HTTP_INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response"
_DELIMITER = bytes(8)
_METADATA_LIMIT = 16 * 1024  # bytes, delimiter included
_BUFFERED_LIMIT = 6 * 1024 * 1024 + 100  # bytes of a response that does not stream
_RESPONSE_LIMIT = 200 * 1024 * 1024  # bytes of one that does
# What a payload may lead to that is JSON, but not in the format.
_MALFORMED = (AttributeError, OverflowError, RecursionError, TypeError, ValueError)
_ABSOLUTE = re.compile(r"^https?://[^/?]*/?", re.IGNORECASE)
_TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")
# Of one connection, not of the request (RFC 9110, section 7.6.1).
_OF_THE_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
# Headers of an event that tell of the connection on which its request came.
_ANOTHERS = ("connection", "content-length", "host", "transfer-encoding", "x-amzn-", "x-forwarded-")
# The URL sets these itself; the function's own go out under another name.
_REMAPPED = frozenset({"content-length", "date", "www-authenticate"})


def function_url_event(
    request: h11.Request, body: bytes, source_ip: str, request_id: str, trace_id: str
) -> dict[str, Any]:
    """The event in payload format 2.0 that Lambda makes of an HTTP request, its keys in Lambda's order."""
    headers = {name: value for name, value in fields(request).items() if name not in _OF_THE_CONNECTION}
    cookies: list[str] = []
    if cookie_headers := [value.decode("latin-1") for name, value in request.headers if name == b"cookie"]:
        # A cookie may hold a comma.
        headers["cookie"] = "; ".join(cookie_headers)
        cookies = [cookie.strip() for cookie in headers["cookie"].split(";") if cookie.strip()]
    target = request.target.decode("latin-1")
    # As proxies send it: RFC 9112, section 3.2.2.
    path, _, query = _ABSOLUTE.sub("/", target, count=1).partition("?")
    domain, port = _split_host(headers.get("host", "localhost"))
    url_id = domain.partition(".")[0]
    headers["x-amzn-trace-id"] = trace_id
    headers["x-forwarded-for"] = source_ip
    headers["x-forwarded-port"] = port
    headers["x-forwarded-proto"] = "http"
    now = time.time()
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
    }
    if cookies:
        event["cookies"] = cookies
    event["headers"] = headers
    if query:
        event["queryStringParameters"] = joined(parse_qsl(query, keep_blank_values=True))
    event["requestContext"] = {
        "accountId": "anonymous",
        "apiId": url_id,
        "domainName": domain,
        "domainPrefix": url_id,
        "http": {
            "method": request.method.decode(),
            "path": unquote(path),
            "protocol": "HTTP/" + request.http_version.decode(),
            "sourceIp": source_ip,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
        "timeEpoch": int(now * 1000),
    }
    if body:
        event["body"] = _text(body, headers.get("content-type", ""))
    event["isBase64Encoded"] = bool(body) and event["body"] is None
    if event["isBase64Encoded"]:
        event["body"] = base64.b64encode(body).decode()
    return event


def _split_host(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdigit() else (host, "80")


def _text(body: bytes, content_type: str) -> str | None:
    """The body, if its type is one of text and it is UTF-8."""
    if not content_type.lower().startswith(_TEXT_TYPES):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def request_of(event: Any) -> tuple[str, str, dict[str, str], bytes | None]:
    """Method, target, headers and body of a request of which Lambda would make this event.

    Raises:
        EventError: It is no event in payload format 2.0.
    """
    try:
        http, body, query = event["requestContext"]["http"], event.get("body"), event.get("rawQueryString")
        headers = {name: value for name, value in event["headers"].items() if not name.lower().startswith(_ANOTHERS)}
        if event.get("cookies"):
            headers["cookie"] = "; ".join(event["cookies"])
        if body is not None:
            body = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
        return http["method"], event["rawPath"] + (f"?{query}" if query else ""), headers, body
    except (KeyError, *_MALFORMED) as error:
        raise EventError(f"no event of a function URL: {error!r}") from error


@dataclass(frozen=True)
class Head:
    """Status and headers of a response, for the client."""

    status: int
    headers: list[tuple[str, str]]

    def __post_init__(self) -> None:
        """Checks that they are of HTTP.

        Raises:
            ValueError: They are not.
        """
        try:
            response(self.status, self.headers)
        except (TypeError, h11.LocalProtocolError) as error:
            raise ValueError(str(error)) from error


#: A response on its way to the client, up to and with its end.
Response = AsyncGenerator[Head | Chunk | End]


async def streamed(messages: AsyncIterator[Message], complain: Callable[[str], None]) -> Response:
    """A response as a URL that streams gives it to the client: HTTP metadata at its start become its head.

    Metadata that are malformed, or not whole at the end, end it as failed; `complain` is told.
    """
    metadata: bytearray | None = None  # what has come of them, while they are not whole
    failed = False
    async for message in messages:
        match message:
            case _ if failed:  # but the runtime may send all that it has
                continue
            case Begin(content_type) if content_type == HTTP_INTEGRATION_RESPONSE:
                metadata = bytearray()
            case Begin(content_type):
                yield Head(200, [("content-type", content_type)])
            case Chunk(data) if metadata is not None:
                metadata += data
                try:
                    parts = _split(bytes(metadata))
                except ValueError as error:
                    failed = True
                    yield _malformed(f"The response's HTTP metadata are malformed: {error}", complain)
                    continue
                if parts is not None:
                    metadata = None
                    yield parts[0]
                    if parts[1]:
                        yield Chunk(parts[1])
            case End("") if metadata is not None:
                yield _malformed("The response's HTTP metadata are malformed: they do not end", complain)
            case _:
                yield message


async def buffered(messages: AsyncIterator[Message], complain: Callable[[str], None]) -> Response:
    """A response as a URL with `InvokeMode: BUFFERED` gives it to the client: at once, when it is whole.

    JSON in payload format 2.0 is decoded. Anything else is the body, and so are HTTP metadata, which only a URL that
    streams understands. One that is malformed or too long ends as failed; `complain` is told.
    """
    content_type = ""
    posted = bytearray()
    async for message in messages:
        match message:
            case Begin(content_type):
                pass
            case Chunk(data):
                if len(posted) <= _BUFFERED_LIMIT:
                    posted += data
            case End("") if len(posted) > _BUFFERED_LIMIT:
                yield _malformed(f"The response takes more than {_BUFFERED_LIMIT} bytes without streaming", complain)
            case End(""):
                try:
                    head, body = _decode(content_type, bytes(posted))
                except _MALFORMED as error:
                    yield _malformed(f"The response is malformed: {error}", complain)
                    continue
                yield head
                if body:
                    yield Chunk(body)
                yield message
            case End():
                yield message


async def capped(messages: Response, complain: Callable[[str], None]) -> Response:
    """The same as long as Lambda lets a response be; one that is longer ends there as failed, and `complain` is told.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
    """
    room = _RESPONSE_LIMIT
    async for message in messages:
        match message:
            case Chunk() | End() if room < 0:  # but the function goes on
                continue
            case Chunk(data) if len(data) > room:
                yield Chunk(data[:room])
                yield _malformed(f"The response takes more than {_RESPONSE_LIMIT} bytes", complain)
                room = -1
            case Chunk(data):
                room -= len(data)
                yield message
            case _:
                yield message


def _malformed(message: str, complain: Callable[[str], None]) -> End:
    complain(message + "\n")
    return End("Runtime.InvalidResponse", json.dumps({"errorMessage": message}).encode())


def _split(start: bytes) -> tuple[Head, bytes] | None:
    """The head that the metadata at the start of a response make, and what of the body has come with them.

    Returns:
        None while the metadata are not whole.

    Raises:
        ValueError: They are not what Lambda takes.
    """
    encoded, delimiter, body = start.partition(_DELIMITER)
    if len(encoded) + len(_DELIMITER) > _METADATA_LIMIT:
        raise ValueError(f"they take more than {_METADATA_LIMIT} bytes")
    if not delimiter:
        return None
    try:
        return _head(json.loads(encoded)), body
    except _MALFORMED as error:
        raise ValueError(f"{error}: {encoded[:200]!r}") from error


def _head(metadata: dict[str, Any]) -> Head:
    headers = [(str(name).lower(), str(value)) for name, value in (metadata.get("headers") or {}).items()]
    headers = [(name, value) for name, value in headers if name not in _OF_THE_CONNECTION]
    headers = [(f"x-amzn-remapped-{name}" if name in _REMAPPED else name, value) for name, value in headers]
    headers += [("set-cookie", cookie) for cookie in metadata.get("cookies") or []]
    return Head(metadata.get("statusCode", 200), headers)


def _decode(content_type: str, posted: bytes) -> tuple[Head, bytes]:
    try:
        payload = json.loads(posted)
    except ValueError:
        kind = "application/octet-stream" if content_type == HTTP_INTEGRATION_RESPONSE else content_type
        return Head(200, [("content-type", kind)]), posted
    if not isinstance(payload, dict) or "statusCode" not in payload:
        text = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        return Head(200, [("content-type", "application/json")]), text.encode()
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
