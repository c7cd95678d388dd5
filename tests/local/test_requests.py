"""Requests of every kind: the events that they make, and malformed ones."""

from __future__ import annotations

import base64
import json
import re
import time

import pytest
from tests.local.conftest import ECHO, Serve, event_of, exchange, rest

LIMIT = 6 * 1024 * 1024


def test_event_fields(serve: Serve) -> None:
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-request-payload
    served = serve(ECHO, hosts=("url-id.lambda-url.eu-west-1.on.aws",))
    before = time.time() * 1000 - 1
    event = event_of(
        served,
        b"POST /a%20path/x?name=a%20b+c&tag=x&empty=&tag=y&plain HTTP/1.1\r\n"
        b"Host: url-id.lambda-url.eu-west-1.on.aws:3000\r\n"
        b"User-Agent: agent/1\r\n"
        b"Cookie: one=1; two=a,b\r\n"
        b"Cookie: three=3\r\n"
        b"X-Many: 1\r\n"
        b"x-many: 2\r\n"
        b"Content-Type: text/plain\r\n"
        b"Content-Length: 4\r\n"
        b"Connection: close\r\n\r\n"
        b"body",
    )
    context = event["requestContext"]
    moment = context.pop("timeEpoch")
    assert before <= moment <= time.time() * 1000
    parsed = time.strptime(context["time"], "%d/%b/%Y:%H:%M:%S +0000")
    assert context.pop("time") == time.strftime("%d/%b/%Y:%H:%M:%S +0000", parsed)
    assert parsed[:6] == time.gmtime(moment / 1000)[:6]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", context.pop("requestId"))
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", event["headers"].pop("x-amzn-trace-id"))
    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/a%20path/x",
        "rawQueryString": "name=a%20b+c&tag=x&empty=&tag=y&plain",
        "cookies": ["one=1", "two=a,b", "three=3"],
        "headers": {
            "host": "url-id.lambda-url.eu-west-1.on.aws:3000",
            "user-agent": "agent/1",
            "x-many": "1,2",
            "content-type": "text/plain",
            "content-length": "4",
            "cookie": "one=1; two=a,b; three=3",
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-port": "3000",
            "x-forwarded-proto": "http",
        },
        "queryStringParameters": {"name": "a b c", "tag": "x,y", "empty": "", "plain": ""},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "url-id",
            "domainName": "url-id.lambda-url.eu-west-1.on.aws",
            "domainPrefix": "url-id",
            "http": {
                "method": "POST",
                "path": "/a path/x",
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "agent/1",
            },
            "routeKey": "$default",
            "stage": "$default",
        },
        "body": "body",
        "isBase64Encoded": False,
    }


def test_absent_event_fields(serve: Serve) -> None:
    event = event_of(serve(ECHO), b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert not event.keys() & {"body", "cookies", "queryStringParameters"}
    assert (event["rawPath"], event["rawQueryString"], event["isBase64Encoded"]) == ("/", "", False)
    assert event["headers"]["x-forwarded-port"] == "80"
    assert event["requestContext"]["http"]["userAgent"] == ""


BODIES = {
    "text": ("text/plain", b"zw\xc3\xb6lf", "zwölf"),
    "JSON": ("application/json; charset=utf-8", b'{"a": 1}', '{"a": 1}'),
    "XML": ("Application/XML", b"<a/>", "<a/>"),
    "JavaScript": ("application/javascript", b"1", "1"),
    "form": ("application/x-www-form-urlencoded", b"a=1", None),
    "binary": ("application/octet-stream", bytes(range(256)), None),
    "image": ("image/png", b"\x89PNG", None),
    "no type": (None, b"text?", None),
}


@pytest.mark.parametrize(("content_type", "body", "text"), BODIES.values(), ids=BODIES.keys())
def test_body_text_or_base64(serve: Serve, content_type: str | None, body: bytes, text: str | None) -> None:
    connection = serve(ECHO).connect()
    connection.request("POST", "/", body, {"Content-Type": content_type} if content_type else {})
    event = json.loads(connection.getresponse().read())
    assert event["isBase64Encoded"] == (text is None)
    assert event["body"] == (base64.b64encode(body).decode() if text is None else text)


def test_chunked_upload(serve: Serve) -> None:
    connection = serve(ECHO).connect()
    connection.request("PUT", "/", iter([b"one ", b"two ", b"three"]), {"Content-Type": "text/plain"})
    assert json.loads(connection.getresponse().read())["body"] == "one two three"


def test_expect_100_continue(serve: Serve) -> None:
    client = serve(ECHO).socket()
    client.sendall(
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n"
        b"Connection: close\r\nExpect: 100-continue\r\n\r\n"
    )
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += client.recv(1)
    assert received.startswith(b"HTTP/1.1 100 ")
    assert b'"body": "body"' in exchange(client, b"body")


@pytest.mark.parametrize("chunked", [False, True])
def test_request_size_limit(serve: Serve, chunked: bool) -> None:
    connection = serve("def handler(event, context):\n    return len(event['body'])\n").connect()
    answers = []
    for size in (LIMIT, LIMIT + 1, 10):
        body = iter([bytes(size)]) if chunked else bytes(size)
        connection.request("POST", "/", body, {"Content-Type": "text/plain"})
        response = connection.getresponse()
        answers.append((response.status, json.loads(response.read())))
    message = "Request must be smaller than 6291456 bytes for the InvokeFunction operation"
    assert answers == [(200, LIMIT), (413, {"Message": message}), (200, 10)]


def test_pipelined_requests(serve: Serve) -> None:
    served = serve("def handler(event, context):\n    return event['rawPath']\n")
    one = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /3 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    received = exchange(served.socket(), one % 1 + one % 2 + last)
    assert re.findall(rb'"/\d"', received) == [b'"/1"', b'"/2"', b'"/3"']
    assert received.count(b"HTTP/1.1 200 ") == 3


def test_half_closed_client(serve: Serve) -> None:
    client = serve(ECHO).socket()
    client.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    client.shutdown(1)
    assert rest(client).endswith(b"0\r\n\r\n")


MALFORMED = {
    "no HTTP": b"garbage\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a1") + bytes(200) + b"\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "bad header": b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header: 1\r\n\r\n",
    "bad length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_400(serve: Serve, request_: bytes) -> None:
    served = serve(ECHO)
    assert exchange(served.socket(), request_).startswith(b"HTTP/1.1 400 ")
    assert served.log == ""
    assert served.get()[0] == 200


@pytest.mark.parametrize(
    "request_",
    [b"", b"GET", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["nothing", "half a head", "half a body"],
)
def test_incomplete_request_does_not_invoke(serve: Serve, request_: bytes) -> None:
    served = serve("tell(b'!')\ndef handler(event, context):\n    return 'good'\n")
    client = served.socket()
    client.sendall(request_)
    client.close()
    client = served.socket()
    client.sendall(request_)
    client.shutdown(1)
    assert b" 200 " not in rest(client)
    assert not served.told.ready(0)


def test_connect_is_refused(serve: Serve) -> None:
    served = serve(ECHO)
    assert exchange(served.socket(), b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n").startswith(
        b"HTTP/1.1 405 "
    )
    assert served.get()[0] == 200


def test_absolute_form_target(serve: Serve) -> None:
    request = b"GET http://127.0.0.1:81/a/b?c=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    event = event_of(serve(ECHO), request)
    assert (event["rawPath"], event["rawQueryString"]) == ("/a/b", "c=1")
    # The target's host replaces the header (RFC 9112, section 3.2.2).
    assert (event["headers"]["host"], event["requestContext"]["domainName"]) == ("127.0.0.1:81", "127.0.0.1")
    assert event["headers"]["x-forwarded-port"] == "81"
