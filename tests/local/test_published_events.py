"""Our events beside those that AWS published: the same request makes the same event, with the exceptions here."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools.utilities.parser.models import LambdaFunctionUrlModel
from tests.local.conftest import ECHO, Serve, event_of

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))
Event = dict[str, Any]

# Headers that the URL adds. Those of TLS are missing on localhost.
OF_THE_URL = re.compile(r"x-amzn-t(race-id|ls-.*)|x-forwarded-.*")
TLS = ("x-amzn-tls-cipher-suite", "x-amzn-tls-version")


def request_of(event: Event) -> bytes:
    """Return the request from which AWS made this event."""
    http = event["requestContext"]["http"]
    query = event["rawQueryString"]
    lines = [f"{http['method']} {event['rawPath']}{'?' if query else ''}{query} {http['protocol']}"]
    for name, value in event["headers"].items():
        if not OF_THE_URL.fullmatch(name):
            # Equal headers are joined; in these events a comma within a value is followed by a space.
            values = re.split(r",(?! )", value) if name.startswith("header") else [value]
            lines += [f"{name}: {each}" for each in values]
    body = event.get("body", "")
    raw = base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
    return "\r\n".join([*lines, "connection: close", "", ""]).encode() + raw


def as_here(published: Event, ours: Event) -> Event:
    """Return the published event with what cannot be the same on localhost, each with its reason."""
    expected: Event = json.loads(json.dumps(published))
    context, headers = expected["requestContext"], expected["headers"]
    for name in TLS:
        headers.pop(name, None)
    # The URL is served on localhost over HTTP, and the client is on this machine.
    headers |= {"x-forwarded-proto": "http", "x-forwarded-port": "80", "x-forwarded-for": "127.0.0.1"}
    context["http"]["sourceIp"] = "127.0.0.1"
    # Redacted in one of the events.
    context["http"]["userAgent"] = headers["user-agent"]
    # Requests to localhost are not signed: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
    context.pop("authorizer", None)
    context["accountId"] = "anonymous"
    # New for each request.
    for name in ("requestId", "time", "timeEpoch"):
        context[name] = ours["requestContext"][name]
    headers["x-amzn-trace-id"] = ours["headers"]["x-amzn-trace-id"]
    return expected


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_event_matches_aws(serve: Serve, path: Path) -> None:
    # One event has a placeholder where the host had an ID; a host cannot contain its brackets.
    published = json.loads(path.read_text(encoding="utf-8").replace("<url-id>", "url-id"))
    served = serve(ECHO, hosts=(published["headers"]["host"],))
    ours = event_of(served, request_of(published))
    assert ours == as_here(published, ours)
    # Their formats are AWS's too.
    for name, form in {
        "requestId": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "time": r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000",
        "timeEpoch": r"\d{13}",
    }.items():
        assert re.fullmatch(form, str(ours["requestContext"][name]))
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", ours["headers"]["x-amzn-trace-id"])


REQUESTS = {
    "bare": b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    "query and cookies": (
        b"GET /a%20b?q=%C3%A4&e= HTTP/1.1\r\nhost: localhost\r\ncookie: a=1; b=2\r\nconnection: close\r\n\r\n"
    ),
    "binary": b"PUT /f HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\nconnection: close\r\n\r\n\xff\x00\xfe",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_event_is_valid_in_powertools(serve: Serve, request_: bytes) -> None:
    event = event_of(serve(ECHO), request_)
    model = LambdaFunctionUrlModel.model_validate(event)
    # Nothing of ours is unknown to the model.
    known = set(model.model_dump(by_alias=True))
    assert set(event) <= known


def test_event_key_order(serve: Serve) -> None:
    request = (
        b"POST /?a=1 HTTP/1.1\r\nhost: localhost\r\ncookie: a=1\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx"
    )
    assert list(event_of(serve(ECHO), request)) == [
        "version",
        "routeKey",
        "rawPath",
        "rawQueryString",
        "cookies",
        "headers",
        "queryStringParameters",
        "requestContext",
        "body",
        "isBase64Encoded",
    ]
