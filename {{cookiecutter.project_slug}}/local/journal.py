"""Who is told what happens; and what is known of the last invocations: within bounds, and told to who subscribes."""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Iterator
from typing import Any

from .invocation import End, Invocation
from .payload import Head

# How many invocations are kept, beside those that still run, and how much of each.
_RECORDS = 50
_ENTRIES = 2000
_TEXT_LIMIT = 16 * 1024  # characters of the response's body
_LOG_LIMIT = 64 * 1024  # characters
_BODY_LIMIT = 64 * 1024  # characters of the event's body
_EVENT_LIMIT = 256 * 1024  # bytes of the rest of the event
# Chunks that are closer together than this share an entry; once there are too many entries it grows.
_RESOLUTION = 0.001  # seconds
# Subscribers are told of chunks after this time, since a page need not know of thousands one by one.
_GATHERING_TIME = 0.05  # seconds
# Messages that a subscriber may leave unread.
_UNREAD_LIMIT = 5000

Message = dict[str, Any]
#: Of the chunks that came together: seconds since the invocation began, bytes, and how many they were.
Entry = tuple[float, int, int]


class Observer:
    """Is told what happens. Here it does nothing with that."""

    def invoked(self, invocation: Invocation) -> None:
        """The function is given an event."""

    def head(self, invocation: Invocation, head: Head) -> None:
        """The response has begun."""

    def chunk(self, invocation: Invocation, data: bytes) -> None:
        """More of the response's body has come."""

    def ended(self, invocation: Invocation, end: End) -> None:
        """The response is over."""

    def log(self, text: str, request_id: str) -> None:
        """The function has written `text` in the invocation with that id, if it is known."""

    def refused(self, request: str, status: int, reason: str) -> None:
        """A request was answered without the function."""


class Record:
    """What is known of one invocation; times are seconds since it began."""

    def __init__(self, invocation: Invocation) -> None:
        """A record that begins now."""
        self.id = invocation.request_id
        self.event = _shortened(invocation)
        self.whole = self.event is invocation.event
        self.began_at = time.time()  # since the epoch
        self.head: Head | None = None
        self.head_at = 0.0
        self.entries: list[Entry] = []
        self.size = self.chunks = 0
        self.text = ""  # the beginning of the body
        self.log = ""
        self.end: End | None = None
        self.ended_at = 0.0
        self.client_gone = False
        self.resolution = _RESOLUTION
        self._start = time.perf_counter()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def label(self) -> str:
        """What to call it: method and path of an HTTP request."""
        match self.event:  # the path as it was sent: decoded it could steer the terminal
            case {"rawPath": path, "requestContext": {"http": {"method": method}}}:
                return f"{method} {path}"
        return "event"

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return round(time.perf_counter() - self._start, 6)

    def add_chunk(self, data: bytes) -> tuple[Entry, str]:
        """Counts a chunk; gives its entry, and the text that it adds to the body's beginning."""
        entry = (self.age, len(data), 1)
        self.size += len(data)
        self.chunks += 1
        add_entry(self.entries, entry, self.resolution)
        while len(self.entries) > _ENTRIES:
            self.resolution *= 2
            entries, self.entries = self.entries, []
            for old in entries:
                add_entry(self.entries, old, self.resolution)
        room = _TEXT_LIMIT - len(self.text)
        text = self._decoder.decode(data[: 4 * room])[:room] if room else ""  # a character takes up to 4 bytes
        self.text += text
        return entry, text

    def add_log(self, text: str) -> str:
        """Keeps what the function wrote; gives what of it is kept."""
        kept = text[: _LOG_LIMIT - len(self.log)]
        self.log += kept
        return kept

    def messages(self) -> Iterator[Message]:
        """All that a subscriber would have been told."""
        yield self.message("invoked", at=self.began_at, age=self.age, event=self.event, whole=self.whole)
        if self.head is not None:
            yield self.head_message(self.head)
        if self.entries:
            yield self.message("chunks", chunks=list(self.entries), text=self.text)
        if self.log:
            yield self.message("log", at=self.age, text=self.log)
        if self.end is not None:
            yield self.end_message(self.end)

    def head_message(self, head: Head) -> Message:
        """That the response has begun."""
        return self.message("head", at=self.head_at, status=head.status, headers=head.headers)

    def end_message(self, end: End) -> Message:
        """That the response is over."""
        error = {"type": end.error_type, "body": end.error_body.decode(errors="replace")} if end.error_type else None
        return self.message("end", at=self.ended_at, error=error, client_gone=self.client_gone)

    def message(self, kind: str, **values: Any) -> Message:
        """Something that happened to this invocation."""
        return {"kind": kind, "id": self.id, **values}


class Journal(Observer):
    """Keeps a record of each invocation that runs and of the last ones, oldest first."""

    def __init__(self) -> None:
        """An empty one."""
        self.records: dict[str, Record] = {}
        self._subscribers: set[asyncio.Queue[Message | None]] = set()
        self._untold: dict[str, tuple[list[Entry], list[str]]] = {}

    def subscribe(self) -> asyncio.Queue[Message | None]:
        """Gives a queue of all that is known and of what happens from now on; None ends it for one who is too slow."""
        self._tell_of_chunks()
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        for record in self.records.values():
            for message in record.messages():
                queue.put_nowait(message)
        self._subscribers.add(queue)
        return queue

    def unsubscribe(self, queue: asyncio.Queue[Message | None]) -> None:
        """Puts nothing more into it."""
        self._subscribers.discard(queue)

    def invoked(self, invocation: Invocation) -> None:
        """Begins a record, and forgets the oldest that are over if there are too many."""
        record = self.records[invocation.request_id] = Record(invocation)
        self._publish(next(record.messages()))
        over = [record for record in self.records.values() if record.end is not None]
        for forgotten in over[: max(0, len(self.records) - _RECORDS)]:
            del self.records[forgotten.id]
            self._publish(forgotten.message("forgotten"))

    def head(self, invocation: Invocation, head: Head) -> None:
        """Keeps the head."""
        if (record := self.records.get(invocation.request_id)) is not None:
            record.head, record.head_at = head, record.age
            self._publish(record.head_message(head))

    def chunk(self, invocation: Invocation, data: bytes) -> None:
        """Counts the chunk."""
        if (record := self.records.get(invocation.request_id)) is None:
            return
        entry, text = record.add_chunk(data)
        if self._subscribers:
            if not self._untold:
                asyncio.get_running_loop().call_later(_GATHERING_TIME, self._tell_of_chunks)
            entries, texts = self._untold.setdefault(record.id, ([], []))
            add_entry(entries, entry, record.resolution)
            texts.append(text)

    def log(self, text: str, request_id: str) -> None:
        """Keeps the log."""
        record = self.records.get(request_id)
        if record is not None and (kept := record.add_log(text)):
            self._publish(record.message("log", at=record.age, text=kept))

    def ended(self, invocation: Invocation, end: End) -> None:
        """Keeps how it ended."""
        if (record := self.records.get(invocation.request_id)) is not None:
            record.end, record.ended_at, record.client_gone = end, record.age, invocation.client_gone
            self._tell_of_chunks()
            self._publish(record.end_message(end))

    def _tell_of_chunks(self) -> None:
        untold, self._untold = self._untold, {}
        for request_id, (entries, texts) in untold.items():
            if (record := self.records.get(request_id)) is not None:
                self._publish(record.message("chunks", chunks=entries, text="".join(texts)))

    def _publish(self, message: Message) -> None:
        for queue in list(self._subscribers):
            if queue.qsize() < _UNREAD_LIMIT:
                queue.put_nowait(message)
            else:
                self.unsubscribe(queue)
                queue.put_nowait(None)


def add_entry(entries: list[Entry], entry: Entry, resolution: float) -> None:
    """Adds an entry for chunks, or adds them to the last one if that is less than `resolution` seconds before."""
    if entries and entry[0] - entries[-1][0] < resolution:
        at, size, count = entries[-1]
        entries[-1] = (at, size + entry[1], count + entry[2])
    else:
        entries.append(entry)


def _shortened(invocation: Invocation) -> Any:
    event, size = invocation.event, len(invocation.encoded)
    if isinstance(event, dict) and isinstance(body := event.get("body"), str) and len(body) > _BODY_LIMIT:
        event = {**event, "body": f"({len(body)} characters, too many to show)"}
        size -= len(body)
    return event if size <= _EVENT_LIMIT else f"({size} bytes, too many to show)"
