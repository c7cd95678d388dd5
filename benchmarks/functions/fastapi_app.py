"""The benchmark's function as a FastAPI application."""

import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

COUNT = int(os.environ["CHUNKS"])
CHUNK = b"x" * int(os.environ["CHUNK_SIZE"])

app = FastAPI()


@app.get("/")
async def index() -> StreamingResponse:
    return StreamingResponse(stream())


async def stream() -> AsyncIterator[bytes]:
    for _ in range(COUNT):
        yield CHUNK
