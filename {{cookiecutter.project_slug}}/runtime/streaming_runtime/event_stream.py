"""Server-sent events with heartbeats: https://html.spec.whatwg.org/multipage/server-sent-events.html

The names follow sse-starlette.
"""

from __future__ import annotations

import time
from _thread import TIMEOUT_MAX, allocate_lock, start_new_thread

from . import wire
from .responses import StreamingResponse
from .runtime_api import RuntimeApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
    from typing import Any

    from ._types import Report
    from .response_stream import ResponseStream

# With an empty line after it, several clients would read an empty event: see `ServerSentEvent.encode`.
_PING = b": ping\n"
_LONGEST_SLEEP = 1.0  # seconds until the thread looks whether the stream has ended


class ServerSentEvent:
    """One event.

    Attributes:
        data: Text is sent unchanged, anything else as JSON; None sends no data.
        event: Type of the event; without one, browsers use ``message``.
        id: The browser sends it back as ``Last-Event-ID`` when it reconnects.
        retry: Milliseconds that the browser waits before it reconnects.
        comment: Text that browsers ignore.
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
        """Encode the event, with the empty line that ends it.

        A comment or `retry` alone gets none: they are no event, but openai, anthropic and httpx-sse would make one of
        the empty line once an id was seen. Their lines come before those of the next event.

        Raises:
            ValueError: `event` or `id` contains a line break or NUL, `retry` is not a positive number, or `data`
                contains a number that is not finite, which browsers cannot parse.
            TypeError: `event` or `comment` is not text, or `data` has no JSON form.
        """
        text = ""
        if self.comment is not None:
            text = _lines(": ", _text("comment", self.comment))
        if self.id is not None:
            text += f"id: {_one_line('id', _plain(self.id))}\n"
        if self.event is not None:
            text += f"event: {_one_line('event', _text('event', self.event))}\n"
        data = self.data
        if data is not None:
            if isinstance(data, bytes):
                raise TypeError("data of an event must be a str or a JSON value, not bytes")
            text += _lines("data: ", str.__str__(data) if isinstance(data, str) else wire.to_json(data, False))
        if self.retry is not None:
            # With 0, a browser reconnects some hundred times a second.
            if isinstance(self.retry, bool) or not isinstance(self.retry, int) or self.retry < 1:
                raise ValueError(f"retry must be a whole number of milliseconds, at least 1, got {self.retry!r}")
            text += f"retry: {_plain(self.retry)}\n"
        if self.id is not None or self.event is not None or data is not None:
            text += "\n"
        return text.encode()


_FIELDS = frozenset(ServerSentEvent.__slots__)


class EventSourceResponse(StreamingResponse):
    """A stream of server-sent events, for a browser's ``EventSource``.

    Attributes:
        ping: Seconds without an event after which a comment is sent, so that proxies keep the connection open.
        error_messages: Whether the client gets the text of an exception.
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
        error_messages: bool = False,
    ) -> None:
        """Check everything that is sent before the stream.

        An exception after the first byte is sent to the client as a last event of type ``error``. Its data is JSON with
        the name of the exception's type as ``errorType``, and with `error_messages` its text as ``errorMessage``. The
        deadline is reported in this way too. An exception before the first byte fails the invocation instead.

        Args:
            content: Iterable or async iterable of events: each a `ServerSentEvent`, a dict of its arguments, or text,
                which is the data of an event.
            ping: Seconds; None or 0 for no heartbeat. A heartbeat may precede the first event. It sends the head, so
                that a later error can only abort the stream.
            status_code: 200 to 599.
            headers: Headers by name.
            cookies: Values of ``Set-Cookie`` headers.
            error_messages: Whether to send the text of an exception to the client. It may hold a secret.

        Raises:
            ValueError: Lambda would reject this status, header or cookie, or `ping` is out of range.
        """
        if ping is not None and not 0 <= ping <= TIMEOUT_MAX:
            raise ValueError(f"ping must be seconds, not {ping!r}")
        super().__init__(content, status_code, headers, "text/event-stream", cookies)  # type: ignore[arg-type]
        self.headers.setdefault("cache-control", "no-store")
        self.headers.setdefault("x-accel-buffering", "no")  # nginx and others would buffer events otherwise
        self.ping = ping
        self.error_messages = error_messages

    @staticmethod
    def encode(item: object) -> bytes:
        """Encode one event.

        Raises:
            TypeError: `item` is not an event, or its data has no JSON form.
            ValueError: A field of the event is invalid.
        """
        if isinstance(item, ServerSentEvent):
            return item.encode()
        if isinstance(item, str):
            return f"{_lines('data: ', str.__str__(item))}\n".encode()
        if not isinstance(item, dict):
            raise TypeError(f"an event is a ServerSentEvent, a dict or a str, not {type(item).__name__}")
        unknown = item.keys() - _FIELDS
        if unknown:
            raise TypeError(
                f"an event has no field {min(unknown, key=str)!r}; to send a dict as JSON, use ServerSentEvent(data=…)"
            )
        return ServerSentEvent(**item).encode()

    def final_chunk(self, report: Report) -> bytes:
        """Encode an event of type ``error`` about the error of `report`, which ends the stream."""
        names = ("errorType", "errorMessage") if self.error_messages else ("errorType",)
        data = {name: report[name] for name in names}
        return ServerSentEvent(data, event="error").encode()


class Heartbeat:
    """Sends a comment whenever nothing was sent for `interval` seconds, while the handler blocks too."""

    def __init__(self, stream: ResponseStream, interval: float) -> None:
        self._stream = stream
        self._interval = interval
        self._last = time.monotonic()
        _watcher.watch(self, interval)

    def acquire(self) -> None:
        """Wait until no comment is sent, before a write to the stream.

        Raises:
            RuntimeApiError: The connection broke.
        """
        if self._stream.forked:  # the lock may be held forever by a thread that only the parent has
            raise RuntimeApiError("a forked child of the function cannot respond, only its parent can")
        _watcher.lock.acquire()
        if self._stream.ended:
            _watcher.lock.release()
            raise RuntimeApiError("the response was aborted")

    def release(self) -> None:
        """Note the end of a write to the stream."""
        self._last = time.monotonic()
        _watcher.lock.release()

    def write(self, data: bytes) -> None:
        """Send `data`, but not while a comment is sent. Replaces the stream's own method.

        Raises:
            RuntimeApiError: The connection broke.
        """
        self.acquire()
        try:
            self._stream.write(data)
        finally:
            self.release()

    def stop(self) -> None:
        """Stop the heartbeat. Afterwards only the caller writes to the stream."""
        _watcher.leave()

    def beat(self) -> float | None:
        """Send a comment if it is due, and return the seconds until the next one; None if the response has ended."""
        if self._stream.ended:
            return None
        left = self._last + self._interval - time.monotonic()
        if left > 0:
            return left
        try:
            self._stream.write(_PING, payload=False)
        except RuntimeApiError:
            return None  # the next write to the stream reports it
        self._last = time.monotonic()
        return self._interval


class _Watcher:
    """The thread that sends the heartbeats of all event streams, one at a time.

    Starting a thread takes longer than sending an event. So it does not end with the stream, but when it next wakes up
    and finds none.

    Attributes:
        lock: Held during a write to the stream.
    """

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self._current: Heartbeat | None = None
        self._wakes_at: float | None = None  # None: the thread is not running
        self._sleep = allocate_lock()  # released to wake the thread
        self._sleep.acquire()

    def watch(self, heartbeat: Heartbeat, interval: float) -> None:
        with self.lock:
            self._current = heartbeat
            due = time.monotonic() + interval
            if self._wakes_at is None:
                self._wakes_at = due
                start_new_thread(self.run, ())
            elif due < self._wakes_at and self._sleep.locked():
                self._sleep.release()

    def leave(self) -> None:
        with self.lock:
            self._current = None

    def run(self) -> None:
        while True:
            with self.lock:
                left = self._current.beat() if self._current is not None else None
                if left is None:
                    self._wakes_at = self._current = None
                    return
                left = min(left, _LONGEST_SLEEP)
                self._wakes_at = time.monotonic() + left
            self._sleep.acquire(timeout=left)


_watcher = _Watcher()


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} of an event must be a str, not {type(value).__name__}")
    return str.__str__(value)


def _plain(value: object) -> str:
    """Return the text of `value`. str() and f-strings may show an Enum member by its name."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value)
    return str(value)


def _lines(prefix: str, text: str) -> str:
    # Only these three end a line of an event stream. str.splitlines knows many more.
    if "\n" in text or "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", f"\n{prefix}")
    return f"{prefix}{text}\n"


def _one_line(name: str, text: str) -> str:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"{name} of an event must be one line without NUL, not {text!r}")
    return text
