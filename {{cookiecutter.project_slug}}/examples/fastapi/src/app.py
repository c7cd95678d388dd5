"""The function, a FastAPI application. What its routes yield reaches the client immediately; `/docs` lists them."""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Annotated

from fastapi import Cookie, FastAPI, Header, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from streaming_runtime import AsgiHandler

INTERVAL = float(os.environ.get("STREAM_INTERVAL", "0.5"))  # seconds between lines or events

Count = Annotated[int, Query(ge=1, le=1000)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Iterator[int]]]:
    """Create once what all requests share; here a counter of the requests to this execution environment of Lambda."""
    yield {"requests": itertools.count(1)}


app = FastAPI(title="Stream", lifespan=lifespan)


@app.get("/", response_class=StreamingResponse)
async def lines(request: Request, count: Count = 10) -> StreamingResponse:
    """Stream numbered lines, then an end marker."""
    nth = next(request.state.requests)

    async def content() -> AsyncIterator[str]:
        for number in range(1, count + 1):
            yield f"{number:2} of {count}, {time.strftime('%H:%M:%S')} in request {nth} of this environment\n"
            await asyncio.sleep(INTERVAL)
        yield "end\n"

    return StreamingResponse(content(), media_type="text/plain")


@app.get("/events", response_class=EventSourceResponse)
async def events(count: Count = 10, last_event_id: Annotated[int, Header(ge=0)] = 0) -> AsyncIterator[ServerSentEvent]:
    """Stream server-sent events; a browser that reconnects gets the ones that it has missed.

    FastAPI sends a heartbeat after 15 seconds without an event.
    """
    for number in range(last_event_id + 1, count + 1):
        yield ServerSentEvent(event="tick", id=str(number), data={"number": number, "time": time.time()})
        await asyncio.sleep(INTERVAL)
    yield ServerSentEvent(event="end", data={})  # browsers ignore an event without data


class Receipt(BaseModel):
    """The contents of an upload."""

    name: str
    tags: list[str]
    session: str | None
    size: int
    sha256: str


@app.post("/upload", status_code=201)
async def upload(
    request: Request,
    name: Annotated[str, Query(min_length=1)],
    tag: Annotated[list[str], Query(default_factory=list)],
    session: Annotated[str | None, Cookie()] = None,
) -> Receipt:
    """Accept a body of any size that Lambda accepts."""
    body = await request.body()
    return Receipt(name=name, tags=tag, session=session, size=len(body), sha256=sha256(body).hexdigest())


handler = AsgiHandler(app)
