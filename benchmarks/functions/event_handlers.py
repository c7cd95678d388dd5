"""The benchmark's function as an event stream of ours."""

import os
from collections.abc import AsyncIterator, Iterator

from streaming_runtime import EventSourceResponse, ServerSentEvent

COUNT = int(os.environ["CHUNKS"])
TEXT = "x" * int(os.environ["CHUNK_SIZE"])


def sync(_event: object, _context: object) -> EventSourceResponse:
    def events() -> Iterator[ServerSentEvent]:
        for number in range(COUNT):
            yield ServerSentEvent({"number": number, "text": TEXT})

    return EventSourceResponse(events())


def asynchronous(_event: object, _context: object) -> EventSourceResponse:
    async def events() -> AsyncIterator[ServerSentEvent]:
        for number in range(COUNT):
            yield ServerSentEvent({"number": number, "text": TEXT})

    return EventSourceResponse(events())
