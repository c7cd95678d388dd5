"""Events of a function URL, in payload format 2.0, and of a REST API: made from requests, read from files.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-request-payload
"""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11

from .aws import ACCOUNT
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


def match_route(routes: Iterable[tuple[str, str]], method: str, path: str) -> tuple[str, dict[str, str]] | None:
    """Return the path of the best route for a request, and its parameters; None without such a route.

    A route is a method, or ANY, and a path such as `/orders/{id}` or `/{proxy+}`. A fixed segment is better than a
    parameter, and one segment better than the rest of the path.
    """
    found = []
    for route_method, route in routes:
        expression = re.sub(r"\\\{(\w+)\\\+\\\}", r"(?P<\1>.+)", re.escape(route))
        expression = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", expression)
        matched = re.fullmatch(expression, path)
        if matched is not None and route_method.upper() in (method, "ANY", "*"):
            found.append((route.count("+}"), route.count("{"), route, matched.groupdict()))
    return min(found, key=lambda of: of[:2])[2:] if found else None


def rest_api_event(
    request: h11.Request,
    body: bytes,
    source_ip: str,
    request_id: str,
    trace_id: str,
    resource: str,
    parameters: dict[str, str],
) -> dict[str, Any]:
    """Return the event that a REST API makes from an HTTP request, in payload format 1.0.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
    """
    pairs = [(name.decode("latin-1").title(), value.decode("latin-1")) for name, value in request.headers]
    pairs = [(name, value) for name, value in pairs if name.lower() not in HOP_BY_HOP]
    path, _, query = request.target.decode("latin-1").partition("?")
    queries = parse_qsl(query, keep_blank_values=True)
    domain, port = _split_host(field_values(request).get("host", "localhost"))
    pairs += [("X-Amzn-Trace-Id", trace_id), ("X-Forwarded-For", source_ip)]
    pairs += [("X-Forwarded-Port", port), ("X-Forwarded-Proto", "http")]
    headers, method, now = dict(pairs), request.method.decode(), time.time()
    text = _text(body, headers.get("Content-Type", "")) if body else None
    return {
        "resource": resource,
        "path": unquote(path),
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": _multiple(pairs),
        "queryStringParameters": dict(queries) or None,
        "multiValueQueryStringParameters": _multiple(queries) or None,
        "pathParameters": {name: unquote(value) for name, value in parameters.items()} or None,
        "stageVariables": None,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "local",
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "extendedRequestId": request_id,
            "httpMethod": method,
            "identity": {"sourceIp": source_ip, "userAgent": headers.get("User-Agent", "")},
            "path": path,
            "protocol": "HTTP/" + request.http_version.decode(),
            "requestId": request_id,
            "requestTime": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "requestTimeEpoch": int(now * 1000),
            "resourcePath": resource,
            "stage": "local",
        },
        "body": base64.b64encode(body).decode() if body and text is None else text,
        "isBase64Encoded": bool(body) and text is None,
    }


def _multiple(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def through_distribution(event: Any, secret: str) -> Any:
    """Return an event with what CloudFront and its function add to the request: the secret, and the caller's host.

    One that has a secret already stays as it is, so that the check can be tried out.
    """
    if not isinstance(event, dict) or not isinstance(event.get("headers"), dict):
        return event
    names = {name.lower(): value for name, value in event["headers"].items()}
    if "x-origin-secret" in names:
        return event
    host = names.get("host", "localhost")
    return {**event, "headers": {**event["headers"], "x-origin-secret": secret, "x-forwarded-host": host}}


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
