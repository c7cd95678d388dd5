"""Observers of invocations, and the journal: a bounded record of the last invocations, for subscribers to follow."""

from __future__ import annotations

import asyncio
import codecs
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .archive import Archive
from .invocation import Invocation
from .messages import ResponseEnd, ResponseHead
from .traces import Span, nested

# How many invocations are kept in addition to those that still run: all of the newest ones, and a summary of the
# others, of which as many have their details as fit into the budget.
RING = 10_000
RECORDS = 50
BUDGET = 32_000_000  # bytes of JSON
# How much is kept of each.
_ENTRIES = 2000
_TEXT_LIMIT = 16 * 1024  # characters of the response's body
_LOG_LIMIT = 64 * 1024  # characters
_SPANS = 200
_BODY_LIMIT = 64 * 1024  # characters of the event's body
_EVENT_LIMIT = 256 * 1024  # bytes of the rest of the event
# Chunks that are closer together than this share an entry. It grows when a record has too many entries.
_RESOLUTION = 0.001  # seconds
# Subscribers get the chunks of this time together, because a page need not receive thousands one by one.
_PUBLISH_DELAY = 0.05  # seconds
# Updates that a subscriber may leave unread.
_UNREAD_LIMIT = 5000
_BATCH = 500  # summaries that share an update
_NAME_LIMIT = 500  # characters of a path, in a summary
_COLUMNS = 48  # of a summary's sketch of the chunks

#: What a subscriber receives: something that happened to an invocation, as a JSON object.
Update = dict[str, Any]
#: Chunks that arrived together: seconds since the invocation began, bytes, number of chunks.
ChunkEntry = tuple[float, int, int]


class Observer:
    """Base class of what is told about invocations; its methods do nothing."""

    def invoked(self, invocation: Invocation) -> None:
        """Handle the start of an invocation."""

    def head_received(self, invocation: Invocation, head: ResponseHead) -> None:
        """Handle the head of a response."""

    def chunk_received(self, invocation: Invocation, data: bytes) -> None:
        """Handle a chunk of a response's body."""

    def ended(self, invocation: Invocation, end: ResponseEnd) -> None:
        """Handle the end of a response."""

    def log(self, text: str, request_id: str) -> None:
        """Handle text that the function logged in the invocation with this ID, which is empty if unknown."""

    def traced(self, spans: Sequence[Span], request_id: str) -> None:
        """Handle spans that the function recorded in the invocation with this ID, which is empty if unknown."""

    def refused(self, request: str, status: int, reason: str) -> None:
        """Handle a request that was answered without the function."""


class Record:
    """What is kept of one invocation. Times are seconds since it began."""

    def __init__(self, invocation: Invocation, function: str = "") -> None:
        """Start a record now."""
        self.id = invocation.request_id
        self.function = function  # its logical ID, if there are several
        self.event = _shortened(invocation)
        self.whole = self.event is invocation.event
        self.began_at = time.time()  # since the epoch
        self.head: ResponseHead | None = None
        self.head_at = 0.0
        self.entries: list[ChunkEntry] = []
        self.size = self.chunks = 0
        self.text = ""  # the beginning of the body, as text
        self.log = ""
        self.spans: list[Span] = []
        self.end: ResponseEnd | None = None
        self.ended_at = 0.0
        self.client_disconnected = False
        self.resolution = _RESOLUTION
        self._start = time.perf_counter()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def label(self) -> str:
        """Method and path of an HTTP request; for other events, "event"."""
        return " ".join(self._request) or "event"

    @property
    def name(self) -> list[str]:
        """Method, and path with query; for other events, "event" and its JSON text. As the page names an invocation."""
        if not self._request:
            return ["event", json.dumps(self.event, ensure_ascii=False, separators=(",", ":"))[:120]]
        method, path = self._request
        query = self.event.get("rawQueryString")
        return [method, f"{path}?{query}" if isinstance(query, str) and query else path]

    @property
    def _request(self) -> tuple[()] | tuple[str, str]:
        match self.event:  # the path as it was sent: decoded, it could contain terminal escape sequences
            case {"rawPath": path, "requestContext": {"http": {"method": method}}}:
                return f"{method}", f"{path}"
            case {"httpMethod": method, "requestContext": {"path": path}}:
                return f"{method}", f"{path}"
        return ()

    @property
    def state(self) -> str:
        """What the page says of the response."""
        status = self.head.status if self.head is not None else None
        if self.end is None:
            return "waiting" if status is None else f"{status} streaming"
        if self.end.error_type:
            return "502" if status is None else f"{status} aborted"
        left = "client disconnected" if self.client_disconnected else ""
        return (left or "ended") if status is None else f"{status} {left}".strip()

    def summary(self) -> dict[str, Any]:
        """Return what is kept longest of an invocation that ended."""
        assert self.end is not None
        sums = [0] * _COLUMNS
        for at, size, _ in self.entries:
            sums[min(_COLUMNS - 1, int(at / (self.ended_at or 1) * _COLUMNS))] += size
        most = max(*sums, 1)
        return {
            "id": self.id,
            "function": self.function,
            "at": self.began_at,
            "name": [part[:_NAME_LIMIT] for part in self.name],
            "status": self.head.status if self.head is not None else None,
            "state": self.state,
            "error": self.end.error_type,
            "client_disconnected": self.client_disconnected,
            "first": self.entries[0][0] if self.entries else None,
            "total": self.ended_at,
            "size": self.size,
            "count": self.chunks,
            "sketch": "".join("0123456789ABCDEF"[-(-size * 15 // most)] for size in sums),
        }

    @property
    def age(self) -> float:
        """Seconds since the invocation began."""
        return round(time.perf_counter() - self._start, 6)

    def add_chunk(self, data: bytes) -> tuple[ChunkEntry, str]:
        """Count a chunk; return its entry, and the text that it adds to `text`."""
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
        text = self._decoder.decode(data[: 4 * room])[:room] if room else ""  # a character has up to 4 bytes
        self.text += text
        return entry, text

    def add_log(self, text: str) -> str:
        """Add to the log; return the part that was kept."""
        kept = text[: _LOG_LIMIT - len(self.log)]
        self.log += kept
        return kept

    def updates(self) -> Iterator[Update]:
        """Yield everything that a subscriber would have received."""
        of = {"function": self.function} if self.function else {}
        yield self.update("invoked", at=self.began_at, age=self.age, event=self.event, whole=self.whole, **of)
        if self.head is not None:
            yield self.head_update(self.head)
        if self.entries:
            yield self.update("chunks", chunks=list(self.entries), text=self.text)
        if self.log:
            yield self.update("log", at=self.age, text=self.log)
        if self.end is not None:
            yield self.end_update(self.end)
        if self.spans:
            yield self.spans_update()

    def head_update(self, head: ResponseHead) -> Update:
        """Return the update about the head of the response."""
        return self.update("head", at=self.head_at, status=head.status, headers=head.headers)

    def end_update(self, end: ResponseEnd) -> Update:
        """Return the update about the end of the response."""
        error = {"type": end.error_type, "body": end.error_body.decode(errors="replace")} if end.error_type else None
        return self.update("end", at=self.ended_at, error=error, client_disconnected=self.client_disconnected)

    def spans_update(self) -> Update:
        """Return the update with all spans that are kept, each after the one that it is a part of."""

        def since(start: float, moment: float | None) -> float | None:
            return None if moment is None else round(moment - start, 6)

        spans = [
            {
                "depth": depth,
                "name": span.name,
                "at": since(self.began_at, span.start),
                "lasted": since(span.start, span.end),
                "status": span.status,
                "first_byte": since(span.start, span.first_byte),
                "error": span.error,
            }
            for depth, span in nested(self.spans)
        ]
        return self.update("spans", spans=spans)

    def update(self, kind: str, **values: Any) -> Update:
        """Return an update about this invocation."""
        return {"kind": kind, "id": self.id, **values}


class Journal(Observer):
    """Keeps a record of each running invocation and of the last ones that ended, oldest first.

    Attributes:
        records: Records by request ID.
        archive: The ended invocations before these.
    """

    def __init__(self) -> None:
        """Create an empty journal."""
        self.records: dict[str, Record] = {}
        self.archive = Archive(RING - RECORDS, BUDGET)
        self._subscribers: set[asyncio.Queue[Update | None]] = set()
        self._unpublished: dict[str, tuple[list[ChunkEntry], list[str]]] = {}

    def subscribe(self) -> asyncio.Queue[Update | None]:
        """Return a queue of updates, past ones first. None ends it if the subscriber reads too slowly.

        Of invocations in the archive it has the summaries; `details` returns the rest.
        """
        self._publish_chunks()
        queue: asyncio.Queue[Update | None] = asyncio.Queue()
        summaries = list(self.archive.summaries.values())
        for start in range(0, len(summaries), _BATCH):
            queue.put_nowait({"kind": "summaries", "summaries": summaries[start : start + _BATCH]})
        for record in self.records.values():
            for update in record.updates():
                queue.put_nowait(update)
        self._subscribers.add(queue)
        return queue

    def unsubscribe(self, queue: asyncio.Queue[Update | None]) -> None:
        """Put no more updates into `queue`."""
        self._subscribers.discard(queue)

    def details(self, request_id: str) -> list[Update] | None:
        """Return the updates about one invocation, none if they were dropped; None for an unknown ID."""
        if (record := self.records.get(request_id)) is not None:
            return list(record.updates())
        if request_id not in self.archive.summaries:
            return None
        return _updates(self.archive.details.get(request_id, b""))

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield ID and searchable text, in lower case, of each invocation that is kept now."""
        archived = list(self.archive.summaries)
        for record in list(self.records.values()):
            error = record.end.error_type if record.end is not None else ""
            words = [*record.name, record.function, record.state, error, record.text, record.log]
            yield record.id, "\n".join(words).lower()
        for request_id in archived:
            if (summary := self.archive.summaries.get(request_id)) is not None:  # or it was forgotten meanwhile
                updates = _updates(self.archive.details.get(request_id, b""))
                words = [*summary["name"], summary["function"], summary["state"], summary["error"]]
                words += [update["text"] for update in updates if "text" in update]
                yield request_id, "\n".join(words).lower()

    def invoked(self, invocation: Invocation, function: str = "") -> None:
        """Start a record, and archive the oldest ended ones if there are too many."""
        record = self.records[invocation.request_id] = Record(invocation, function)
        self._publish(next(record.updates()))
        ended = [record for record in self.records.values() if record.end is not None]
        for old in ended[: max(0, len(self.records) - RECORDS)]:
            del self.records[old.id]
            for kind, request_id in self.archive.add(old.summary(), json.dumps(list(old.updates())).encode()):
                self._publish({"kind": kind, "id": request_id})

    def head_received(self, invocation: Invocation, head: ResponseHead) -> None:
        """Record the head."""
        if (record := self.records.get(invocation.request_id)) is not None:
            record.head, record.head_at = head, record.age
            self._publish(record.head_update(head))

    def chunk_received(self, invocation: Invocation, data: bytes) -> None:
        """Record the chunk."""
        if (record := self.records.get(invocation.request_id)) is None:
            return
        entry, text = record.add_chunk(data)
        if self._subscribers:
            if not self._unpublished:
                asyncio.get_running_loop().call_later(_PUBLISH_DELAY, self._publish_chunks)
            entries, texts = self._unpublished.setdefault(record.id, ([], []))
            add_entry(entries, entry, record.resolution)
            texts.append(text)

    def log(self, text: str, request_id: str) -> None:
        """Record what was logged."""
        record = self.records.get(request_id)
        if record is not None and (kept := record.add_log(text)):
            self._publish(record.update("log", at=record.age, text=kept))

    def traced(self, spans: Sequence[Span], request_id: str) -> None:
        """Record spans; the last ones of too many are dropped."""
        if (record := self.records.get(request_id)) is not None:
            record.spans += spans[: _SPANS - len(record.spans)]
            self._publish(record.spans_update())

    def ended(self, invocation: Invocation, end: ResponseEnd) -> None:
        """Record the end."""
        if (record := self.records.get(invocation.request_id)) is not None:
            record.end, record.ended_at, record.client_disconnected = end, record.age, invocation.client_disconnected
            self._publish_chunks()
            self._publish(record.end_update(end))

    def _publish_chunks(self) -> None:
        unpublished, self._unpublished = self._unpublished, {}
        for request_id, (entries, texts) in unpublished.items():
            if (record := self.records.get(request_id)) is not None:
                self._publish(record.update("chunks", chunks=entries, text="".join(texts)))

    def _publish(self, update: Update) -> None:
        for queue in list(self._subscribers):
            if queue.qsize() < _UNREAD_LIMIT:
                queue.put_nowait(update)
            else:
                self.unsubscribe(queue)
                queue.put_nowait(None)


def add_entry(entries: list[ChunkEntry], entry: ChunkEntry, resolution: float) -> None:
    """Append an entry, or merge it into the last one if that is less than `resolution` seconds older."""
    if entries and entry[0] - entries[-1][0] < resolution:
        at, size, count = entries[-1]
        entries[-1] = (at, size + entry[1], count + entry[2])
    else:
        entries.append(entry)


def _updates(detail: bytes) -> list[Update]:
    updates: list[Update] = json.loads(detail or b"[]")
    return updates


def _shortened(invocation: Invocation) -> Any:
    event, size = invocation.event, len(invocation.encoded)
    if isinstance(event, dict) and isinstance(body := event.get("body"), str) and len(body) > _BODY_LIMIT:
        event = {**event, "body": f"({len(body)} characters, too many to show)"}
        size -= len(body)
    return event if size <= _EVENT_LIMIT else f"({size} bytes, too many to show)"
