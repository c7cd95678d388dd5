"""The benchmark's function as an application of hayate's, in hayate's own runtime for streams."""

import os
from collections.abc import AsyncIterator

from hayate import Context, Hayate, Response
from hayate.adapters.aws import run_lambda_streaming

COUNT = int(os.environ["CHUNKS"])
CHUNK = b"x" * int(os.environ["CHUNK_SIZE"])


async def index(_context: Context) -> Response:
    return Response(stream())


async def stream() -> AsyncIterator[bytes]:
    for _ in range(COUNT):
        yield CHUNK


app = Hayate()
app.get("/")(index)
run_lambda_streaming(app)
