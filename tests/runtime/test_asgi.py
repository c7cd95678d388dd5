"""ASGI applications as handlers: what they see of an event, how their response goes out, and how they end."""

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
from tests.runtime.conftest import PATIENCE

from streaming_runtime import AsgiHandler, StreamingResponse
from streaming_runtime.event_loop import event_loop

pytestmark = pytest.mark.own_interpreter

Message = dict[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Lifespan = Callable[[Receive, Send], Awaitable[None]]

START: Message = {"type": "http.response.start", "status": 200}
END: Message = {"type": "http.response.body"}
NULS = b"8\r\n" + bytes(8) + b"\r\n"
HOST = "abc.lambda-url.us-east-1.on.aws"


def part(body: object, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def function_url(method: str = "GET", path: str = "/", query: str = "", **changes: Any) -> Message:
    """An event of a function URL, https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": HOST, "x-forwarded-port": "443", "x-forwarded-proto": "https"},
        "requestContext": {
            "domainName": HOST,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"},
            "stage": "$default",
        },
        "isBase64Encoded": False,
        **changes,
    }


def rest_api(
    method: str = "GET", path: str = "/", query: dict[str, list[str]] | None = None, stage: str = "", **changes: Any
) -> Message:
    """An event of a REST API, called by a domain of its own, or with `stage` in the path by that of the API.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
    """
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "the last value only"},
        "multiValueHeaders": {"Host": [HOST], "X-Forwarded-Port": ["443"], "X-Forwarded-Proto": ["https"]},
        "queryStringParameters": None if query is None else {name: values[-1] for name, values in query.items()},
        "multiValueQueryStringParameters": query,
        "requestContext": {
            "domainName": HOST,
            "httpMethod": method,
            "identity": {"sourceIp": "203.0.113.7"},
            "path": stage + path,
            "protocol": "HTTP/1.1",
            "stage": "prod",
        },
        "body": None,
        "isBase64Encoded": False,
        **changes,
    }


@pytest.fixture(autouse=True)
def _no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "startup_hooks", [])
    monkeypatch.setattr(event_loop, "shutdown_hooks", [])


def http_only(app: App) -> App:
    """`app` without a lifespan: as many do, it raises on that."""

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        await app(scope, receive, send)

    return application


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(PATIENCE):
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


def test_the_scope_of_a_function_url_event() -> None:
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


def test_the_scope_of_a_rest_api_event() -> None:
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
def test_what_an_event_leaves_out_or_says_in_another_way(request_: Message, expected: Message) -> None:
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
def test_the_path_holds_the_root_path_once(
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
    function_url(headers=None),
    rest_api(multiValueHeaders={"Host": []}),
    {"Records": [{"eventSource": "aws:sqs"}]},
]


@pytest.mark.parametrize("value", NOT_HTTP)
def test_an_event_that_is_no_http_request_is_refused_with_what_is_taken(value: Any) -> None:
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
def test_an_event_with_any_value_anywhere_is_served_or_refused(base: Message, data: st.DataObject) -> None:
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
def test_the_body_comes_in_pieces(body: Message, messages: list[tuple[bytes, bool]]) -> None:
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
def test_the_headers_of_the_response(headers: object, sent: dict[str, str], cookies: list[str]) -> None:
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
def test_the_parts_of_the_body_come_out_one_by_one(method: str, messages: list[Message], items: list[bytes]) -> None:
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
def test_a_wrong_message_is_an_error_where_it_is_sent(messages: list[Message], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run(serve(answering(*messages), function_url()))
    assert str(caught.value) == str(error)
    assert "await send(message)" in "".join(traceback.format_exception(caught.value))


def test_an_application_goes_on_when_what_it_sent_was_taken_and_the_next_is_asked_for() -> None:
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
    """Lets every task run until it waits for something that does not come of itself."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_tasks_that_send_at_once_get_through_in_order() -> None:
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


def test_a_send_that_is_given_up_does_not_hold_up_the_next() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        given_up = asyncio.create_task(send(part(b"1")))
        await settle()
        given_up.cancel()
        await send(part(b"2", more=False))

    assert run(serve(app, function_url()))[1] == [b"1", b"2"]


def test_the_disconnect_comes_when_the_response_is_complete_and_not_before() -> None:
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


def test_a_request_whose_response_is_complete_is_disconnected_for_whoever_only_looks() -> None:
    """As Starlette's ``request.is_disconnected()`` does: it cancels what does not answer at once."""
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
def test_a_response_that_has_no_content_is_sent_without(status: int) -> None:
    assert run(serve(answering({**START, "status": status}, part(b"x", more=False)), function_url()))[1] == [b""]


@pytest.mark.parametrize("sent", [[], [START], [START, part(b"1")]], ids=len)
def test_a_stop_of_an_iteration_is_an_error_and_not_the_end(sent: list[Message]) -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await answering(*sent)(scope, receive, send)
        raise StopAsyncIteration

    with pytest.raises(RuntimeError, match=r"^ASGI callable raised StopAsyncIteration$"):
        run(serve(app, function_url()))


def test_a_body_that_was_not_read_is_gone_once_the_response_is_complete() -> None:
    received = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)
        received.append(await receive())

    run(serve(app, function_url("POST", body="unread")))
    assert received == [{"type": "http.disconnect"}]


# Failures of the application.


@pytest.mark.parametrize("sent", [[], [START], [START, part(b"1")]], ids=len)
@pytest.mark.parametrize("error", [KeyError("oops"), SystemExit(3)], ids=repr)
def test_an_error_before_the_response_is_complete_is_raised_once(sent: list[Message], error: BaseException) -> None:
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


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([], "ASGI callable returned without starting response."),
        ([START], "ASGI callable returned without completing response."),
        ([START, part(b"1")], "ASGI callable returned without completing response."),
    ],
)
def test_an_application_that_returns_too_early_is_an_error(sent: list[Message], message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(serve(answering(*sent), function_url()))
    assert str(caught.value) == message


@pytest.mark.parametrize("sent", [[], [START], [START, part(b"1")]], ids=len)
def test_tasks_that_an_application_leaves_behind_hear_of_the_disconnect(sent: list[Message]) -> None:
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


def test_an_error_after_the_complete_response_is_raised_when_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming_runtime.asgi._GRACE_PERIOD", 0)  # nothing hurries what runs in the background

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


# Responses that break off.


async def break_off(app: App, items: int) -> None:
    """Closes the response after so many items."""
    response = await AsgiHandler(http_only(app))(function_url(), None)
    stream: Any = response.content
    for _ in range(items):
        await anext(stream)
    await stream.aclose()
    assert [item async for item in stream] == []


@pytest.mark.parametrize("items", [0, 1, 2])
def test_when_the_response_breaks_off_sending_is_an_error(items: int) -> None:
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

    run(break_off(app, items))
    assert log == ["the client has disconnected", "http.disconnect"]


def test_when_the_response_breaks_off_the_application_may_end_by_itself() -> None:
    log = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        sending = asyncio.create_task(send(part(b"1")))
        log.append((await receive())["type"])
        with pytest.raises(OSError, match="disconnected"):
            await sending
        await asyncio.to_thread(log.append, "ended")

    run(break_off(app, 1))
    assert log == ["http.disconnect", "ended"]


@pytest.mark.parametrize("error", [None, ValueError("in finally")], ids=repr)
def test_when_the_response_breaks_off_an_application_that_does_not_end_is_cancelled(error: Exception | None) -> None:
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
        run(break_off(app, 1))
    else:
        with pytest.raises(ValueError, match="in finally"):
            run(break_off(app, 1))
    assert log == ["cleaned up"]


CANCELLED_AT = {"before the response": [], "in the body": [START, part(b"1")], "in the background": [START, END]}


@pytest.mark.parametrize("sent", CANCELLED_AT.values(), ids=list(CANCELLED_AT))
@pytest.mark.parametrize("ending", ["cancelled", "returns", "fails"])
def test_a_cancellation_goes_on_to_the_application_and_shows_where_it_was(sent: list[Message], ending: str) -> None:
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


class Lively:
    """An application that logs its lifespan and answers with the state it got from there."""

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


def test_the_lifespan_runs_once_and_each_request_gets_a_copy_of_its_state() -> None:
    app = Lively()
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


def test_the_runtime_starts_and_ends_the_lifespan_of_each_handler() -> None:
    apps = [Lively(), Lively()]
    handlers = [AsgiHandler(app) for app in apps]

    async def main() -> None:
        for hook in event_loop.startup_hooks:
            await hook()
        assert [app.log for app in apps] == [["lifespan.startup"]] * 2
        for hook in [*event_loop.shutdown_hooks, handlers[0].shutdown]:
            await hook()

    run(main())
    assert [app.log for app in apps] == [["lifespan.startup", "lifespan.shutdown"]] * 2


def test_requests_at_the_same_time_start_the_lifespan_once() -> None:
    app = Lively()
    handler = AsgiHandler(app)

    async def main() -> list[bytes]:
        return list(await asyncio.gather(body_of(handler, "/1"), body_of(handler, "/2")))

    assert [sorted(json.loads(body)) for body in run(main())] == [["/1", "shared"], ["/2", "shared"]]
    assert app.log == ["lifespan.startup"]


def test_another_event_loop_gets_a_lifespan_of_its_own() -> None:
    app = Lively()
    handler = AsgiHandler(app)
    for _ in range(2):
        assert json.loads(run(body_of(handler, "/1"))) == {"shared": ["/1"], "/1": "mine"}
    run(handler.shutdown())  # of a loop that is gone
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
async def raises_on_a_message_of_its_own(receive: Receive, send: Send) -> None:
    await send({"type": "lifespan.hello"})


def with_lifespan(function: Lifespan) -> App:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await function(receive, send)
        else:
            await answering(START, part(b"served", more=False))(scope, receive, send)

    return app


@pytest.mark.parametrize("function", LIFESPANS.values(), ids=list(LIFESPANS))
def test_an_application_without_a_lifespan_is_served(function: Lifespan) -> None:
    handler = AsgiHandler(with_lifespan(function))

    async def main() -> bytes:
        body = await body_of(handler)
        await handler.shutdown()
        return body

    assert run(main()) == b"served"


FAILURES: dict[str, tuple[Message, BaseException | None, str]] = {
    "told": ({"message": "no database"}, None, "no database"),
    "told, then raised": ({"message": "no database"}, KeyError("database"), "no database"),
    "without a message": ({}, None, "lifespan.{phase}.failed"),
}


@pytest.mark.parametrize(("fields", "raised", "message"), FAILURES.values(), ids=list(FAILURES))
def test_a_startup_that_failed_is_an_error_and_tried_anew_the_next_time(
    fields: Message, raised: Exception | None, message: str
) -> None:
    failing = iter([True, False])

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        if not next(failing):
            await send({"type": "lifespan.startup.complete"})
            return
        await send({"type": "lifespan.startup.failed", **fields})
        if raised is not None:
            raise raised

    async def main() -> bytes:
        handler = AsgiHandler(with_lifespan(lifespan))
        with pytest.raises(RuntimeError) as caught:
            await handler.startup()
        assert str(caught.value) == message.format(phase="startup")
        await handler.shutdown()
        return await body_of(handler)

    assert run(main()) == b"served"


@pytest.mark.parametrize(("fields", "raised", "message"), FAILURES.values(), ids=list(FAILURES))
def test_a_shutdown_that_failed_is_an_error_once(fields: Message, raised: Exception | None, message: str) -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", **fields})
        if raised is not None:
            raise raised

    async def main() -> None:
        handler = AsgiHandler(with_lifespan(lifespan))
        await handler.startup()
        with pytest.raises(RuntimeError) as caught:
            await handler.shutdown()
        assert str(caught.value) == message.format(phase="shutdown")
        await handler.shutdown()

    run(main())


def test_a_lifespan_that_breaks_while_it_runs_fails_one_invocation_and_starts_anew() -> None:
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


def test_an_application_may_end_the_process_as_it_starts() -> None:
    async def lifespan(receive: Receive, send: Send) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        run(AsgiHandler(with_lifespan(lifespan)).startup())
    assert caught.value.code == 3
