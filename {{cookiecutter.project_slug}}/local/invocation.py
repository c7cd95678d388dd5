"""An invocation between the client and the Runtime API: the event one way, the messages of its response the other."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from .http import ClientGone, Connection

#: Name of a header, and of a trailer behind a response that failed midway.
#: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
ERROR_TYPE = "lambda-runtime-function-error-type"
# How long a client may take for the rest of a response whose invocation is over.
_PATIENCE = 10  # seconds
_ERROR_BODY = "lambda-runtime-function-error-body"


@dataclass(frozen=True)
class Begin:
    """The runtime has begun to post a response, of this content type."""

    content_type: str


@dataclass(frozen=True)
class Chunk:
    """Bytes of the response, HTTP metadata included, as the runtime sent them."""

    data: bytes


@dataclass(frozen=True)
class End:
    """The response is over; if `error_type` is set it failed, before a `Begin` or after."""

    error_type: str = ""
    error_body: bytes = b""


Message = Begin | Chunk | End


def new_trace_id() -> str:
    """The id of a trace that begins now.

    https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
    """
    return f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}"


class Invocation:
    """An event on its way to the function, and the messages that come back."""

    def __init__(self, event: Any, request_id: str = "", trace_id: str = "") -> None:
        """An invocation with `event`, any JSON value; Lambda's id of it and X-Ray's are new if not given."""
        self.event = event
        self.encoded = json.dumps(event).encode()
        self.request_id = request_id or str(uuid.uuid4())
        self.trace_id = trace_id or new_trace_id()
        #: Whether the client went away before the end.
        self.client_gone = False
        #: Called when the client has not taken the rest some time after the invocation is over.
        self.give_up: Callable[[], None] | None = None
        self._answers: asyncio.Queue[_Post | End] = asyncio.Queue()
        self._post: _Post | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._over = False

    async def answer(self, content_type: str, connection: Connection) -> bool:
        """Lets `messages` read a response from the runtime's connection; returns whether it was taken whole.

        Who reads the messages sets the pace, so that a function whose client is slow has to wait.
        """
        if self._post is not None:
            return False
        self._post = _Post(content_type, connection, asyncio.get_running_loop().create_future())
        self._answers.put_nowait(self._post)
        return await self._post.whole

    def end(self, message: End) -> None:
        """Says how the invocation ended, for the case that its response does not.

        Whoever reads the messages gets what has arrived of a response, if they are not too slow.
        """
        if self._over:
            return
        self._answers.put_nowait(message)
        if self._post is not None:
            self._post.connection.end_input()
        self._lose_patience()

    async def messages(self) -> AsyncGenerator[Message]:
        """What comes back, up to and with the `End`."""
        answer = await self._answers.get()
        if isinstance(answer, _Post):
            yield Begin(answer.content_type)
            try:
                async for data in answer.connection.body():
                    yield Chunk(data)
            except ClientGone:
                answer.whole.set_result(False)
                # The process has ended, or goes on and will ask for the next event.
                answer = await self._answers.get()
            else:
                answer.whole.set_result(True)
                answer = _end(answer.connection.trailers)
        assert isinstance(answer, End)
        self._over = True
        self._lose_patience()
        yield answer
        if self._patience is not None:
            self._patience.cancel()

    def _lose_patience(self) -> None:
        if self.give_up is not None and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(_PATIENCE, self.give_up)


@dataclass(frozen=True)
class _Post:
    content_type: str
    connection: Connection
    whole: asyncio.Future[bool]


def _end(trailers: dict[str, str]) -> End:
    try:
        error_body = base64.b64decode(trailers.get(_ERROR_BODY, ""))
    except ValueError:
        error_body = b""
    return End(trailers.get(ERROR_TYPE, ""), error_body)
