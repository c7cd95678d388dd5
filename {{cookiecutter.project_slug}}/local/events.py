"""Events of a function URL, in payload format 2.0: made from HTTP requests, read from files, turned into requests.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-request-payload
"""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11

from .http_server import field_values, join_values

#: Headers of a connection, not of a request or response (RFC 9110, section 7.6.1).
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")
# Headers of an event that describe the connection on which its request came.
_CONNECTION_HEADERS = ("connection", "content-length", "host", "transfer-encoding", "x-amzn-", "x-forwarded-")


class EventError(Exception):
    """An event cannot be read, or does not have the format of a function URL's event."""


def function_url_event(
    request: h11.Request, body: bytes, source_ip: str, request_id: str, trace_id: str
) -> dict[str, Any]:
    """Return the event that Lambda makes from an HTTP request, with its keys in Lambda's order."""
    headers = {name: value for name, value in field_values(request).items() if name not in HOP_BY_HOP}
    cookies: list[str] = []
    if cookie_headers := [value.decode("latin-1") for name, value in request.headers if name == b"cookie"]:
        # Not joined with commas, because a cookie may contain one.
        headers["cookie"] = "; ".join(cookie_headers)
        cookies = [cookie.strip() for cookie in headers["cookie"].split(";") if cookie.strip()]
    target = request.target.decode("latin-1")
    path, _, query = target.partition("?")
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
        event["queryStringParameters"] = join_values(parse_qsl(query, keep_blank_values=True))
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


def read_event(file: str) -> Any:
    """Return the event in a file, or the one on standard input if `file` is `-`.

    Raises:
        EventError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise EventError(f"cannot read the event: {error}") from error
    except (RecursionError, ValueError) as error:
        raise EventError(f"{file} is not JSON: {error}") from error


def request_from_event(event: Any) -> tuple[str, str, dict[str, str], bytes | None]:
    """Return method, target, headers and body of a request from which Lambda would make this event.

    Raises:
        EventError: The event does not have payload format 2.0.
    """
    try:
        http, body, query = event["requestContext"]["http"], event.get("body"), event.get("rawQueryString")
        pairs = event["headers"].items()
        headers = {name: value for name, value in pairs if not name.lower().startswith(_CONNECTION_HEADERS)}
        if event.get("cookies"):
            headers["cookie"] = "; ".join(event["cookies"])
        if body is not None:
            body = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
        return http["method"], event["rawPath"] + (f"?{query}" if query else ""), headers, body
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EventError(f"the event does not have the format of a function URL's event: {error!r}") from error


def _split_host(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port or "80") if colon and not port.endswith("]") else (host, "80")


def _text(body: bytes, content_type: str) -> str | None:
    """Return the body as text if its content type is textual and it is UTF-8, else None."""
    if not content_type.lower().startswith(_TEXT_TYPES):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
