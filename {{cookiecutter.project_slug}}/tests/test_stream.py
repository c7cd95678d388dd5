"""The function behind the local URL: `src/bootstrap` runs as on Lambda, over a real socket."""

import http.client
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

Serve = Callable[..., str]

# Makes a chunk only when the test lets it: each one waits for a byte in the file `GATE`.
GATED = """
import os
from streaming_runtime import StreamingResponse

def handler(event, context):
    return StreamingResponse(chunks(), headers={"x-path": event["rawPath"]}, media_type="text/plain")

def chunks():
    with open(os.environ["GATE"], "rb", buffering=0) as gate:
        while byte := gate.read(1):
            yield b"chunk " + byte
"""


def test_a_chunk_arrives_before_the_next_one_is_made(serve: Serve, tmp_path: Path) -> None:
    gate_path = tmp_path / "gate"
    os.mkfifo(gate_path)
    (tmp_path / "gated.py").write_text(GATED, encoding="utf-8")
    url = urlsplit(serve("gated.handler", tmp_path, GATE=str(gate_path)))
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("GET", "/some/path")
    # Opened for both, it does not wait for the handler, which may be broken.
    with open(os.open(gate_path, os.O_RDWR), "wb", buffering=0) as gate:
        gate.write(b"1")
        response = connection.getresponse()
        assert (response.status, response.headers["x-path"]) == (200, "/some/path")
        assert response.read1() == b"chunk 1"
        for byte in (b"2", b"3", b"4"):
            gate.write(byte)
            assert response.read1() == b"chunk " + byte
    assert response.read1() == b""
    connection.close()
