"""An invocation between the client and the Runtime API: an event one way, the messages of its response the other."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .http_server import ClientDisconnected, Connection
from .messages import Chunk, PostedMessages, PostStart, ResponseEnd

#: Name of a header, and of a trailer after a response that failed midway.
#: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
ERROR_TYPE = "lambda-runtime-function-error-type"
_ERROR_BODY = "lambda-runtime-function-error-body"
# How long a client may take to read the rest of a response whose invocation has ended.
_DRAIN_TIMEOUT = 10  # seconds


def new_trace_id() -> str:
    """Return the ID of a new trace.

    https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
    """
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"


class Invocation:
    """An event on its way to the function, and the messages of its response.

    Attributes:
        event: Any JSON value.
        encoded: The event as the Runtime API sends it.
        request_id: Lambda's ID of the invocation.
        trace_id: X-Ray's ID of the trace, such as `Root=1-…`.
        sampled: Whether the trace is recorded; None if nobody decided.
        client_disconnected: Whether the client disconnected before the end.
        abort_client: Called when the client has not read the rest some time after the invocation ended.
    """

    def __init__(self, event: Any, request_id: str = "", trace_id: str = "", sampled: bool | None = None) -> None:
        """Create an invocation with `event`; IDs that are not given are new."""
        self.event = event
        self.encoded = json.dumps(event).encode()
        self.request_id = request_id or str(uuid.uuid4())
        self.trace_id = trace_id or new_trace_id()
        self.sampled = sampled
        self.client_disconnected = False
        self.abort_client: Callable[[], None] | None = None
        self._results: asyncio.Queue[_Post | ResponseEnd] = asyncio.Queue()
        self._post: _Post | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self._ended = False

    async def receive_post(self, content_type: str, connection: Connection) -> bool:
        """Let `messages` read a response from the runtime's connection, and return whether it was complete.

        The reader of the messages sets the pace, so that the function waits for a slow client.
        """
        if self._post is not None:
            return False
        self._post = _Post(content_type, connection, asyncio.get_running_loop().create_future())
        self._results.put_nowait(self._post)
        return await self._post.complete

    def finish(self, end: ResponseEnd) -> None:
        """Record how the invocation ended, in case its response does not end.

        The reader of the messages still gets what has arrived of the response, within the drain timeout.
        """
        if self._ended:
            return
        self._results.put_nowait(end)
        if self._post is not None:
            self._post.connection.shutdown_input()
        self._start_drain_timer()

    async def messages(self) -> PostedMessages:
        """Yield what the runtime posts, up to and including the `ResponseEnd`."""
        result = await self._results.get()
        if isinstance(result, _Post):
            yield PostStart(result.content_type)
            try:
                async for data in result.connection.iter_body():
                    yield Chunk(data)
            except ClientDisconnected:
                result.complete.set_result(False)
                # Either the process has ended, or it goes on and will ask for the next event.
                result = await self._results.get()
            else:
                result.complete.set_result(True)
                result = _end(result.connection.trailers)
        assert isinstance(result, ResponseEnd)
        self._ended = True
        self._start_drain_timer()
        yield result
        if self._drain_timer is not None:
            self._drain_timer.cancel()

    def _start_drain_timer(self) -> None:
        if self.abort_client is not None and self._drain_timer is None:
            self._drain_timer = asyncio.get_running_loop().call_later(_DRAIN_TIMEOUT, self.abort_client)


@dataclass(frozen=True)
class _Post:
    content_type: str
    connection: Connection
    complete: asyncio.Future[bool]


def _end(trailers: dict[str, str]) -> ResponseEnd:
    try:
        error_body = base64.b64decode(trailers.get(_ERROR_BODY, ""))
    except ValueError:
        error_body = b""
    return ResponseEnd(trailers.get(ERROR_TYPE, ""), error_body)
