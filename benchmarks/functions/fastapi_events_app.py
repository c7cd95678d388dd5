"""The benchmark's function as an event stream of FastAPI."""

import os
from collections.abc import AsyncIterable

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

COUNT = int(os.environ["CHUNKS"])
TEXT = "x" * int(os.environ["CHUNK_SIZE"])

app = FastAPI()


@app.get("/", response_class=EventSourceResponse)
async def index() -> AsyncIterable[ServerSentEvent]:
    for number in range(COUNT):
        yield ServerSentEvent(data={"number": number, "text": TEXT})
