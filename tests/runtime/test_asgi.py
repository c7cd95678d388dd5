"""ASGI applications as handlers: how they see a request, how their response is sent, and how they end."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.http_events import HOST, Message, function_url, rest_api
from tests.helpers.scripted_api import LIMIT

from streaming_runtime import AsgiHandler, StreamingResponse
from streaming_runtime.event_loop import event_loop

pytestmark = pytest.mark.own_interpreter

Receive = Callable[[], Coroutine[Any, Any, Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Lifespan = Callable[[Receive, Send], Awaitable[None]]

START: Message = {"type": "http.response.start", "status": 200}
END: Message = {"type": "http.response.body"}


def part(body: object, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.fixture(autouse=True)
def _no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "startup_hooks", [])
    monkeypatch.setattr(event_loop, "shutdown_hooks", [])


def http_only(app: App) -> App:
    """`app` without a lifespan: like many applications, it raises if it is asked for one."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        await app(scope, receive, send)

    return application


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(LIMIT):
            return await coroutine

    return asyncio.run(main())


async def content(response: StreamingResponse) -> AsyncIterator[bytes]:
    stream: Any = response.content
    async with aclosing(stream):
        async for item in stream:
            yield item


async def serve(app: App, request: Message, root_path: str = "") -> tuple[StreamingResponse, list[bytes]]:
    response = await AsgiHandler(http_only(app), root_path)(request, None)
    return response, [item async for item in content(response)]


def scope_of(request: Message, root_path: str = "") -> Message:
    scopes = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(START)
        await send(END)

    run(serve(app, request, root_path))
    return scopes[0]


# The request.


def test_function_url_scope() -> None:
    request = function_url(
        "POST",
        "/caf%C3%A9/a%2Fb",
        "q=a%20b&q=2",
        cookies=["a=1", "b=2"],
        headers={"Host": f"{HOST}:8443", "X-Forwarded-Port": "8443", "X-Forwarded-Proto": "http", "X-Twice": "1,2"},
    )
    assert scope_of(request) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/café/a/b",
        "raw_path": b"/caf%C3%A9/a%2Fb",
        "query_string": b"q=a%20b&q=2",
        "root_path": "",
        "headers": [
            (b"host", HOST.encode() + b":8443"),
            (b"x-forwarded-port", b"8443"),
            (b"x-forwarded-proto", b"http"),
            (b"x-twice", b"1,2"),
            (b"cookie", b"a=1; b=2"),
        ],
        "client": ("203.0.113.7", 0),
        "server": (HOST, 8443),
        "state": {},
        "aws.event": request,
        "aws.context": None,
    }


def test_rest_api_scope() -> None:
    request = rest_api(
        "DELETE",
        "/caf%C3%A9",
        {"q": ["a b", "é&"], "empty": [""]},
        "/prod",
        multiValueHeaders={"Host": [HOST], "X-Twice": ["1", "2"], "Cookie": ["a=1; b=2"]},
    )
    assert scope_of(request) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "DELETE",
        "scheme": "https",
        "path": "/prod/café",
        "raw_path": b"/prod/caf%C3%A9",
        "query_string": b"q=a+b&q=%C3%A9%26&empty=",
        "root_path": "/prod",
        "headers": [(b"host", HOST.encode()), (b"x-twice", b"1"), (b"x-twice", b"2"), (b"cookie", b"a=1; b=2")],
        "client": ("203.0.113.7", 0),
        "server": (HOST, 443),
        "state": {},
        "aws.event": request,
        "aws.context": None,
    }


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (function_url(headers={}), {"server": (HOST, 443), "scheme": "https", "headers": []}),
        (function_url(headers={"x-forwarded-port": "443, 80"}), {"server": (HOST, 443)}),
        (function_url(headers={"X-Name": "é 李"}), {"headers": [(b"x-name", b"\xe9 ?")]}),
        (function_url(headers={"cookie": "a=1"}, cookies=["a=1", "b=2"]), {"headers": [(b"cookie", b"a=1; b=2")]}),
        (function_url(path="/%ff"), {"path": "/\N{REPLACEMENT CHARACTER}", "raw_path": b"/%ff"}),
        (rest_api(multiValueHeaders=None, headers={"X-A": "1"}), {"headers": [(b"x-a", b"1")]}),
        (rest_api(multiValueHeaders={"A": ["1"], "a": ["2"]}), {"headers": [(b"a", b"1"), (b"a", b"2")]}),
        (rest_api(requestContext={**rest_api()["requestContext"], "protocol": "HTTP/2.0"}), {"http_version": "2"}),
        (rest_api(multiValueHeaders=None, headers=None), {"headers": [], "server": (HOST, 443)}),
        (
            rest_api(multiValueQueryStringParameters=None, queryStringParameters={"a": "1 2"}),
            {"query_string": b"a=1+2"},
        ),
    ],
)
def test_scope_of_unusual_events(request_: Message, expected: Message) -> None:
    scope = scope_of(request_)
    assert {name: scope[name] for name in expected} == expected


STAGE_WITHOUT_A_PATH = {**rest_api()["requestContext"], "path": "/prod"}


@pytest.mark.parametrize(
    ("request_", "configured", "root_path", "path", "raw_path"),
    [
        (function_url(path="/api/x"), "/api", "/api", "/api/x", b"/api/x"),
        (function_url(path="/api"), "api/", "/api", "/api", b"/api"),
        (function_url(path="/x%20y"), "/my api", "/my api", "/my api/x y", b"/my%20api/x%20y"),
        (function_url(path="/apis"), "/api", "/api", "/api/apis", b"/api/apis"),
        (rest_api(path="/x", stage="/prod"), "", "/prod", "/prod/x", b"/prod/x"),
        (rest_api(path="/x", stage="/prod"), "/v1", "/v1", "/v1/x", b"/v1/x"),
        (rest_api(path="/prod/x"), "", "", "/prod/x", b"/prod/x"),
        (rest_api(path="/v1/x"), "/v1", "/v1", "/v1/x", b"/v1/x"),
        (rest_api(requestContext=STAGE_WITHOUT_A_PATH), "", "/prod", "/prod/", b"/prod/"),
        (rest_api(path="/prod/x", stage="/prod"), "", "/prod", "/prod/prod/x", b"/prod/prod/x"),
    ],
)
def test_root_path_prefixes_path_once(
    request_: Message, configured: str, root_path: str, path: str, raw_path: bytes
) -> None:
    scope = scope_of(request_, configured)
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (root_path, path, raw_path)


NOT_HTTP: list[Any] = [
    None,
    [],
    "text",
    b"bytes",
    {},
    {"key": "value"},
    {"requestContext": None},
    {"requestContext": {"http": {}}},
    {"requestContext": {}, "httpMethod": "GET"},
    {"requestContext": {"connectionId": "x", "eventType": "CONNECT"}, "isBase64Encoded": False},
    function_url(body="not base64", isBase64Encoded=True),
    rest_api(multiValueHeaders={"Host": []}),
    {"Records": [{"eventSource": "aws:sqs"}]},
]


@pytest.mark.parametrize("value", NOT_HTTP)
def test_non_http_event_is_refused(value: Any) -> None:
    message = (
        r"requires the event of a function URL \(payload 2\.0\) or a REST API \(1\.0\); reading this one failed with"
    )
    with pytest.raises(ValueError, match=message):
        run(serve(unreachable, value))


async def unreachable(scope: Message, receive: Receive, send: Send) -> None:
    raise AssertionError("the application was called")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


@given(base=st.sampled_from([function_url(cookies=["a"], body="b"), rest_api(stage="/prod")]), data=st.data())
def test_mutated_event_is_served_or_refused(base: Message, data: st.DataObject) -> None:
    request = json.loads(json.dumps(base))
    holder = data.draw(st.sampled_from([request, request["requestContext"]]))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(JSON)
    with suppress(ValueError):
        scope = scope_of(request)
        assert (type(scope["path"]), type(scope["raw_path"]), type(scope["query_string"])) == (str, bytes, bytes)


BODIES = {
    "none": ({}, [(b"", False)]),
    "null": ({"body": None}, [(b"", False)]),
    "text": ({"body": "zwölf"}, [("zwölf".encode(), False)]),
    "base64": ({"body": "/wD/", "isBase64Encoded": True}, [(b"\xff\x00\xff", False)]),
    "one piece": ({"body": "x" * 65536}, [(b"x" * 65536, False)]),
    "two pieces": ({"body": "x" * 65537}, [(b"x" * 65536, True), (b"x", False)]),
}


@pytest.mark.parametrize(("body", "messages"), BODIES.values(), ids=list(BODIES))
def test_request_body_pieces(body: Message, messages: list[tuple[bytes, bool]]) -> None:
    received = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            received.append((message["type"], message["body"], more))
        await send(START)
        await send(END)

    run(serve(app, function_url("POST", **body)))
    assert received == [("http.request", *message) for message in messages]


# The response.


parts_sent = pytest.mark.parametrize(
    "sent", [[], [START], [START, part(b"1")]], ids=["nothing sent", "start sent", "part sent"]
)


def answering(*messages: Message) -> App:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


@pytest.mark.parametrize(
    ("headers", "sent", "cookies"),
    [
        (None, {}, []),
        ([], {}, []),
        ([(b"X-One", b"1"), [b"x-two", b"\xe9"]], {"x-one": "1", "x-two": "é"}, []),
        ([(b"content-type", b"text/html")], {"content-type": "text/html"}, []),
        ([(b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2, 3")], {}, ["a=1", "b=2, 3"]),
        ([(b"vary", b"accept"), (b"Vary", b"origin")], {"vary": "accept, origin"}, []),
        ([(b"Connection", b"close"), (b"transfer-encoding", b"chunked"), (b"keep-alive", b"5")], {}, []),
        (iter([(memoryview(b"x-one"), bytearray(b"1"))]), {"x-one": "1"}, []),
    ],
)
def test_response_headers(headers: object, sent: dict[str, str], cookies: list[str]) -> None:
    start = {**START, "status": 418} if headers is None else {**START, "status": 418, "headers": headers}
    response, _ = run(serve(answering(start, END), function_url()))
    assert (response.status_code, response.headers, response.cookies) == (418, sent, cookies)


@pytest.mark.parametrize(
    ("method", "messages", "items"),
    [
        ("GET", [END], [b""]),
        ("GET", [part(b"a"), part(bytearray(b"b")), part(memoryview(b"c"), more=False)], [b"a", b"b", b"c"]),
        ("GET", [part(b""), part(b"a"), END], [b"", b"a", b""]),
        ("HEAD", [part(b"a"), END], [b"", b""]),
    ],
)
def test_response_body_parts(method: str, messages: list[Message], items: list[bytes]) -> None:
    assert run(serve(answering(START, *messages), function_url(method)))[1] == items


WRONG = {
    "body before start": (
        [END],
        RuntimeError("Expected ASGI message 'http.response.start', but got 'http.response.body'."),
    ),
    "second start": (
        [START, START],
        RuntimeError("Expected ASGI message 'http.response.body', but got 'http.response.start'."),
    ),
    "after the end": (
        [START, END, END],
        RuntimeError("Unexpected ASGI message 'http.response.body' sent, after response already completed."),
    ),
    "text": ([START, part("text")], TypeError("the body of a response must be bytes, not str")),
    "status": ([{**START, "status": 101}], ValueError("status code must be an int from 200 to 599, not 101")),
    "header": (
        [{**START, "headers": [(b"x", b"a\r\nb")]}],
        ValueError("value of header 'x' contains a control character: 'a\\r\\nb'"),
    ),
}


@pytest.mark.parametrize(("messages", "error"), WRONG.values(), ids=list(WRONG))
def test_wrong_message_raises_in_send(messages: list[Message], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run(serve(answering(*messages), function_url()))
    assert str(caught.value) == str(error)
    assert "await send(message)" in "".join(traceback.format_exception(caught.value))


def test_backpressure_between_sends() -> None:
    log = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        for number in (b"1", b"2"):
            log.append(f"send {number!r}")
            await send(part(number))
        log.append("send the end")
        await send(END)
        log.append("ended")

    async def main() -> None:
        response = await AsgiHandler(http_only(app))(function_url(), None)
        stream = aiter(response.content)  # type: ignore[arg-type]
        for _ in range(3):
            log.append(f"got {await anext(stream)!r}")
            await settle()
        assert [item async for item in stream] == []
        await settle()

    run(main())
    assert log == ["send b'1'", "got b'1'", "send b'2'", "got b'2'", "send the end", "got b''", "ended"]


async def settle() -> None:
    """Let every task run until it waits for something from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_concurrent_sends_keep_order() -> None:
    log: list[bytes] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        async def sending(body: bytes) -> None:
            await send(part(body))
            log.append(b"sent " + body)

        await send(START)
        await asyncio.gather(*map(sending, (b"1", b"2", b"3")))
        await send(END)

    async def main() -> None:
        async for item in content(await AsgiHandler(http_only(app))(function_url(), None)):
            await settle()
            log.append(item)

    run(main())
    assert log == [b"1", b"sent 1", b"2", b"sent 2", b"3", b"sent 3", b""]


def test_cancelled_send_frees_the_next() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        given_up = asyncio.create_task(send(part(b"1")))
        await settle()
        given_up.cancel()
        await send(part(b"2", more=False))

    assert run(serve(app, function_url()))[1] == [b"1", b"2"]


def test_disconnect_after_complete_response() -> None:
    log = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            log.append((await receive())["type"])

        await receive()
        listening = asyncio.create_task(listen())
        await send(START)
        await send(part(b"1"))
        await settle()
        log.append("sends the end")
        await send(END)
        log.append("has sent the end")
        await listening

    run(serve(app, function_url()))
    assert log == ["sends the end", "has sent the end", "http.disconnect"]


def test_disconnect_poll_after_response() -> None:
    """Starlette's ``request.is_disconnected()`` polls: it cancels a `receive` that does not return immediately."""
    seen = []

    async def is_disconnected(receive: Receive) -> bool:
        task = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0] == {"type": "http.disconnect"}

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        seen.append(await is_disconnected(receive))
        await send(END)
        seen.append(await is_disconnected(receive))

    run(serve(app, function_url()))
    assert seen == [False, True]


@pytest.mark.parametrize("status", [204, 304])
def test_bodyless_status_drops_content(status: int) -> None:
    assert run(serve(answering({**START, "status": status}, part(b"x", more=False)), function_url()))[1] == [b""]


@parts_sent
def test_stop_async_iteration_is_an_error(sent: list[Message]) -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await answering(*sent)(scope, receive, send)
        raise StopAsyncIteration

    with pytest.raises(RuntimeError, match=r"^ASGI callable raised StopAsyncIteration$"):
        run(serve(app, function_url()))


def test_unread_body_after_response() -> None:
    received = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)
        received.append(await receive())

    run(serve(app, function_url("POST", body="unread")))
    assert received == [{"type": "http.disconnect"}]


# Failures of the application.


@parts_sent
@pytest.mark.parametrize("error", [KeyError("oops"), SystemExit(3)], ids=repr)
def test_application_error_is_raised_once(sent: list[Message], error: BaseException) -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await answering(*sent)(scope, receive, send)
        raise error

    items = []

    async def main() -> None:
        response = await AsgiHandler(http_only(app))(function_url(), None)
        stream: Any = response.content
        try:
            async for item in stream:
                items.append(item)
        finally:
            await stream.aclose()
            assert [item async for item in stream] == []

    with pytest.raises(type(error)) as caught:
        run(main())
    assert caught.value is error
    assert items == [b"1"] * (len(sent) - 1)


@parts_sent
def test_early_return_is_an_error(sent: list[Message]) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(serve(answering(*sent), function_url()))
    assert str(caught.value) == f"ASGI callable returned without {'completing' if sent else 'starting'} response."


@parts_sent
def test_leftover_task_gets_disconnect(sent: list[Message]) -> None:
    log = []

    async def main() -> None:
        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await answering(*sent)(scope, receive, send)
            tasks.append(asyncio.create_task(listen(receive)))

        async def listen(receive: Receive) -> None:
            log.append((await receive())["type"])

        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(RuntimeError, match="returned without"):
            await serve(app, function_url())
        await tasks[0]

    run(main())
    assert log == ["http.disconnect"]


def test_background_error_raised_on_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming_runtime.asgi._GRACE_PERIOD", 0)  # the background code is not cancelled

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await answering({**START, "status": 500}, part(b"sorry", more=False))(scope, receive, send)
        await settle()
        raise ValueError("oops")

    async def main() -> None:
        response = await AsgiHandler(http_only(app))(function_url(), None)
        stream: Any = response.content
        assert [item async for item in stream] == [b"sorry"]
        with pytest.raises(ValueError, match="oops"):
            await stream.aclose()
        await stream.aclose()

    run(main())


# Responses that are cut.


async def cut(app: App, items: int) -> None:
    """Close the response after so many items."""
    response = await AsgiHandler(http_only(app))(function_url(), None)
    stream: Any = response.content
    for _ in range(items):
        await anext(stream)
    await stream.aclose()
    assert [item async for item in stream] == []


@pytest.mark.parametrize("items", [0, 1, 2])
def test_send_after_disconnect_raises(items: int) -> None:
    log = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await answering(START, part(b"1"), part(b"2"), part(b"3"), END)(scope, receive, send)
        except OSError as error:
            log.append(str(error))
            with suppress(OSError):
                await send(part(b"4"))
                log.append("sent")
            log.append((await receive())["type"])
            raise

    run(cut(app, items))
    assert log == ["the client has disconnected", "http.disconnect"]


def test_application_may_finish_after_disconnect() -> None:
    log = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        sending = asyncio.create_task(send(part(b"1")))
        log.append((await receive())["type"])
        with pytest.raises(OSError, match="disconnected"):
            await sending
        await asyncio.to_thread(log.append, "ended")

    run(cut(app, 1))
    assert log == ["http.disconnect", "ended"]


@pytest.mark.parametrize("error", [None, ValueError("in finally")], ids=repr)
def test_stuck_application_is_cancelled(error: Exception | None) -> None:
    log = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        with suppress(OSError):
            await send(part(b"1"))
        try:
            await asyncio.Event().wait()
        finally:
            await settle()
            log.append("cleaned up")
            if error is not None:
                raise error

    if error is None:
        run(cut(app, 1))
    else:
        with pytest.raises(ValueError, match="in finally"):
            run(cut(app, 1))
    assert log == ["cleaned up"]


CANCELLED_AT = {"before the response": [], "in the body": [START, part(b"1")], "in the background": [START, END]}


@pytest.mark.parametrize("sent", CANCELLED_AT.values(), ids=list(CANCELLED_AT))
@pytest.mark.parametrize("ending", ["cancelled", "returns", "fails"])
def test_cancellation_reaches_application(sent: list[Message], ending: str) -> None:
    log = []
    stuck = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await answering(*sent)(scope, receive, send)
        try:
            stuck.set()
            await asyncio.Event().wait()  # here
        except asyncio.CancelledError:
            with pytest.raises(RuntimeError if END in sent else OSError):
                await send(START)
            log.append("cleaned up")
            if ending == "cancelled":
                raise
            if ending == "fails":
                raise ValueError("in cleaning up") from None

    async def main() -> BaseException:
        serving = asyncio.create_task(serve(app, function_url()))
        await stuck.wait()
        serving.cancel()
        with pytest.raises((asyncio.CancelledError, ValueError)) as caught:
            await serving
        return caught.value

    error = run(main())
    assert log == ["cleaned up"]
    assert type(error) is (ValueError if ending == "fails" else asyncio.CancelledError)
    if ending == "cancelled":
        lines = [frame.line for frame in traceback.extract_tb(error.__traceback__)]
        assert "await asyncio.Event().wait()  # here" in lines


# The lifespan.


class WithLifespan:
    """An application that logs its lifespan, and answers each request with the state that it has from there."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        scope["state"][scope["path"]] = "mine"
        scope["state"]["shared"].append(scope["path"])
        await send(START)
        await send(part(json.dumps(scope["state"]).encode(), more=False))

    async def lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        self.log.append((await receive())["type"])
        scope["state"]["shared"] = []
        await send({"type": "lifespan.startup.complete"})
        self.log.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})


async def body_of(handler: AsgiHandler, path: str = "/") -> bytes:
    return b"".join([item async for item in content(await handler(function_url(path=path), None))])


def test_lifespan_state_is_copied_per_request() -> None:
    app = WithLifespan()
    handler = AsgiHandler(app)

    async def main() -> list[bytes]:
        await handler.startup()
        await handler.startup()
        return [await body_of(handler, "/1"), await body_of(handler, "/2")]

    assert [json.loads(body) for body in run(main())] == [
        {"shared": ["/1"], "/1": "mine"},
        {"shared": ["/1", "/2"], "/2": "mine"},
    ]
    assert app.log == ["lifespan.startup"]


def test_runtime_runs_every_lifespan() -> None:
    apps = [WithLifespan(), WithLifespan()]
    handlers = [AsgiHandler(app) for app in apps]

    async def main() -> None:
        for hook in event_loop.startup_hooks:
            await hook()
        assert [app.log for app in apps] == [["lifespan.startup"]] * 2
        for hook in [*event_loop.shutdown_hooks, handlers[0].shutdown]:
            await hook()

    run(main())
    assert [app.log for app in apps] == [["lifespan.startup", "lifespan.shutdown"]] * 2


def test_concurrent_requests_start_lifespan_once() -> None:
    app = WithLifespan()
    handler = AsgiHandler(app)

    async def main() -> list[bytes]:
        return list(await asyncio.gather(body_of(handler, "/1"), body_of(handler, "/2")))

    assert [sorted(json.loads(body)) for body in run(main())] == [["/1", "shared"], ["/2", "shared"]]
    assert app.log == ["lifespan.startup"]


def test_new_event_loop_gets_new_lifespan() -> None:
    app = WithLifespan()
    handler = AsgiHandler(app)
    for _ in range(2):
        assert json.loads(run(body_of(handler, "/1"))) == {"shared": ["/1"], "/1": "mine"}
    run(handler.shutdown())  # of a loop that was closed
    assert app.log == ["lifespan.startup"] * 2


LIFESPANS: dict[str, Lifespan] = {}


def lifespan(function: Lifespan) -> Lifespan:
    LIFESPANS[function.__name__] = function
    return function


@lifespan
async def raises(receive: Receive, send: Send) -> None:
    raise ValueError("what is a lifespan?")


@lifespan
async def raises_after_receive(receive: Receive, send: Send) -> None:
    await receive()
    raise ValueError("what is a lifespan?")


@lifespan
async def returns(receive: Receive, send: Send) -> None:
    pass


@lifespan
async def sends_an_unknown_message(receive: Receive, send: Send) -> None:
    await send({"type": "lifespan.hello"})


def with_lifespan(function: Lifespan) -> App:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await function(receive, send)
        else:
            await answering(START, part(b"served", more=False))(scope, receive, send)

    return app


@pytest.mark.parametrize("function", LIFESPANS.values(), ids=list(LIFESPANS))
def test_application_without_lifespan(function: Lifespan) -> None:
    handler = AsgiHandler(with_lifespan(function))

    async def main() -> bytes:
        body = await body_of(handler)
        await handler.shutdown()
        return body

    assert run(main()) == b"served"


FAILURES: dict[str, tuple[Message, BaseException | None, str]] = {
    "message": ({"message": "no database"}, None, "no database"),
    "message and exception": ({"message": "no database"}, KeyError("database"), "no database"),
    "no message": ({}, None, "lifespan.{phase}.failed"),
}


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
@pytest.mark.parametrize(("fields", "raised", "message"), FAILURES.values(), ids=list(FAILURES))
def test_failed_lifespan_is_reported_once(
    fields: Message, raised: BaseException | None, message: str, phase: str
) -> None:
    """After a failed startup the next request tries again; a failed shutdown is over."""
    failing = iter([True])

    async def lifespan(receive: Receive, send: Send) -> None:
        for happening in ("startup", "shutdown"):
            await receive()
            if happening == phase and next(failing, False):
                await send({"type": f"lifespan.{phase}.failed", **fields})
                if raised is not None:
                    raise raised
                return
            await send({"type": f"lifespan.{happening}.complete"})

    async def main() -> bytes:
        handler = AsgiHandler(with_lifespan(lifespan))
        if phase == "shutdown":
            await handler.startup()
        with pytest.raises(RuntimeError) as caught:
            await (handler.startup() if phase == "startup" else handler.shutdown())
        assert str(caught.value) == message.format(phase=phase)
        await handler.shutdown()
        return await body_of(handler)

    assert run(main()) == b"served"


def test_broken_lifespan_fails_one_request() -> None:
    """A lifespan that ends while requests are served fails the next request; the one after it starts a new one."""
    breaking = asyncio.Event()

    async def lifespan(receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        await breaking.wait()
        breaking.clear()
        raise ValueError("connection lost")

    async def main() -> list[bytes]:
        handler = AsgiHandler(with_lifespan(lifespan))
        first = await body_of(handler)
        breaking.set()
        await settle()
        with pytest.raises(ValueError, match="connection lost"):
            await body_of(handler)
        return [first, await body_of(handler)]

    assert run(main()) == [b"served", b"served"]


def test_exit_during_startup() -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        run(AsgiHandler(with_lifespan(lifespan)).startup())
    assert caught.value.code == 3
