#!/usr/bin/env bash
# Starlette reports an application's own `OSError` in a streamed body as `ClientDisconnect`.
#
# `StreamingResponse` takes an OSError for a failed `send`, also if the body raised it: a refused upstream connection
# becomes a ClientDisconnect without a message, which servers and error trackers usually ignore. Seen with Starlette
# 1.10.0 under an ASGI server of spec_version 2.4; another exception keeps its type.
. "$(dirname "$0")/lib/packages.sh"
packages starlette==1.10.0

python - <<'PY'
import asyncio

from starlette.responses import StreamingResponse


async def raised_by(error):
    async def body():
        yield b"first"
        raise error

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        pass

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}}
    try:
        await StreamingResponse(body())(scope, receive, send)
    except Exception as raised:
        return type(raised).__name__, str(raised)


for error in (ConnectionRefusedError("upstream"), TimeoutError("upstream"), ValueError("upstream")):
    print(type(error).__name__, "->", found := asyncio.run(raised_by(error)))
    expected = ("ClientDisconnect", "") if isinstance(error, OSError) else ("ValueError", "upstream")
    assert found == expected, found
PY
