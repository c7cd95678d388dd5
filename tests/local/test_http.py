"""The HTTP server byte for byte, against RFC 9110 and RFC 9112. Each row names the section that requires its responses.

After each request comes another one on the same connection. Where the first has to end the connection, the second must
get no response; everywhere else it must get one, or the two sides would disagree about where the first request ends.
"""

from __future__ import annotations

import asyncio
import re
from http.client import responses
from typing import NamedTuple

import h11
import pytest
from tests.local.conftest import ECHO, TIMEOUT, Serve, exchange

from local.http_server import Connection, Server, response_head

CRLF = b"\r\n"
HOST = b"Host: localhost\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HEAD_LIMIT = 64 * 1024


class Row(NamedTuple):
    """A request and its response.

    Attributes:
        section: Of RFC 9112 where it is a bare number, else of the named document.
        request: What the client sends.
        status: Status of the response.
        seen: What the server's application sees of the request: method, target, host and body.
        closes: Whether the connection ends after the response.
    """

    section: str
    request: bytes
    status: int
    seen: bytes = b""
    closes: bool = False


def ok(section: str, request: bytes, seen: bytes, closes: bool = False) -> Row:
    return Row(section, request, 200, seen, closes)


def bad(section: str, request: bytes, status: int = 400) -> Row:
    return Row(section, request, status, closes=True)


def get(*fields: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + CRLF + b"".join(fields) + CRLF


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"".join(fields) + CRLF + body


def chunked(body: bytes) -> bytes:
    return post(CHUNKED, body=body)


ROOT = b"GET / localhost "

ROWS = {
    # Request line
    "origin form": ok("3.2.1", get(HOST, target=b"/a%20b?c=d"), b"GET /a%20b?c=d localhost "),
    "unencoded characters": ok("3", get(HOST, target=b'/"<>\\^`{|}?[]'), b'GET /"<>\\^`{|}?[] localhost '),
    "long target": ok("3", get(HOST, target=b"/" + b"a" * 8000), b"GET /" + b"a" * 8000 + b" localhost "),
    "empty lines before": ok("2.2", CRLF + CRLF + get(HOST), ROOT),
    "lowercase method": ok("RFC 9110, 9.1", b"get" + get(HOST)[3:], b"get / localhost "),
    "no version": bad("3", b"GET /\r\n"),
    "no version, but a space": bad("3", b"GET / \r\n\r\n"),
    "no target": bad("3", b"GET HTTP/1.1\r\n" + HOST + CRLF),
    "two spaces": bad("3", b"GET  / HTTP/1.1\r\n" + HOST + CRLF),
    "tab": bad("3", b"GET\t/ HTTP/1.1\r\n" + HOST + CRLF),
    "space in target": bad("3.2", get(HOST, target=b"/a b")),
    "space after version": bad("3", get(HOST, version=b"HTTP/1.1 ")),
    "space before method": bad("3", b" " + get(HOST)),
    "method not a token": bad("RFC 9110, 9.1", b"GE(T / HTTP/1.1\r\n" + HOST + CRLF),
    "fragment": bad("3.2", get(HOST, target=b"/a#b")),
    "relative target": bad("3.2", get(HOST, target=b"a/b")),
    "asterisk of GET": bad("3.2.4", get(HOST, target=b"*")),
    "asterisk of OPTIONS": ok("3.2.4", b"OPTIONS * HTTP/1.1\r\n" + HOST + CRLF, b"OPTIONS * localhost "),
    "authority of GET": bad("3.2.3", get(HOST, target=b"localhost:80")),
    "non-ASCII target": bad("3.2", get(HOST, target="/ä".encode())),
    "NUL in target": bad("3.2", get(HOST, target=b"/\0")),
    "too long target": bad("3", get(HOST, target=b"/" + b"a" * HEAD_LIMIT), 414),
    # Absolute form
    "absolute form": ok("3.2.2", get(HOST, target=b"http://[::1]:81/a?b"), b"GET /a?b [::1]:81 "),
    "absolute form without path": ok("3.2.2", get(HOST, target=b"HTTP://other?b"), b"GET /?b other "),
    "absolute form and no host": bad("3.2", get(target=b"http://localhost/")),
    "absolute form with user": bad("RFC 9110, 4.2.4", get(HOST, target=b"http://user@localhost/")),
    "absolute form with empty host": bad("RFC 9110, 4.2.1", get(HOST, target=b"http:///a")),
    "absolute form with fragment": bad("3.2.2", get(HOST, target=b"http://localhost/#a")),
    "absolute form of another scheme": bad("3.2.2", get(HOST, target=b"ftp://localhost/")),
    # CONNECT, which this server's application answers like any other method
    "CONNECT with a path": bad("3.2.3", b"CONNECT /a HTTP/1.1\r\n" + HOST + CRLF),
    "CONNECT without a port": bad("RFC 9110, 9.3.6", b"CONNECT localhost HTTP/1.1\r\n" + HOST + CRLF),
    "CONNECT with an empty port": bad("RFC 9110, 9.3.6", b"CONNECT localhost: HTTP/1.1\r\n" + HOST + CRLF),
    # Version
    "HTTP/1.0": ok("2.3", get(version=b"HTTP/1.0"), b"GET /  ", closes=True),
    "HTTP/1.0 kept alive": ok("9.3", get(HOST, b"Connection: keep-alive\r\n", version=b"HTTP/1.0"), ROOT, closes=True),
    "HTTP/1.2": ok("RFC 9110, 2.5", get(HOST, version=b"HTTP/1.2"), ROOT),
    "HTTP/1.2 without host": bad("3.2", get(version=b"HTTP/1.2")),
    "HTTP/2 preface": bad("RFC 9110, 15.6.6", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/3.0": bad("RFC 9110, 15.6.6", get(HOST, version=b"HTTP/3.0"), 505),
    "HTTP/0.9": bad("RFC 9110, 15.6.6", get(HOST, version=b"HTTP/0.9"), 505),
    "HTTP/9.9": bad("RFC 9110, 15.6.6", get(HOST, version=b"HTTP/9.9"), 505),
    "version without minor": bad("2.3", get(HOST, version=b"HTTP/1")),
    "version with two digits": bad("2.3", get(HOST, version=b"HTTP/1.10")),
    "version with zeros": bad("2.3", get(HOST, version=b"HTTP/01.1")),
    "version in lower case": bad("2.3", get(HOST, version=b"http/1.1")),
    "version with a space": bad("2.3", get(HOST, version=b"HTTP/ 1.1")),
    # Host
    "no host": bad("3.2", get()),
    "two hosts": bad("3.2", get(HOST, b"Host: other\r\n")),
    "the same host twice": bad("3.2", get(HOST, HOST)),
    "empty host": bad("RFC 9110, 4.2.1", get(b"Host:\r\n")),
    "host with port": ok("3.2", get(b"Host: localhost:81\r\n"), b"GET / localhost:81 "),
    "host with empty port": ok("3.2", get(b"Host: localhost:\r\n"), b"GET / localhost: "),
    "host as IPv6": ok("3.2", get(b"Host: [::1]:81\r\n"), b"GET / [::1]:81 "),
    "host with underscore": ok("3.2", get(b"Host: a_b.%20c\r\n"), b"GET / a_b.%20c "),
    "host with user": bad("3.2", get(b"Host: user@localhost\r\n")),
    "host with path": bad("3.2", get(b"Host: localhost/a\r\n")),
    "host with space": bad("3.2", get(b"Host: local host\r\n")),
    "host list": bad("3.2", get(b"Host: localhost, other\r\n")),
    "host with two ports": bad("3.2", get(b"Host: localhost:80:81\r\n")),
    "host with a word as port": bad("3.2", get(b"Host: localhost:http\r\n")),
    "host with too high a port": bad("3.2", get(b"Host: localhost:65536\r\n")),
    "host as bare IPv6": bad("3.2", get(b"Host: ::1\r\n")),
    "host as open IPv6": bad("3.2", get(b"Host: [::1\r\n")),
    "host as wrong IPv6": bad("3.2", get(b"Host: [1:2:3]\r\n")),
    "host with percent": bad("3.2", get(b"Host: a%zz\r\n")),
    "non-ASCII host": bad("3.2", get("Host: ä\r\n".encode())),
    # Header fields
    "empty value": ok("RFC 9110, 5.5", get(HOST, b"X-A:\r\n"), ROOT),
    "space around value": ok("5", get(b"hOsT: \t localhost \t\r\n"), ROOT),
    "bare LF": ok("2.2", b"GET / HTTP/1.1\nHost: localhost\n\n", ROOT),
    "no colon": bad("5", get(HOST, b"X-A\r\n")),
    "space before colon": bad("5.1", get(HOST, b"X-A : 1\r\n")),
    "empty name": bad("5", get(HOST, b": 1\r\n")),
    "name not a token": bad("5", get(HOST, b"X[]: 1\r\n")),
    "non-ASCII name": bad("5", get(HOST, "X-ä: 1\r\n".encode())),
    "folded": bad("5.2", get(HOST, b"X-A: 1\r\n 2\r\n")),
    "space before fields": bad("2.2", get(b" X-A: 1\r\n", HOST)),
    "NUL in value": bad("RFC 9110, 5.5", get(HOST, b"X-A: a\0b\r\n")),
    "bare CR in value": bad("RFC 9110, 5.5", get(HOST, b"X-A: a\rb\r\n")),
    "control character": bad("RFC 9110, 5.5", get(HOST, b"X-A: a\x07\r\n")),
    "DEL": bad("RFC 9110, 5.5", get(HOST, b"X-A: a\x7f\r\n")),
    "CR before a field": bad("2.2", get(HOST, b"\rX-A: 1\r\n")),
    "too long fields": bad("RFC 6585, 5", get(HOST, b"X-A: " + b"a" * HEAD_LIMIT + CRLF), 431),
    "too many fields": bad("RFC 6585, 5", get(HOST, b"X-A: 1\r\n" * 10_000), 431),
    "unknown expectation": bad("RFC 9110, 10.1.1", get(HOST, b"Expect: 200-ok\r\n"), 417),
    # Content-Length
    "length": ok("6.2", post(b"Content-Length: 3\r\n", body=b"abc"), b"POST / localhost abc"),
    "length 0": ok("6.2", post(b"Content-Length: 0\r\n"), b"POST / localhost "),
    "length with zeros": ok("RFC 9110, 8.6", post(b"Content-Length: 03\r\n", body=b"abc"), b"POST / localhost abc"),
    "same length twice": ok("6.3", post(b"Content-Length: 3\r\n" * 2, body=b"abc"), b"POST / localhost abc"),
    "no length": ok("6.3", post(), b"POST / localhost "),
    "GET with a body": ok("6", get(HOST, b"Content-Length: 3\r\n") + b"abc", ROOT + b"abc"),
    "CRLF after the body": ok("2.2", post(b"Content-Length: 1\r\n", body=b"a") + CRLF, b"POST / localhost a"),
    "two lengths": bad("6.3", post(b"Content-Length: 3\r\n", b"Content-Length: 4\r\n", body=b"abc")),
    "length list": bad("6.3", post(b"Content-Length: 3, 4\r\n", body=b"abc")),
    **{
        f"length {value!r}": bad("6.3", post(b"Content-Length: " + value + CRLF, body=b"abc"))
        for value in (b"", b"a", b"+3", b"-1", b"-0", b"0x3", b"0o3", b"1_0", b"1 0", b"3;", b"3.0", b"9" * 30)
    },
    # Transfer-Encoding
    "chunked": ok("7.1", chunked(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"), b"POST / localhost abc0123456789"),
    "empty chunked": ok("7.1", chunked(b"0\r\n\r\n"), b"POST / localhost "),
    "coding in upper case": ok("7", post(b"transfer-encoding: CHUNKED\r\n", body=b"0\r\n\r\n"), b"POST / localhost "),
    "trailer": ok("7.1.2", chunked(b"1\r\na\r\n0\r\nX-A: 1\r\n\r\n"), b"POST / localhost a"),
    "chunk extension": ok("7.1.1", chunked(b'1;a;b=c ; d="e;\\""\r\na\r\n0\r\n\r\n'), b"POST / localhost a"),
    "unknown coding": bad("6.1", post(b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"), 501),
    "chunked not last": bad("6.3", post(b"Transfer-Encoding: chunked, gzip\r\n", body=b"0\r\n\r\n")),
    "not chunked": bad("6.3", post(b"Transfer-Encoding: gzip\r\n")),
    "identity": bad("6.3", post(b"Transfer-Encoding: identity\r\n")),
    "xchunked": bad("6.3", post(b"Transfer-Encoding: xchunked\r\n")),
    "chunked twice": bad("6.1", post(b"Transfer-Encoding: chunked, chunked\r\n", body=b"0\r\n\r\n")),
    "chunked in two fields": bad("6.1", post(CHUNKED, CHUNKED, body=b"0\r\n\r\n")),
    "coding in two fields": bad("6.3", post(CHUNKED, b"Transfer-Encoding: identity\r\n", body=b"0\r\n\r\n")),
    "empty coding": bad("6.3", post(b"Transfer-Encoding:\r\n")),
    "coding with parameter": bad("7.1", post(b"Transfer-Encoding: chunked;a=b\r\n", body=b"0\r\n\r\n")),
    "coding after a vertical tab": bad("6.1", post(b"Transfer-Encoding: \x0bchunked\r\n", body=b"0\r\n\r\n")),
    "coding and length": bad("6.1", post(CHUNKED, b"Content-Length: 5\r\n", body=b"0\r\n\r\n")),
    "length and coding": bad("6.1", post(b"Content-Length: 5\r\n", CHUNKED, body=b"0\r\n\r\n")),
    "coding in HTTP/1.0": bad("6.1", b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n"),
    # Chunks
    **{
        f"chunk {line!r}": bad("7.1", chunked(line + b"\r\na\r\n0\r\n\r\n"))
        for line in (
            b"",
            b"g",
            b"-1",
            b"+1",
            b" 1",
            b"1 ",
            b"0x1",
            b"1_0",
            b"1;",
            b"1;a[=b",
            b"1;a=",
            b"1;\0",
            b"1;a\rb",
        )
    },
    "chunk line with LF": bad("7.1", chunked(b"1\na\r\n0\r\n\r\n")),
    "chunk size of 17 digits": bad("7.1", chunked(b"FFFFFFFFFFFFFFFF0\r\na\r\n0\r\n\r\n")),
    "long chunk extension": bad("7.1.1", chunked(b"1;a=" + b"b" * 64_000 + b"\r\na\r\n0\r\n\r\n")),
    "chunk without CRLF": bad("7.1", chunked(b"1\r\na0\r\n\r\n")),
    "chunk longer than its size": bad("7.1", chunked(b"1\r\nab\r\n0\r\n\r\n")),
    "trailer without colon": bad("7.1.2", chunked(b"0\r\nX-A\r\n\r\n")),
    # Connection
    "close": ok("9.6", get(HOST, b"Connection: close\r\n"), ROOT, closes=True),
    "upgrade is ignored": ok("RFC 9110, 7.8", get(HOST, b"Connection: upgrade\r\nUpgrade: h2c\r\n"), ROOT),
}


async def echo(connection: Connection, request: h11.Request) -> None:
    """Respond with what the server hands out."""
    fields = dict(request.headers)
    seen = [request.method, request.target, fields.get(b"host", b""), await connection.read_body()]
    await connection.respond(200, [], b" ".join(seen))


async def converse(pieces: list[bytes]) -> bytes:
    """Send pieces to the server one by one; return all that it sends until it closes the connection."""
    server = Server(echo)
    reader, writer = await asyncio.open_connection(*await server.start("127.0.0.1", 0))
    try:
        async with asyncio.timeout(TIMEOUT):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            return await reader.read()
    finally:
        writer.close()
        await server.close()


def expected(row: Row) -> bytes:
    """Return the bytes of a row's responses, without their dates."""
    close = b"connection: close\r\n" if row.status != 200 else b""
    after = b"Connection: close\r\n" if row.status == 200 and row.closes else b""
    status = b"%d %s" % (row.status, responses[row.status].encode())
    head = b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n%s\r\n" % (status, close, len(row.seen), after)
    if row.closes:
        return head + row.seen
    seen = b"GET /next localhost "
    return head + row.seen + b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nConnection: close\r\n\r\n" % len(seen) + seen


def without_dates(received: bytes) -> bytes:
    """Return the responses without their dates; fail if one has none (RFC 9110, section 6.6.1)."""
    date = rb"date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n"
    assert len(re.findall(date, received)) == received.count(b"HTTP/1.1 ")
    return re.sub(date, b"", received)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_responses_follow_rfc(row: Row) -> None:
    assert without_dates(asyncio.run(converse([row.request + NEXT]))) == expected(row)


@pytest.mark.parametrize("row", [row for row in ROWS.values() if len(row.request) < 1000], ids=lambda row: row.section)
def test_requests_in_single_bytes(row: Row) -> None:
    whole = row.request + NEXT
    pieces = [whole[index : index + 1] for index in range(len(whole))]
    assert without_dates(asyncio.run(converse(pieces))) == expected(row)


INCOMPLETE = get(HOST)


@pytest.mark.parametrize("length", range(len(INCOMPLETE)))
def test_incomplete_head_gets_no_response(length: int) -> None:
    async def main() -> None:
        server = Server(echo)
        reader, writer = await asyncio.open_connection(*await server.start("127.0.0.1", 0))
        writer.write(INCOMPLETE[:length])
        for _ in range(20):
            await asyncio.sleep(0)
        assert reader._buffer == b""  # type: ignore[attr-defined]
        writer.write(INCOMPLETE[length:] + NEXT)
        async with asyncio.timeout(TIMEOUT):
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 2
        writer.close()
        await server.close()

    asyncio.run(main())


def test_204_has_no_content_length() -> None:  # RFC 9110, section 8.6
    async def serve(connection: Connection, request: h11.Request) -> None:
        await connection.read_body()
        await connection.respond(204, [], b"")

    async def main() -> bytes:
        server = Server(serve)
        reader, writer = await asyncio.open_connection(*await server.start("127.0.0.1", 0))
        writer.write(NEXT)
        received = await reader.read()
        writer.close()
        await server.close()
        return received

    assert without_dates(asyncio.run(main())) == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def test_date_of_response_is_kept() -> None:
    assert dict(response_head(200, [("date", "yesterday")]).headers)[b"date"] == b"yesterday"


UNINVOKED = {
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 204),
    "CONNECT": (b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n", 405),
}


@pytest.mark.parametrize(("request_", "status"), UNINVOKED.values(), ids=UNINVOKED.keys())
def test_function_is_not_invoked(serve: Serve, request_: bytes, status: int) -> None:
    served = serve("tell(b'!')\n" + ECHO.replace("\n    ", "\n"))
    received = exchange(served.socket(), request_)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\ndate: " in received
    # RFC 9110, section 10.2.1
    assert (b"\r\nallow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" in received) == (status != 505)
    assert not served.told.ready(0)
