"""The proxy that signs: what reaches AWS, what streams back, and which requests it refuses."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tests.local.conftest import TIMEOUT, Serve

from local.client import RequestError
from local.proxy import main, proxying

KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}


@pytest.fixture
def proxy(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Run a proxy for a URL in a thread, with credentials; return its URL."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)

    def start(url: str) -> str:
        started: list[Any] = []
        ready = threading.Event()

        async def serve() -> None:
            stop = asyncio.Event()
            async with proxying(url, 0, ("lambda", "eu-central-1")) as own:
                started.extend([own, asyncio.get_running_loop(), stop])
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert ready.wait(TIMEOUT)
        own, loop, stop = started
        stack.callback(thread.join)
        stack.callback(loop.call_soon_threadsafe, stop.set)
        return str(own)

    return start


def send(
    url: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)) as client:
        client.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
        response = client.getresponse()
        return response, response.read()


ECHO = """
    def handler(event, context):
        return event
    """


def test_signature_is_valid(serve: Serve, proxy: Callable[[str], str]) -> None:
    """Recompute it from what has arrived, as AWS does."""
    served = serve(ECHO)
    url = proxy(served.url)
    kind = {"content-type": "application/json", "authorization": "Bearer of the client", "x-own": "kept"}
    _, body = send(f"{url}some/path?b=2&a=%20x", "POST", b'{"one": 1}', **kind)
    event = json.loads(body)
    headers = event["headers"]
    assert (event["rawPath"], event["rawQueryString"], event["body"]) == ("/some/path", "b=2&a=%20x", '{"one": 1}')
    assert (headers["x-own"], headers["x-amz-security-token"]) == ("kept", "token")
    scheme, _, fields = headers["authorization"].partition(" ")
    assert scheme == "AWS4-HMAC-SHA256"
    given = dict(field.strip().split("=", 1) for field in fields.split(","))
    signed = given["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token", "content-type"} <= {*signed}
    request = AWSRequest(
        "POST", f"{served.url}some/path?b=2&a=%20x", {name: headers[name] for name in signed}, b'{"one": 1}'
    )
    request.context["timestamp"] = headers["x-amz-date"]
    auth = SigV4Auth(Credentials("id", "secret", "token"), "lambda", "eu-central-1")
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert given["Signature"] == expected


def test_chunks_arrive_one_by_one(serve: Serve, proxy: Callable[[str], str]) -> None:
    served = serve("""
        def handler(event, context):
            for _ in range(3):
                yield b"chunk " + wait()
        """)
    parts = urlsplit(proxy(served.url))
    with closing(http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)) as client:
        client.request("GET", "/")
        for byte in (b"1", b"2", b"3"):
            served.gate.write(byte)
            if byte == b"1":
                response = client.getresponse()
            assert response.read1() == b"chunk " + byte


def test_broken_stream_is_not_complete(serve: Serve, proxy: Callable[[str], str]) -> None:
    served = serve("""
        def handler(event, context):
            yield b"first"
            raise RuntimeError("broken")
        """)
    with pytest.raises(http.client.IncompleteRead):
        send(proxy(served.url))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://example.com"},
        {"sec-fetch-site": "cross-site"},
        {"host": "example.com"},
    ],
    ids=str,
)
def test_foreign_page_is_refused(headers: dict[str, str], serve: Serve, proxy: Callable[[str], str]) -> None:
    """Any page can send requests to localhost, and the proxy would sign them."""
    served = serve(ECHO)
    response, body = send(proxy(served.url), "GET", None, **headers)
    assert response.status == 403
    assert b"only programs of this machine" in body


def test_without_credentials_nothing_is_sent(
    serve: Serve, proxy: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = proxy(serve(ECHO).url)
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    response, body = send(url)
    assert (response.status, b"there are no AWS credentials" in body) == (502, True)


def test_unreachable_function(proxy: Callable[[str], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    response, body = send(proxy(f"http://127.0.0.1:{port}/"))
    assert (response.status, b"no response from 127.0.0.1" in body) == (502, True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "https://example.com/",
            "example.com is not the host of a function URL or REST API. Use --service and --region",
        ),
        ("example.com", "the URL must begin with https:// and a host, got 'example.com'"),
    ],
)
def test_other_url_is_refused(url: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([url]) == 1
    assert capsys.readouterr().err == f"proxy: {message}\n"


def test_hosts_of_aws_need_no_region() -> None:
    async def start(url: str) -> None:
        async with proxying(url, 0):
            pass

    for host in ("abc.lambda-url.eu-central-1.on.aws", "abc.execute-api.us-east-1.amazonaws.com"):
        asyncio.run(start(f"https://{host}/"))
    with pytest.raises(RequestError):
        asyncio.run(start("https://abc.example.com/"))
