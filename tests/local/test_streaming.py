"""Responses through the local URL: chunk by chunk, with their heads, at the client's pace."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest
from tests.local.conftest import TIMEOUT, Serve

GATED = """
    def handler(event, context):
        return StreamingResponse(chunks(), media_type="text/plain")

    def chunks():
        while (byte := wait()) != b".":
            yield b"chunk " + byte
    """
COUNTING = """
    count = 0

    def handler(event, context):
        global count
        count += 1
        return {"pid": os.getpid(), "count": count}
    """


def test_chunk_arrives_before_next_is_made(serve: Serve) -> None:
    served = serve(GATED)
    served.gate.write(b"0")
    response = served.start()
    assert response.read1() == b"chunk 0"
    for byte in (b"1", b"2", b"3"):
        served.gate.write(byte)
        assert response.read1() == b"chunk " + byte
    served.gate.write(b".")
    assert response.read1() == b""


def test_sent_chunk_precedes_end(serve: Serve) -> None:
    served = serve(GATED)
    for byte in (b"a", b"b", b"c"):
        served.gate.write(byte + b".")
        assert served.get() == (200, b"chunk " + byte)


def test_status_headers_and_cookies(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            headers = {"X-One": "1", "Content-Length": "3"} if event["rawPath"] == "/length" else {"X-One": "1"}
            return StreamingResponse(["made"], 201, headers, "text/html", ["a=1; Path=/", "b=2, 3; HttpOnly"])
        """)
    response = served.start()
    assert (response.status, response.reason, response.read()) == (201, "Created", b"made")
    assert response.headers["x-one"] == "1"
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers.get_all("set-cookie") == ["a=1; Path=/", "b=2, 3; HttpOnly"]
    assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize(
    ("source", "content_type", "body"),
    [
        (
            "def handler(event, context):\n    yield b'one'\n    yield 'zw\\u00f6lf'",
            "octet-stream",
            "onezwölf".encode(),
        ),
        ("def handler(event, context):\n    return {'a': 1}", "json", b'{"a": 1}'),
        ("def handler(event, context):\n    return iter(())", "octet-stream", b""),
    ],
    ids=["raw stream", "JSON value", "empty stream"],
)
def test_response_without_metadata(serve: Serve, source: str, content_type: str, body: bytes) -> None:
    response = serve(source).start()
    assert (response.status, response.read()) == (200, body)
    assert response.headers["content-type"] == f"application/{content_type}"


def test_empty_stream_with_metadata(serve: Serve) -> None:
    served = serve("""
        async def nothing():
            return
            yield

        async def handler(event, context):
            return StreamingResponse(nothing(), 418)
        """)
    assert served.get() == (418, b"")


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("HEAD", 500), ("GET", 204), ("GET", 304)])
def test_bodiless_responses(serve: Serve, method: str, status: int) -> None:
    served = serve("""
        def handler(event, context):
            return StreamingResponse([b"a body"], int(event["rawPath"][1:]))
        """)
    connection = served.connect()
    for _ in range(2):
        connection.request(method, f"/{status}")
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"")
        if method == "GET":
            assert "transfer-encoding" not in response.headers
    connection.request("GET", "/200")
    assert connection.getresponse().read() == b"a body"


def test_disconnect_does_not_stop_function(serve: Serve) -> None:
    served = serve(
        """
        def handler(event, context):
            if event["rawPath"] == "/pid":
                return os.getpid()
            return StreamingResponse(chunks())

        def chunks():
            wait()
            yield b"first"
            wait()
            for _ in range(100):
                yield bytes(65536)
            tell(b"!")
        """,
        limit=1,
    )
    before = served.get("/pid")
    client = served.socket()
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    served.gate.write(b"1")
    received = b""
    while b"first" not in received:
        received += client.recv(4096)
    # Reset the connection, as the end of a browser's process does.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    served.gate.write(b"2")
    assert served.told.read(1) == b"!"
    # The function has sent its last chunk, but may not have returned yet.
    assert served.get_once_free("/pid") == before


def test_slow_client_blocks_function(serve: Serve) -> None:
    served = serve("""
        SIZE = 256 * 1024

        def handler(event, context):
            return StreamingResponse(chunks())

        def chunks():
            for _ in range(400):
                tell(b".")
                yield bytes(SIZE)
        """)
    client = served.socket()
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    made = 0
    # Stop when nothing arrives for a while: all buffers are full long before 100 MiB.
    while served.told.ready(0.5 if made else TIMEOUT):
        made += len(served.told.read(1))
    assert made < 200
    size = 0
    while data := client.recv(1 << 20):
        size += len(data)
    assert size > 400 * 256 * 1024
    assert len(served.told.read(400 - made)) == 400 - made


def test_close_while_client_is_slow(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            while True:
                tell(b".")
                yield bytes(1 << 20)
        """)
    with socket.create_connection(
        ("127.0.0.1", urlsplit(served.url).port or 80)
    ) as client:  # closed only after the URL
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        served.told.read(1)
        while served.told.ready(0.5):
            served.told.read(1)
        served.stack.close()


def test_keep_alive_reuses_environment(serve: Serve) -> None:
    connection = serve(COUNTING).connect()
    answers = []
    for _ in range(4):
        connection.request("GET", "/")
        answers.append(json.loads(connection.getresponse().read()))
    assert [answer["count"] for answer in answers] == [1, 2, 3, 4]
    assert len({answer["pid"] for answer in answers}) == 1


def test_sequential_clients_reuse_environment(serve: Serve) -> None:
    served = serve(COUNTING)
    assert [json.loads(served.get()[1])["count"] for _ in range(20)] == list(range(1, 21))


def test_raw_stream_error_is_incomplete(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            yield b"first"
            wait()
            raise ValueError("mid-way")
        """)
    response = served.start()
    assert response.read1() == b"first"
    served.gate.write(b"1")
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert "[ERROR] ValueError: mid-way" in served.log


def test_empty_first_item_sends_head(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            return StreamingResponse(items(), 201)

        def items():
            yield b""
            wait()
            yield b"made"
        """)
    response = served.start()
    assert response.status == 201
    served.gate.write(b"1")
    assert response.read() == b"made"


def test_response_ids(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            here = os.environ["_X_AMZN_TRACE_ID"].partition(";")[0]
            return StreamingResponse([context.aws_request_id, " ", event["requestContext"]["requestId"], " ", here])
        """)
    response = served.start()
    request_id, in_event, root = response.read().decode().split()
    assert response.headers["x-amzn-requestid"] == request_id == in_event
    assert response.headers["x-amzn-trace-id"] == root.replace("Root", "root")
    assert parsedate_to_datetime(response.headers["date"]).tzinfo is not None


def test_client_trace_continues(serve: Serve) -> None:
    connection = serve("""
        def handler(event, context):
            return [os.environ["_X_AMZN_TRACE_ID"].partition(";")[0], event["headers"]["x-amzn-trace-id"]]
        """).connect()
    root = "Root=1-5759e988-bd862e3fe1be46a994272793"
    connection.request("GET", "/", headers={"X-Amzn-Trace-Id": f"{root};Parent=53995c3f42cd8ad8;Sampled=1"})
    assert json.loads(connection.getresponse().read()) == [root, root]
    connection.request("GET", "/", headers={"X-Amzn-Trace-Id": "no trace"})
    assert json.loads(connection.getresponse().read()) != [root, root]


def test_remapped_headers(serve: Serve) -> None:
    response = serve("""
        def handler(event, context):
            headers = {"Content-Length": "99", "WWW-Authenticate": "Basic", "Date": "yesterday"}
            return StreamingResponse(["body"], headers=headers)
        """).start()
    assert response.read() == b"body"
    assert response.headers["content-length"] is None
    assert response.headers["www-authenticate"] is None
    assert response.headers["date"] != "yesterday"
    assert [response.headers[f"x-amzn-remapped-{name}"] for name in ("content-length", "www-authenticate", "date")] == [
        "99",
        "Basic",
        "yesterday",
    ]


@pytest.mark.slow
def test_hundred_clients_lose_no_byte(serve: Serve) -> None:
    served = serve(
        """
        import hashlib

        def handler(event, context):
            number = int(event["rawPath"][1:])
            for index in range(50):
                yield hashlib.shake_128(b"%d %d" % (number, index)).digest(10_000 + index)
        """,
        limit=100,
    )

    def digest(number: int) -> str:
        status, body = served.get(f"/{number}")
        assert status == 200
        return hashlib.sha256(body).hexdigest()

    def expected(number: int) -> str:
        whole = hashlib.sha256()
        for index in range(50):
            whole.update(hashlib.shake_128(b"%d %d" % (number, index)).digest(10_000 + index))
        return whole.hexdigest()

    with ThreadPoolExecutor(100) as clients:
        for _ in range(2):  # in new execution environments, then in reused ones
            assert list(clients.map(digest, range(100))) == [expected(number) for number in range(100)]
