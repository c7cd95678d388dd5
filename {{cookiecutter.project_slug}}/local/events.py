"""Function URL events: the payload format 2.0 of a request.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-request-payload
"""

from __future__ import annotations

import base64
import time
import uuid
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11

from .http import fields

_URL_ID = "localhost"
_TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")


def function_url_event(request: h11.Request, body: bytes, source_ip: str) -> dict[str, Any]:
    """The event that Lambda makes of an HTTP request."""
    headers = fields(request)
    headers.pop("cookie", None)
    # A cookie may hold a comma, so the joined header is of no use.
    cookie_headers = [value.decode("latin-1") for name, value in request.headers if name == b"cookie"]
    cookies = [cookie.strip() for text in cookie_headers for cookie in text.split(";") if cookie.strip()]
    path, _, query = request.target.decode("latin-1").partition("?")
    domain = headers.get("host", _URL_ID)
    now = time.time()
    headers["x-amzn-trace-id"] = f"Root=1-{int(now):08x}-{uuid.uuid4().hex[:24]}"
    headers["x-forwarded-for"] = source_ip
    port = domain.rpartition(":")[2]
    headers["x-forwarded-port"] = port if port.isdigit() else "80"
    headers["x-forwarded-proto"] = "http"
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": _URL_ID,
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": request.method.decode(),
                "path": unquote(path),
                "protocol": "HTTP/" + request.http_version.decode(),
                "sourceIp": source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies:
        event["cookies"] = cookies
    if query:
        parameters: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
        event["queryStringParameters"] = parameters
    if body:
        text = headers.get("content-type", "").lower().startswith(_TEXT_TYPES)
        event["body"] = body.decode(errors="replace") if text else base64.b64encode(body).decode()
        event["isBase64Encoded"] = not text
    return event
