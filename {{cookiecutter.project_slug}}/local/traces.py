"""Spans that a function records: X-Ray's segments, and those of OpenTelemetry's protocol (OTLP).

https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html
https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

#: Where exporters of OpenTelemetry post their spans, and what else they post to the same endpoint.
SPANS_PATH = "/v1/traces"
OTHER_PATHS = ("/v1/metrics", "/v1/logs")

# Fields of a message by number: https://github.com/open-telemetry/opentelemetry-proto/tree/v1.9.0/opentelemetry/proto
_Fields = dict[int, list[Any]]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Attributes of OpenTelemetry: the status of an HTTP response now and before, and the invocation.
_STATUS = ("http.response.status_code", "http.status_code")
_INVOCATION = ("faas.invocation_id", "faas.execution")
_FIRST_BYTE = "http.response.first_byte"  # the event that the streaming runtime adds
_FAILED = 2  # a span's status code
_NANOSECONDS = 10**9
_SAMPLED, _UNSAMPLED = b"T1S", b"T1U"
_DAMAGED = (struct.error, zlib.error)


@dataclass(frozen=True)
class Span:
    """A part of an invocation that a library recorded. Times are seconds since the epoch.

    Attributes:
        id: Its ID.
        parent: ID of the span that it is a part of; empty if unknown.
        name: What it is called.
        start: When it began.
        end: When it ended; None if it has not.
        error: Type and message of what it failed with; empty if it did not fail.
        status: Status of the HTTP response, if known.
        first_byte: When the first byte of the response was sent, if known.
        invocation: Request ID of its invocation, if known.
    """

    id: str
    parent: str
    name: str
    start: float
    end: float | None = None
    error: str = ""
    status: int | None = None
    first_byte: float | None = None
    invocation: str = ""

    def __str__(self) -> str:
        parts = ["not ended" if self.end is None else f"{(self.end - self.start) * 1000:.0f} ms"]
        if self.status is not None:
            parts.append(str(self.status))
        if self.first_byte is not None:
            parts.append(f"first byte {(self.first_byte - self.start) * 1000:.0f} ms")
        return f"{self.name}: {', '.join([*parts, *filter(None, [self.error])])}"


#: Receives spans that were recorded together.
SpanSink = Callable[[Sequence[Span]], None]


class TraceDaemon(asyncio.DatagramProtocol):
    """Takes the place of the daemon that Lambda provides: X-Ray's SDK sends to it what it has recorded."""

    def __init__(self, receive: SpanSink, log: Callable[[str], None]) -> None:
        """Hand spans to `receive`, and write a line to `log` for what is not a segment."""
        self._receive = receive
        self._log = log
        self._transport: asyncio.BaseTransport | None = None

    async def start(self) -> str:
        """Start to listen on loopback, and return host and port."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, _address: object) -> None:
        """Read a segment: the line with the format's name comes first, then the segment.

        AWS's distribution of OpenTelemetry sends spans in its place, where no endpoint is set: OTLP in base64.
        https://github.com/aws-observability/aws-otel-python-instrumentation (`otlp_udp_exporter.py`)
        """
        document = data.partition(b"\n")[2]
        if document.startswith(_UNSAMPLED):
            return
        try:
            if document.startswith(_SAMPLED):
                spans = read_spans(base64.b64decode(document.removeprefix(_SAMPLED)))
            else:
                segment = json.loads(document)
                spans = list(_segments(segment, {each["id"]: each for each in _exceptions(segment)}))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            self._log(f"[TRACE] {len(data)} bytes that are not a segment\n")
        else:
            self._receive(spans)


def nested(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    """Yield each span after the one that it is a part of, with the number of those above it."""
    below: dict[str, list[Span]] = {}
    known = {span.id for span in spans}
    for span in sorted(spans, key=lambda span: span.start):
        below.setdefault(span.parent if span.parent in known - {span.id} else "", []).append(span)
    waiting = [(0, span) for span in reversed(below.pop("", []))]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, each) for each in reversed(below.pop(span.id, []))]


def read_spans(body: bytes, encoding: str = "") -> list[Span]:
    """Return the spans of a request of OTLP over HTTP with protobuf, the only format of the Python exporters.

    Args:
        body: Body of the request, an `ExportTraceServiceRequest`.
        encoding: Its `Content-Encoding`.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        if encoding in ("gzip", "deflate"):
            body = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body)
        return [
            _span(_fields(each))
            for resource in _fields(body).get(1, [])
            for scope in _fields(resource).get(2, [])
            for each in _fields(scope).get(2, [])
        ]
    except (ArithmeticError, AttributeError, EOFError, LookupError, OSError, TypeError, *_DAMAGED) as error:
        raise ValueError(f"{len(body)} bytes that are not spans") from error


def _segments(segment: dict[str, Any], causes: dict[str, Any], parent: str = "") -> Iterator[Span]:
    own = segment.get("cause", {})
    # An exception that a subsegment has recorded too is there only by its ID.
    found = [causes[own]] if isinstance(own, str) else own.get("exceptions", [])
    error = ", ".join(f"{each['type']}: {each.get('message', '')}" for each in found)
    number, above = segment.get("id", f"{parent}/{segment['name']}"), parent or segment.get("parent_id", "")
    status = segment.get("http", {}).get("response", {}).get("status")
    start, end = float(segment["start_time"]), segment.get("end_time")
    yield Span(number, above, segment["name"], start, end if end is None else float(end), error, status)
    for each in segment.get("subsegments", []):
        yield from _segments(each, causes, number)


def _exceptions(segment: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if isinstance(cause := segment.get("cause"), dict):
        yield from (each for each in cause.get("exceptions", []) if "id" in each)
    for each in segment.get("subsegments", []):
        yield from _exceptions(each)


def _span(fields: _Fields) -> Span:
    attributes = _attributes(fields.get(9, []))
    events = {_text(each, 2): each for each in map(_fields, fields.get(11, []))}
    status = _fields(fields[15][-1]) if 15 in fields else {}
    error = ""
    if status.get(3, [0])[-1] == _FAILED:
        raised = _attributes(events["exception"].get(3, [])) if "exception" in events else {}
        kind = raised.get("exception.type", attributes.get("error.type", ""))
        # The message of the status already has the type where the SDK recorded an exception.
        message = raised.get("exception.message", "") if raised else _text(status, 2)
        error = ": ".join(filter(None, (kind, message))) or "failed"
    first = events[_FIRST_BYTE][1][-1] / _NANOSECONDS if _FIRST_BYTE in events else None
    return Span(
        fields[2][-1].hex(),
        fields[4][-1].hex() if 4 in fields else "",
        _text(fields, 5),
        fields[7][-1] / _NANOSECONDS,
        fields[8][-1] / _NANOSECONDS if fields.get(8, [0])[-1] else None,
        error,
        next((attributes[name] for name in _STATUS if isinstance(attributes.get(name), int)), None),
        first,
        next((attributes[name] for name in _INVOCATION if isinstance(attributes.get(name), str)), ""),
    )


def _attributes(pairs: list[Any]) -> dict[str, Any]:
    """Return those attributes that are texts or whole numbers."""
    found: dict[str, Any] = {}
    for pair in map(_fields, pairs):
        value = _fields(pair[2][-1]) if 2 in pair else {}
        if 1 in value:
            found[_text(pair, 1)] = _text(value, 1)
        elif 3 in value:
            found[_text(pair, 1)] = value[3][-1]
    return found


def _text(fields: _Fields, number: int) -> str:
    text: bytes = fields.get(number, [b""])[-1]
    return text.decode(errors="replace")


def _fields(message: bytes) -> _Fields:
    """Return the values of a protobuf message by the number of their field.

    https://protobuf.dev/programming-guides/encoding/
    """
    found: _Fields = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        value: Any
        if kind == _VARINT:
            value, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            [value] = struct.unpack_from("<Q" if kind == _FIXED64 else "<I", message, at)
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
            if at > len(message):
                raise EOFError
        else:
            raise LookupError(kind)
        found.setdefault(number, []).append(value)
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
