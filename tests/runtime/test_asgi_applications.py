"""An ASGI application of each framework, run by the bootstrap: what is sent, and what is left behind."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any

import pytest
from tests.helpers.chunks import split_metadata
from tests.helpers.http_events import HOST, Message, function_url, rest_api
from tests.helpers.protocol import ERROR_TYPE
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import Reset, event

pytestmark = [pytest.mark.own_interpreter, pytest.mark.slow]

# Parts of several applications.
CHUNKS = """
    async def chunks():
        with open("gate", "rb", buffering=0) as gate:
            while byte := await asyncio.to_thread(gate.read, 1):
                yield b"chunk " + byte
"""
LIFESPAN = """
    started = []

    @asynccontextmanager
    async def lifespan(app):
        started.append(1)
        yield
"""
PLAIN = """
    import json
    from streaming_runtime import AsgiHandler

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["started"] = started = []
            started.append(1)
            await send({"type": "lifespan.startup.complete"})
            return
        if scope["path"].endswith("/stream"):
            await send({"type": "http.response.start", "status": 200})
            with open("gate", "rb", buffering=0) as gate:
                while byte := gate.read(1):  # blocks the event loop, so that nothing is sent later by another task
                    await send({"type": "http.response.body", "body": b"chunk " + byte, "more_body": True})
            await send({"type": "http.response.body"})
            return
        message = await receive()
        headers = dict(scope["headers"])
        answer = {
            "method": scope["method"],
            "path": scope["path"],
            "root_path": scope["root_path"],
            "query": scope["query_string"].decode(),
            "cookie": headers[b"cookie"].decode(),
            "body": message["body"].decode(),
            "started": len(scope["state"]["started"]),
        }
        await send({
            "type": "http.response.start",
            "status": 201,
            "headers": [
                (b"content-type", b"application/json"),
                (b"x-one", b"1"),
                (b"set-cookie", b"a=1"),
                (b"set-cookie", b"b=2"),
            ],
        })
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
    handler = AsgiHandler(app)
    """
STARLETTE = (
    """
    import asyncio
    from contextlib import asynccontextmanager
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route
    from streaming_runtime import AsgiHandler

    """
    + LIFESPAN.replace("yield", 'yield {"started": started}')
    + """

    """
    + CHUNKS
    + """

    async def stream(request):
        return StreamingResponse(chunks())

    async def echo(request):
        response = JSONResponse(
            {
                "method": request.method,
                "path": request.url.path,
                "root_path": request.scope["root_path"],
                "query": request.url.query,
                "cookie": request.headers["cookie"],
                "body": (await request.body()).decode(),
                "started": len(request.state.started),
            },
            201,
            {"x-one": "1"},
        )
        response.raw_headers += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        return response

    async def dispatch(request, call_next):
        return await call_next(request)

    routes = [Route("/stream", stream), Route("/echo", echo, methods=["POST"])]
    app = Starlette(routes=routes, lifespan=lifespan, middleware=MIDDLEWARE)
    handler = AsgiHandler(app)
    """
)
FASTAPI = (
    """
    import asyncio
    from contextlib import asynccontextmanager
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import StreamingResponse
    from streaming_runtime import AsgiHandler

    """
    + LIFESPAN
    + """

    app = FastAPI(lifespan=lifespan)

    """
    + CHUNKS
    + """

    @app.get("/stream")
    async def stream():
        return StreamingResponse(chunks())

    @app.post("/echo", status_code=201)
    async def echo(request: Request, response: Response):
        response.headers["x-one"] = "1"
        response.headers.append("set-cookie", "a=1")
        response.headers.append("set-cookie", "b=2")
        return {
            "method": request.method,
            "path": request.url.path,
            "root_path": request.scope["root_path"],
            "query": request.url.query,
            "cookie": request.headers["cookie"],
            "body": (await request.body()).decode(),
            "started": len(started),
        }

    handler = AsgiHandler(app)
    """
)
LITESTAR = (
    """
    import asyncio
    from contextlib import asynccontextmanager
    from litestar import Litestar, Request, Response, get, post
    from litestar.datastructures import Cookie
    from litestar.response import Stream
    from streaming_runtime import AsgiHandler

    """
    + LIFESPAN
    + """

    """
    + CHUNKS
    + """

    @get("/stream")
    async def stream() -> Stream:
        return Stream(chunks())

    @post("/echo")
    async def echo(request: Request) -> Response:
        answer = {
            "method": request.method,
            "path": request.url.path,
            "root_path": request.scope["root_path"],
            "query": request.url.query,
            "cookie": request.headers["cookie"],
            "body": (await request.body()).decode(),
            "started": len(started),
        }
        cookies = [Cookie(key="a", value="1"), Cookie(key="b", value="2")]
        return Response(answer, status_code=201, headers={"x-one": "1"}, cookies=cookies)

    app = Litestar([stream, echo], lifespan=[lifespan])
    handler = AsgiHandler(app)
    """
)
DJANGO = (
    """
    import asyncio
    from django.conf import settings
    settings.configure(ROOT_URLCONF="app", ALLOWED_HOSTS=["*"])
    from django.core.asgi import get_asgi_application
    from django.http import JsonResponse, StreamingHttpResponse
    from django.urls import path
    from streaming_runtime import AsgiHandler

    """
    + CHUNKS
    + """

    async def stream(request):
        return StreamingHttpResponse(chunks())

    async def echo(request):
        answer = {
            "method": request.method,
            "path": request.path,
            "root_path": request.META["SCRIPT_NAME"],
            "query": request.META["QUERY_STRING"],
            "cookie": request.headers["cookie"],
            "body": request.body.decode(),
            "started": 1,  # Django has no lifespan
        }
        response = JsonResponse(answer, status=201, headers={"x-one": "1"})
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    urlpatterns = [path("stream", stream), path("echo", echo)]
    handler = AsgiHandler(get_asgi_application())
    """
)
APPLICATIONS = {
    "plain": PLAIN,
    "Starlette": STARLETTE.replace("MIDDLEWARE", "[]"),
    "Starlette with a middleware": STARLETTE.replace(
        "MIDDLEWARE", "[Middleware(BaseHTTPMiddleware, dispatch=dispatch)]"
    ),
    "FastAPI": FASTAPI,
    "Litestar": LITESTAR,
    "Django": DJANGO,
}
applications = pytest.mark.parametrize("code", APPLICATIONS.values(), ids=list(APPLICATIONS))


def as_event(request: Message) -> Any:
    return event(json.dumps(request).encode())


@applications
def test_framework_chunks_arrive_one_by_one(sandbox: Sandbox, code: str) -> None:
    gate = sandbox.gate()
    running = sandbox.start(code, as_event(function_url(path="/stream")))
    with gate:
        for number in (b"1", b"2", b"3"):
            gate.write(number)
            running.api.wait_until(b"7\r\nchunk %b\r\n" % number, request=1)
    ended = running.end()
    assert ended.posts[0].raw.endswith(b"7\r\nchunk 3\r\n0\r\n\r\n")
    assert ended.output == ""


@applications
def test_framework_request_and_response(sandbox: Sandbox, code: str) -> None:
    body = base64.b64encode("zwölf".encode()).decode()
    headers = {"Host": HOST, "Content-Type": "text/plain", "Content-Length": "6"}
    url_request = function_url(
        "POST", "/echo", "q=a%20b&q=2", cookies=["a=1", "b=2"], headers=headers, body=body, isBase64Encoded=True
    )
    rest_request = rest_api(
        "POST",
        "/echo",
        {"q": ["a b", "2"]},
        "/prod",
        multiValueHeaders={**{name: [value] for name, value in headers.items()}, "Cookie": ["a=1; b=2"]},
        body=body,
        isBase64Encoded=True,
    )
    ended = sandbox.run(code, as_event(url_request), as_event(rest_request))
    assert ended.output == ""
    heads, answers = zip(*map(split_metadata, ended.bodies), strict=True)
    for head in heads:
        assert (head["statusCode"], head["headers"]["x-one"]) == (201, "1")
        assert head["headers"]["content-type"] == "application/json"
        assert [cookie.partition(";")[0] for cookie in head["cookies"]] == ["a=1", "b=2"]
    seen = {"method": "POST", "cookie": "a=1; b=2", "body": "zwölf", "started": 1}
    assert [json.loads(answer) for answer in answers] == [
        {**seen, "path": "/echo", "root_path": "", "query": "q=a%20b&q=2"},
        {**seen, "path": "/prod/echo", "root_path": "/prod", "query": "q=a+b&q=2"},
    ]


def test_mcp_server(sandbox: Sandbox) -> None:
    code = """
        from mcp.server import MCPServer
        from streaming_runtime import AsgiHandler

        server = MCPServer("calculator")

        @server.tool()
        def add(a: int, b: int) -> int:
            return a + b

        handler = AsgiHandler(server.streamable_http_app(stateless_http=True, host="0.0.0.0"))
        """
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json", "host": HOST}
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    calls = {
        "initialize": client,
        "tools/list": {},
        "tools/call": {"name": "add", "arguments": {"a": 1, "b": 2}},
    }
    requests = [{"jsonrpc": "2.0", "id": 1, "method": method, "params": params} for method, params in calls.items()]
    events = [function_url("POST", "/mcp", headers=headers, body=json.dumps(request)) for request in requests]
    ended = sandbox.run(code, *map(as_event, events))
    heads, streams = zip(*map(split_metadata, ended.bodies), strict=True)
    assert [head["headers"]["content-type"].partition(";")[0] for head in heads] == ["text/event-stream"] * 3
    messages = [json.loads(stream.partition(b"data: ")[2].splitlines()[0])["result"] for stream in streams]
    assert messages[0]["serverInfo"]["name"] == "calculator"
    assert [tool["name"] for tool in messages[1]["tools"]] == ["add"]
    assert messages[2]["structuredContent"] == {"result": 3}


def test_background_task_after_response(sandbox: Sandbox) -> None:
    gate = sandbox.gate()
    code = """
        from starlette.applications import Starlette
        from starlette.background import BackgroundTask
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from streaming_runtime import AsgiHandler

        def background():
            with open("gate", "rb") as gate:
                print(gate.read().decode())

        def home(request):
            return PlainTextResponse("x", background=BackgroundTask(background))

        handler = AsgiHandler(Starlette(routes=[Route("/", home)]))
        """
    running = sandbox.start(code, as_event(function_url()))
    running.api.wait_until(b"1\r\nx\r\n0\r\n\r\n", request=1)
    with gate:
        assert len(running.api.requests) == 2
        gate.write(b"seen on the wire")
    assert running.end().output == "seen on the wire\n"


def failing(raising: str) -> str:
    return f"""
        from starlette.applications import Starlette
        from starlette.responses import StreamingResponse
        from starlette.routing import Route
        from streaming_runtime import AsgiHandler

        async def chunks():
            yield "chunk"
            raise ValueError("oops")

        def home(request):
            {raising}

        handler = AsgiHandler(Starlette(routes=[Route("/", home)]))
        """


def test_error_page_is_sent_whole(sandbox: Sandbox) -> None:
    ended = sandbox.run(failing('raise ValueError("oops")'), as_event(function_url()), as_event(function_url()))
    for post in ended.posts:
        head, content = split_metadata(post.body)
        assert (head["statusCode"], content, post.trailers) == (500, b"Internal Server Error", {})
    assert ended.output.count("[ERROR] ValueError: oops") == 2
    assert 'raise ValueError("oops")' in ended.output


def test_error_in_stream_is_reported(sandbox: Sandbox) -> None:
    ended = sandbox.run(failing("return StreamingResponse(chunks())"), as_event(function_url()))
    assert split_metadata(ended.posts[0].body)[1] == b"chunk"
    assert ended.posts[0].trailers[ERROR_TYPE] == "ValueError"
    assert ended.output.count("[ERROR] ValueError: oops") == 1


@pytest.mark.parametrize(
    ("middleware", "trailers"),
    [
        # Starlette sends the end of the response before it raises, so that the client sees a complete response.
        ("BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request)", 0),
        ("lambda app: lambda scope, receive, send: app(scope, receive, send)", 2),
    ],
    ids=["BaseHTTPMiddleware", "pure ASGI"],
)
def test_middleware_that_hides_stream_errors(sandbox: Sandbox, middleware: str, trailers: int) -> None:
    """The README of a project with FastAPI says which kind of middleware hides an error in the stream."""
    code = (
        failing("return StreamingResponse(chunks())")
        + f"""
        from starlette.middleware.base import BaseHTTPMiddleware
        app = Starlette(routes=[Route("/", home)])
        app.add_middleware({middleware})
        handler = AsgiHandler(app)
        """
    )
    ended = sandbox.run(code, as_event(function_url()))
    assert split_metadata(ended.posts[0].body)[1] == b"chunk"
    assert len(ended.posts[0].trailers) == trailers
    assert "ValueError: oops" in ended.output


def test_direct_invocation_is_a_clean_error(sandbox: Sandbox) -> None:
    ended = sandbox.run(PLAIN, event(b'{"name": "direct"}'))
    assert [post.target.rpartition("/")[2] for post in ended.posts] == ["error"]
    assert json.loads(ended.bodies[0])["errorMessage"].startswith("AsgiHandler requires the event of a function URL")


def test_failed_startup_is_an_init_error(sandbox: Sandbox) -> None:
    code = """
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette
        from streaming_runtime import AsgiHandler

        @asynccontextmanager
        async def lifespan(app):
            raise ValueError("no database")
            yield

        handler = AsgiHandler(Starlette(lifespan=lifespan))
        """
    ended = sandbox.run(code)
    assert [post.target.rpartition("/runtime/")[2] for post in ended.posts] == ["init/error"]
    error = json.loads(ended.bodies[0])
    assert error["errorType"] == "RuntimeError"
    assert error["errorMessage"].endswith("ValueError: no database\n")


ENDLESS = {
    "plain": """
        from streaming_runtime import AsgiHandler

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                return
            try:
                await send({"type": "http.response.start", "status": 200})
                while True:
                    await send({"type": "http.response.body", "body": b"marker", "more_body": True})
            finally:
                print("closed")

        handler = AsgiHandler(app)
        """,
    "Starlette": """
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.base import BaseHTTPMiddleware
        from starlette.responses import StreamingResponse
        from starlette.routing import Route
        from streaming_runtime import AsgiHandler

        async def chunks():
            while True:
                yield b"marker"

        async def home(request):
            return StreamingResponse(chunks())

        async def dispatch(request, call_next):
            return await call_next(request)

        class Logging:
            def __init__(self, app):
                self.app = app
            async def __call__(self, scope, receive, send):
                try:
                    await self.app(scope, receive, send)
                finally:
                    if scope["type"] == "http":
                        print("closed")

        middleware = [Middleware(Logging), Middleware(BaseHTTPMiddleware, dispatch=dispatch)]
        handler = AsgiHandler(Starlette(routes=[Route("/", home)], middleware=middleware))
        """,
    "FastAPI": """
        from fastapi import Depends, FastAPI
        from fastapi.responses import StreamingResponse
        from streaming_runtime import AsgiHandler

        app = FastAPI()

        async def resource():
            try:
                yield
            finally:
                print("closed")

        async def chunks():
            while True:
                yield b"marker"

        @app.get("/")
        async def home(resource=Depends(resource)):
            return StreamingResponse(chunks())

        handler = AsgiHandler(app)
        """,
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=list(ENDLESS))
def test_broken_connection_ends_application(sandbox: Sandbox, code: str) -> None:
    request = as_event(function_url())
    ended = sandbox.run(code, request, request, posts=[Reset(at=b"marker"), Reset(at=b"marker")])
    assert ended.methods == ["GET", "POST", "GET", "POST", "GET"]
    log = [line for line in ended.output.splitlines() if line == "closed" or "RuntimeApiError" in line]
    assert [line == "closed" for line in log] == [False, True] * 2


def test_failed_shutdown_spares_the_others(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import AsgiHandler
        def application(name):
            async def app(scope, receive, send):
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                print(name, "down")
                raise ValueError(name)
            return app
        AsgiHandler(application("first"))
        AsgiHandler(application("second"))
        def handler(event, context):
            return "served"
        """
    running = sandbox.start(code, hold=True)
    running.api.wait_until(b"/next", request=0)
    running.process.terminate()
    ended = running.end()
    assert ended.status == 128 + 15
    assert re.findall(r"^\w+ down$|^\[ERROR\] .*?(?=\r)", ended.output, re.MULTILINE) == [
        "first down",
        "[ERROR] ValueError: first",
        "second down",
        "[ERROR] ValueError: second",
    ]
    assert ended.errors == ""


def test_second_sigterm_during_shutdown(sandbox: Sandbox) -> None:
    gate = sandbox.gate()
    code = """
        from streaming_runtime import AsgiHandler
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            print("ending", flush=True)
            open("gate").read()
            print("ended")
            await send({"type": "lifespan.shutdown.complete"})
        handler = AsgiHandler(app)
        """
    running = sandbox.start(code, hold=True)
    running.api.wait_until(b"/next", request=0)
    running.process.terminate()
    assert running.log_until(b"\n") == b"ending\n"
    running.process.terminate()
    gate.release()
    ended = running.end()
    assert (ended.status, ended.output) == (128 + 15, "ended\n")


UNSENDABLE = """
    import asyncio, json
    from streaming_runtime import AsgiHandler
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200})
        try:
            await send({"type": "http.response.body", "body": b"served"})
        except OSError:
            print("told")
    application = AsgiHandler(app)
    async def handler(event, context):
        response = await application(event, context)
        if "spoil" in event:
            response.status_code = 0
        return response
    """


def test_application_learns_of_unsendable_response(sandbox: Sandbox) -> None:
    ended = sandbox.run(UNSENDABLE, as_event(function_url(spoil=True)), as_event(function_url()))
    assert json.loads(ended.bodies[0])["errorType"] == "ValueError"
    assert ended.output.count("[ERROR] ") == ended.output.count("told") == 1
    assert split_metadata(ended.bodies[1])[1] == b"served"


def test_sigterm_during_invocation(sandbox: Sandbox) -> None:
    """It ends everything that runs on the event loop: the lifespan and the application."""
    code = """
        import asyncio, threading
        from streaming_runtime import AsgiHandler
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                print("down")
                return await send({"type": "lifespan.shutdown.complete"})
            closing = threading.Event()
            threading.Thread(target=closing.wait).start()  # like AnyIO's threads, it ends with the event loop
            await send({"type": "http.response.start", "status": 200})
            try:
                await send({"type": "http.response.body", "body": b"marker", "more_body": True})
                asyncio.get_running_loop().call_soon(print, "waits")  # rather than runs
                await asyncio.sleep(60)
            finally:
                print("cleaned up")
                closing.set()
        handler = AsgiHandler(app)
        """
    running = sandbox.start(code, as_event(function_url()), hold=True)
    running.api.wait_until(b"marker", request=1)
    assert running.log_until(b"\n") == b"waits\n"
    running.process.terminate()
    ended = running.end()
    assert ended.status == 128 + 15
    assert re.findall("^(down|cleaned up)$", ended.output, re.MULTILINE) == ["down", "cleaned up"]


def test_deadline_log_shows_the_await(sandbox: Sandbox) -> None:
    code = """
        import asyncio
        from streaming_runtime import AsgiHandler

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                return
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            try:
                await asyncio.Event().wait()  # here
            finally:
                print("closed")

        handler = AsgiHandler(app)
        """
    request = json.dumps(function_url()).encode()
    deadline = str(int(time.time() * 1000) + 4000)
    margin = {"STREAMING_RUNTIME_DEADLINE_MARGIN_MS": "3000"}
    ended = sandbox.run(code, event(request, Lambda_Runtime_Deadline_Ms=deadline), environment=margin)
    assert split_metadata(ended.posts[0].body)[1] == b"x"
    assert ended.posts[0].trailers[ERROR_TYPE] == "StreamDeadlineExceeded"
    assert "await asyncio.Event().wait()  # here" in ended.output
    assert "closed" in ended.output
