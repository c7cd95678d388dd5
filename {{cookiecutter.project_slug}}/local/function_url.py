"""The function URL: an HTTP server that turns requests into invocations and streams what comes back.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import h11

from .events import function_url_event
from .http import ClientGone, Connection, response
from .sandbox import Chunk, End, Head, Message
from .sandboxes import Sandboxes

_HTTP_INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response"
_DELIMITER = bytes(8)
_METADATA_LIMIT = 16 * 1024  # bytes, delimiter included
_REQUEST_LIMIT = 6 * 1024 * 1024  # bytes of a request's body
# The connection is ours: the body is sent in chunks, whatever length the function names.
_OF_THE_CONNECTION = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})
_JSON = [("content-type", "application/json")]


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
        answer = _Answer(connection)
        try:
            await self._stream(answer, sandbox.invoke(json.dumps(event).encode()))
        finally:
            self._sandboxes.release(sandbox)
        if answer.client_gone:
            raise ClientGone("the client went away before the end")

    async def _stream(self, answer: _Answer, messages: AsyncIterator[Message]) -> None:
        """Passes one invocation's response on, chunk by chunk as it is made."""
        metadata: bytearray | None = None  # what has come of the HTTP metadata, while they are not whole
        async for message in messages:
            match message:
                case Head(content_type) if content_type == _HTTP_INTEGRATION_RESPONSE:
                    metadata = bytearray()
                case Head(content_type):
                    await answer.send(response(200, [("content-type", content_type)]))
                case Chunk(data) if metadata is not None:
                    metadata += data
                    try:
                        whole = _split(bytes(metadata))
                    except ValueError as error:
                        self._sandboxes.log(f"The response's HTTP metadata are malformed: {error}\n")
                        await answer.fail()
                        metadata = None
                        continue
                    if whole is not None:
                        metadata = None
                        await answer.send(*whole)
                case Chunk(data):
                    await answer.send(h11.Data(data=data))
                case End("") if metadata is None:
                    await answer.send(h11.EndOfMessage())
                case End():
                    await answer.fail()


class _Answer:
    """What goes to the client, of which nothing more goes once it is gone or the response has failed."""

    def __init__(self, connection: Connection) -> None:
        self.client_gone = False
        self._connection = connection
        self._started = self._failed = False

    async def send(self, *events: h11.Event) -> None:
        """Sends `events`. A client that is gone does not stop the function, whose output is still taken in."""
        if self.client_gone or self._failed:
            return
        self._started = True
        try:
            await self._connection.send(*events)
        except ClientGone:
            self.client_gone = True

    async def fail(self) -> None:
        """Tells the client that there is no whole response: by status 502, or by an aborted connection."""
        if self.client_gone or self._failed:
            return
        self._failed = True
        if self._started:
            self._connection.abort()
            return
        try:
            await self._connection.respond(502, _JSON, b'{"Message":"Internal Server Error"}')
        except ClientGone:
            self.client_gone = True


def _split(start: bytes) -> tuple[h11.Response, h11.Data] | None:
    """The head that the metadata at the start of a response make, and what of the body has come with them.

    Returns:
        None while the metadata are not whole.

    Raises:
        ValueError: They are not what Lambda takes.
    """
    encoded, delimiter, payload = start.partition(_DELIMITER)
    if len(encoded) + len(_DELIMITER) > _METADATA_LIMIT:
        raise ValueError(f"they take more than {_METADATA_LIMIT} bytes")
    if not delimiter:
        return None
    try:
        metadata = json.loads(encoded)
        headers = [(name, str(value)) for name, value in (metadata.get("headers") or {}).items()]
        headers = [(name, value) for name, value in headers if name.lower() not in _OF_THE_CONNECTION]
        headers += [("set-cookie", cookie) for cookie in metadata.get("cookies") or []]
        return response(metadata.get("statusCode", 200), headers), h11.Data(data=payload)
    except (AttributeError, TypeError, h11.LocalProtocolError) as error:
        raise ValueError(f"{error}: {encoded[:200]!r}") from error
