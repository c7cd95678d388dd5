"""The function. Each chunk that the handler yields reaches the client immediately."""

import os
import time
from collections.abc import Iterator

from streaming_runtime import StreamingResponse

INTERVAL = float(os.environ.get("STREAM_INTERVAL", "0.5"))  # seconds between lines


def lines(count: int = 10) -> Iterator[str]:
    """Yield numbered lines, then an end marker."""
    for number in range(1, count + 1):
        yield f"{number:2} of {count}, {time.strftime('%H:%M:%S')} on the server\n"
        time.sleep(INTERVAL)
    yield "end\n"


def handler(event: dict[str, object], context: object) -> StreamingResponse:
    """Answer every request with a stream of lines."""
    return StreamingResponse(lines(), media_type="text/plain")
