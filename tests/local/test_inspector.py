"""The inspector over HTTP: its updates about invocations, the events that it sends, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.local.conftest import TIMEOUT
from tests.local.inspected import Inspected, inspected

from local import inspector
from local.journal import Journal, Update

GATED = """
    def handler(event, context):
        return StreamingResponse(chunks(), 201, {"X-One": "1"}, "text/plain", ["a=1; Path=/", "b=2, 3"])

    def chunks():
        while (byte := wait()) != b".":
            if byte == b"!":
                raise KeyError("midway")
            if byte == b"L":
                os.write(1, b"a line\\n")  # in one piece, unlike print
            else:
                yield "zwölf " + byte.decode()
    """
ECHO = """
    import json

    def handler(event, context):
        tell(json.dumps(event).encode() + b"\\n")
        return wait().decode()
    """
FAILING = """
    def handler(event, context):
        raise KeyError("too early")
    """
Start = Callable[..., Inspected]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Serve a handler's source and its inspector."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with ExitStack() as stack:
        yield lambda source=GATED, **options: stack.enter_context(inspected(tmp_path / "served", source, **options))


def kinds(messages: list[Update]) -> list[str]:
    return [message["kind"] for message in messages]


def test_page_security_headers(start: Start) -> None:
    served = start()
    connection = served.connect(served.inspector)
    connection.request("GET", "/?query=ignored")
    response = connection.getresponse()
    page = response.read()
    assert (response.status, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    for tag in ("script", "style"):
        found = re.findall(rf"<{tag}\b([^>]*)>(.*?)</{tag}>", page.decode(), re.DOTALL)
        assert [attributes for attributes, _ in found] == [""]
        digest = base64.b64encode(hashlib.sha256(found[0][1].encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_events_folder(start: Start) -> None:
    served = start()
    assert served.ask("GET", "/events") == (200, {})  # without the folder
    served.events.mkdir()
    files = {"b.json": '{"b": "ö"}', "a.json": "null", "notes.txt": "{}", "broken.json": "{", "nan.json": "NaN"}
    for name, text in files.items():
        (served.events / name).write_text(text, encoding="utf-8")
    (served.events / "latin.json").write_bytes(b'"\xe9"')
    (served.events / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    (served.events / "folder.json").mkdir()
    status, events = served.ask("GET", "/events")
    assert (status, list(events.items())) == (200, [("a.json", None), ("b.json", {"b": "ö"})])


def test_updates_while_invocation_runs(start: Start) -> None:
    served = start()
    stream = served.subscribe()
    assert stream.next() == {"kind": "hello", "function": "Served", "url": served.url}
    client = served.begin("/a%20b?c=d")
    invoked = stream.next()
    identity = {"id": invoked["id"]}
    assert invoked.items() >= {"kind": "invoked", "whole": True}.items()
    assert invoked["event"]["rawPath"] == "/a%20b"
    assert invoked["event"]["requestContext"]["requestId"] == invoked["id"]

    served.gate.write(b"1")
    head, chunks = stream.next(), stream.next()
    assert head.items() >= {**identity, "kind": "head", "status": 201}.items()
    assert sorted(map(tuple, head["headers"])) == [
        ("content-type", "text/plain; charset=utf-8"),
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2, 3"),
        ("x-one", "1"),
    ]
    assert chunks.items() >= {**identity, "kind": "chunks", "text": "zwölf 1"}.items()
    ((first_at, size, count),) = chunks["chunks"]
    assert (size, count) == (8, 1)
    response = client.getresponse()
    assert response.headers["x-amzn-requestid"] == invoked["id"]

    served.gate.write(b"L")
    log = stream.next()
    assert log.items() >= {**identity, "kind": "log"}.items()
    assert log["text"] == "a line\n"

    served.gate.write(b"2")  # the next chunk is made only now
    chunks = stream.next()
    assert chunks["text"] == "zwölf 2"
    second_at = chunks["chunks"][0][0]

    served.gate.write(b".")
    end = stream.next()
    assert end.items() >= {**identity, "kind": "end", "error": None, "client_disconnected": False}.items()
    assert 0 <= head["at"] <= first_at <= log["at"] <= second_at <= end["at"]
    assert response.read().decode() == "zwölf 1zwölf 2"


def test_late_subscriber_gets_same_updates(start: Start) -> None:
    served = start()
    early = served.subscribe()
    client = served.begin()
    early.until("invoked")
    served.gate.write(b"1")
    live = early.until("chunks")
    served.gate.write(b"L")
    live += early.until("log")
    during = served.subscribe().until("log")
    assert kinds(during) == ["hello", "invoked", "head", "chunks", "log"]
    served.gate.write(b"2.")
    live += early.until("end")
    client.getresponse().read()

    replayed = served.subscribe().until("end")
    assert kinds(replayed) == ["hello", "invoked", "head", "chunks", "log", "end"]
    told = {kind: [message for message in live if message["kind"] == kind] for kind in kinds(live)}
    _, invoked, head, chunks, log, end = replayed
    assert invoked["age"] >= end["at"]
    assert (head, end) == (told["head"][0], told["end"][0])
    assert chunks["chunks"] == [entry for message in told["chunks"] for entry in message["chunks"]]
    assert chunks["text"] == "".join(message["text"] for message in told["chunks"])
    assert log["text"] == "".join(message["text"] for message in told["log"])


def test_all_subscribers_get_updates(start: Start) -> None:
    served = start()
    streams = [served.subscribe() for _ in range(2)]
    client = served.begin()
    served.gate.write(b"1.")
    client.getresponse().read()
    first, second = (stream.until("end") for stream in streams)
    assert first == second
    assert kinds(first) == ["hello", "invoked", "head", "chunks", "end"]


def test_log_before_head(start: Start) -> None:
    served = start("def handler(event, context):\n    print('first')\n    yield b'then'\n")
    stream = served.subscribe()
    served.call().read()
    told = stream.until("end")
    assert [kind for kind in kinds(told) if kind != "log"] == ["hello", "invoked", "head", "chunks", "end"]
    assert "".join(message["text"] for message in told if message["kind"] == "log") == "first\n"


ERRORS = {
    "before the first byte": (FAILING, ["hello", "invoked", "end"], "'too early'"),
    "midstream": (GATED, ["hello", "invoked", "head", "chunks", "end"], "'midway'"),
}


@pytest.mark.parametrize(("source", "expected", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_error_update(start: Start, source: str, expected: list[str], message: str) -> None:
    served = start(source)
    stream = served.subscribe()
    client = served.begin()
    served.gate.write(b"1!")
    response = client.getresponse()
    assert response.status == (502 if source == FAILING else 201)
    aborted = contextlib.nullcontext() if source == FAILING else pytest.raises(http.client.IncompleteRead)
    with aborted:
        response.read()
    told = stream.until("end")
    assert [kind for kind in kinds(told) if kind != "log"] == expected
    assert told[-1]["error"]["type"] == "KeyError"
    assert json.loads(told[-1]["error"]["body"])["errorMessage"] == message


def test_disconnect_update(start: Start) -> None:
    served = start()
    stream = served.subscribe()
    client = served.begin()
    # Closing it resets the connection (RST), so that the next send fails.
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    served.gate.write(b"1")
    response = client.getresponse()
    response.close()
    client.close()
    served.gate.write(b"23.")
    end = stream.until("end")[-1]
    assert (end["error"], end["client_disconnected"]) == (None, True)


@pytest.mark.parametrize(
    "event",
    [{"rawPath": "/x", "requestContext": {"http": {"method": "PUT", "path": "/x"}}}, {"name": "ö"}, [1], None],
    ids=["HTTP", "object", "list", "null"],
)
def test_sent_event_invokes_function(start: Start, event: Any) -> None:
    served = start(ECHO)
    stream = served.subscribe()
    status, answer = served.send(json.dumps(event).encode())  # the response arrives while the function runs
    assert (status, list(answer)) == (202, ["id"])
    text = json.dumps(event).encode() + b"\n"
    assert served.told.read(len(text)) == text
    served.gate.write(b"r")
    _, invoked, *_, end = stream.until("end")
    assert (invoked["id"], invoked["event"], end["id"]) == (answer["id"], event, answer["id"])
    assert served.subscribe().until("chunks")[-1]["text"] == '"r"'


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"NaN", b"[-Infinity]", b"1e999", b"[" * 100_000], ids=lambda body: repr(body[:12])
)
def test_invalid_json_event(start: Start, body: bytes) -> None:
    served = start()
    status, answer = served.send(body)
    assert status == 400
    assert answer["message"].startswith("not JSON: ")
    assert not served.journal.records


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_event_content_type(start: Start, kind: str | None) -> None:
    served = start()
    headers = {} if kind is None else {"content-type": kind}
    assert served.ask("POST", "/invocations", headers, b"{}")[0] == 415
    assert not served.journal.records


def test_event_size_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "_EVENT_LIMIT", 100)
    served = start(FAILING)
    assert served.send(b'"%98d"' % 1)[0] == 202
    assert served.send(b'"%99d"' % 1) == (413, {"message": "at most 100 bytes are allowed, got more"})
    assert len(served.journal.records) == 1


def test_event_is_throttled(start: Start) -> None:
    served = start(ECHO, limit=1)
    assert served.send(b"1")[0] == 202
    assert served.send(b"2") == (429, {"message": "the concurrency limit of 1 is reached"})
    assert len(served.journal.records) == 1
    served.gate.write(b".")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/inspector.html"),
        ("GET", "/events/a.json"),
        ("POST", "/inspector.html"),
        ("GET", "//"),
    ],
)
def test_unknown_path_is_404(start: Start, method: str, path: str) -> None:
    assert start().ask(method, path) == (404, {"message": "not found"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/", "GET, HEAD"), ("HEAD", "/invocations", "GET, POST"), ("PUT", "/events", "GET, HEAD")],
)
def test_other_method_is_405(start: Start, method: str, path: str, allowed: str) -> None:
    served = start()
    connection = served.connect(served.inspector)
    connection.request(method, path)
    response = connection.getresponse()
    # RFC 9110, section 15.5.6
    assert (response.status, response.headers["allow"]) == (405, allowed)
    assert response.headers["date"]


CALLS = [("GET", "/"), ("GET", "/events"), ("GET", "/invocations"), ("POST", "/invocations"), ("GET", "/else")]
FOREIGN = {
    "foreign origin": {"Origin": "https://example.com"},
    "opaque origin": {"Origin": "null"},
    "other port": {"Origin": "http://127.0.0.1:1"},
    "other scheme": {"Origin": "https://{host}"},
    "other name of loopback": {"Origin": "http://localhost:{port}"},
    "rebound name": {"Host": "example.com:{port}"},
    "rebound name, same origin": {"Host": "example.com:{port}", "Origin": "http://example.com:{port}"},
    "name that ends like loopback": {"Host": "127.0.0.1.example.com"},
    "address of the network": {"Host": "192.168.0.1:{port}"},
    "public IPv6 address": {"Host": "[2001:db8::1]:{port}"},
    "number for an address": {"Host": "2130706433:{port}"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_foreign_origin_is_refused(start: Start, headers: dict[str, str]) -> None:
    served = start()
    host = urlsplit(served.inspector).netloc
    own = {"content-type": "application/json"}
    foreign = {name: value.format(host=host, port=host.partition(":")[2]) for name, value in headers.items()}
    for method, path in CALLS:
        status, answer = served.ask(method, path, {**own, **foreign}, b"{}" if method == "POST" else None)
        assert (status, list(answer)) == (403, ["message"]), (method, path)
    assert not served.journal.records


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "a.localhost", "127.1.2.3", "[::1]"])
@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_own_origin_is_served(start: Start, name: str, site: str) -> None:
    served = start(FAILING)
    host = f"{name}:{urlsplit(served.inspector).port}"
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": site}
    assert served.ask("GET", "/events", headers)[0] == 200
    headers["content-type"] = "application/json; charset=utf-8"
    assert served.ask("POST", "/invocations", headers, b"{}")[0] == 202


def test_inspector_listens_on_loopback(start: Start) -> None:
    served = start(host="0.0.0.0")
    parts = urlsplit(served.inspector)
    assert parts.hostname == "127.0.0.1"
    # Another address of this machine, on which a server on 0.0.0.0 would answer.
    with socket.socket() as client:
        client.settimeout(TIMEOUT)
        assert client.connect_ex(("127.0.0.2", parts.port or 0)) != 0


@pytest.mark.parametrize("path", ["/", "/events"])
def test_head_is_get_without_body(start: Start, path: str) -> None:
    served = start()
    answers = []
    for method in ("GET", "HEAD"):
        connection = served.connect(served.inspector)
        connection.request(method, path)
        response = connection.getresponse()
        headers = {name: value for name, value in response.getheaders() if name != "date"}
        answers.append((response.status, headers, len(response.read())))
    (status, headers, size), head = answers
    assert head == (status, headers, 0)
    assert size == int(headers["content-length"]) > 0


class Watched(Journal):
    """Sets an event when a subscriber leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.left = threading.Event()

    def unsubscribe(self, queue: asyncio.Queue[Update | None]) -> None:
        super().unsubscribe(queue)
        self.left.set()


def test_heartbeat_detects_closed_page(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "_HEARTBEAT", 0.01)
    journal = Watched()
    stream = start(journal=journal).subscribe()
    stream.next()
    assert stream.response.readline() == b"\n"
    assert stream.response.readline() == b":\n"  # the heartbeat, which a browser ignores
    assert not journal.left.is_set()
    stream.close()
    assert journal.left.wait(TIMEOUT)


class Slow(Journal):
    """Treats every subscriber as too slow."""

    def subscribe(self) -> asyncio.Queue[Update | None]:
        queue = super().subscribe()
        queue.put_nowait(None)
        return queue


def test_slow_page_is_disconnected(start: Start) -> None:
    stream = start(journal=Slow()).subscribe()
    assert stream.next()["kind"] == "hello"
    with pytest.raises(http.client.IncompleteRead):
        stream.response.read()


def test_close_ends_streams_and_invocations(start: Start) -> None:
    served = start()
    streams = [served.subscribe() for _ in range(3)]
    assert served.send(b"{}")[0] == 202
    for stream in streams:
        stream.until("invoked")
    served.stop()  # fails if a task is still running
    for stream in streams:
        with pytest.raises(http.client.IncompleteRead):
            stream.response.read()
    with socket.create_server(("127.0.0.1", urlsplit(served.inspector).port or 0)):
        pass
