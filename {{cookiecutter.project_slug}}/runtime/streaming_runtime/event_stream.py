"""Server-sent events with heartbeats: https://html.spec.whatwg.org/multipage/server-sent-events.html

The names are sse-starlette's.
"""

from __future__ import annotations

import threading
import time

from . import StreamingResponse, wire
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
    from typing import Any

    from .response import ResponseStream

_PING = b": ping\n\n"


class ServerSentEvent:
    """One event.

    Attributes:
        data: Text is sent as it is, anything else as JSON; None sends no data.
        event: Type of the event; without one the browser calls it ``message``.
        id: What a browser that connects again sends back as ``Last-Event-ID``.
        retry: Milliseconds a browser waits before it connects again.
        comment: Text that the browser ignores.
    """

    __slots__ = ("comment", "data", "event", "id", "retry")

    def __init__(
        self,
        data: Any = None,
        event: str | None = None,
        id: str | int | None = None,  # noqa: A002 - the field's name
        retry: int | None = None,
        comment: str | None = None,
    ) -> None:
        self.data = data
        self.event = event
        self.id = id
        self.retry = retry
        self.comment = comment

    def encode(self) -> bytes:
        """The event as it is sent, with the empty line that ends it.

        Raises:
            ValueError: A line break or NUL in `event` or `id`; `retry` is no number of milliseconds; `data` holds a
                number that is not finite, which a browser's JSON does not have.
            TypeError: `event` or `comment` is no text, or `data` has no JSON form.
        """
        lines = []
        if self.comment is not None:
            lines += [f": {line}" for line in _lines(_text("comment", self.comment))]
        if self.id is not None:
            lines.append(f"id: {_one_line('id', str(self.id))}")
        if self.event is not None:
            lines.append(f"event: {_one_line('event', _text('event', self.event))}")
        if isinstance(self.data, bytes):
            raise TypeError("data of an event must be a str or a JSON value, not bytes")
        if self.data is not None:
            text = self.data if isinstance(self.data, str) else wire.to_json(self.data, allow_nan=False)
            lines += [f"data: {line}" for line in _lines(text)]
        if self.retry is not None:
            if isinstance(self.retry, bool) or not isinstance(self.retry, int) or self.retry < 0:
                raise ValueError(f"retry must be milliseconds, not {self.retry!r}")
            lines.append(f"retry: {self.retry}")
        return "\n".join([*lines, "\n"]).encode()


class EventSourceResponse(StreamingResponse):
    """A stream of server-sent events, for a browser's ``EventSource``.

    Attributes:
        ping: Seconds without an event after which a comment is sent, so that no one on the way gives the connection up.
    """

    def __init__(
        self,
        content: Iterable[ServerSentEvent | dict[str, Any] | str]
        | AsyncIterable[ServerSentEvent | dict[str, Any] | str],
        ping: float | None = 15,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        cookies: Sequence[str] | None = None,
    ) -> None:
        """Checks all that goes out before the stream.

        Args:
            content: Iterable or async iterable of events: a `ServerSentEvent`, a dict of its arguments, or text, which
                is an event's data.
            ping: Seconds; None or 0 for no heartbeat. A heartbeat also comes while the first event is still being made:
                it sends the head, and an error after it can only break the stream.
            status_code: 200 to 599.
            headers: Headers by name.
            cookies: Cookies as the ``Set-Cookie`` header has them.

        Raises:
            ValueError: Lambda would not send this status, header or cookie, or `ping` is no time that can be waited.
        """
        if ping is not None and not 0 <= ping <= threading.TIMEOUT_MAX:
            raise ValueError(f"ping must be seconds, not {ping!r}")
        super().__init__(content, status_code, headers, "text/event-stream", cookies)  # type: ignore[arg-type]
        self.headers.setdefault("cache-control", "no-store")
        self.headers.setdefault("x-accel-buffering", "no")  # a proxy of nginx's kind would hold events back
        self.ping = ping

    @staticmethod
    def encode(item: object) -> bytes:
        """The bytes of one event.

        Raises:
            TypeError: `item` is not an event, or its data has no JSON form.
            ValueError: A field of the event may not be sent.
        """
        if isinstance(item, ServerSentEvent):
            return item.encode()
        if isinstance(item, str):
            return ServerSentEvent(item).encode()
        if not isinstance(item, dict):
            raise TypeError(f"an event is a ServerSentEvent, a dict or a str, not {type(item).__name__}")
        unknown = set(item) - set(ServerSentEvent.__slots__)
        if unknown:
            raise TypeError(
                f"an event has no field {min(unknown, key=str)!r}; to send a dict as JSON, use ServerSentEvent(data=…)"
            )
        return ServerSentEvent(**item).encode()

    def last_words(self, report: dict[str, Any]) -> bytes:
        """An event of type ``error``, for a stream that is to end by the error of the `report`."""
        data = {name: report[name] for name in ("errorType", "errorMessage")}
        return ServerSentEvent(data, event="error").encode()


class Heartbeat:
    """Sends a comment whenever nothing was sent for `interval` seconds.

    It has a thread of its own, so that it goes on while the handler blocks, in sync and in async code.
    """

    def __init__(self, stream: ResponseStream, interval: float) -> None:
        self._stream = stream
        self._interval = interval
        self._last = time.monotonic()
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Sends `data` in place of the stream's own method, since two threads may not do so at once.

        Raises:
            RuntimeApiError: The connection broke.
        """
        with self._changed:
            if self._stream.ended:
                raise RuntimeApiError("the response was broken off")
            self._stream.write(data)
            self._last = time.monotonic()

    def stop(self) -> None:
        """Ends the heartbeat; the stream is the caller's alone afterwards."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped and not self._stream.ended:
                left = self._last + self._interval - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                try:
                    self._stream.write(_PING, payload=False)
                except RuntimeApiError:
                    return  # the stream tells whoever writes to it next
                self._last = time.monotonic()


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} of an event must be a str, not {type(value).__name__}")
    return value


def _lines(text: str) -> list[str]:
    # Only these three end a line of an event stream; str.splitlines knows many more.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _one_line(name: str, text: str) -> str:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"{name} of an event must be one line without NUL, not {text!r}")
    return text
