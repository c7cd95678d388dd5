#!/usr/bin/env bash
# Below `BaseHTTPMiddleware`, a response that fails midway is completed before the error is raised.
#
# Without it Starlette 1.10.0 leaves the body open when a streamed body raises, so that a server aborts the connection.
# With it the server first gets an empty last part (`more_body: False`), which ends the body: a client takes what it got
# for the whole response.
. "$(dirname "$0")/lib/packages.sh"
packages starlette==1.10.0

python - <<'PY'
import asyncio

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Route


async def body():
    yield b"first"
    raise ValueError("midway")


async def endpoint(request):
    return StreamingResponse(body())


async def passed_on(request, call_next):
    return await call_next(request)


async def sent_by(app):
    messages, asked = [], False

    async def receive():
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append((message.get("body"), message.get("more_body")))

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "root_path": ""}
    scope |= {"scheme": "http", "http_version": "1.1", "headers": [], "asgi": {"version": "3.0", "spec_version": "2.4"}}
    try:
        await app(scope | {"server": ("test", 80), "client": ("test", 1)}, receive, send)
    except ValueError as error:
        return messages[1:], str(error)
    return messages[1:], None


plain = Starlette(routes=[Route("/", endpoint)])
wrapped = Starlette(routes=[Route("/", endpoint)])
wrapped.add_middleware(BaseHTTPMiddleware, dispatch=passed_on)
print("without", found := asyncio.run(sent_by(plain)))
assert found == ([(b"first", True)], "midway")
print("with   ", found := asyncio.run(sent_by(wrapped)))
assert found == ([(b"first", True), (b"", False)], "midway")
PY
