"""The journal: how much it keeps of invocations, and what it tells subscribers."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest

from local import journal
from local.invocation import Invocation
from local.journal import Journal, Record, Update
from local.messages import ResponseEnd, ResponseHead

END = ResponseEnd()
HEAD = ResponseHead(200, [("content-type", "text/plain")])


class Clock:
    """Replaces the module `time`; a test sets `now`."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(journal, "time", made)
    return made


def unread(queue: asyncio.Queue[Update | None]) -> list[Update | None]:
    """Return what is in the queue now."""
    return [queue.get_nowait() for _ in range(queue.qsize())]


def kinds(messages: list[Update | None]) -> list[str]:
    return [message["kind"] if message is not None else "too slow" for message in messages]


def http_event(**values: Any) -> dict[str, Any]:
    return {"rawPath": "/a%1b", "requestContext": {"http": {"method": "GET", "path": "/a\x1b"}}, **values}


def test_oldest_records_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RING", 60)
    kept = Journal()
    queue = kept.subscribe()
    invocations = [Invocation(number) for number in range(62)]
    for invocation in invocations:
        kept.invoked(invocation)
        kept.ended(invocation, END)
    assert list(kept.records) == [invocation.request_id for invocation in invocations[12:]]
    assert list(kept.archive.summaries) == [invocation.request_id for invocation in invocations[2:12]]
    told = unread(queue)
    assert kinds(told) == ["invoked", "end"] * 60 + ["invoked", "forgotten", "end"] * 2
    forgotten = [message["id"] for message in told if message is not None and message["kind"] == "forgotten"]
    assert forgotten == [invocation.request_id for invocation in invocations[:2]]
    for message in (HEAD, b"late", END):  # later calls about a forgotten record change nothing
        match message:
            case ResponseHead():
                kept.head_received(invocations[0], message)
            case ResponseEnd():
                kept.ended(invocations[0], message)
            case bytes():
                kept.chunk_received(invocations[0], message)
    kept.log("late", invocations[0].request_id)
    kept.log("of an unknown invocation", "")
    assert (len(kept.records), queue.qsize()) == (50, 0)
    assert kept.details(invocations[0].request_id) is None


def test_running_records_are_kept() -> None:
    kept = Journal()
    running = [Invocation(number) for number in range(60)]
    for invocation in running:
        kept.invoked(invocation)
    assert len(kept.records) == 60
    for invocation in running[5:]:
        kept.ended(invocation, END)
    kept.invoked(last := Invocation(None))
    assert list(kept.records) == [invocation.request_id for invocation in [*running[:5], *running[16:], last]]


@pytest.mark.parametrize("step", [0.0001, 0.0015, 1.0, 0.0])
def test_chunk_entries_are_merged(clock: Clock, step: float) -> None:
    record = Record(Invocation(None))
    size = 0
    for number in range(10_000):
        clock.now += step
        size += number % 7
        entry, _ = record.add_chunk(bytes(number % 7))
        assert len(record.entries) <= 2000
    assert sum(entry[1] for entry in record.entries) == record.size == size
    assert sum(entry[2] for entry in record.entries) == record.chunks == 10_000
    times = [entry[0] for entry in record.entries]
    assert times[0] == pytest.approx(step)
    assert all(before < after for before, after in pairwise(times))
    assert entry[0] == pytest.approx(10_000 * step)
    if step * 10_000 > 1:
        assert len(times) > 500  # no more precision is lost than necessary


def test_first_2000_entries_are_exact(clock: Clock) -> None:
    record = Record(Invocation(None))
    for _ in range(2000):
        clock.now += 0.0015
        record.add_chunk(b"x")
    assert [entry[1:] for entry in record.entries] == [(1, 1)] * 2000
    clock.now += 0.0015
    record.add_chunk(b"x")
    assert len(record.entries) <= 1001


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000, 16 * 1024, 100_000])
@pytest.mark.parametrize("letter", ["x", "ö", "€", "😀"])
def test_text_is_start_of_body(letter: str, size: int) -> None:
    body = "".join(f"{letter}{number}" for number in range(10_000))
    encoded = body.encode()
    record = Record(Invocation(None))
    added = "".join(record.add_chunk(encoded[at : at + size])[1] for at in range(0, len(encoded), size))
    assert record.text == added == body[: 16 * 1024]
    assert record.size == len(encoded)


def test_invalid_utf8_is_replaced() -> None:
    record = Record(Invocation(None))
    assert record.add_chunk(b"a\xffb\xe2\x82")[1] == "a\ufffdb"
    assert record.add_chunk(b"c")[1] == "\ufffdc"


def test_log_size_limit() -> None:
    kept = Journal()
    kept.invoked(invocation := Invocation(None))
    queue = kept.subscribe()
    for letter in "abc":
        kept.log(letter * 30_000, invocation.request_id)
    whole = "a" * 30_000 + "b" * 30_000 + "c" * 5536
    assert kept.records[invocation.request_id].log == whole
    told = [message["text"] for message in unread(queue) if message is not None and message["kind"] == "log"]
    assert "".join(told) == whole
    kept.log("d", invocation.request_id)
    assert queue.empty()


def test_long_event_is_shortened() -> None:
    event = http_event(body="x" * 64 * 1024)
    record = Record(Invocation(event))
    assert (record.event, record.whole, record.label) == (event, True, "GET /a%1b")
    long = http_event(body="x" * 65_537)
    record = Record(Invocation(long))
    assert record.event == {**long, "body": "(65537 characters, too many to show)"}
    assert (record.whole, record.label, len(long["body"])) == (False, "GET /a%1b", 65_537)
    record = Record(Invocation(["x" * 300_000]))
    assert (record.event, record.whole, record.label) == ("(300004 bytes, too many to show)", False, "event")


@pytest.mark.parametrize("log_at", ["before the head", "after the head", "after the end"])
def test_each_update_is_sent_once(clock: Clock, log_at: str) -> None:
    async def run() -> None:
        kept = Journal()
        queue = kept.subscribe()
        invocation = Invocation({"a": 1})

        def log(when: str) -> list[str]:
            if when == log_at:
                kept.log("a line\n", invocation.request_id)
            return ["log"] if when == log_at else []

        kept.invoked(invocation)
        expected = ["invoked", *log("before the head")]
        clock.now += 1
        kept.head_received(invocation, HEAD)
        expected += ["head", *log("after the head")]
        clock.now += 1
        kept.chunk_received(invocation, b"ab")
        kept.chunk_received(invocation, b"c")
        clock.now += 1
        invocation.client_disconnected = True
        kept.ended(invocation, ResponseEnd("Oops", b"\xffwhy"))
        expected += ["chunks", "end", *log("after the end")]
        told = unread(queue)
        assert kinds(told) == expected
        values = {message["kind"]: message for message in told if message is not None}
        identity = {"id": invocation.request_id}
        event = {"event": {"a": 1}, "whole": True}
        assert values["invoked"] == {**identity, "kind": "invoked", "at": 100.0, "age": 0.0, **event}
        assert values["head"] == {**identity, "kind": "head", "at": 1.0, "status": 200, "headers": HEAD.headers}
        assert values["chunks"] == {**identity, "kind": "chunks", "chunks": [(2.0, 3, 2)], "text": "abc"}
        error = {"type": "Oops", "body": "\ufffdwhy"}
        assert values["end"] == {**identity, "kind": "end", "at": 3.0, "error": error, "client_disconnected": True}
        assert values["log"]["text"] == "a line\n"

        replayed = {message["kind"]: message for message in unread(kept.subscribe()) if message is not None}
        assert list(replayed) == ["invoked", "head", "chunks", "log", "end"]
        assert replayed["invoked"]["age"] == 3.0
        assert [replayed[kind] for kind in ("head", "chunks", "end")] == [
            values[kind] for kind in ("head", "chunks", "end")
        ]

    asyncio.run(run())


def test_chunk_updates_are_batched() -> None:
    async def run() -> None:
        kept = Journal()
        kept.invoked(invocation := Invocation(None))
        kept.chunk_received(invocation, b"before ")  # without a subscriber
        first = kept.subscribe()
        assert kinds(unread(first)) == ["invoked", "chunks"]
        kept.chunk_received(invocation, b"between ")
        second = kept.subscribe()
        both = unread(second)
        assert kinds(both) == ["invoked", "chunks"]
        assert both[1] is not None
        assert both[1]["text"] == "before between "
        kept.chunk_received(invocation, b"after")
        told = [await queue.get() for queue in (second, first, first)]  # after the delay, without further calls
        assert [message and message["text"] for message in told] == ["after", "between ", "after"]
        kept.chunk_received(invocation, b"!")
        kept.ended(invocation, END)
        assert kinds(unread(first)) == kinds(unread(second)) == ["chunks", "end"]
        kept.unsubscribe(first)
        kept.invoked(Invocation(None))
        assert (first.qsize(), second.qsize()) == (0, 1)

    asyncio.run(run())


def test_sent_updates_do_not_change(clock: Clock) -> None:
    kept = Journal()
    kept.invoked(invocation := Invocation(None))
    kept.chunk_received(invocation, b"1")
    queue = kept.subscribe()
    _, told = unread(queue)
    kept.unsubscribe(queue)
    kept.chunk_received(invocation, b"2")
    assert told is not None
    assert told["chunks"] == [(0.0, 1, 1)]


def test_slow_subscriber_is_dropped() -> None:
    kept = Journal()
    slow, quick = kept.subscribe(), kept.subscribe()
    told = 0
    for _ in range(3000):
        kept.invoked(invocation := Invocation(None))
        kept.ended(invocation, END)
        told += len(unread(quick))
    messages = unread(slow)
    assert len(messages) == 5001
    assert messages.index(None) == 5000
    assert told == 3000 * 2


def test_endless_stream_update_volume(clock: Clock) -> None:
    async def run() -> None:
        kept = Journal()
        kept.invoked(invocation := Invocation(None))
        queue = kept.subscribe()
        size = entries = 0
        for number in range(1, 100_001):
            clock.now += 0.001
            kept.chunk_received(invocation, b"12345678")
            if number % 50 == 0:  # as after the delay of 0.05 seconds
                kept._publish_chunks()
                told = [message for message in unread(queue) if message is not None and message["kind"] == "chunks"]
                entries += sum(len(message["chunks"]) for message in told)
                size += sum(entry[1] for message in told for entry in message["chunks"])
        assert size == 800_000
        assert entries < 15_000

    asyncio.run(run())


@pytest.mark.slow
def test_memory_constant_for_small_chunks(clock: Clock) -> None:
    record = Record(Invocation(None))
    data = bytes(4096)
    tracemalloc.start()
    try:
        for _ in range((1 << 30) // len(data)):
            clock.now += 0.001
            record.add_chunk(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.size == 1 << 30
    assert peak < 2 << 20


def fill(kept: Journal, count: int, size: int = 100) -> list[Invocation]:
    """Put invocations that ended into the journal: with ten chunks, a log, and an event whose body has this size."""
    invocations = [
        Invocation(http_event(rawPath=f"/{number}", rawQueryString="a=b", body=f"{number}".ljust(size)))
        for number in range(count)
    ]
    for number, invocation in enumerate(invocations):
        kept.invoked(invocation)
        kept.head_received(invocation, HEAD)
        for _ in range(10):
            kept.chunk_received(invocation, b"chunk")
        kept.log(f"Line {number}.\n", invocation.request_id)
        kept.ended(invocation, ResponseEnd("Oops" if number % 2 else "", b"why"))
    return invocations


def test_archived_invocation_keeps_its_updates(clock: Clock) -> None:
    kept = Journal()
    first, second = fill(kept, 2)
    before = [list(kept.records[each.request_id].updates()) for each in (first, second)]
    assert kept.details(first.request_id) == before[0]
    fill(kept, 52)
    assert len(kept.records) == 50
    for invocation, updates in zip((first, second), before, strict=True):
        assert kept.details(invocation.request_id) == json.loads(json.dumps(updates))
    told = unread(kept.subscribe())
    assert kinds(told)[:2] == ["summaries", "invoked"]
    assert told[0] is not None
    summary, failed, *_ = told[0]["summaries"]
    assert summary == {
        "id": first.request_id,
        "function": "",
        "at": 100.0,
        "name": ["GET", "/0?a=b"],
        "status": 200,
        "state": "200",
        "error": "",
        "client_disconnected": False,
        "first": 0.0,
        "total": 0.0,
        "size": 50,
        "count": 10,
        "sketch": "F" + "0" * 47,
    }
    assert (failed["state"], failed["error"]) == ("200 aborted", "Oops")
    kept.log("too late", first.request_id)
    assert kept.details(first.request_id) == json.loads(json.dumps(before[0]))


def test_details_beyond_budget_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BUDGET", 100_000)
    kept = Journal()
    invocations = fill(kept, 300, size=1000)
    queue = kept.subscribe()
    for number in range(50):
        kept.invoked(invocation := Invocation(number))
        kept.ended(invocation, END)
    archive = kept.archive
    assert len(archive.summaries) == 300
    assert archive.size == sum(map(len, archive.details.values())) <= 100_000
    dropped = [invocation.request_id for invocation in invocations[: 300 - len(archive.details)]]
    assert dropped == [name for name, summary in archive.summaries.items() if summary.get("dropped")]
    assert 10 < len(archive.details) < 100
    told = [update["id"] for update in unread(queue) if update is not None and update["kind"] == "dropped"]
    assert told == dropped[-len(told) :]
    assert 40 < len(told) < 60
    assert kept.details(dropped[0]) == []
    found = dict(kept.texts())
    assert "line 0." not in found[dropped[0]]
    assert "/0?a=b" in found[dropped[0]]
    assert "line 299." in found[invocations[299].request_id]


@pytest.mark.slow
def test_memory_of_full_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of a tenth of the size, filled twice: its summaries, the newest records and the budget of the details."""
    monkeypatch.setattr(journal, "RING", journal.RING // 10)
    monkeypatch.setattr(journal, "BUDGET", journal.BUDGET // 10)
    kept = Journal()
    tracemalloc.start()
    try:
        for _ in range(2):
            fill(kept, journal.RING, size=4000)
            assert len(kept.records) + len(kept.archive.summaries) == journal.RING
            assert journal.BUDGET * 0.99 < kept.archive.size <= journal.BUDGET
            assert tracemalloc.get_traced_memory()[0] < journal.BUDGET + 4_000_000
    finally:
        tracemalloc.stop()
