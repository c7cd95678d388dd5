"""Server-sent events: their form, read by a parser that follows the standard; their items; and heartbeats."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.chunks import DELIMITER, METADATA_TYPE, chunk, chunked, complete_chunks
from tests.helpers.protocol import ERROR_TYPE, JSON_REMEDY, error_report, error_trailers
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import Reset, event, response_head

from streaming_runtime import EventSourceResponse, ServerSentEvent
from streaming_runtime.event_stream import Heartbeat, _Watcher
from streaming_runtime.runtime_api import RuntimeApiError

METADATA = (
    b'{"statusCode":200,"headers":{"content-type":"text/event-stream; charset=utf-8",'
    b'"cache-control":"no-store","x-accel-buffering":"no"},"cookies":[]}'
)
PING = b": ping\n"


def head(host: str, metadata: bytes = METADATA) -> bytes:
    """All that is sent before the first event."""
    return response_head(host, METADATA_TYPE) + chunk(metadata) + chunk(DELIMITER)


def payload_chunks(host: str, raw: bytes) -> list[bytes]:
    """The payload's chunks of a complete response."""
    assert raw.startswith(head(host))
    return complete_chunks(raw.removeprefix(head(host)))


@dataclass
class Stream:
    """What a browser reads from a stream, by the letter of the standard.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    events: list[tuple[str, str, str]] = field(default_factory=list)  # type, data, last event id
    retry: int | None = None
    comments: list[str] = field(default_factory=list)


def interpret(stream: bytes) -> Stream:
    text = stream.decode("utf-8", errors="strict").removeprefix("\ufeff")
    *lines, _incomplete = re.split("\r\n|\r|\n", text)
    result = Stream()
    data = kind = last_id = ""
    for line in lines:
        if line == "":
            if data != "":
                result.events.append((kind or "message", data.removesuffix("\n"), last_id))
            data = kind = ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "":
            result.comments.append(value)
        elif name == "data":
            data += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            result.retry = int(value)
    return result


ENCODED: dict[str, tuple[ServerSentEvent, bytes]] = {
    "no field": (ServerSentEvent(), b""),
    "text": (ServerSentEvent("a"), b"data: a\n\n"),
    "empty text": (ServerSentEvent(""), b"data: \n\n"),
    "text that begins with a space": (ServerSentEvent(" a:b"), b"data:  a:b\n\n"),
    "text that ends with a line break": (ServerSentEvent("a\n"), b"data: a\ndata: \n\n"),
    "line feed": (ServerSentEvent("a\nb"), b"data: a\ndata: b\n\n"),
    "carriage return": (ServerSentEvent("a\rb"), b"data: a\ndata: b\n\n"),
    "CRLF": (ServerSentEvent("a\r\nb"), b"data: a\ndata: b\n\n"),
    "LF and CR": (ServerSentEvent("a\n\rb"), b"data: a\ndata: \ndata: b\n\n"),
    "empty lines": (ServerSentEvent("\n\n"), b"data: \ndata: \ndata: \n\n"),
    "line breaks of Unicode": (
        ServerSentEvent("a\u2028b\u2029c\x0bd\x0ce\x1cf\x85g"),
        "data: a\u2028b\u2029c\x0bd\x0ce\x1cf\x85g\n\n".encode(),
    ),
    "NUL": (ServerSentEvent("a\0b"), b"data: a\0b\n\n"),
    "not ASCII": (ServerSentEvent("zwölf 😀"), "data: zwölf 😀\n\n".encode()),
    "dict": (ServerSentEvent({"zwölf": [1, None, "a\nb"]}), 'data: {"zwölf": [1, null, "a\\nb"]}\n\n'.encode()),
    "decimal": (ServerSentEvent([Decimal("1.50")]), b"data: [1.50]\n\n"),
    "list": (ServerSentEvent([]), b"data: []\n\n"),
    "false": (ServerSentEvent(False), b"data: false\n\n"),
    "zero": (ServerSentEvent(0), b"data: 0\n\n"),
    "event": (ServerSentEvent("a", event="add"), b"event: add\ndata: a\n\n"),
    "event without data": (ServerSentEvent(event="add"), b"event: add\n\n"),
    "empty event": (ServerSentEvent(event=""), b"event: \n\n"),
    "id": (ServerSentEvent(id="1"), b"id: 1\n\n"),
    "numeric id": (ServerSentEvent(id=0), b"id: 0\n\n"),
    "empty id": (ServerSentEvent(id=""), b"id: \n\n"),
    "id with a line break of Unicode": (ServerSentEvent(id="a\u2028b\x85"), "id: a\u2028b\x85\n\n".encode()),
    "retry": (ServerSentEvent(retry=1), b"retry: 1\n"),
    "comment": (ServerSentEvent(comment="a\r\nb\rc\nd"), b": a\n: b\n: c\n: d\n"),
    "empty comment": (ServerSentEvent(comment=""), b": \n"),
    "all": (
        ServerSentEvent("a\nb", "add", 7, 3000, "zwölf"),
        ": zwölf\nid: 7\nevent: add\ndata: a\ndata: b\nretry: 3000\n\n".encode(),
    ),
}


@pytest.mark.parametrize(("sent", "encoded"), ENCODED.values(), ids=list(ENCODED))
def test_event_encoding(sent: ServerSentEvent, encoded: bytes) -> None:
    assert sent.encode() == encoded


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    **{
        f"{name} with {break_!r}": (
            {name: f"a{break_}data: b"},
            ValueError,
            f"{name} of an event must be one line without NUL, not {f'a{break_}data: b'!r}",
        )
        for name in ("id", "event")
        for break_ in ("\n", "\r", "\r\n", "\0")
    },
    **{
        f"retry {retry!r}": (
            {"retry": retry},
            ValueError,
            f"retry must be a whole number of milliseconds, at least 1, got {retry!r}",
        )
        for retry in (True, False, 0, -1, 1.5, "1000")
    },
    "data without JSON form": ({"data": {1}}, TypeError, f"Object of type set is not JSON serializable{JSON_REMEDY}"),
    "bytes": ({"data": b"a"}, TypeError, "data of an event must be a str or a JSON value, not bytes"),
}


@pytest.mark.parametrize(("fields", "kind", "message"), REFUSED.values(), ids=list(REFUSED))
def test_invalid_field_is_refused(fields: dict[str, Any], kind: type[Exception], message: str) -> None:
    """A field that a browser would read differently is refused."""
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        ServerSentEvent(**fields).encode()


@pytest.mark.parametrize("number", [float("nan"), float("-inf"), Decimal("Infinity"), Decimal("NaN")], ids=str)
def test_non_json_number_is_refused(number: float | Decimal) -> None:
    with pytest.raises(ValueError, match=r"^Out of range float values are not JSON compliant"):
        ServerSentEvent([number]).encode()


CHARACTERS = st.one_of(st.sampled_from(" :\n\r\u2028\u2029\x85\x0b\0\ufeffa"), st.characters(exclude_categories=["Cs"]))
ONE_LINE = st.text(CHARACTERS.filter(lambda character: character not in "\n\r\0"))
EVENTS = st.builds(
    ServerSentEvent,
    data=st.none() | st.text(CHARACTERS),
    event=st.none() | ONE_LINE,
    id=st.none() | ONE_LINE | st.integers(),
    retry=st.none() | st.integers(min_value=1),
    comment=st.none() | st.text(CHARACTERS),
)


def normal(text: str) -> str:
    return re.sub("\r\n|\r", "\n", text)


@pytest.mark.slow
@given(st.lists(EVENTS))
def test_events_round_trip_through_a_browser(events: list[ServerSentEvent]) -> None:
    expected = Stream()
    last_id = ""
    for sent in events:
        last_id = last_id if sent.id is None else str(sent.id)
        if sent.data is not None:
            expected.events.append((sent.event or "message", normal(sent.data), last_id))
        if sent.retry is not None:
            expected.retry = sent.retry
        if sent.comment is not None:
            expected.comments += normal(sent.comment).split("\n")
    assert interpret(b"".join(sent.encode() for sent in events)) == expected


JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(CHARACTERS),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(CHARACTERS), inner),
    max_leaves=5,
).filter(lambda value: not isinstance(value, str))


@given(JSON)
def test_json_data_round_trip(value: Any) -> None:
    [(kind, data, _)] = interpret(ServerSentEvent(value).encode()).events
    assert (kind, json.loads(data)) == ("message", value)


@pytest.mark.parametrize("ping", [-1, -0.001, float("nan"), float("inf"), 1e10])
def test_invalid_ping_is_refused(ping: float) -> None:
    with pytest.raises(ValueError, match=f"ping must be seconds, not {re.escape(str(ping))}"):
        EventSourceResponse([], ping)


ITEMS = "[ServerSentEvent({'a': 'ö'}, id=1), {'data': 'x', 'event': 'add', 'retry': 5}, 'two\\nlines', {}]"


@pytest.mark.parametrize("outer", ["def", "async def"])
@pytest.mark.parametrize("inner", ["def", "async def"])
def test_event_stream_bytes(sandbox: Sandbox, inner: str, outer: str) -> None:
    code = f"""
        from streaming_runtime import EventSourceResponse, ServerSentEvent
        {outer} handler(event, context):
            return EventSourceResponse(events())
        {inner} events():
            for item in {ITEMS}:
                yield item
        """
    ended = sandbox.run(code, event())
    expected = [
        'id: 1\ndata: {"a": "ö"}\n\n'.encode(),
        b"event: add\ndata: x\nretry: 5\n\n",
        b"data: two\ndata: lines\n\n",
    ]
    assert [post.raw for post in ended.posts] == [head(ended.host) + chunked(*expected)]
    assert ended.output == ""


def test_single_text_is_one_event(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import EventSourceResponse
        def handler(event, context):
            return EventSourceResponse("text")
        """
    ended = sandbox.run(code, event())
    assert ended.posts[0].raw == head(ended.host) + chunked(b"data: text\n\n")


def test_handler_sets_status_headers_cookies(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import EventSourceResponse
        def handler(event, context):
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "yes", "Content-Type": "text/plain", "X-A": ""}
            return EventSourceResponse([], status_code=203, headers=headers, cookies=["a=1", "b=2"])
        """
    ended = sandbox.run(code, event())
    metadata = (
        b'{"statusCode":203,"headers":{"cache-control":"no-cache","x-accel-buffering":"yes",'
        b'"content-type":"text/plain","x-a":""},"cookies":["a=1","b=2"]}'
    )
    assert [post.raw for post in ended.posts] == [head(ended.host, metadata) + chunked()]


WRONG: dict[str, tuple[str, str, str]] = {
    "bytes": ("b'x'", "TypeError", "an event is a ServerSentEvent, a dict or a str, not bytes"),
    "None": ("None", "TypeError", "an event is a ServerSentEvent, a dict or a str, not NoneType"),
    "number": ("5", "TypeError", "an event is a ServerSentEvent, a dict or a str, not int"),
    "list": ("['a']", "TypeError", "an event is a ServerSentEvent, a dict or a str, not list"),
    "unknown field": (
        "{'date': 1, 'data': 'x'}",
        "TypeError",
        "an event has no field 'date'; to send a dict as JSON, use ServerSentEvent(data=…)",
    ),
    "fields of several types": (
        "{'x': 1, 2: 3}",
        "TypeError",
        "an event has no field 2; to send a dict as JSON, use ServerSentEvent(data=…)",
    ),
    "data without JSON form": (
        "{'data': {1}}",
        "TypeError",
        f"Object of type set is not JSON serializable{JSON_REMEDY}",
    ),
    "line break": (
        "{'id': 'a\\nb'}",
        "ValueError",
        "id of an event must be one line without NUL, not 'a\\nb'",
    ),
    "retry": ("{'retry': True}", "ValueError", "retry must be a whole number of milliseconds, at least 1, got True"),
    "event of another type": ("{'event': 5}", "TypeError", "event of an event must be a str, not int"),
    "comment of another type": ("{'comment': 5}", "TypeError", "comment of an event must be a str, not int"),
}


@pytest.mark.traced
@pytest.mark.slow
@pytest.mark.parametrize(("item", "kind", "message"), WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_wrong_event_before_and_after_first(
    sandbox: Sandbox, definition: str, item: str, kind: str, message: str
) -> None:
    code = f"""
        from streaming_runtime import EventSourceResponse
        def handler(event, context):
            return EventSourceResponse(events(event))
        {definition} events(event):
            try:
                if event:
                    yield "one"
                yield {item}
            finally:
                print("closed")
        """
    ended = sandbox.run(code, event(b"0"), event(b"1"))
    error, response = ended.posts
    report = json.loads(error.body)
    assert error.target.endswith("/error")
    assert (report["errorType"], report["errorMessage"]) == (kind, message)
    last = b'event: error\ndata: {"errorType": "%b"}\n\n' % kind.encode()
    assert response.body == METADATA + DELIMITER + b"data: one\n\n" + last
    report = error_report(kind, message, *report["stackTrace"])
    assert response.raw == head(ended.host) + chunk(b"data: one\n\n") + chunk(last) + error_trailers(report)
    assert ended.output.count("\nclosed\n") == 2


WAITS = {
    "sync": ("def", "gate.read(1)"),
    "async": ("async def", "await asyncio.to_thread(gate.read, 1)"),
    "blocking async": ("async def", "gate.read(1)"),
}
HEARTBEAT = """
    import asyncio, threading
    from streaming_runtime import EventSourceResponse, StreamingResponse
    gate = open("gate", "rb", buffering=0)

    def handler(event, context):
        if event == "threads":
            return [thread.name for thread in threading.enumerate() if "asyncio" not in thread.name]
        return EventSourceResponse(globals()[event](), ping=0.02)
    """


def waiting(definition: str, wait: str) -> str:
    return (
        HEARTBEAT
        + f"""
    {definition} first():
        {wait}
        yield "one"
    {definition} later():
        yield "one"
        {wait}
        yield "two"
    {definition} last():
        yield "one"
        {wait}
    {definition} failing():
        {wait}
        raise ValueError("it broke")
        yield
    """
    )


waits = pytest.mark.parametrize(("definition", "wait"), WAITS.values(), ids=list(WAITS))


@waits
@pytest.mark.parametrize("where", ["first", "later", "last"])
def test_ping_while_handler_waits(sandbox: Sandbox, definition: str, wait: str, where: str) -> None:
    gate = sandbox.gate()
    running = sandbox.start(waiting(definition, wait), event(json.dumps(where).encode()), event(b'"threads"'))
    with gate:
        # The handler waits at the gate: only the heartbeat sends anything.
        running.api.wait_until((PING if where == "first" else b"data: one\n\n\r\n7\r\n" + PING), request=1)
        gate.write(b".")
        ended = running.end()
    sent = payload_chunks(ended.host, ended.posts[0].raw)
    expected = {"first": [b"data: one\n\n"], "later": [b"data: one\n\n", b"data: two\n\n"], "last": [b"data: one\n\n"]}
    assert [item for item in sent if item != PING] == expected[where]
    # On a busy machine there may also be a ping before the first event.
    assert sent[0 if where == "first" else sent.index(b"data: one\n\n") + 1] == PING
    assert json.loads(ended.bodies[1]) == ["MainThread"]
    assert ended.output == ""


@waits
def test_error_after_ping_goes_into_trailers(sandbox: Sandbox, definition: str, wait: str) -> None:
    gate = sandbox.gate()
    running = sandbox.start(waiting(definition, wait), event(b'"failing"'), event(b'"threads"'))
    with gate:
        sent = running.api.wait_until(PING, request=1)
        assert sent.startswith(head(running.api.host) + chunk(PING))
        gate.write(b".")
        ended = running.end()
    response, threads = ended.posts
    assert response.raw.startswith(head(ended.host) + chunk(PING))
    last = b'event: error\ndata: {"errorType": "ValueError"}\n\n'
    assert response.body.replace(PING, b"") == METADATA + DELIMITER + last
    assert response.trailers[ERROR_TYPE] == "ValueError"
    assert json.loads(threads.body) == ["MainThread"]


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_streams_share_one_watcher(sandbox: Sandbox, definition: str) -> None:
    """Heartbeats need one thread in the process, which ends when it finds no stream."""
    code = f"""
        import os, time
        from streaming_runtime import EventSourceResponse, StreamingResponse
        def threads():
            return str(len(os.listdir("/proc/self/task")))
        def handler(event, context):
            if event == "wait":
                while threads() != "1":
                    time.sleep(0.001)
                return "ended"
            return eval(event)
        {definition} events():
            yield threads()
        """
    none = [f"{name})" for name in ("EventSourceResponse(events(), None", "StreamingResponse(events()")]
    some = [f"EventSourceResponse(events(){ping})" for ping in ("", ", 60", ", 0.01")]
    ended = sandbox.run(code, *(event(json.dumps(source).encode()) for source in [*none, *some, *some, "wait"]))
    seen = [body.rpartition(DELIMITER)[2].removeprefix(b"data: ").strip() for body in ended.bodies[:-1]]
    assert seen == [b"1"] * 2 + [b"2"] * 6
    assert ended.bodies[-1] == b'"ended"'


BROKEN = {
    "event": ("yield 'x'", "[ERROR] RuntimeApiError: the response was aborted"),
    "end": ("return", "[ERROR] RuntimeApiError: the response was aborted"),
    "error": ("raise ValueError('it broke')", "[ERROR] ValueError: it broke\r"),
}


@pytest.mark.traced
@pytest.mark.parametrize(("then", "logged"), BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_broken_connection_during_ping(sandbox: Sandbox, definition: str, then: str, logged: str) -> None:
    """It is one error, of the code that sends next."""
    code = f"""
        import os, time
        from streaming_runtime import EventSourceResponse
        def handler(event, context):
            return EventSourceResponse(events(), ping=0.01) if event == 1 else "served"
        {definition} events():
            try:
                while len(os.listdir("/proc/self/task")) > 1:
                    time.sleep(0.001)  # until a ping fails, which ends the watcher
                {then}
                yield
            finally:
                print("closed")
        """
    ended = sandbox.run(code, event(b"1"), event(b"2"), posts=[Reset(at=PING)])
    assert ended.methods == ["GET", "POST", "GET", "POST", "GET"]
    assert ended.bodies[1] == b'"served"'
    assert ended.output.count("[ERROR]") == 1
    assert logged in ended.output
    assert ended.output.count("closed\n") == 1
    assert "Exception in thread" not in ended.errors


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_pings_and_events_do_not_interleave(sandbox: Sandbox, definition: str) -> None:
    # The sizes are around that from which a chunk is sent in pieces.
    code = f"""
        import time
        from streaming_runtime import EventSourceResponse
        def handler(event, context):
            return EventSourceResponse(events(), ping=0.001)
        {definition} events():
            for number in range(600):
                if number % 10 == 0:
                    time.sleep(0.002)
                yield {{"id": number, "data": "x" * (number % 7 * 5000)}}
        """
    ended = sandbox.run(code, event())
    sent = payload_chunks(ended.host, ended.posts[0].raw)
    events = [b"id: %d\ndata: %b\n\n" % (number, b"x" * (number % 7 * 5000)) for number in range(600)]
    assert [item for item in sent if item != PING] == events
    assert PING in sent


class Written:
    """A response stream that keeps what is written, or fails."""

    forked = ended = failing = False

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def write(self, data: bytes, payload: bool = True) -> None:
        if self.failing:
            raise RuntimeApiError("broken")
        self.data.append(data)


def test_watcher_sends_until_the_end() -> None:
    watcher = _Watcher()
    beats = iter([0.0, 0.0, None])
    heartbeat: Any = SimpleNamespace(beat=lambda: next(beats))
    watcher.lock.acquire()
    watcher._current = heartbeat
    watcher.lock.release()
    watcher.run()
    assert list(beats) == []
    assert watcher._current is watcher._wakes_at is None
    watcher.run()  # no stream


def test_watcher_is_woken_for_shorter_interval() -> None:
    watcher = _Watcher()
    called = threading.Event()
    for interval in (60.0, 60.0, 0.0, 0.0):
        heartbeat: Any = SimpleNamespace(beat=lambda interval=interval: 60.0 if interval else called.set())
        watcher.watch(heartbeat, interval)
    assert called.wait(30)
    watcher.leave()


def test_beats_of_a_heartbeat() -> None:
    stream: Any = Written()
    heartbeat = Heartbeat(stream, 60)
    heartbeat.stop()
    left = heartbeat.beat()
    assert left is not None
    assert 0 < left <= 60
    heartbeat._last -= 60
    assert heartbeat.beat() == 60
    assert stream.data == [PING]
    heartbeat._last -= 60
    stream.failing = True
    assert heartbeat.beat() is None
    stream.ended = True
    assert heartbeat.beat() is None
    assert stream.data == [PING]
