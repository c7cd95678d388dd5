"""The wire format: JSON, HTTP/1.1 and Lambda's response framing. Values in, bytes out, and back; no I/O.

HTTP/1.1 is RFC 9112; header names and values are RFC 9110. Lambda's additions:
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
"""

from __future__ import annotations

import sys

# Rather than `json`, for the cold start: see __init__.py.
from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

#: Content type of a response that starts with HTTP metadata.
HTTP_INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response"
#: Content type of bytes of an unknown kind.
OCTET_STREAM = "application/octet-stream"
#: Separates the HTTP metadata from the payload.
METADATA_DELIMITER = bytes(8)
#: Most bytes of metadata and delimiter together.
METADATA_LIMIT = 16 * 1024
#: Ends a chunked body without trailers.
LAST_CHUNK = b"0\r\n\r\n"

#: Statuses of responses without content (RFC 9110, section 6.4.1, and for 205 section 15.3.6).
WITHOUT_CONTENT = (204, 205, 304)

_HEAD_LIMIT = 256 * 1024
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_CONTROLS = frozenset(map(chr, [*range(0x20), 0x7F])) - {"\t"}
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
#: Headers that belong to a connection rather than to the message (RFC 9110, section 7.6.1).
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)


class WireError(Exception):
    """The other side did not send the HTTP/1.1 response that was expected."""


def request_head(method: str, target: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Encode the request line and the header section, including the empty line.

    Raises:
        ValueError: A header value contains a control character or a character outside latin-1.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {check_header_value(name, value)}" for name, value in headers]
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Encode one chunk of a chunked body (RFC 9112, section 7.1).

    Raises:
        ValueError: `data` is empty. An empty chunk ends the body; use `last_chunk`.
    """
    # `ResponseStream.sender` repeats this line, since a call for each chunk costs time.
    if not data:
        raise ValueError("a chunk must have at least one byte: an empty one ends the body")
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Iterable[tuple[str, str]]) -> bytes:
    """Encode the end of a chunked body with a trailer section (RFC 9112, section 7.1.2)."""
    lines = [f"{name}: {check_header_value(name, value)}" for name, value in trailers]
    return "\r\n".join(["0", *lines, "\r\n"]).encode("latin-1")


# Most responses of a function have the same metadata, and each encodes it twice.
_encoded_metadata: dict[object, bytes] = {}
_ENCODED_METADATA = 16  # entries at most


def http_metadata(status_code: int, headers: Mapping[str, str], cookies: Sequence[str]) -> bytes:
    """Encode the JSON object that starts a response of type `HTTP_INTEGRATION_RESPONSE`, without the delimiter.

    Names become lower-case, and a ``set-cookie`` header becomes the last cookie.

    Raises:
        ValueError: A status, header or cookie is invalid, or together they exceed `METADATA_LIMIT` bytes.
    """
    key = (status_code, tuple(headers.items()), tuple(cookies))
    try:
        cached = _encoded_metadata.get(key)
    except TypeError:  # a value that cannot be hashed is not text either
        cached = None
    if cached is not None:
        return cached
    if not isinstance(status_code, int) or not 200 <= status_code <= 599:
        raise ValueError(f"status code must be an int from 200 to 599, not {status_code!r}")
    checked = {check_header_name(name).lower(): value for name, value in headers.items()}
    if "set-cookie" in checked:
        cookies = [*cookies, checked.pop("set-cookie")]
    metadata: dict[str, object] = {
        "statusCode": int(status_code),
        "headers": {name: check_header_value(name, value) for name, value in checked.items()},
        # Always, even if empty: the emulator of cargo-lambda requires it.
        "cookies": [check_header_value("set-cookie", cookie) for cookie in cookies],
    }
    encoded = plain_json(metadata, ",", ":").encode()
    size = len(encoded) + len(METADATA_DELIMITER)
    if size > METADATA_LIMIT:
        raise ValueError(f"status, headers and cookies take {size} bytes; Lambda allows at most {METADATA_LIMIT}")
    if len(_encoded_metadata) == _ENCODED_METADATA:
        _encoded_metadata.clear()
    _encoded_metadata[key] = encoded
    return encoded


def check_header_name(name: str) -> str:
    """Return `name` if it is a token (RFC 9110, section 5.6.2) and not hop-by-hop (section 7.6.1).

    Raises:
        ValueError: It is not.
    """
    if not isinstance(name, str) or not name or not _TOKEN.issuperset(name):
        raise ValueError(f"invalid header name: {name!r}")
    if name.lower() in HOP_BY_HOP:
        raise ValueError(f"hop-by-hop header {name!r} is not allowed: Lambda manages the connection")
    return name


def check_header_value(name: str, value: str) -> str:
    """Return `value` without surrounding blanks, if a header may contain it (RFC 9110, section 5.5).

    Raises:
        ValueError: It may not.
    """
    if not isinstance(value, str):
        raise ValueError(f"value of header {name!r} must be a str, not {value!r}")
    if not _CONTROLS.isdisjoint(value):
        raise ValueError(f"value of header {name!r} contains a control character: {value!r}")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"value of header {name!r} contains a character outside latin-1: {value!r}") from None
    return value.strip(" \t")


class _Settings:
    """What the scanner asks a `json.JSONDecoder` for: its default settings, and None for any other hook."""

    strict = True
    parse_float = float
    parse_int = int
    parse_constant = float  # of NaN, Infinity and -Infinity

    def __getattr__(self, name: str) -> None:
        return None


_scan = make_scanner(_Settings())  # type: ignore[arg-type]


def from_json(data: bytes) -> Any:
    """Parse JSON like `json.loads`, which is imported only if there are blanks around the value.

    Raises:
        ValueError, RecursionError: `data` is not JSON.
    """
    try:
        text = data.decode()
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (StopIteration, ValueError, RecursionError, SystemError):  # the last if `json` is missing (Python 3.11)
        pass
    import json

    return json.loads(data)


def plain_json(
    value: Any,
    item_separator: str = ", ",
    key_separator: str = ": ",
) -> str:
    """Encode a dict, list, str, int or None, nested or not, like `json.dumps`, without importing `json`."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, dict):
        members = [
            f"{encode_basestring_ascii(name)}{key_separator}{plain_json(member, item_separator, key_separator)}"
            for name, member in value.items()
        ]
        return f"{{{item_separator.join(members)}}}"
    if isinstance(value, list):
        items = [plain_json(item, item_separator, key_separator) for item in value]
        return f"[{item_separator.join(items)}]"
    return "null" if value is None else int.__repr__(value)


def encode_json(value: object, default: Callable[[Any], object], allow_nan: bool = True) -> str:
    """Encode any JSON value like `json.dumps`, without importing `json`, and characters outside ASCII unescaped.

    Args:
        value: What to encode.
        default: Replaces what has no JSON form.
        allow_nan: Whether to encode floats that are not finite.
    """
    return "".join(_encoder({}, default, allow_nan)(value, 0))


def _encoder(markers: dict[int, object] | None, default: Callable[[Any], object], allow_nan: bool) -> Any:
    return make_encoder(markers, default, encode_basestring, None, ": ", ", ", False, False, allow_nan)


def _refuse(value: object) -> None:
    raise TypeError


# Creating an encoder takes longer than encoding a small value.
_encode_plain, _encode_finite = _encoder(None, _refuse, True), _encoder(None, _refuse, False)


def to_json(value: object, allow_nan: bool = True) -> str:
    """Encode `value` as JSON like awslambdaric: a `decimal.Decimal` with all of its digits, and `bytes` as text.

    Raises:
        TypeError: A part of it has no JSON form.
        ValueError: It contains itself, or, without `allow_nan`, a float or Decimal that is not finite.
    """
    try:
        return "".join((_encode_plain if allow_nan else _encode_finite)(value, 0))
    except Exception:  # a value of its own type, or one without a JSON form
        return _to_json(value, allow_nan)


def _to_json(value: object, allow_nan: bool) -> str:
    decimals: list[str] = []
    mark = ""

    def default(other: object) -> object:
        nonlocal mark
        if isinstance(other, bytes):
            return other.decode()
        decimal = sys.modules.get("decimal")
        if decimal is None or not isinstance(other, decimal.Decimal):
            raise TypeError(
                f"Object of type {type(other).__name__} is not JSON serializable; "
                "make it a JSON value first, such as a date by isoformat()"
            )
        if not other.is_finite():
            return float("nan") if other.is_nan() else float(other)
        # The encoder accepts no number as text. A random string, which no value contains, is the placeholder.
        from os import urandom

        mark = mark or urandom(16).hex()
        decimals.append(str(other))
        return mark

    encoded = encode_json(value, default, allow_nan)
    first, *others = encoded.split(f'"{mark}"') if mark else [encoded]
    return "".join([first, *(part for pair in zip(decimals, others, strict=True) for part in pair)])


class ResponseParser:
    """Parses one HTTP/1.1 response from bytes in pieces of any size.

    Attributes:
        status: Status code; 0 until the head is complete.
        headers: Header values by lower-case name; of equal names the last.
        body: The decoded body, once `feed` has returned True.
        keep_alive: Whether the connection can be used for another request.
    """

    status = 0
    body = b""
    keep_alive = False
    _length: int | None = None
    _chunked = False
    _chunk_left: int | None = None
    _in_trailers = False

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._buffer: bytes | bytearray = b""
        self._decoded = bytearray()

    def feed(self, data: bytes) -> bool:
        """Parse the next bytes; ``b""`` means that the peer closed the connection.

        Returns:
            Whether the response is complete.

        Raises:
            WireError: This is not HTTP/1.1, or the peer closed the connection too early.
        """
        # Most responses come in one piece. Only others need a buffer that grows.
        if self._buffer:
            self._buffer = bytearray(self._buffer) if isinstance(self._buffer, bytes) else self._buffer
            self._buffer += data
        else:
            self._buffer = data
        if not self.status and not self._read_head():
            if not data:
                raise WireError("connection closed before the end of the response head")
            return False
        if self._chunked:
            done = self._read_chunks()
        elif self._length is not None:
            size = len(self._buffer)
            done = size >= self._length
            if done:
                self.body = bytes(self._buffer[: self._length])
                self.keep_alive = self.keep_alive and size == self._length
        else:  # the body ends with the connection
            done = not data
            if done:
                self.body = bytes(self._buffer)
        if not done and not data:
            raise WireError("connection closed before the end of the response body")
        return done

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise WireError(f"response head is longer than {_HEAD_LIMIT} bytes")
            return False
        status_line, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        self._buffer = self._buffer[end + 4 :]
        version, code = status_line[:9], status_line[9:12]
        is_code = len(code) == 3 and code.isdecimal() and code >= "100" and status_line[12:13] in ("", " ")
        if version not in ("HTTP/1.1 ", "HTTP/1.0 ") or not is_code:
            raise WireError(f"not an HTTP response: {status_line[:80]!r}")
        if code < "200":  # interim: the actual response follows
            return self._read_head()
        headers = self.headers
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise WireError(f"invalid header: {line[:80]!r}")
            headers[name.lower()] = value.strip(" \t")
        self.status = int(code)
        # RFC 9112, section 6.3, for a client that sends GET and POST only.
        length = "0" if code == "204" else headers.get("content-length")
        self._chunked = code != "204" and headers.get("transfer-encoding", "").lower() == "chunked"
        if length is not None and not self._chunked:
            if not (length.isascii() and length.isdigit()):
                raise WireError(f"invalid content length: {length[:80]!r}")
            self._length = int(length)
        framed = self._chunked or self._length is not None
        self.keep_alive = framed and version == "HTTP/1.1 " and headers.get("connection", "").lower() != "close"
        return True

    def _read_chunks(self) -> bool:
        self._buffer = buffer = bytearray(self._buffer)
        while True:
            if self._chunk_left:
                taken = buffer[: self._chunk_left]
                self._decoded += taken
                del buffer[: len(taken)]
                self._chunk_left -= len(taken)
                if self._chunk_left:
                    return False
            end = buffer.find(b"\r\n")
            if end < 0:
                return False
            line = bytes(buffer[:end])
            del buffer[: end + 2]
            if self._in_trailers:
                if not line:
                    self.body = bytes(self._decoded)
                    self.keep_alive = self.keep_alive and not buffer
                    return True
            elif self._chunk_left == 0:  # the line break after the data of a chunk
                if line:
                    raise WireError(f"chunk is longer than its size: {line[:80]!r}")
                self._chunk_left = None
            else:
                size = line.partition(b";")[0].strip(b" \t")
                if not size or not _HEX_DIGITS.issuperset(size):
                    raise WireError(f"invalid chunk size: {line[:80]!r}")
                self._chunk_left = int(size, 16)
                self._in_trailers = self._chunk_left == 0
