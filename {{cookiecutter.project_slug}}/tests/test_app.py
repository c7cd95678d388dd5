"""The function, called directly and through the URL, where `runtime/bootstrap` runs it as on Lambda."""

import http.client
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import app
from local.probe import probe

EVENTS = Path(__file__).parent.parent / "events"
# Other files there are for other functions, or yours.
REQUESTS = sorted(path for path in EVENTS.glob("*.json") if path.stem in ("get", "post", "rest"))

# The tests of the example that src/app.py starts with. Replace them together with it.
of_example = pytest.mark.skipif(
    not hasattr(app, "INTERVAL"),
    reason="src/app.py has a handler of your own; test it in tests/test_app.py",
)

# A handler that waits for a byte in the file `GATE` before each chunk.
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


@of_example
@pytest.mark.parametrize("event", REQUESTS, ids=lambda path: path.stem)
def test_events_return_ten_lines(event: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "INTERVAL", 0)
    response = app.handler(json.loads(event.read_text(encoding="utf-8")), None)
    assert isinstance(response.content, Iterator)
    text = "".join(map(str, response.content))
    assert [line.split()[0] for line in text.splitlines()] == [*map(str, range(1, 11)), "end"]
    assert response.headers == {"content-type": "text/plain; charset=utf-8"}


@of_example
def test_function_streams(serve: Callable[..., str]) -> None:
    result = probe(serve(STREAM_INTERVAL="0.05"))
    assert result.status == 200
    assert result.streamed
    body = b"".join(data for _, data in result.chunks).decode()
    assert [line.split()[0] for line in body.splitlines()] == [*map(str, range(1, 11)), "end"]


def test_chunks_arrive_one_by_one(serve: Callable[..., str], tmp_path: Path) -> None:
    gate_path = tmp_path / "gate"
    os.mkfifo(gate_path)
    (tmp_path / "gated.py").write_text(GATED, encoding="utf-8")
    url = urlsplit(serve("gated.handler", tmp_path, GATE=str(gate_path)))
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("GET", "/some/path")
    # Opened for reading and writing, because opening for writing alone waits for the handler, which may be broken.
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
