"""Runtimes other than ours behind the URL, and ones that break the rules of the Runtime API."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.local.conftest import Serve, Served

REFUSAL = (502, b"Internal Server Error")

# A minimal runtime; the test adds `serve()`, which answers one event.
RUNTIME = """
    import http.client, os, sys

    def call(method, path, body=None, headers={}):
        connection.request(method, "/2018-06-01/runtime" + path, body, headers)
        response = connection.getresponse()
        return response, response.read()

    def post(chunks, content_type="application/vnd.awslambda.http-integration-response"):
        headers = {"Content-Type": content_type, "Lambda-Runtime-Function-Response-Mode": "streaming"}
        return call("POST", f"/invocation/{request_id}/response", iter(chunks), headers)[0].status

    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    kept = []
    while True:
        response, event = call("GET", "/invocation/next")
        request_id = response.headers["Lambda-Runtime-Aws-Request-Id"]
        serve()
    """


@pytest.fixture
def serve_runtime(serve: Serve, tmp_path: Path) -> Callable[..., Served]:
    """Serve a runtime whose `serve()` has this body."""

    def start(body: str, **options: float) -> Served:
        code = tmp_path / "code"
        code.mkdir()
        source = f"#!{sys.executable}\n" + "def serve():\n" + textwrap.indent(textwrap.dedent(body), "    ")
        bootstrap = code / "bootstrap"
        bootstrap.write_text(source + textwrap.dedent(RUNTIME), encoding="utf-8")
        bootstrap.chmod(0o755)
        return serve("", code=code, **options)

    return start


def test_metadata_in_any_pieces(serve_runtime: Callable[..., Served]) -> None:
    served = serve_runtime("""
        whole = b'{"statusCode": 201, "headers": {"x-a": "1"}, "cookies": ["c=1"]}' + bytes(8) + b"body"
        if b'"/whole"' in event:
            post([whole])
        elif b'"/bytes"' in event:
            post(whole[index:index + 1] for index in range(len(whole)))
        else:
            post([whole[:-8], whole[-8:]])
        """)
    for path in ("/whole", "/bytes", "/two"):
        response = served.start(path)
        assert (response.status, response.headers["x-a"], response.headers["set-cookie"]) == (201, "1", "c=1")
        assert response.read() == b"body"


def test_hop_by_hop_headers_are_dropped(serve_runtime: Callable[..., Served]) -> None:
    served = serve_runtime("""
        headers = '{"Content-Length": "1", "Transfer-Encoding": "gzip", "Connection": "upgrade", "X-A": 1}'
        post([b'{"headers": %s}' % headers.encode() + bytes(8) + b"body"])
        """)
    response = served.start()
    assert (response.status, response.read()) == (200, b"body")
    assert response.headers["x-a"] == "1"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers["content-length"] is None


MALFORMED = {
    "not JSON": 'b"{" + bytes(8)',
    "not UTF-8": 'b"\\xff" + bytes(8)',
    "not an object": 'b"[]" + bytes(8)',
    "status of text": """b'{"statusCode": "200"}' + bytes(8)""",
    "status out of range": """b'{"statusCode": 99}' + bytes(8)""",
    "header list": """b'{"headers": ["a"]}' + bytes(8)""",
    "header name": """b'{"headers": {"a b": "1"}}' + bytes(8)""",
    "header injection": """b'{"headers": {"a": "1\\\\r\\\\nb: 2"}}' + bytes(8)""",
    "header beyond latin-1": """b'{"headers": {"a": "\\\\u20ac"}}' + bytes(8)""",
    "cookies of a wrong type": """b'{"cookies": [1]}' + bytes(8)""",
    "deeply nested": 'b"[" * 16000 + bytes(8)',
    "too long": """b'{"a": "%s"}' % (b"x" * 16384) + bytes(8)""",
    "without end": 'b"{" + b" " * (1 << 20)',
}


@pytest.mark.parametrize("metadata", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_metadata_is_502(serve_runtime: Callable[..., Served], metadata: str) -> None:
    served = serve_runtime(f"""
        if b'"/good"' in event:
            post([b"good"], "text/plain")
        else:
            post([{metadata}, b"the body"])
        """)
    assert served.get() == REFUSAL
    assert served.log.startswith("The response's HTTP metadata is malformed: ")
    assert served.get("/good") == (200, b"good")


UNFINISHED = {
    "incomplete metadata": """post([b'{"statusCode": 200}'])""",
    "no metadata": "post([])",
    "no response at all": "return",
    "error": 'call("POST", f"/invocation/{request_id}/error", b"not JSON")',
    "init error": 'call("POST", "/init/error", b"{}")',
}


@pytest.mark.parametrize("line", UNFINISHED.values(), ids=UNFINISHED.keys())
def test_no_response_is_502(serve_runtime: Callable[..., Served], line: str) -> None:
    served = serve_runtime(f"""
        if b'"/good"' not in event:
            return {line.removeprefix("return")}
        post([b"good"], "text/plain")
        """)
    for _ in range(3):
        assert served.get() == REFUSAL
        assert served.get("/good") == (200, b"good")


def test_incomplete_response_aborts(
    serve_runtime: Callable[..., Served],
) -> None:
    served = serve_runtime("""
        def chunks():
            yield b"first"
            raise ValueError
        try:
            post(chunks(), "text/plain")
        except ValueError:
            connection.close()
        """)
    with pytest.raises(http.client.IncompleteRead) as raised:
        served.get()
    assert raised.value.partial == b"first"


def test_unknown_runtime_api_calls(serve_runtime: Callable[..., Served]) -> None:
    served = serve_runtime("""
        calls = ["/invocation/other/response", "/invocation//response", "/invocation/other/error", "/nothing"]
        statuses = [call("POST", path, b"body")[0].status for path in calls]
        statuses.append(call("GET", "/init/error")[0].status)
        post([b"%r" % statuses], "text/plain")
        """)
    assert json.loads(served.get()[1]) == [400] * 5


def test_exit_after_response_is_replaced(
    serve_runtime: Callable[..., Served],
) -> None:
    served = serve_runtime("""
        post([b"%d" % os.getpid()], "text/plain")
        sys.exit()
        """)
    answers = [served.get() for _ in range(5)]
    assert {status for status, _ in answers} == {200}
    assert len(set(answers)) == 5


def test_bootstrap_argument_and_folder(serve: Serve, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "bootstrap").write_text('#!/bin/sh\necho "handler $1 in $PWD of $0"\nexit 1\n', encoding="utf-8")
    (code / "bootstrap").chmod(0o755)
    served = serve("", code=code)
    assert served.get() == REFUSAL
    assert served.log.startswith(f"handler served.handler in {code} of {code}/bootstrap\n")


def test_runtime_api_listens_on_loopback(serve_runtime: Callable[..., Served]) -> None:
    served = serve_runtime("""post([os.environ["AWS_LAMBDA_RUNTIME_API"].encode()], "text/plain")""")
    host, _, port = served.get()[1].decode().partition(":")
    assert host == "127.0.0.1"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", int(port)), 5)


def test_unfinished_response_aborts(serve_runtime: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.invocation._DRAIN_TIMEOUT", 1000)
    served = serve_runtime("""
        if b'"/good"' in event:
            post([b"good"], "text/plain")
            return
        left = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        left.putrequest("POST", f"/2018-06-01/runtime/invocation/{request_id}/response")
        left.putheader("Content-Type", "text/plain")
        left.putheader("Transfer-Encoding", "chunked")
        left.endheaders()
        left.send(b"5\\r\\nfirst\\r\\n")
        kept.append(left)
        open(os.environ["GATE"], "rb", buffering=0).read(1)
        """)
    response = served.start()
    assert response.read1() == b"first"
    served.gate.write(b"1")
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert served.get("/good") == (200, b"good")


def test_event_survives_abandoned_next(serve_runtime: Callable[..., Served]) -> None:
    served = serve_runtime("""
        global request_id
        post([b"first"], "text/plain")
        given_up = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        given_up.request("GET", "/2018-06-01/runtime/invocation/next")
        call("GET", "/nothing")  # by then the abandoned call was accepted
        given_up.close()
        connection.request("GET", "/2018-06-01/runtime/invocation/next")
        with open(os.environ["TOLD"], "wb") as told:
            told.write(b"!")
        response = connection.getresponse()
        response.read()
        request_id = response.headers["Lambda-Runtime-Aws-Request-Id"]
        post([b"second"], "text/plain")
        """)
    assert served.get() == (200, b"first")
    assert served.told.read(1) == b"!"
    assert served.get() == (200, b"second")


def test_invalid_error_trailer(serve_runtime: Callable[..., Served]) -> None:
    served = serve_runtime("""
        broken = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        broken.putrequest("POST", f"/2018-06-01/runtime/invocation/{request_id}/response")
        broken.putheader("Content-Type", "text/plain")
        broken.putheader("Transfer-Encoding", "chunked")
        broken.endheaders()
        value = b"\\xff=" if b'"/latin"' in event else b"a"
        broken.send(b"5\\r\\nfirst\\r\\n0\\r\\n")
        broken.send(b"Lambda-Runtime-Function-Error-Type: E\\r\\n")
        broken.send(b"Lambda-Runtime-Function-Error-Body: " + value + b"\\r\\n\\r\\n")
        broken.getresponse().read()
        """)
    for path in ("/latin", "/short"):
        with pytest.raises(http.client.IncompleteRead) as raised:
            served.get(path)
        assert raised.value.partial == b"first"
