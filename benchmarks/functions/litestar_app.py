"""The benchmark's function as an event stream of Litestar."""

import os
from collections.abc import AsyncIterator

from litestar import Litestar, get
from litestar.response import ServerSentEvent

COUNT = int(os.environ["CHUNKS"])
TEXT = "x" * int(os.environ["CHUNK_SIZE"])


async def events() -> AsyncIterator[str]:
    for _ in range(COUNT):
        yield TEXT


@get("/")
async def index() -> ServerSentEvent:
    return ServerSentEvent(events())


app = Litestar([index])
