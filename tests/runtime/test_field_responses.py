"""Responses and events as clients, emulators and applications in the field need them."""

from __future__ import annotations

import asyncio
import json
from enum import Enum
from http import HTTPStatus
from typing import Any

import pytest
from tests.helpers.http_events import function_url, rest_api
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import Reset, event
from tests.runtime.test_parity import Case, run_both

from streaming_runtime import AsgiHandler, EventSourceResponse, ServerSentEvent, StreamingResponse, wire
from streaming_runtime.lifespan import Lifespan
from streaming_runtime.marshalling import reply_to


class Text(str, Enum):  # noqa: UP042 - a StrEnum shows its value
    """Since Python 3.12, str() and f-strings show such a member by its name (https://docs.python.org/3/library/enum.html)."""

    KIND = "add"
    MEDIA = "text/csv"
    HEADER = "x-mode"


class Number(int, Enum):
    SECONDS = 3


ENUMS: dict[str, tuple[object, object]] = {
    "event": (ServerSentEvent("x", event=Text.KIND).encode(), b"event: add\ndata: x\n\n"),
    "id as text": (ServerSentEvent("x", id=Text.KIND).encode(), b"id: add\ndata: x\n\n"),
    "id as number": (ServerSentEvent("x", id=Number.SECONDS).encode(), b"id: 3\ndata: x\n\n"),
    "retry": (ServerSentEvent("x", retry=Number.SECONDS).encode(), b"data: x\nretry: 3\n\n"),
    "data": (ServerSentEvent(Text.KIND).encode(), b"data: add\n\n"),
    "comment": (ServerSentEvent("x", comment=Text.KIND).encode(), b": add\ndata: x\n\n"),
    "item": (EventSourceResponse.encode(Text.KIND), b"data: add\n\n"),
    "text item": (StreamingResponse.encode(Text.KIND), b"add"),
    "media type": (StreamingResponse([], media_type=Text.MEDIA).headers["content-type"], "text/csv; charset=utf-8"),
    "header": (StreamingResponse([], headers={Text.HEADER: Text.KIND}).metadata(), None),
    "status": (StreamingResponse([], HTTPStatus.CREATED).metadata(), None),
    "buffered": (reply_to({"statusCode": 200, "headers": {"x": Number.SECONDS}, "body": Text.KIND}).metadata, None),
    "id of another type": (ServerSentEvent("x", id=1.5).encode(), b"id: 1.5\ndata: x\n\n"),  # type: ignore[arg-type]
    "error type": (wire.plain_json({"a": Text.KIND, "b": Number.SECONDS}), '{"a": "add", "b": 3}'),
}


@pytest.mark.parametrize(("found", "expected"), ENUMS.values(), ids=list(ENUMS))
def test_enum_member_is_its_value(found: Any, expected: object) -> None:
    text = found if isinstance(found, str) else bytes(found).decode()
    assert not any(name in text for name in ("KIND", "MEDIA", "HEADER", "SECONDS", "CREATED"))
    assert expected is None or found == expected


# openai 3.57.0, anthropic 2.14.0 and httpx-sse 0.4.3 make an empty event of a comment, or of `retry` alone, with an
# empty line after it, once an id was seen. A line break is enough: the next event's lines may follow.
ALONE: dict[str, tuple[ServerSentEvent, bytes]] = {
    "comment": (ServerSentEvent(comment="wait"), b": wait\n"),
    "comment of two lines": (ServerSentEvent(comment="a\nb"), b": a\n: b\n"),
    "retry": (ServerSentEvent(retry=3000), b"retry: 3000\n"),
    "comment and retry": (ServerSentEvent(comment="a", retry=1), b": a\nretry: 1\n"),
    "nothing": (ServerSentEvent(), b""),
    # These end with an empty line: it stores the id, or keeps the type from the next event.
    "id": (ServerSentEvent(id="1", retry=1), b"id: 1\nretry: 1\n\n"),
    "type": (ServerSentEvent(event="add", comment="a"), b": a\nevent: add\n\n"),
}


@pytest.mark.parametrize(("sent", "encoded"), ALONE.values(), ids=list(ALONE))
def test_empty_line_only_after_an_event(sent: ServerSentEvent, encoded: bytes) -> None:
    assert sent.encode() == encoded


def test_heartbeat_has_no_empty_line(sandbox: Sandbox) -> None:
    code = """
        import time
        from streaming_runtime import EventSourceResponse
        def events():
            yield {"data": "one", "id": 1}
            time.sleep(0.3)
            yield {"data": "two"}
        def handler(event, context):
            return EventSourceResponse(events(), ping=0.1)
        """
    body = sandbox.run(code, event()).bodies[0].rpartition(bytes(8))[2]
    first, *pings, second = body.removesuffix(b"\n\n").replace(b"\n\n", b"\n").split(b"\n")[1:]
    assert (first, second) == (b"data: one", b"data: two")
    assert pings
    assert set(pings) == {b": ping"}
    assert b": ping\n\n" not in body


@pytest.mark.parametrize("retry", [0, -1, False])
def test_retry_of_zero_is_refused(retry: int) -> None:
    """Chromium reconnects every 3 to 8 ms with it."""
    with pytest.raises(ValueError, match=f"retry must be a whole number of milliseconds, at least 1, got {retry}"):
        ServerSentEvent("x", retry=retry).encode()


def test_metadata_always_has_cookies() -> None:
    """cargo-lambda 1.9.2 answers 500 to metadata without the key."""
    assert json.loads(StreamingResponse([]).metadata())["cookies"] == []
    assert wire.http_metadata(200, {}, []) == b'{"statusCode":200,"headers":{},"cookies":[]}'


WITHOUT_CONTENT = [204, 205, 304]  # RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5


@pytest.mark.parametrize("status", WITHOUT_CONTENT)
@pytest.mark.parametrize(
    "response",
    [
        "StreamingResponse(items(), {status})",
        "StreamingResponse(async_items(), {status})",
        "{{'statusCode': {status}, 'body': 'text'}}",
        "{{'statusCode': {status}, 'body': items()}}",
    ],
    ids=["sync", "async", "buffered", "buffered stream"],
)
def test_status_without_content(sandbox: Sandbox, status: int, response: str) -> None:
    """The handler's code runs to its end all the same."""
    code = f"""
        from streaming_runtime import StreamingResponse
        def items():
            yield "a"
            yield "b"
            print("ran")
        async def async_items():
            for item in items():
                yield item
        def handler(event, context):
            return {response.format(status=status)}
        """
    ended = sandbox.run(code, event())
    metadata = b'{"statusCode":%d,"headers":{},"cookies":[]}' % status
    assert ended.bodies == [metadata + bytes(8)]
    assert ended.output == ("ran\n" if "items()" in response else "")


def test_content_type_of_own_with_304() -> None:
    """A server may send the header that the 200 response would have (RFC 9110, section 15.4.5)."""
    assert StreamingResponse([], 304, media_type="text/html").headers == {"content-type": "text/html; charset=utf-8"}
    assert StreamingResponse([], 304, {"Content-Type": "a/b"}).headers == {"content-type": "a/b"}


BODIES = {
    "generator": ("(word for word in ('a', b'b'))", b"ab"),
    "iterator": ("iter(['a', b'b'])", b"ab"),
    "async generator": ("words()", b"ab"),
}


@pytest.mark.parametrize(("body", "sent"), BODIES.values(), ids=list(BODIES))
@pytest.mark.parametrize("definition", ["def", "async def"])
def test_body_that_streams(sandbox: Sandbox, definition: str, body: str, sent: bytes) -> None:
    code = f"""
        async def words():
            yield "a"
            yield b"b"
        {definition} handler(event, context):
            return {{"statusCode": 201, "headers": {{"content-type": "text/plain"}}, "body": {body}}}
        """
    post = sandbox.run(code, event()).posts[0]
    metadata = b'{"statusCode":201,"headers":{"content-type":"text/plain"},"cookies":[]}'
    assert post.body == metadata + bytes(8) + sent
    assert post.raw.endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


def test_base64_of_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="isBase64Encoded is not allowed with a body that streams"):
        reply_to({"statusCode": 200, "body": iter(["YQ=="]), "isBase64Encoded": True})


async def scope_of(event: dict[str, Any]) -> dict[str, Any]:
    """The scope that an application gets for this event."""
    scopes: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan")
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    response = await AsgiHandler(app)(event, None)
    async for _ in response.content:  # type: ignore[union-attr]
        pass
    await response.content.aclose()  # type: ignore[union-attr]
    return scopes[0]


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    from streaming_runtime.event_loop import event_loop

    monkeypatch.setattr(event_loop, "startup_hooks", [])
    monkeypatch.setattr(event_loop, "shutdown_hooks", [])


SERVERS: dict[str, tuple[dict[str, str], tuple[str, int]]] = {
    "name": ({"host": "a.example"}, ("a.example", 443)),
    "port": ({"host": "a.example:8443"}, ("a.example", 8443)),
    "port of the proxy": ({"host": "a.example:8443", "x-forwarded-port": "444"}, ("a.example", 444)),
    "scheme": ({"host": "a.example", "x-forwarded-proto": "http"}, ("a.example", 80)),
    "IPv6": ({"host": "[2001:db8::1]"}, ("2001:db8::1", 443)),
    "IPv6 with a port": ({"host": "[::1]:3000"}, ("::1", 3000)),
    "largest port": ({"host": "a.example:65535"}, ("a.example", 65535)),
    "port too large": ({"host": "a.example:65536"}, ("a.example", 443)),
    "port zero": ({"host": "a.example:0"}, ("a.example", 443)),
    "port of many digits": ({"host": "a.example:" + "9" * 5000}, ("a.example", 443)),
    "port of other digits": ({"host": "a.example:²"}, ("a.example", 443)),
    "port of the proxy too large": ({"host": "a.example", "x-forwarded-port": "65536"}, ("a.example", 443)),
    "empty port": ({"host": "a.example:"}, ("a.example", 443)),
}


@pytest.mark.parametrize(("headers", "server"), SERVERS.values(), ids=list(SERVERS))
def test_server_of_the_scope(headers: dict[str, str], server: tuple[str, int]) -> None:
    assert asyncio.run(scope_of(function_url(headers=headers)))["server"] == server


def without(event: dict[str, Any], *names: str) -> dict[str, Any]:
    """The event without some fields of its request context, as emulators and tests of users make it."""
    event = json.loads(json.dumps(event))
    for name in names:
        *folders, last = name.split(".")
        place = event
        for folder in folders:
            place = place[folder]
        del place[last]
    return event


SPARSE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "protocol": (without(function_url(), "requestContext.http.protocol"), {"http_version": "1.1"}),
    "address": (without(function_url(), "requestContext.http.sourceIp"), {"client": None}),
    "query": (without(function_url(), "rawQueryString"), {"query_string": b""}),
    "REST protocol": (without(rest_api(), "requestContext.protocol"), {"http_version": "1.1"}),
    "REST identity": (without(rest_api(), "requestContext.identity"), {"client": None}),
    "REST address": (without(rest_api(), "requestContext.identity.sourceIp"), {"client": None}),
    "REST path and stage": (without(rest_api(), "requestContext.path", "requestContext.stage"), {"root_path": ""}),
}


@pytest.mark.parametrize(("event", "expected"), SPARSE.values(), ids=list(SPARSE))
def test_sparse_event(event: dict[str, Any], expected: dict[str, Any]) -> None:
    scope = asyncio.run(scope_of(event))
    assert {name: scope[name] for name in expected} == expected


@pytest.mark.parametrize("header", [(b"content-length", 0), (b"x", 5), (0, b"x"), ("x", b"y"), (b"x", "y")])
def test_header_that_is_not_bytes(header: tuple[Any, Any]) -> None:
    """``bytes(0)`` is empty and ``bytes(5)`` is five NULs (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})

    async def main() -> None:
        await AsgiHandler(app)(function_url(), None)

    with pytest.raises(TypeError, match=r"header names and values must be bytes, not (int|str)"):
        asyncio.run(main())


def test_lifespan_shutdown_comes_once() -> None:
    """As with uvicorn, an application that goes on receiving waits."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            received.append(message["type"])
            await send({"type": message["type"] + ".complete"})

    async def main() -> None:
        lifespan = Lifespan(app)
        await lifespan.startup()
        await lifespan.shutdown()
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert received == ["lifespan.startup", "lifespan.shutdown"]


def test_disconnect_lets_others_run() -> None:
    """It comes immediately and repeatedly, as with uvicorn, since several parts of an application may look for it."""
    order: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})
        asyncio.get_running_loop().call_soon(order.append, "other")
        while "other" not in order:
            assert (await receive())["type"] in {"http.request", "http.disconnect"}

    async def main() -> None:
        response = await AsgiHandler(app)(function_url(), None)
        assert [item async for item in response.content] == [b""]  # type: ignore[union-attr]
        await response.content.aclose()  # type: ignore[union-attr]

    asyncio.run(asyncio.wait_for(main(), 10))
    assert order == ["other"]


# The two messages that differ from awslambdaric's on purpose: they say what to do.
MESSAGES: dict[str, tuple[Case, str, str]] = {
    "malformed handler name": (
        Case("", environment={"_HANDLER": "handler"}),
        "Bad handler 'handler': not enough values to unpack (expected 2, got 1)",
        "Bad handler 'handler': it must name a module and a function, as app.handler",
    ),
    "result without a JSON form": (
        Case("def handler(e, c):\n    return {1}\n"),
        "Unable to marshal response: Object of type set is not JSON serializable",
        "Unable to marshal response: Object of type set is not JSON serializable; "
        "make it a JSON value first, such as a date by isoformat()",
    ),
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize(("case", "theirs", "ours"), MESSAGES.values(), ids=list(MESSAGES))
def test_messages_that_differ(sandbox: Sandbox, case: Case, theirs: str, ours: str) -> None:
    found = run_both(sandbox, case)
    assert [json.loads(ended.posts[0].body)["errorMessage"] for ended in found] == [theirs, ours]


ERRORS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "exception": ("raise KeyError('secret')", {"errorType": "KeyError"}, {"errorMessage": "'secret'"}),
    "bad item": ("yield 5", {"errorType": "TypeError"}, {}),
    "exit": ("sys.exit('secret')", {"errorType": "SystemExit"}, {"errorMessage": "secret"}),
}


@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize("option", ["", ", error_messages=True"], ids=["type", "message"])
@pytest.mark.parametrize(("statement", "data", "message"), ERRORS.values(), ids=list(ERRORS))
def test_error_event(
    sandbox: Sandbox, definition: str, option: str, statement: str, data: dict[str, str], message: dict[str, str]
) -> None:
    """The message may hold a secret, so it goes out only where an option says so. The trailers are for Lambda alone."""
    code = f"""
        import sys
        from streaming_runtime import EventSourceResponse
        {definition} events():
            yield "one"
            {statement}
            yield "two"
        def handler(event, context):
            return EventSourceResponse(events(){option})
        """
    post = sandbox.run(code, event()).posts[0]
    sent = post.body.rpartition(bytes(8))[2]
    assert sent.startswith(b"data: one\n\nevent: error\ndata: {")
    found = json.loads(sent.partition(b"event: error\ndata: ")[2])
    assert found.keys() == ({"errorType", "errorMessage"} if option else {"errorType"})
    assert found.items() >= {**data, **(message if option else {})}.items()
    assert option or b"secret" not in post.body
    assert post.trailers["lambda-runtime-function-error-type"] == data["errorType"]


def test_error_before_the_first_byte(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import EventSourceResponse
        def events():
            raise KeyError("secret")
            yield
        def handler(event, context):
            return EventSourceResponse(events())
        """
    post = sandbox.run(code, event()).posts[0]
    assert post.target.endswith("/error")
    assert json.loads(post.body)["errorType"] == "KeyError"


def test_error_event_after_a_heartbeat(sandbox: Sandbox) -> None:
    code = """
        import time
        from streaming_runtime import EventSourceResponse
        def events():
            time.sleep(0.3)
            raise KeyError("secret")
            yield
        def handler(event, context):
            return EventSourceResponse(events(), ping=0.1)
        """
    body = sandbox.run(code, event()).posts[0].body.rpartition(bytes(8))[2]
    assert body.endswith(b': ping\nevent: error\ndata: {"errorType": "KeyError"}\n\n')


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_connection_that_breaks_before_the_first_item(sandbox: Sandbox, definition: str) -> None:
    """A heartbeat finds it out while the content is not even asked for its first item. It is reported all the same."""
    code = f"""
        import os, time
        from streaming_runtime import EventSourceResponse
        {definition} events():
            yield "x"
        import streaming_runtime.invocation as invocation
        prepare = invocation.Exchange._prepare
        def prepare_slowly(exchange, result):
            prepare(exchange, result)
            while result != "served" and len(os.listdir("/proc/self/task")) > 1:
                time.sleep(0.001)  # until a ping fails, which ends the watcher
        invocation.Exchange._prepare = prepare_slowly
        def handler(event, context):
            return EventSourceResponse(events(), ping=0.01) if event == 1 else "served"
        """
    ended = sandbox.run(code, event(b"1"), event(b"2"), posts=[Reset(at=b": ping\n")])
    assert ended.bodies[1] == b'"served"'
    assert ended.output.startswith("[ERROR] RuntimeApiError: the response was aborted\n")
