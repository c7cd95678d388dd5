"""The server's side of HTTP/1.1 without I/O: h11, and what RFC 9112 asks of a server that h11 accepts or ignores."""

from __future__ import annotations

import functools
import ipaddress
import re

import h11

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r?\n" % _TOKEN)
_HEAD_END = re.compile(rb"\n\r?\n")
_INVALID_OCTET = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]*))?", re.ASCII
)
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*%s(?:[ \t]*=[ \t]*(?:%s|%s))?)*\r\n" % (_TOKEN, _TOKEN, _QUOTED)
)
_CHUNK_LINE_LIMIT = 4096


class ServerProtocol:
    """One connection of an HTTP/1.1 server: bytes in, events out, and the reverse.

    Compared with h11 it

    - ignores empty lines before a request (RFC 9112, section 2.2),
    - rejects requests that h11 accepts, with the status that the RFC names: malformed `Host`, request target, version,
      transfer coding, chunk line, line folding and control characters,
    - takes the host from a target in absolute form (section 3.2.2), and hands out every target in origin form.
    """

    def __init__(self, head_limit: int) -> None:
        """Create a protocol that accepts heads of at most `head_limit` bytes."""
        self._head_limit = head_limit
        self._buffer = bytearray()  # of the next head, which h11 gets when it is complete and checked
        self._closed = False
        self._chunks: _ChunkLines | None = None  # of the present body, if it is chunked
        self._h11 = self._connection()

    @property
    def can_respond(self) -> bool:
        """Whether a response to the present request may still start."""
        return self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def client_speaks_http_1_0(self) -> bool:
        """Whether the client's version is HTTP/1.0."""
        return self._h11.their_http_version == b"1.0"

    @property
    def waits_for_100_continue(self) -> bool:
        """Whether the client waits for a 100 (Continue) before it sends the body."""
        return self._h11.they_are_waiting_for_100_continue

    def start_request(self) -> bool:
        """Prepare for the next request on this connection; return whether there can be one."""
        if self._h11.our_state is h11.IDLE:
            return True
        if not (self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE):
            return False
        data, self._closed = self._h11.trailing_data
        self._buffer += data
        self._chunks = None
        self._h11 = self._connection()
        return True

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the client; none mean that it sends no more.

        Raises:
            h11.RemoteProtocolError: They are not HTTP/1.1.
        """
        if self._h11.their_state is h11.IDLE:
            self._buffer += data
            self._closed = self._closed or not data
        else:
            self._feed(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event of the present request, as h11 does.

        Raises:
            h11.RemoteProtocolError: The request is not HTTP/1.1; it has the status for the response.
        """
        if self._h11.their_state is h11.IDLE:
            if (head := self._take_head()) is None:
                if not self._closed:
                    return h11.NEED_DATA
                self._h11.receive_data(bytes(self._buffer))
                self._h11.receive_data(b"")
                return self._h11.next_event()
            return self._start(head)
        return self._h11.next_event()

    def send(self, event: h11.Event) -> bytes:
        """Return the bytes of `event` for the client."""
        return self._h11.send(event) or b""

    def _connection(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._head_limit)

    def _feed(self, data: bytes) -> None:
        if self._chunks is not None and data:
            self._chunks.check(data)
        self._h11.receive_data(data)

    def _take_head(self) -> bytes | None:
        """Return the next head once it is complete, and leave what follows it in the buffer."""
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        line_end = self._buffer.find(b"\n")
        if line_end > self._head_limit or (line_end < 0 and len(self._buffer) > self._head_limit):
            raise _error("the request line is too long", 414)
        if line_end >= 0 and _REQUEST_LINE.match(self._buffer) is None:
            raise _error("the request line is malformed")
        end = _HEAD_END.search(self._buffer, max(line_end, 0))
        if (end.end() if end else len(self._buffer)) > self._head_limit:
            raise _error("the header fields are too long", 431)
        if end is None:
            return None
        head = bytes(self._buffer[: end.end()])
        del self._buffer[: end.end()]
        return head

    def _start(self, head: bytes) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        chunked = _check_head(head)
        self._chunks = _ChunkLines() if chunked else None
        self._h11.receive_data(head)
        event = self._h11.next_event()
        data, self._buffer = bytes(self._buffer), bytearray()
        if data:
            self._feed(data)
        if self._closed:
            self._h11.receive_data(b"")
        return _checked_request(event) if isinstance(event, h11.Request) else event


class _ChunkLines:
    """Follows a chunked body and rejects the lines before chunks that h11 accepts and RFC 9112 does not."""

    def __init__(self) -> None:
        self._line = b""
        self._skip = 0  # bytes up to the next line
        self._last = False

    def check(self, data: bytes) -> None:
        """Check the next bytes of the body (RFC 9112, section 7.1).

        Raises:
            h11.RemoteProtocolError: A line is malformed.
        """
        position = 0
        while not self._last and position < len(data):
            if self._skip:
                skipped = min(self._skip, len(data) - position)
                self._skip -= skipped
                position += skipped
                continue
            end = data.find(b"\n", position) + 1
            self._line += data[position : end or len(data)]
            position = end or len(data)
            if len(self._line) > _CHUNK_LINE_LIMIT:
                raise _error("a chunk's line is too long")
            if end:
                match = _CHUNK_LINE.fullmatch(self._line)
                if match is None:
                    raise _error("a chunk's line is malformed")
                size = int(match[1], 16)
                self._line, self._skip, self._last = b"", size + 2, size == 0


def _error(message: str, status: int = 400) -> h11.RemoteProtocolError:
    return h11.RemoteProtocolError(message, error_status_hint=status)


def _check_head(head: bytes) -> bool:
    """Check what is lost once h11 has parsed a head; return whether the body is chunked.

    Raises:
        h11.RemoteProtocolError: The head is malformed.
    """
    match = _REQUEST_LINE.match(head)
    assert match is not None
    if match[3] != b"1":  # RFC 9110, section 15.6.6
        raise _error(f"HTTP/{match[3].decode()}.{match[4].decode()} is not supported", 505)
    if b"\n " in head or b"\n\t" in head:  # RFC 9112, section 5.2
        raise _error("a header field is folded onto several lines")
    if _INVALID_OCTET.search(head):  # RFC 9110, section 5.5
        raise _error("a header field contains a control character")
    if b"transfer-encoding" not in head.lower():
        return False
    fields = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in head.split(b"\n")[1:])]
    codings = [
        coding.strip(b" \t\r").lower()
        for name, value in fields
        if name == b"transfer-encoding"
        for coding in value.split(b",")
    ]
    if not codings:
        return False
    if match[4] == b"0":  # RFC 9112, section 6.1
        raise _error("HTTP/1.0 has no transfer codings")
    if any(name == b"content-length" for name, _ in fields):  # section 6.1: possibly an attempt to smuggle a request
        raise _error("a request must not have both Transfer-Encoding and Content-Length")
    if b"" in codings or codings[-1] != b"chunked" or b"chunked" in codings[:-1]:  # section 6.3
        raise _error("chunked must be the last transfer coding, and only that")
    if len(codings) > 1:
        raise _error("chunked is the only supported transfer coding", 501)
    return True


def _checked_request(request: h11.Request) -> h11.Request:
    """Return `request` with its target in origin form.

    Raises:
        h11.RemoteProtocolError: Its host or target is malformed, or what it expects is unknown.
    """
    host = expected = None
    for name, value in request.headers:
        if name == b"host":
            host = value
        elif name == b"expect":
            expected = value.lower()
    if host is None and request.http_version != b"1.0":
        raise _error("the Host header is missing")
    if host is not None and not _is_authority(host):  # RFC 9112, section 3.2
        raise _error("the Host header is malformed")
    if expected not in (None, b"100-continue") and request.http_version != b"1.0":
        raise _error("100-continue is the only supported expectation", 417)  # RFC 9110, section 10.1.1
    target = request.target
    if b"#" in target:
        raise _error("the request target has a fragment")
    if request.method == b"CONNECT":  # RFC 9112, section 3.2.3
        if not _is_authority(target) or not target.rpartition(b":")[2].isdigit():
            raise _error("the target of CONNECT must be a host and a port")
        return request
    if target.startswith(b"/") or (target == b"*" and request.method == b"OPTIONS"):
        return request
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None or not _is_authority(absolute[1]):
        raise _error("the request target is malformed")
    path = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    headers = [(b"host", absolute[1]), *(field for field in request.headers.raw_items() if field[0].lower() != b"host")]
    return h11.Request(method=request.method, target=path, headers=headers, http_version=request.http_version)


@functools.lru_cache
def _is_authority(value: bytes) -> bool:
    """Return whether `value` is a host with an optional port (RFC 3986, section 3.2)."""
    match = _AUTHORITY.fullmatch(value)
    if match is None or int(match[2] or b"0") > 65535:
        return False
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(match[1].decode())
        except ValueError:
            return False
    return True
