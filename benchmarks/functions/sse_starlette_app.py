"""The benchmark's function as an event stream of sse-starlette, in a Starlette application."""

import os
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, JSONServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

COUNT = int(os.environ["CHUNKS"])
TEXT = "x" * int(os.environ["CHUNK_SIZE"])


async def events() -> AsyncIterator[JSONServerSentEvent]:
    for number in range(COUNT):
        yield JSONServerSentEvent({"number": number, "text": TEXT})


async def index(_request: Request) -> EventSourceResponse:
    return EventSourceResponse(events())


app = Starlette(routes=[Route("/", index)])
