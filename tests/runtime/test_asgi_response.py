"""How the response of an ASGI application is sent: its bytes, its end, the deadline, and failures."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.helpers.chunks import METADATA_TYPE, chunk, chunked, split_metadata
from tests.helpers.http_events import Message, function_url
from tests.helpers.protocol import ERROR_TYPE, report_of
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import ACCEPTED, Answer, Event, Reset, due, event, refusal, response_head

from streaming_runtime import AsgiHandler, StreamDeadlineExceeded
from streaming_runtime.deadline import Deadline
from streaming_runtime.event_loop import event_loop
from streaming_runtime.runtime_api import RuntimeApiError

pytestmark = pytest.mark.own_interpreter

APPLICATION = """
    import asyncio, os, threading
    from streaming_runtime import AsgiHandler

    START = {"type": "http.response.start", "status": 200}
    END = {"type": "http.response.body"}

    def part(body, more=True):
        return {"type": "http.response.body", "body": body, "more_body": more}

    async def app(scope, receive, send):
        if scope["type"] != "lifespan":
            await serve(scope, receive, send)
    """
#: The ways in which an application can be the handler.
HANDLERS = {
    "handler": "handler = AsgiHandler(app)",
    "called": """
    application = AsgiHandler(app)
    async def handler(event, context):
        return await application(event, context)
    """,
}
handlers = pytest.mark.parametrize("handler", HANDLERS.values(), ids=list(HANDLERS))


def code(serve: str, handler: str = HANDLERS["handler"]) -> str:
    return f"{APPLICATION}\n    async def serve(scope, receive, send):\n{serve}\n    {handler}"


def request(method: str = "GET", **changes: str) -> Event:
    return event(json.dumps(function_url(method, **changes)).encode())


def due_request(milliseconds: int = 400) -> Event:
    return due(json.dumps(function_url()).encode(), milliseconds)


SENDS_BODY = """
        for message in eval(scope["aws.event"]["body"]):
            await send(message)
"""
BODIES: list[tuple[str, str, list[bytes]]] = [
    ("GET", "[part(b'a', False)]", [b"a"]),
    ("GET", "[part(b'a'), part(bytearray(b'b')), part(memoryview(b'c')), END]", [b"a", b"b", b"c"]),
    ("GET", "[END]", []),
    ("GET", "[part(b''), part(b'a'), part(b''), END]", [b"a"]),
    ("GET", "[part(b'a' * 16384), part(b'b' * 70000, False)]", [b"a" * 16384, b"b" * 70000]),
    ("HEAD", "[part(b'a'), part(b'b', False)]", []),
]


@handlers
def test_response_bytes(sandbox: Sandbox, handler: str) -> None:
    serve = f"        await send(START){SENDS_BODY}"
    ended = sandbox.run(code(serve, handler), *(request(method, body=body) for method, body, _ in BODIES))
    head = response_head(ended.host, METADATA_TYPE)
    metadata = chunk(b'{"statusCode":200,"headers":{},"cookies":[]}') + chunk(bytes(8))
    assert [post.raw for post in ended.posts] == [head + metadata + chunked(*parts) for _, _, parts in BODIES]
    assert ended.output == ""


@handlers
def test_status_without_content(sandbox: Sandbox, handler: str) -> None:
    serve = """
        status = int(scope["aws.event"]["body"])
        await send(START | {"status": status, "headers": [(b"X-A", b"1"), (b"set-cookie", b"a=1")]})
        await send(part(b"dropped", False))
    """
    ended = sandbox.run(code(serve, handler), request(body="204"), request(body="304"))
    expected = {"headers": {"x-a": "1"}, "cookies": ["a=1"]}
    assert list(map(split_metadata, ended.bodies)) == [({"statusCode": s} | expected, b"") for s in (204, 304)]


START_EXPECTED = "Expected ASGI message 'http.response.start', but got 'http.response.body'."
BODY_EXPECTED = "Expected ASGI message 'http.response.body', but got 'http.response.start'."
WRONG = [
    ("[END]", "error", START_EXPECTED),
    ("[]", "error", "ASGI callable returned without starting response."),
    ("[START]", "error", "ASGI callable returned without completing response."),
    ("[START, part(b'a')]", "response", "ASGI callable returned without completing response."),
    ("[START, part(b'a'), START]", "response", BODY_EXPECTED),
    ("[START, part('a')]", "error", "the body of a response must be bytes, not str"),
    ("[START | {'status': 101}]", "error", "status code must be an int from 200 to 599, not 101"),
]


@handlers
def test_wrong_messages(sandbox: Sandbox, handler: str) -> None:
    ended = sandbox.run(code(SENDS_BODY, handler), *(request(body=body) for body, _, _ in WRONG))
    found = [(post.target.rpartition("/")[2], report_of(post)["errorMessage"]) for post in ended.posts]
    assert found == [(target, message) for _, target, message in WRONG]


@handlers
def test_message_after_end(sandbox: Sandbox, handler: str) -> None:
    serve = """
        await send(START)
        await send(END)
        await send(END)
    """
    ended = sandbox.run(code(serve, handler), request())
    assert ended.posts[0].trailers == {}
    assert "[ERROR] RuntimeError: Unexpected ASGI message 'http.response.body' sent, after" in ended.output


def test_end_precedes_background_code(sandbox: Sandbox) -> None:
    """The connection is closed, and listeners know of the end, before `send` returns."""
    gate = sandbox.gate()
    serve = """
        await receive()
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send(START)
        await send(part(b"x", False))
        open("gate").read()
        print((await listening)["type"], (await receive())["type"])
    """
    running = sandbox.start(code(serve), request())
    running.api.wait_until(b"1\r\nx\r\n0\r\n\r\n", request=1)
    running.api.wait_until_closed(0)
    gate.release()
    assert running.end().output == "http.disconnect http.disconnect\n"


def test_sends_let_others_run(sandbox: Sandbox) -> None:
    serve = """
        done = []
        asyncio.get_running_loop().call_later(0.01, done.append, 1)
        await send(START)
        while not done:
            await send(part(b"x"))
        await send(END)
    """
    ended = sandbox.run(code(serve), request())
    assert set(split_metadata(ended.bodies[0])[1]) == set(b"x")


def test_sends_of_several_tasks(sandbox: Sandbox) -> None:
    serve = """
        await send(START)
        await asyncio.gather(*(send(part(b"%d" % number)) for number in range(5)))
        await asyncio.create_task(send(END))
    """
    ended = sandbox.run(code(serve), request())
    assert ended.posts[0].raw.endswith(chunked(b"0", b"1", b"2", b"3", b"4"))


def test_subclass_with_own_call(sandbox: Sandbox) -> None:
    serve = """
        await send(START)
        await send(part(b"x", False))
    """
    handler = """
    class Handler(AsgiHandler):
        async def __call__(self, event, context):
            response = await super().__call__(event, context)
            response.headers["x-own"] = "1"
            return response
    handler = Handler(app)
    """
    [body] = sandbox.run(code(serve, handler), request()).bodies
    assert split_metadata(body)[0]["headers"] == {"x-own": "1"}


# Errors.


@handlers
@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_os_error_keeps_its_name(sandbox: Sandbox, framework: str, handler: str) -> None:
    """Starlette takes any OSError in a stream for a disconnect of the client."""
    serve = f"""
        from {framework}.responses import StreamingResponse
        kind, chunks = scope["aws.event"]["body"].split()
        async def body():
            for _ in range(int(chunks)):
                yield b"x"
            try:
                raise KeyError("first")
            except KeyError as error:
                raise eval(kind)("upstream") from error
        await StreamingResponse(body())(scope, receive, send)
    """
    kinds = ["ConnectionRefusedError", "TimeoutError", "BrokenPipeError"]
    ended = sandbox.run(code(serve, handler), *(request(body=f"{kind} {n}") for kind in kinds for n in (0, 1)))
    reports = list(map(report_of, ended.posts))
    assert [report["errorType"] for report in reports] == [kind for kind in kinds for _ in (0, 1)]
    assert re.findall(r"\[ERROR\] (\w+): upstream", ended.output) == [kind for kind in kinds for _ in (0, 1)]
    assert "ClientDisconnect" not in ended.output
    assert all("in body" in report["stackTrace"][-1] for report in reports), reports


@pytest.mark.parametrize("middleware", ["BaseHTTPMiddleware", "pure"])
@pytest.mark.slow
def test_os_error_through_middleware(sandbox: Sandbox, middleware: str) -> None:
    program = f"""
        from starlette.applications import Starlette
        from starlette.middleware.base import BaseHTTPMiddleware
        from starlette.responses import StreamingResponse
        from starlette.routing import Route
        from streaming_runtime import AsgiHandler
        async def body():
            yield b"x"
            raise ConnectionRefusedError("refused")
        async def home(request):
            return StreamingResponse(body())
        app = Starlette(routes=[Route("/", home)])
        if "{middleware}" == "BaseHTTPMiddleware":
            app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
        handler = AsgiHandler(app)
        """
    ended = sandbox.run(program, request())
    assert ended.output.count("[ERROR] ConnectionRefusedError: refused") == ended.output.count("[ERROR]") == 1


@handlers
def test_background_error_is_logged(sandbox: Sandbox, handler: str) -> None:
    serve = """
        await send(START)
        await send(END)
        await asyncio.sleep(0)
        raise TimeoutError("in the background")
    """
    ended = sandbox.run(code(serve, handler), request(), request())
    assert [post.trailers for post in ended.posts] == [{}, {}]
    assert ended.output.count("[ERROR] TimeoutError: in the background") == 2


ENDINGS = {
    "passed on": ("raise", []),
    "returns": ("return", []),
    "as Starlette": ("from starlette.requests import ClientDisconnect; raise ClientDisconnect()", []),
    "stuck": ("await asyncio.Event().wait()", []),
    "stuck, then fails": (
        """
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("in finally")""",
        ["ValueError"],
    ),
    "own error": ("raise ValueError('own') from None", ["ValueError"]),
}


@pytest.mark.traced
@pytest.mark.parametrize(("ending", "errors"), ENDINGS.values(), ids=list(ENDINGS))
def test_broken_connection_is_told(sandbox: Sandbox, ending: str, errors: list[str]) -> None:
    serve = f"""
        await send(START)
        try:
            for number in range(10**9):
                await send(part(b"marker" if number > 5 else b"x"))
        except OSError as error:
            print(error, (await receive())["type"], (await receive())["type"])
            try:
                await send(part(b"more"))
            except OSError as again:
                print(again)
            {ending}
    """
    ended = sandbox.run(code(serve), request(), event(b"{}"), posts=[Reset(at=b"marker")])
    assert re.search(
        r"^the client has disconnected http\.disconnect http\.disconnect\nthe client has disconnected$",
        ended.output,
        re.MULTILINE,
    )
    found = re.findall(r"\[ERROR\] (\w+): ", ended.output)
    assert found == ["RuntimeApiError", *errors, "ValueError"]  # the last is of the second event


@pytest.mark.parametrize(
    ("post", "log"),
    [(refusal("413 Too Large"), ["background"]), (Reset(at=b"0\r\n\r\n"), ["background"])],
    ids=["rejected", "broken"],
)
def test_failed_end_is_reported(sandbox: Sandbox, post: Answer | Reset, log: list[str]) -> None:
    serve = """
        await send(START)
        await send(part(b"x", False))
        print("background")
    """
    ended = sandbox.run(code(serve), request(), request(), posts=[post, ACCEPTED])
    assert ended.output.count("[ERROR] RuntimeApiError") == 1
    assert ended.output.splitlines().count("background") == 2
    assert split_metadata(ended.bodies[1])[1] == b"x"


@pytest.mark.parametrize("more", [True, False])
def test_forked_child_does_not_respond(sandbox: Sandbox, more: bool) -> None:
    serve = f"""
        await send(START)
        for number in (b"1", b"2", b"3"):
            await send(part(number))
        child = os.fork()
        if not child:
            await send(part(b"child", {more}))
            os._exit(7)
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        await send(part(b"4", False))
    """
    ended = sandbox.run(code(serve), request())
    assert ended.posts[0].raw.endswith(chunked(b"1", b"2", b"3", b"4"))
    assert "status 1\n" in ended.output
    assert "a forked child of the function cannot respond" in ended.output


# The deadline.


DEADLINES = {
    "sends": """
        while True:
            await send(part(b"x"))  # here
            await asyncio.sleep(0.002)  # here""",
    "waits": """
        await send(part(b"x"))
        await asyncio.Event().wait()  # here""",
    "waits in a task": """
        await send(part(b"x"))
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())  # here""",
    "sends in a task": """
        async def endless():
            while True:
                await send(part(b"x"))
                await asyncio.sleep(0.002)
        async with asyncio.TaskGroup() as group:
            group.create_task(endless())""",
    "blocks": """
        await send(part(b"x"))
        threading.Event().wait()  # here""",
    "swallows it": """
        try:
            await send(part(b"x"))
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return""",
    "sends in cleaning up": """
        try:
            await send(part(b"x"))
            await asyncio.Event().wait()
        finally:
            print((await receive())["type"])
            await send(part(b"late"))""",
    "computes, then sends": """
        await send(part(b"x"))
        import time
        end = time.monotonic() + 0.22
        while time.monotonic() < end:
            pass
        await send(part(b"late"))""",
}


@pytest.mark.traced
@pytest.mark.parametrize("serve", DEADLINES.values(), ids=list(DEADLINES))
def test_deadline_ends_response(sandbox: Sandbox, serve: str) -> None:
    """The error is the deadline's, in trailers; the next invocation is served."""
    body = f"""
        if "second" in scope["path"]:
            await send(START)
            return await send(part(b"served", False))
        await send(START){serve}
    """
    second: Message = function_url(path="/second")
    ended = sandbox.run(code(body), due_request(), event(json.dumps(second).encode()))
    first, then = ended.posts
    assert first.trailers[ERROR_TYPE] == "StreamDeadlineExceeded"
    assert set(split_metadata(first.body)[1]) == {ord("x")}
    assert split_metadata(then.body)[1] == b"served"
    assert ended.output.count("[ERROR]") == 1
    if "# here" in serve and "create_task" not in serve:
        assert "# here" in ended.output


class Expiring:
    """A writer, whose deadline passes while it sends the part `last`."""

    send_part: Callable[[bytes], bool] | None = None

    def __init__(self, last: bytes) -> None:
        self.deadline = Deadline(0, lambda: None)
        self.parts: list[bytes] = []
        self._last = last

    def start(self, metadata: bytes) -> None:
        self.parts.append(metadata)

    def write(self, part: bytes, last: bool) -> bool:
        self.send_part = self._send
        self._send(part)
        return True

    def _send(self, part: bytes) -> bool:
        self.parts.append(part)
        self.deadline.passed = part == self._last
        return self.deadline.passed

    def note_failure(self, error: RuntimeApiError) -> None:
        raise error


@pytest.mark.traced
@pytest.mark.parametrize("sent", [[b"1"], [b"1", b"2"]], ids=["first part", "other part"])
def test_deadline_during_a_write(monkeypatch: pytest.MonkeyPatch, sent: list[bytes]) -> None:
    monkeypatch.setattr(event_loop, "startup_hooks", [])
    monkeypatch.setattr(event_loop, "shutdown_hooks", [])

    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200})
        for body in sent[:-1]:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        with pytest.raises(StreamDeadlineExceeded):
            await send({"type": "http.response.body", "body": sent[-1], "more_body": True})
        with pytest.raises(OSError, match="disconnected"):
            await send({"type": "http.response.body", "body": b"late"})

    writer = Expiring(sent[-1])
    with pytest.raises(StreamDeadlineExceeded):
        asyncio.run(AsgiHandler(app).respond(function_url(), None, writer))
    assert writer.parts[1:] == sent


class Broken(Expiring):
    """A writer without a connection."""

    def write(self, part: bytes, last: bool) -> bool:
        return False


def test_broken_connection_at_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "startup_hooks", [])
    monkeypatch.setattr(event_loop, "shutdown_hooks", [])

    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"1"})
        pytest.fail("not reached")

    asyncio.run(AsgiHandler(app).respond(function_url(), None, Broken(b"")))


def test_deadline_before_the_response(sandbox: Sandbox) -> None:
    ended = sandbox.run(code("        await asyncio.Event().wait()"), due_request())
    assert [post.target.rpartition("/")[2] for post in ended.posts] == ["error"]
    assert report_of(ended.posts[0])["errorType"] == "StreamDeadlineExceeded"


def test_complete_response_at_deadline(sandbox: Sandbox) -> None:
    """The response is whole, so only the background code is reported as late."""
    serve = """
        await send(START)
        await send(part(b"x", False))
        await asyncio.Event().wait()
    """
    ended = sandbox.run(code(serve), due_request())
    assert ended.posts[0].raw.endswith(chunked(b"x"))
    assert ended.output.count("[ERROR] StreamDeadlineExceeded") == 1
