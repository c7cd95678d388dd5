"""Sampled traces on localhost: what only sampled invocations do is seen before AWS does it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import gzip
import http.client
import json
import re
import time
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.local.conftest import TIMEOUT, function

from local.invocation import Invocation
from local.journal import Journal
from local.runtime_api import RuntimeApi
from local.sandbox import Sandbox
from local.traces import OTHER_PATHS, Span, TraceDaemon, nested, read_spans

from .conftest import Serve

TRACED = """
    from aws_xray_sdk.core import xray_recorder
    from streaming_runtime import streaming

    @xray_recorder.capture("handler")
    @streaming
    def handler(event, context):
        with xray_recorder.in_subsegment("inner"):
            yield os.environ["_X_AMZN_TRACE_ID"].rpartition("=")[2]
        if event["rawPath"] == "/fails":
            raise ValueError("it broke")
    """


def test_client_decides_sampling(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            yield os.environ["_X_AMZN_TRACE_ID"].rpartition(";")[2]
        """)
    root = "Root=1-5759e988-bd862e3fe1be46a994272793"
    for header, expected in (
        (f"{root};Parent=53995c3f42cd8ad8;Sampled=1", b"Sampled=1"),
        (f"{root}; Sampled=0", b"Sampled=0"),
        ("Sampled=1;Self=x", b"Sampled=1"),
        (f"{root};NotSampled=1", b"Sampled=0"),
    ):
        connection = served.connect()
        connection.request("GET", "/", headers={"X-Amzn-Trace-Id": header})
        assert connection.getresponse().read() == expected


@pytest.mark.slow
def test_sampled_segments_are_logged(serve: Serve) -> None:
    """With the published X-Ray SDK, which sends its segments to the daemon's address."""
    served = serve(TRACED, sampled=True)
    with pytest.raises(http.client.IncompleteRead):
        served.get("/fails")
    while "[TRACE] handler: " not in served.log:  # it is sent after the end of the response
        time.sleep(0.01)
    assert re.search(r"\[TRACE\] inner: \d+ ms\n", served.log)
    assert re.search(r"\[TRACE\] handler: \d+ ms, ValueError: it broke\n", served.log)
    assert served.get("/") == (200, b"1")


def test_unsampled_by_default(serve: Serve) -> None:
    code = "def handler(event, context):\n    yield os.environ['_X_AMZN_TRACE_ID'].rpartition('=')[2]\n"
    assert [serve(code, sampled=sampled).get("/")[1] for sampled in (False, True)] == [b"0", b"1"]


# A request of OTLP with a span that has the ID "a", the name "b" and a time.
SPAN_REQUEST = b"\x0a\x13\x12\x11\x12\x0f\x12\x01a\x2a\x01b\x39" + bytes(8)
SEGMENT = {"name": "a", "start_time": 1.0, "end_time": 1.25, "subsegments": [{"name": "b", "start_time": 1.1}]}
CAUSE = {"cause": {"exceptions": [{"type": "KeyError", "message": "'x'", "id": "1"}]}}
# An exception that has passed through both is in the inner one.
NESTED = {
    "subsegments": [{"name": "b", "start_time": 1.1, **CAUSE}],
    "cause": "1",
    "http": {"response": {"status": 500}},
}


@pytest.mark.parametrize(
    ("document", "logged"),
    [
        (json.dumps(SEGMENT), "[TRACE] a: 250 ms\n[TRACE]   b: not ended\n"),
        (json.dumps(SEGMENT | CAUSE | {"subsegments": []}), "[TRACE] a: 250 ms, KeyError: 'x'\n"),
        (
            json.dumps(SEGMENT | NESTED),
            "[TRACE] a: 250 ms, 500, KeyError: 'x'\n[TRACE]   b: not ended, KeyError: 'x'\n",
        ),
        ("{}", "[TRACE] 35 bytes that are not a segment\n"),
        ("no JSON", "[TRACE] 40 bytes that are not a segment\n"),
        (f"T1S{base64.b64encode(SPAN_REQUEST).decode()}", "[TRACE] b: not ended\n"),
        (f"T1U{base64.b64encode(SPAN_REQUEST).decode()}", ""),
        ("T1S////", "[TRACE] 40 bytes that are not a segment\n"),
    ],
    ids=["nested", "error", "error in both", "no name", "no JSON", "OTLP", "unsampled OTLP", "no OTLP"],
)
def test_segment_lines(document: str, logged: str) -> None:
    lines: list[str] = []
    daemon = TraceDaemon(
        lambda spans: lines.extend(f"[TRACE] {'  ' * n}{each}\n" for n, each in nested(spans)), lines.append
    )
    daemon.datagram_received(b'{"format": "json", "version": 1}\n' + document.encode(), None)
    assert "".join(lines) == logged


def test_daemon_listens_on_loopback() -> None:
    async def main() -> tuple[str, list[str]]:
        received: asyncio.Queue[list[str]] = asyncio.Queue()
        daemon = TraceDaemon(lambda spans: received.put_nowait([*map(str, spans)]), print)
        host, _, port = (await daemon.start()).partition(":")
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(host, int(port))
        )
        transport.sendto(b"{}\n" + json.dumps(SEGMENT | {"subsegments": []}).encode())
        try:
            return host, await received.get()
        finally:
            transport.close()
            daemon.close()

    assert asyncio.run(main()) == ("127.0.0.1", ["a: 250 ms"])


SPANS = """
    from opentelemetry import trace
    from streaming_runtime import streaming

    tracer = trace.get_tracer("app")

    @streaming
    def handler(event, context):
        with tracer.start_as_current_span("chunks"):
            yield os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
            if event["rawPath"] == "/fails":
                raise ValueError("it broke")
    """


@pytest.mark.slow
def test_opentelemetry_spans_are_logged(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the published SDK and exporter: the function gets an endpoint, unless it has one."""
    monkeypatch.setenv("STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS", "5000")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    served = serve(SPANS)
    status, endpoint = served.get("/")
    assert (status, endpoint[:17]) == (200, b"http://127.0.0.1:")
    served.get("/")  # the spans were received before the next event was handed out
    figures = r"\[TRACE\] \w+: \d+ ms, 200, first byte \d+ ms\n\[TRACE\]   chunks: \d+ ms\n"
    assert re.search(figures, served.log), served.log
    with pytest.raises(http.client.IncompleteRead):
        served.get("/fails")
    served.get("/")
    assert re.search(
        r"first byte \d+ ms, ValueError: it broke\n\[TRACE\]   chunks: .*, ValueError: it broke\n", served.log
    )


@pytest.mark.parametrize(("sampled", "own", "expected"), [(True, "", "http://127"), (False, "", ""), (True, "a", "a")])
def test_endpoint_only_for_who_records(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, sampled: bool, own: str, expected: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", own)
    served = serve(
        "def handler(event, context):\n    yield os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] + '.'\n", sampled=sampled
    )
    assert served.get("/")[1].decode().removesuffix(".")[:10] == expected


def encoded() -> tuple[bytes, list[Span]]:
    """Return a request as the published exporter encodes it, and what it says."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import SpanKind, Status, StatusCode

    provider, memory = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("test")
    attributes: dict[str, Any] = {"http.response.status_code": 503, "faas.invocation_id": "1-2", "a": [1.5], "b": True}
    with tracer.start_as_current_span("outer", kind=SpanKind.SERVER, attributes=attributes) as outer:
        outer.add_event("http.response.first_byte", {"x": 1}, 1_700_000_000_250_000_000)
        with tracer.start_as_current_span("ü" * 100) as inner:
            inner.set_status(Status(StatusCode.ERROR, "no exception"))
        outer.record_exception(KeyError("x"))
        outer.set_status(Status(StatusCode.ERROR, "KeyError: 'x'"))
    finished = memory.get_finished_spans()
    ids = {span.name[:1]: f"{span.context.span_id:016x}" for span in finished}
    expected = [
        Span(ids["ü"], ids["o"], "ü" * 100, error="no exception", start=0),
        Span(ids["o"], "", "outer", 0, None, "KeyError: 'x'", 503, 1_700_000_000.25, "1-2"),
    ]
    times = {span.name: (span.start_time / 10**9, span.end_time / 10**9) for span in finished}  # type: ignore[operator]
    return encode_spans(finished).SerializeToString(), [
        dataclasses.replace(span, start=times[span.name][0], end=times[span.name][1]) for span in expected
    ]


@pytest.mark.slow
def test_spans_of_the_published_encoder() -> None:
    body, expected = encoded()
    assert (
        read_spans(body)
        == read_spans(gzip.compress(body), "gzip")
        == read_spans(zlib.compress(body), "deflate")
        == expected
    )
    assert [(depth, span.name) for depth, span in nested(expected)] == [(0, "outer"), (1, "ü" * 100)]
    for end in range(1, len(body)):
        with pytest.raises(ValueError, match="that are not spans"):
            read_spans(body[:end])


@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate"]))
@example(b"\x0a\x04\x12\x02\x12\x00", "")  # a span without an ID
@example(b"\x08" + b"\xff" * 200 + b"\x01", "")
def test_damaged_spans(body: bytes, encoding: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(read_spans(body, encoding), list)


def test_span_requests() -> None:
    """Anything but spans is refused; metrics and logs, which go to the same endpoint, are accepted."""
    received: list[Span] = []

    async def ask(address: str, path: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        async with asyncio.timeout(TIMEOUT):
            answer = await reader.read()
        writer.close()
        return answer[9:12]

    async def main() -> list[bytes]:
        api = RuntimeApi(function(), print, print, received.extend)
        address = await api.start()
        bodies = [("/v1/traces", SPAN_REQUEST), ("/v1/traces", b"\xff")]
        answers = [await ask(address, path, body) for path, body in (*bodies, *((path, b"x") for path in OTHER_PATHS))]
        await api.close()
        return answers

    assert asyncio.run(main()) == [b"200", b"400", b"200", b"200"]
    assert received == [Span("61", "", "b", 0.0)]


def test_late_spans_belong_to_their_invocation() -> None:
    """A batch may be sent during the next invocation; it names its own, if OpenTelemetry knows that."""
    seen: list[tuple[str, str]] = []
    sandbox = Sandbox(
        function(),
        lambda text, request_id: seen.append((text, request_id)),
        lambda spans, request_id: seen.append((spans[0].name, request_id)),
    )
    sandbox._log_request_id = "second"
    sandbox._receive_spans([Span("1", "", "a", 1.0, 2.0), Span("2", "1", "b", 1.0, 1.5, invocation="first")])
    sandbox._receive_spans([Span("3", "", "c", 1.0)])
    assert seen == [
        ("[TRACE] a: 1000 ms\n[TRACE]   b: 500 ms\n", "first"),
        ("a", "first"),
        ("[TRACE] c: not ended\n", "second"),
        ("c", "second"),
    ]


def test_journal_keeps_200_spans() -> None:
    kept, invocation = Journal(), Invocation(1)
    kept.invoked(invocation)
    queue = kept.subscribe()
    for number in range(3):
        kept.traced([Span(f"{number}/{n}", "", "a", 1.0 + n, 2.0 + n) for n in range(90)], invocation.request_id)
    kept.traced([Span("1", "", "a", 1.0)], "unknown")
    updates = [queue.get_nowait() for _ in range(queue.qsize())][1:]
    counts = [len(update["spans"]) for update in updates if update is not None]
    assert counts == [90, 180, 200]
    assert kept.details(invocation.request_id)[-1] == updates[-1]  # type: ignore[index]
