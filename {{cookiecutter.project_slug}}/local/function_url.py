"""The function URL: an HTTP server that turns requests into invocations and streams what comes back.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import h11

from .events import function_url_event
from .http import ClientGone, Connection, response
from .sandbox import Chunk, End, Head, Message, Sandbox
from .template import Function

_HTTP_INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response"
_DELIMITER = bytes(8)
_REQUEST_LIMIT = 6 * 1024 * 1024  # bytes of a request's body
_NO_BODY = frozenset({204, 304})
_JSON = [("content-type", "application/json")]


class Sandboxes:
    """The function's sandboxes: an idle one is used again, another is started when all are busy."""

    def __init__(self, function: Function, limit: int, log: Callable[[str], None]) -> None:
        """`limit` is how many invocations may run at once."""
        self._function = function
        self._limit = limit
        self._log = log
        self._all: set[Sandbox] = set()
        self._idle: list[Sandbox] = []

    async def acquire(self) -> Sandbox | None:
        """A sandbox to invoke; None when the limit is reached."""
        while self._idle:
            sandbox = self._idle.pop()
            if sandbox.alive:
                return sandbox
            await self._discard(sandbox)
        if len(self._all) >= self._limit:
            return None
        sandbox = Sandbox(self._function, self._log)
        self._all.add(sandbox)
        await sandbox.start()
        return sandbox

    async def release(self, sandbox: Sandbox) -> None:
        """Gives back a sandbox whose invocation is over."""
        if sandbox in self._all and sandbox.alive:
            self._idle.append(sandbox)
        else:
            await self._discard(sandbox)

    async def renew(self) -> None:
        """Lets no sandbox that runs now be used again: the code has changed."""
        idle, self._idle = self._idle, []
        self._all.clear()
        for sandbox in idle:
            await sandbox.stop()

    async def stop(self) -> None:
        """Ends every process."""
        await asyncio.gather(*(sandbox.stop() for sandbox in self._all))

    async def _discard(self, sandbox: Sandbox) -> None:
        self._all.discard(sandbox)
        await sandbox.stop()


class FunctionUrl:
    """Answers HTTP requests with what the function makes of them."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def serve(self, connection: Connection, request: h11.Request) -> None:
        """Answers one request.

        Raises:
            ClientGone: The client broke the connection off.
        """
        body = bytearray()
        async for data in connection.body():
            if len(body) <= _REQUEST_LIMIT:
                body += data
        if len(body) > _REQUEST_LIMIT:
            await connection.respond(413, _JSON, b'{"Message":"Request must be smaller than 6291456 bytes"}')
            return
        sandbox = await self._sandboxes.acquire()
        if sandbox is None:
            await connection.respond(429, _JSON, b'{"Reason":"ConcurrentInvocationLimitExceeded"}')
            return
        event = function_url_event(request, bytes(body), connection.peer)
        try:
            await _stream(connection, sandbox.invoke(json.dumps(event).encode()), request.method == b"HEAD")
        finally:
            await self._sandboxes.release(sandbox)


async def _stream(connection: Connection, messages: AsyncIterator[Message], head_only: bool) -> None:
    """Passes one invocation's response on to the client, chunk by chunk as it is made."""
    metadata: bytearray | None = None  # what has come of the HTTP metadata, while they are not whole
    connected = started = False

    async def send(*events: h11.Event) -> None:
        # A client that is gone does not stop the function, whose output is still taken in.
        nonlocal connected
        if connected:
            try:
                await connection.send(*events)
            except ClientGone:
                connected = False

    connected = True
    bodiless = head_only
    async for message in messages:
        match message:
            case Head(content_type) if content_type == _HTTP_INTEGRATION_RESPONSE:
                metadata = bytearray()
            case Head(content_type):
                await send(response(200, [("content-type", content_type), ("transfer-encoding", "chunked")]))
                started = True
            case Chunk(data):
                if metadata is not None:
                    metadata += data
                    encoded, delimiter, payload = bytes(metadata).partition(_DELIMITER)
                    if not delimiter:
                        continue
                    metadata, data = None, payload
                    head = _head(json.loads(encoded))
                    bodiless = head_only or head.status_code in _NO_BODY
                    await send(head)
                    started = True
                if data and not bodiless:
                    await send(h11.Data(data=data))
            case End(""):
                await send(h11.EndOfMessage())
            case End():
                if started or not connected:
                    connection.abort()
                else:
                    await connection.respond(502, _JSON, b'{"Message":"Internal Server Error"}')
    if not connected:
        raise ClientGone("the client went away before the end")


def _head(metadata: dict[str, Any]) -> h11.Response:
    headers = [(name, str(value)) for name, value in metadata.get("headers", {}).items() if name != "content-length"]
    headers += [("set-cookie", cookie) for cookie in metadata.get("cookies", [])]
    return response(metadata.get("statusCode", 200), [*headers, ("transfer-encoding", "chunked")])
