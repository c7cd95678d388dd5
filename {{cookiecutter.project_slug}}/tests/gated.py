"""A handler that makes a chunk only when the test lets it: each one waits for a byte in the file `GATE`."""

import os
from collections.abc import Iterator
from typing import Any

from streaming_runtime import StreamingResponse


def handler(event: dict[str, Any], context: Any) -> StreamingResponse:
    """Streams one chunk for each byte that comes through the gate, until it is closed."""
    return StreamingResponse(_chunks(), headers={"x-path": event["rawPath"]}, media_type="text/plain")


def _chunks() -> Iterator[bytes]:
    with open(os.environ["GATE"], "rb", buffering=0) as gate:
        while byte := gate.read(1):
            yield b"chunk " + byte
