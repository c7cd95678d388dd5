"""Sampled traces on localhost: what only sampled invocations do is seen before AWS does it."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time

import pytest

from local.traces import TraceDaemon

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


SEGMENT = {"name": "a", "start_time": 1.0, "end_time": 1.25, "subsegments": [{"name": "b", "start_time": 1.1}]}
CAUSE = {"cause": {"exceptions": [{"type": "KeyError", "message": "'x'"}]}}


@pytest.mark.parametrize(
    ("document", "logged"),
    [
        (json.dumps(SEGMENT), "[TRACE] a: 250 ms\n[TRACE]   b: not ended\n"),
        (json.dumps(SEGMENT | CAUSE | {"subsegments": []}), "[TRACE] a: 250 ms, KeyError: 'x'\n"),
        ("{}", "[TRACE] 35 bytes that are not a segment\n"),
        ("no JSON", "[TRACE] 40 bytes that are not a segment\n"),
    ],
    ids=["nested", "error", "no name", "no JSON"],
)
def test_segment_lines(document: str, logged: str) -> None:
    lines: list[str] = []
    TraceDaemon(lines.append).datagram_received(b'{"format": "json", "version": 1}\n' + document.encode(), None)
    assert "".join(lines) == logged


def test_daemon_listens_on_loopback() -> None:
    async def main() -> list[str]:
        received: asyncio.Queue[str] = asyncio.Queue()
        daemon = TraceDaemon(received.put_nowait)
        host, _, port = (await daemon.start()).partition(":")
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(host, int(port))
        )
        transport.sendto(b"{}\n" + json.dumps(SEGMENT | {"subsegments": []}).encode())
        try:
            return [host, await received.get()]
        finally:
            transport.close()
            daemon.close()

    assert asyncio.run(main()) == ["127.0.0.1", "[TRACE] a: 250 ms\n"]
