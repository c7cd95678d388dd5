"""A URL with `InvokeMode: BUFFERED` or without an invoke mode: a response is sent when it is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.local.conftest import Serve, Served
from tests.local.test_runtime_api import serve_runtime

from local.template import load_function

__all__ = ["serve_runtime"]
BUFFERED = {"streams": False}
REFUSAL = (502, b"Internal Server Error")
Runtime = Callable[..., Served]

# Content type and body that the runtime posts; status, content type and body that the client gets.
POSTED: dict[str, tuple[str, str, int, str, bytes]] = {
    "payload 2.0": (
        "application/json",
        '{"statusCode": 201, "headers": {"Content-Type": "text/plain"}, "body": "zw\\u00f6lf"}',
        201,
        "text/plain",
        "zwölf".encode(),
    ),
    "status as text": ("application/json", '{"statusCode": "418", "body": "x"}', 418, "application/json", b"x"),
    "base64": (
        "application/json",
        '{"statusCode": 200, "body": "/wA=", "isBase64Encoded": true}',
        200,
        "application/json",
        b"\xff\x00",
    ),
    "body that is JSON": (
        "application/json",
        '{"statusCode": 200, "body": {"a": 1}}',
        200,
        "application/json",
        b'{"a": 1}',
    ),
    "no body": ("application/json", '{"statusCode": 200}', 200, "application/json", b""),
    "any JSON": ("application/json", '{"a": 1, "b": [2]}', 200, "application/json", b'{"a":1,"b":[2]}'),
    "JSON string": ("application/json", '"text"', 200, "application/json", b"text"),
    "no JSON": ("text/plain", "raw", 200, "text/plain", b"raw"),
}


@pytest.mark.parametrize("case", POSTED)
def test_payload_decoded(serve_runtime: Runtime, case: str) -> None:
    posted_type, posted, status, content_type, body = POSTED[case]
    served = serve_runtime(f"post([{posted.encode()!r}], {posted_type!r})", url=BUFFERED)
    response = served.start()
    assert (response.status, response.headers["content-type"], response.read()) == (status, content_type, body)


def test_payload_cookies(serve_runtime: Runtime) -> None:
    payload = b'{"statusCode": 200, "cookies": ["a=1", "b=2"]}'
    served = serve_runtime(f"post([{payload!r}], 'application/json')", url=BUFFERED)
    assert served.start().headers.get_all("set-cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"statusCode": "many"}',
        b'{"statusCode": 99}',
        b'{"statusCode": 200, "headers": ["a"]}',
        b'{"statusCode": 200, "headers": {"a b": "c"}}',
        b'{"statusCode": 200, "body": "a", "isBase64Encoded": true}',
    ],
)
def test_malformed_payload_is_502(serve_runtime: Runtime, payload: bytes) -> None:
    served = serve_runtime(f"post([{payload!r}], 'application/json')", url=BUFFERED)
    assert served.get() == REFUSAL
    assert served.log.startswith("The response is malformed: ")


def test_metadata_is_part_of_buffered_body(serve: Serve) -> None:
    served = serve("def handler(event, context):\n    return StreamingResponse(['body'], 201)\n", url=BUFFERED)
    response = served.start()
    assert (response.status, response.headers["content-type"]) == (200, "application/octet-stream")
    metadata, delimiter, body = response.read().partition(bytes(8))
    assert metadata.startswith(b'{"statusCode":201')
    assert (delimiter, body) == (bytes(8), b"body")


def test_nothing_sent_before_response_ends(serve: Serve) -> None:
    served = serve(
        """
        def handler(event, context):
            yield b"first"
            tell(b"1")
            wait()
            yield b"last"
        """,
        url=BUFFERED,
    )
    client = served.socket()
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert served.told.read(1) == b"1"
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(60)
    served.gate.write(b"1")
    assert client.recv(1) == b"H"


def test_buffered_midstream_error_is_502(serve: Serve) -> None:
    served = serve("def handler(event, context):\n    yield b'first'\n    raise ValueError\n", url=BUFFERED)
    assert served.get() == REFUSAL


@pytest.mark.parametrize(("size", "status"), [((6 << 20) + 100, 200), ((6 << 20) + 101, 502)])
def test_buffered_size_limit(serve: Serve, size: int, status: int) -> None:
    served = serve(f"def handler(event, context):\n    yield bytes({size})\n", url=BUFFERED)
    assert served.get()[0] == status
    assert ("may have at most 6291556 bytes" in served.log) == (status == 502)


def test_invoke_mode_defaults_to_buffered(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "bootstrap").touch(0o755)
    template = tmp_path / "template.yaml"
    text = """
        Resources:
          F: {{Type: AWS::Serverless::Function, Properties: {{CodeUri: src}}}}
          U: {{Type: AWS::Lambda::Url, Properties: {{TargetFunctionArn: !GetAtt F.Arn{mode}}}}}
        """
    for mode, streams in (("", False), (", InvokeMode: BUFFERED", False), (", InvokeMode: RESPONSE_STREAM", True)):
        template.write_text(text.format(mode=mode), encoding="utf-8")
        assert load_function(template, "F").streams == streams
