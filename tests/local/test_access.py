"""Which requests the servers on localhost refuse, because a web page elsewhere may have sent them.

The tests of the inspector are in `test_inspector.py`.
"""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from tests.local.conftest import ECHO, TIMEOUT, Serve, Served, exchange, function

from local.access import host_name, is_foreign_page, is_loopback
from local.invocation import Invocation
from local.messages import ResponseEnd
from local.runtime_api import RuntimeApi

NAMES = {
    "localhost": True,
    "LocalHost:3000": True,
    "a.b.localhost": True,
    "127.0.0.1": True,
    "127.255.0.9:80": True,
    "[::1]": True,
    "[0:0:0:0:0:0:0:1]:3000": True,
    "": False,
    ":3000": False,
    "localhost.example.com": False,
    "127.0.0.1.example.com": False,
    "notlocalhost": False,
    "example.com:127": False,
    "0.0.0.0": False,
    "[::]": False,
    "10.0.0.1": False,
    "169.254.169.254": False,
    "2130706433": False,
    "0x7f.1": False,
    "127.1": False,
    "[2001:db8::1]": False,
}


@pytest.mark.parametrize(("host", "loopback"), NAMES.items())
def test_loopback_names(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("A.example:80", "a.example"),
        ("a.example:", "a.example"),
        ("a", "a"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("2001:db8::5", "2001:db8::5"),
    ],
)
def test_name_of_host(host: str, name: str) -> None:
    assert host_name(host) == name


def refusal(served: Served, *fields: str, method: str = "GET", target: str = "/") -> tuple[int, bytes]:
    """Return status and body of the response to a request with these header fields."""
    request = "\r\n".join([f"{method} {target} HTTP/1.1", *fields, "Connection: close", "", ""])
    head, _, body = exchange(served.socket(), request.encode()).partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1.1 (\d{3}) ", head)
    assert found is not None
    return int(found[1]), body


UNINVOKED = "tell(b'!')\n" + ECHO.replace("\n    ", "\n")
REBOUND = {
    "name": ("example.com",),
    "name and port": ("example.com:{port}",),
    "its own page": ("example.com:{port}", "Origin: http://example.com:{port}", "Sec-Fetch-Site: same-origin"),
    "name that begins like localhost": ("localhost.example.com:{port}",),
    "address of a network": ("192.168.0.1:{port}",),
    "any address": ("0.0.0.0:{port}",),
}


@pytest.mark.parametrize("fields", REBOUND.values(), ids=REBOUND.keys())
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_rebound_name_does_not_invoke(serve: Serve, fields: tuple[str, ...], method: str) -> None:
    served = serve(UNINVOKED)
    port = served.url.rstrip("/").rpartition(":")[2]
    host, *more = (field.format(port=port) for field in fields)
    status, body = refusal(served, f"Host: {host}", *more, method=method)
    assert status == 403
    message = json.loads(body)["Message"]
    assert message == f"host {host!r} is not allowed. To allow it, use --allow-host {host.partition(':')[0]}"
    assert not served.told.ready(0)


def test_rebound_name_in_absolute_form(serve: Serve) -> None:
    served = serve(UNINVOKED)
    assert refusal(served, "Host: localhost", target="http://example.com/")[0] == 403
    assert not served.told.ready(0)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "a.localhost:3000", "[::1]:3000"])
def test_loopback_host_invokes(serve: Serve, host: str) -> None:
    assert refusal(serve(ECHO), f"Host: {host}")[0] == 200


def test_allowed_host_invokes(serve: Serve) -> None:
    served = serve(ECHO, hosts=("Project.example", "192.168.0.1", "2001:db8::5"))
    for host in ("project.example:80", "192.168.0.1", "[2001:db8::5]:3000"):
        assert refusal(served, f"Host: {host}")[0] == 200, host
    for host in ("a.project.example", "example", "[2001:db8::6]"):
        assert refusal(served, f"Host: {host}")[0] == 403, host


# Pages of other origins may call a function URL; `Cors` decides what they may read.
@pytest.mark.parametrize("field", ["Origin: https://example.com", "Sec-Fetch-Site: cross-site"])
def test_foreign_page_may_call_function(serve: Serve, field: str) -> None:
    assert refusal(serve(ECHO), "Host: localhost", field)[0] == 200


PAGES: dict[str, tuple[dict[str, str], bool]] = {
    "no page": ({"host": "localhost:1"}, False),
    "own page": ({"host": "localhost:1", "origin": "http://localhost:1", "sec-fetch-site": "same-origin"}, False),
    "typed": ({"host": "localhost:1", "sec-fetch-site": "none"}, False),
    "another origin": ({"host": "localhost:1", "origin": "http://example.com"}, True),
    "another port": ({"host": "localhost:1", "origin": "http://localhost:2"}, True),
    "another scheme": ({"host": "localhost:1", "origin": "https://localhost:1"}, True),
    "opaque origin": ({"host": "localhost:1", "origin": "null"}, True),
    "empty origin": ({"host": "localhost:1", "origin": ""}, True),
    "another site": ({"host": "localhost:1", "sec-fetch-site": "cross-site"}, True),
    "the same site": ({"host": "localhost:1", "sec-fetch-site": "same-site"}, True),
    "unknown site": ({"host": "localhost:1", "sec-fetch-site": "other"}, True),
}


@pytest.mark.parametrize(("headers", "foreign"), PAGES.values(), ids=PAGES.keys())
def test_foreign_pages(headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign_page(headers) == foreign


FOREIGN = {
    "another name": ["Host: localhost:{port}"],
    "name without port": ["Host: 127.0.0.1"],
    "another port": ["Host: 127.0.0.1:1"],
    "another loopback address": ["Host: 127.0.0.2:{port}"],
    "rebound name": ["Host: example.com:{port}"],
    "foreign origin": ["Host: 127.0.0.1:{port}", "Origin: https://example.com"],
    "opaque origin": ["Host: 127.0.0.1:{port}", "Origin: null"],
    "origin of the function URL": ["Host: 127.0.0.1:{port}", "Origin: http://127.0.0.1:3000"],
    "another site": ["Host: 127.0.0.1:{port}", "Sec-Fetch-Site: cross-site"],
    "the same site": ["Host: 127.0.0.1:{port}", "Sec-Fetch-Site: same-site"],
}


@pytest.mark.parametrize("fields", FOREIGN.values(), ids=FOREIGN.keys())
def test_runtime_api_refuses_foreign_pages(fields: list[str]) -> None:
    """No call of a page may take the event, or end or answer the invocation that the runtime works on."""
    failures: list[ResponseEnd] = []

    async def ask(port: int, method: str, path: str, fields: list[str]) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b"from a page" if method == "POST" else b""
        head = [f"{method} /2018-06-01/runtime{path} HTTP/1.1", *fields, f"Content-Length: {len(body)}"]
        writer.write("\r\n".join([*head, "Connection: close", "", ""]).encode() + body)
        async with asyncio.timeout(TIMEOUT):
            received = await reader.read()
        writer.close()
        head_received, _, answer = received.partition(b"\r\n\r\n")
        return int(head_received[9:12]), answer

    async def main() -> None:
        api = RuntimeApi(function(), failures.append, print, print)
        port = int((await api.start()).rpartition(":")[2])
        own = [f"Host: 127.0.0.1:{port}"]
        foreign = [field.format(port=port) for field in fields]
        invocation = Invocation({"a": 1})
        api.offer(invocation)
        response, error = (f"/invocation/{invocation.request_id}/{end}" for end in ("response", "error"))
        calls = [("GET", "/invocation/next"), ("POST", response), ("POST", error), ("POST", "/init/error")]
        for taken in (False, True):
            for method, path in calls:
                status, answer = await ask(port, method, path, foreign)
                assert (status, b'"a"' in answer) == (403, False), (method, path, taken)
            if not taken:
                assert await ask(port, "GET", "/invocation/next", own) == (200, b'{"a": 1}')
        ends = asyncio.create_task(anext(invocation.messages()))
        assert (await ask(port, "POST", error, own))[0] == 202
        assert await ends == ResponseEnd("Runtime.Unknown", b"from a page")
        api.stop_timer()
        await api.close()

    asyncio.run(main())
    assert failures == []


def test_runtime_api_needs_a_host() -> None:
    async def main() -> bytes:
        api = RuntimeApi(function(), print, print, print)
        reader, writer = await asyncio.open_connection(*(await api.start()).split(":"))
        writer.write(b"GET /2018-06-01/runtime/invocation/next HTTP/1.0\r\n\r\n")
        received = await reader.read()
        writer.close()
        await api.close()
        return received

    assert asyncio.run(main()).startswith(b"HTTP/1.1 403 Forbidden\r\n")
