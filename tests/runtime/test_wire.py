"""`wire.py`: byte-exact tables, and h11 as the judge of random messages."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_runtime import StreamingResponse, wire


def test_request_head() -> None:
    head = wire.request_head("POST", "/a", "h:1", [("A", "1"), ("b-C", ""), ("D", "x\ty \xff")])
    assert head == b"POST /a HTTP/1.1\r\nHost: h:1\r\nA: 1\r\nb-C: \r\nD: x\ty \xff\r\n\r\n"
    assert wire.request_head("GET", "/", "h", []) == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


CHUNKS = {
    "one byte": (b"a", b"1\r\na\r\n"),
    "line break": (b"\r\n", b"2\r\n\r\n\r\n"),
    "NUL bytes": (bytes(8), b"8\r\n" + bytes(8) + b"\r\n"),
    "fifteen": (b"x" * 15, b"f\r\n" + b"x" * 15 + b"\r\n"),
    "sixteen": (b"x" * 16, b"10\r\n" + b"x" * 16 + b"\r\n"),
    "a million": (b"x" * 1_000_000, b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n"),
}


@pytest.mark.parametrize(("data", "encoded"), CHUNKS.values(), ids=list(CHUNKS))
def test_chunk_encoding(data: bytes, encoded: bytes) -> None:
    assert wire.chunk(data) == encoded


def test_empty_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="an empty one ends the body"):
        wire.chunk(b"")


def test_metadata_of_many_kinds() -> None:
    for number in [*range(40), *range(40)]:
        encoded = b'{"statusCode":200,"headers":{"a":"%d"},"cookies":[]}' % number
        assert wire.http_metadata(200, {"a": str(number)}, []) == encoded


def test_last_chunk_with_trailers() -> None:
    assert wire.last_chunk([]) == wire.LAST_CHUNK == b"0\r\n\r\n"
    assert wire.last_chunk([("A", "1"), ("B", "2")]) == b"0\r\nA: 1\r\nB: 2\r\n\r\n"


METADATA: dict[str, tuple[int, dict[str, str], list[str], bytes]] = {
    "least": (200, {}, [], b'{"statusCode":200,"headers":{},"cookies":[]}'),
    "most": (599, {"a": "1"}, ["b=2"], b'{"statusCode":599,"headers":{"a":"1"},"cookies":["b=2"]}'),
    "latin-1": (200, {"a": "\xfc"}, [], b'{"statusCode":200,"headers":{"a":"\\u00fc"},"cookies":[]}'),
    "quotes": (200, {"a": '"\\'}, [], b'{"statusCode":200,"headers":{"a":"\\"\\\\"},"cookies":[]}'),
    "token": (
        200,
        {"!#$%&'*+-.^_`|~09azAZ": ""},
        [],
        b'{"statusCode":200,"headers":{"!#$%&\'*+-.^_`|~09azaz":""},"cookies":[]}',
    ),
}


@pytest.mark.parametrize(("status", "headers", "cookies", "encoded"), METADATA.values(), ids=list(METADATA))
def test_metadata_encoding(status: int, headers: dict[str, str], cookies: list[str], encoded: bytes) -> None:
    assert wire.http_metadata(status, headers, cookies) == encoded


REFUSED: dict[str, Callable[[], object]] = {
    "status below 200": lambda: wire.http_metadata(199, {}, []),
    "status above 599": lambda: wire.http_metadata(600, {}, []),
    "status of another type": lambda: wire.http_metadata(True, {}, []),
    "status as str": lambda: StreamingResponse([], "200"),  # type: ignore[arg-type]
    "empty name": lambda: wire.http_metadata(200, {"": "x"}, []),
    "space in a name": lambda: wire.http_metadata(200, {"a b": "x"}, []),
    "colon in a name": lambda: wire.http_metadata(200, {"a:": "x"}, []),
    "line break in a name": lambda: wire.http_metadata(200, {"a\n": "x"}, []),
    "name beyond ASCII": lambda: wire.http_metadata(200, {"ä": "x"}, []),
    "name of another type": lambda: StreamingResponse([], headers={1: "x"}),  # type: ignore[dict-item]
    "list as a value": lambda: wire.http_metadata(200, {"a": ["x"]}, []),  # type: ignore[dict-item]
    "CR in a value": lambda: wire.http_metadata(200, {"a": "x\ry"}, []),
    "LF in a value": lambda: wire.http_metadata(200, {"a": "x\ny"}, []),
    "NUL in a value": lambda: wire.http_metadata(200, {"a": "\0"}, []),
    "DEL in a value": lambda: wire.http_metadata(200, {"a": "\x7f"}, []),
    "value beyond latin-1": lambda: wire.http_metadata(200, {"a": "€"}, []),
    "value of another type": lambda: StreamingResponse([], headers={"a": 1}),  # type: ignore[dict-item]
    "LF in a cookie": lambda: wire.http_metadata(200, {}, ["a=1\nb=2"]),
    "cookie of another type": lambda: StreamingResponse([], cookies=[b"a=1"]),  # type: ignore[list-item]
    "cookies as one str": lambda: StreamingResponse([], cookies="a=1"),
    "line break in the media type": lambda: StreamingResponse([], media_type="text/html\r\nx: y"),
    "line break in a Set-Cookie header": lambda: StreamingResponse([], headers={"Set-Cookie": "a\r\nb"}),
    "control character in a head": lambda: wire.request_head("GET", "/", "h", [("a", "\r\n")]),
    "control character in a trailer": lambda: wire.last_chunk([("a", "\r\n")]),
    **{
        f"hop-by-hop: {name}": lambda name=name: wire.http_metadata(200, {name: "x"}, [])  # type: ignore[misc]
        for name in ("Connection", "keep-alive", "Proxy-Connection", "TE", "trailer", "Transfer-Encoding", "upgrade")
    },
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=list(REFUSED))
def test_unsendable_value_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"status code|header|cookies"):
        make()


def test_metadata_size_limit() -> None:
    room = wire.METADATA_LIMIT - len(wire.http_metadata(200, {"a": ""}, [])) - len(wire.METADATA_DELIMITER)
    fitting = wire.http_metadata(200, {"a": "x" * room}, [])
    assert len(fitting + wire.METADATA_DELIMITER) == 16 * 1024
    with pytest.raises(ValueError, match="take 16385 bytes; Lambda allows at most 16384"):
        wire.http_metadata(200, {"a": "x" * (room + 1)}, [])


MEDIA_TYPES = [
    (None, None, "application/octet-stream"),
    ("text/plain", None, "text/plain; charset=utf-8"),
    ("text/plain; Charset=latin-1", None, "text/plain; Charset=latin-1"),
    ("image/png", None, "image/png"),
    ("image/png", "text/html", "text/html"),
]


@pytest.mark.parametrize(("media_type", "header", "sent"), MEDIA_TYPES)
def test_content_type(media_type: str | None, header: str | None, sent: str) -> None:
    headers = {"Content-Type": header} if header else None
    assert StreamingResponse([], headers=headers, media_type=media_type).headers == {"content-type": sent}


@pytest.mark.parametrize(("content", "items"), [("text", ["text"]), (b"bytes", [b"bytes"]), (["a", b"b"], ["a", b"b"])])
def test_text_content_is_one_item(content: str | bytes | list[str | bytes], items: list[object]) -> None:
    assert StreamingResponse(content).content == items


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "connection closed before the end of the response head"),
    "half a head": (b"HTTP/1.1 200 OK\r\nA: 1\r\n", "connection closed before the end of the response head"),
    "only an interim response": (
        b"HTTP/1.1 100 Continue\r\n\r\n",
        "connection closed before the end of the response head",
    ),
    "half a body": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
        "connection closed before the end of the response body",
    ),
    "half a chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx",
        "connection closed before the end of the response body",
    ),
    "no last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        "connection closed before the end of the response body",
    ),
    "chunk too long": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        "chunk is longer than its size: b'y'",
    ),
    "chunk without a size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;\r\n", "invalid chunk size: b';'"),
    "chunk with a sign": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\n", "invalid chunk size: b'+1'"),
    "another protocol": (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP response: 'SSH-2.0-OpenSSH'"),
    "HTTP/0.9": (b"<html>\r\n\r\n", "not an HTTP response: '<html>'"),
    "no status": (b"HTTP/1.1 \r\n\r\n", "not an HTTP response: 'HTTP/1.1 '"),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "not an HTTP response: 'HTTP/1.1 2000 OK'"),
    "status zero": (b"HTTP/1.1 000 OK\r\n\r\n", "not an HTTP response: 'HTTP/1.1 000 OK'"),
    "status of other digits": (b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n", "not an HTTP response: 'HTTP/1.1 ²²² OK'"),
    "length with a sign": (b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", "invalid content length: '+1'"),
    "length of other digits": (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n", "invalid content length: '²'"),
    "length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "invalid content length: '1, 1'"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("size", [1, 1000], ids=["byte by byte", "in one piece"])
def test_broken_answer(data: bytes, message: str, size: int) -> None:
    parser = wire.ResponseParser()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.raises(wire.WireError) as raised:  # noqa: PT012
        for piece in [*pieces, b""]:
            assert not parser.feed(piece)
    assert str(raised.value).startswith(message)


KEEPING: dict[str, tuple[bytes, bool]] = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "keep-alive": (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", True),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
    "more than the length": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx", False),
    "more after the last chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx", False),
}


@pytest.mark.parametrize(("data", "keeps"), KEEPING.values(), ids=list(KEEPING))
def test_keep_alive(data: bytes, keeps: bool) -> None:
    """A connection is kept only if the end of its answer is known."""
    parser = wire.ResponseParser()
    assert parser.feed(data)
    assert parser.keep_alive is keeps
    assert parser.body == b""


names = st.text("!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters, min_size=1, max_size=20).filter(
    lambda name: name.lower() not in {"host", "content-length", "transfer-encoding", "connection", "expect"}
)
values = st.text(st.sampled_from([chr(code) for code in [*range(0x20, 0x7F), *range(0xA0, 0x100)]]), max_size=40).map(
    lambda text: text.strip(" ")
)
fields = st.lists(st.tuples(names, values), max_size=5)
bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=5)


@given(headers=fields, items=bodies, trailers=fields)
def test_h11_reads_requests(
    headers: list[tuple[str, str]], items: list[bytes], trailers: list[tuple[str, str]]
) -> None:
    framing = [("Transfer-Encoding", "chunked")]
    sent = wire.request_head("POST", "/target", "host:1", [*headers, *framing])
    sent += b"".join(map(wire.chunk, items)) + wire.last_chunk(trailers)

    peer = h11.Connection(h11.SERVER)
    peer.receive_data(sent)
    request = peer.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (b"POST", b"/target")
    assert _read(request.headers) == [("host", "host:1"), *_lower(headers), ("transfer-encoding", "chunked")]
    chunks = b""
    while isinstance(happened := peer.next_event(), h11.Data):
        chunks += happened.data
    assert chunks == b"".join(items)
    assert isinstance(happened, h11.EndOfMessage)
    assert _read(happened.headers) == _lower(trailers)
    assert peer.trailing_data == (b"", False)


def _lower(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers]


def _read(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode("latin-1")) for name, value in headers]


@given(st.integers(200, 599), st.dictionaries(names, values), st.lists(values))
def test_metadata_round_trip(status: int, headers: dict[str, str], cookies: list[str]) -> None:
    allowed = {name: value for name, value in headers.items() if name.lower() not in {*wire.HOP_BY_HOP, "set-cookie"}}
    metadata = json.loads(wire.http_metadata(status, allowed, cookies))
    sent = {name.lower(): value for name, value in allowed.items()}
    assert (metadata["statusCode"], metadata["headers"], metadata.get("cookies", [])) == (status, sent, cookies)


@dataclass(frozen=True)
class Received:
    """A response as bytes, and what must be read from it."""

    data: bytes
    status: int
    headers: dict[str, str]
    body: bytes


@st.composite
def responses(draw: st.DrawFn) -> Received:
    """Responses of every framing, some after an interim one."""
    status = draw(st.integers(200, 599).filter(lambda status: status not in {204, 304}))
    headers = dict(draw(st.lists(st.tuples(names.map(str.lower), values), max_size=5)))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    items = draw(bodies)
    body = b"".join(items)
    behind = body
    if framing == "length":
        headers["content-length"] = str(len(body))
    elif framing == "chunked":
        headers["transfer-encoding"] = "chunked"
        extension = draw(st.sampled_from([b"", b";a=b", b" "]))
        behind = b"".join(b"%X%b\r\n%b\r\n" % (len(item), extension, item) for item in items)
        behind += wire.last_chunk(draw(fields))
    lines = "".join(f"{draw(st.sampled_from([name, name.title()]))}: {value}\r\n" for name, value in headers.items())
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]))
    head = f"HTTP/1.1 {status} Some Reason\r\n{lines}\r\n".encode("latin-1")
    return Received(interim + head + behind, status, headers, body)


@given(responses(), st.data())
def test_split_response(response: Received, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(response.data)), max_size=10).map(sorted))
    parser = wire.ResponseParser()
    whole = False
    for start, end in zip([0, *cuts], [*cuts, len(response.data)], strict=True):
        if start < end:
            assert not whole
            whole = parser.feed(response.data[start:end])
    framed = {"content-length", "transfer-encoding"} & response.headers.keys()
    assert whole is bool(framed)
    assert whole or parser.feed(b"")
    assert (parser.status, parser.headers, parser.body) == (response.status, response.headers, response.body)
    assert parser.keep_alive is bool(framed)

    judge = h11.Connection(h11.CLIENT)
    judge.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    judge.send(h11.EndOfMessage())
    judge.receive_data(response.data)
    judge.receive_data(b"")
    body = b""
    while not isinstance(happened := judge.next_event(), h11.EndOfMessage):
        if isinstance(happened, h11.Data):
            body += happened.data
    assert body == response.body
