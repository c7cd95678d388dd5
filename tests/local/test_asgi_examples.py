"""The examples behind the local URL, and FastAPI behind it compared with FastAPI's own TestClient.

FastAPI and MCP are imported where they are used: together they cost a second in each process of a test run.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from tests.helpers.gates import Fifo
from tests.helpers.support import TEMPLATE
from tests.local.conftest import TIMEOUT, LogCollector, Serve
from tests.local.conftest import function as of_handler

from local.function_url import running

EXAMPLES = TEMPLATE / "examples"

pytestmark = pytest.mark.slow

# An example's application, unchanged except that it waits for the test where it would sleep or compute.
EXAMPLE = """
import asyncio, sys, types
sys.path.insert(0, os.environ["EXAMPLE"])
import app
"""
GATED_FASTAPI = (
    EXAMPLE
    + """
async def sleep(seconds):
    await asyncio.to_thread(wait)

app.asyncio = types.SimpleNamespace(sleep=sleep)
handler = app.handler
"""
)
GATED_MCP = (
    EXAMPLE
    + """
primes_between = app.primes_between

def gated(start, stop):
    wait()
    return primes_between(start, stop)

app.primes_between = gated
handler = app.handler
"""
)


def source_of(example: str) -> str:
    return str(EXAMPLES / example / "src")


def test_fastapi_lines_stream(serve: Serve) -> None:
    served = serve(GATED_FASTAPI, EXAMPLE=source_of("fastapi"))
    response = served.start("/?count=4")
    assert (response.status, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    for number in range(1, 5):
        assert response.read1().startswith(b"%2d of 4, " % number)
        served.gate.write(b".")
    assert response.read() == b"end\n"


def test_fastapi_events_stream(serve: Serve) -> None:
    served = serve(GATED_FASTAPI, EXAMPLE=source_of("fastapi"))
    connection = served.connect()
    connection.request("GET", "/events?count=5", headers={"Last-Event-ID": "2"})
    response = connection.getresponse()
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    for number in range(3, 6):
        event = response.read1()
        assert event.startswith(b"event: tick\n")
        assert event.endswith(b"\nid: %d\n\n" % number)
        served.gate.write(b".")
    assert response.read() == b"event: end\ndata: {}\n\n"


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
def test_mcp_progress_before_result(serve: Serve, mode: str, version: str) -> None:
    from mcp import Client

    served = serve(GATED_MCP, EXAMPLE=source_of("mcp"))
    seen: list[str] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        seen.append(f"{progress:g} of {total}: {message}")
        served.gate.write(b".")  # now that the report has arrived, the tool goes on

    async def converse() -> list[str]:
        async with asyncio.timeout(TIMEOUT), Client(served.url + "mcp", mode=mode) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            served.gate.write(b".")
            result = await client.call_tool("count_primes", {"limit": 100}, progress_callback=report)
            seen.append(f"result: {result.structured_content}")
            assert client.protocol_version == version
            return names

    assert asyncio.run(converse()) == ["count_primes"]
    counts = [(11, 4), (21, 8), (31, 10), (41, 12), (51, 15), (61, 17), (71, 19), (81, 22), (91, 24), (101, 25)]
    assert seen == [
        *(f"{step} of 10.0: {found} primes below {stop}" for step, (stop, found) in enumerate(counts, 1)),
        "result: {'result': 25}",
    ]


# The same application behind both. Its responses show the request as the application sees it.
APPLICATION = """
import asyncio, json, os
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Annotated

from fastapi import (
    APIRouter, BackgroundTasks, Cookie, Depends, FastAPI, File, Form, Header, HTTPException, Query, Request, Response,
    UploadFile,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.routing import Mount, Route

class Teapot(Exception):
    pass

class Part(BaseModel):
    name: str
    price: float = Field(gt=0)

class Order(BaseModel):
    number: int
    parts: list[Part] = Field(min_length=1)
    note: str | None = None

@asynccontextmanager
async def lifespan(app):
    yield {"greeting": "hello from the lifespan"}

app = FastAPI(lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=100_000)
app.add_middleware(
    CORSMiddleware, allow_origins=["https://page.example"], allow_credentials=True, allow_methods=["PUT"]
)

@app.middleware("http")
async def counting(request, call_next):
    response = await call_next(request)
    response.headers["x-middleware"] = str(len(request.url.path))
    return response

@app.exception_handler(Teapot)
async def teapot(request, error):
    return JSONResponse({"teapot": str(error)}, 418, {"x-teapot": "short and stout"})

METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]

@app.api_route("/echo", methods=METHODS, include_in_schema=False)
@app.api_route("/echo/{rest:path}", methods=METHODS, include_in_schema=False)
async def echo(request: Request, rest: str = ""):
    body = await request.body()
    # Headers that Lambda adds, hop-by-hop headers, and cookies, which Lambda joins with spaces.
    of_lambda = ("x-forwarded-", "x-amzn-", "connection", "transfer-encoding", "cookie")
    names = sorted({name for name in request.headers if not name.startswith(of_lambda)})
    return {
        "method": request.method,
        "url": str(request.url),
        "base_url": str(request.base_url),
        "path": request.scope["path"],
        "raw_path": request.scope["raw_path"].decode(),
        "root_path": request.scope["root_path"],
        "rest": rest,
        "query": request.url.query,
        "parameters": request.query_params.multi_items(),
        # Lambda joins the values of equal names.
        "headers": {name: ",".join(request.headers.getlist(name)) for name in names},
        "cookies": request.cookies,
        "client": request.client.host,
        "http_version": request.scope["http_version"],
        "greeting": request.state.greeting,
        "size": len(body),
        "sha256": sha256(body).hexdigest(),
    }

@app.get("/search")
async def search(
    q: str,
    tag: Annotated[list[str], Query()] = [],
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    exact: bool = False,
):
    return {"q": q, "tag": tag, "limit": limit, "exact": exact}

@app.get("/session")
async def session(
    session: Annotated[str | None, Cookie()] = None,
    theme: Annotated[str, Cookie()] = "light",
    x_token: Annotated[list[str] | None, Header()] = None,
):
    return {"session": session, "theme": theme, "token": x_token and ",".join(x_token)}

@app.post("/orders", status_code=201)
async def order(order: Order) -> Order:
    return order

@app.post("/form")
async def form(name: Annotated[str, Form()], tag: Annotated[list[str], Form()] = []):
    return {"name": name, "tag": tag}

@app.post("/files")
async def files(files: Annotated[list[UploadFile], File()], note: Annotated[str, Form()] = ""):
    found = [(file.filename, file.content_type, file.size, sha256(await file.read()).hexdigest()) for file in files]
    return {"files": found, "note": note}

@app.post("/stream-in")
async def stream_in(request: Request):
    digest, size = sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}

@app.get("/status/{status}")
async def status(status: int):
    return Response(status_code=status)

@app.delete("/nothing", status_code=204)
async def nothing():
    return None

@app.get("/raise/{kind}")
async def fail(kind: str):
    if kind == "teapot":
        raise Teapot("tip me over")
    if kind == "http":
        raise HTTPException(409, {"reason": "conflict"}, {"x-reason": "conflict", "retry-after": "3"})
    raise ValueError("not handled")

@app.get("/not-what-was-promised")
async def broken() -> Part:
    return {"name": "x"}

basic = HTTPBasic()

@app.get("/private")
async def private(credentials: Annotated[HTTPBasicCredentials, Depends(basic)]):
    return {"user": credentials.username}

async def resource(response: Response):
    response.headers["x-resource"] = "opened"
    yield "resource"

@app.get("/dependency")
async def dependency(resource: Annotated[str, Depends(resource)]):
    return resource

@app.get("/redirect")
async def redirect(to: str, status: int = 307):
    return RedirectResponse(to, status)

@app.get("/folder/")
async def folder(request: Request):
    return str(request.url_for("status", status=200))

@app.get("/cookies")
async def cookies(response: Response):
    response.set_cookie("one", "1", max_age=60, path="/cookies", secure=True, httponly=True, samesite="strict")
    response.set_cookie("two", "a, b; c")
    response.set_cookie("three", expires="Wed, 25 Nov 2026 09:30:00 GMT", domain="page.example")
    response.delete_cookie("four")
    return "set"

@app.get("/headers")
async def headers():
    response = PlainTextResponse("seen")
    for name, value in [
        ("link", "</a>; rel=next"), ("link", "</b>; rel=prev"), ("vary", "Accept"), ("x-empty", ""),
        ("x-long", "x" * 4000), ("X-Case", "Kept"), ("server", "mine"),
        ("x-quoted", 'a "b" \\\\ c'), ("cache-control", "no-store, max-age=0"),
    ]:
        response.headers.append(name, value)
    return response

@app.get("/latin")
async def latin(response: Response, x_name: Annotated[str, Header()]):
    response.headers["x-name"] = x_name
    return x_name

@app.get("/without-a-type")
async def without_a_type():
    return Response(b"bytes")

@app.get("/length")
async def length():
    return Response(b"12345", headers={"content-length": "5", "date": "Wed, 25 Nov 2026 09:30:00 GMT"})

@app.get("/html", response_class=HTMLResponse)
async def html():
    return "<p>Stra\\u00dfe \\u6771\\u4eac \\U0001f680</p>"

@app.get("/bytes")
async def bytes_(size: int = 300):
    return Response(bytes(number % 256 for number in range(size)), media_type="image/png")

@app.get("/stream")
async def stream():
    async def content():
        yield "one\\n"
        yield b""
        yield "zw\\u00f6lf\\n".encode()
        await asyncio.sleep(0)
        yield memoryview(b"\\x00\\xff\\n")
    return StreamingResponse(content(), 206, {"x-stream": "yes"}, "text/csv")

@app.get("/stream-sync")
def stream_sync():
    return StreamingResponse((b"%d," % number for number in range(1000)), media_type="text/plain")

@app.get("/stream-empty")
async def stream_empty():
    return StreamingResponse(iter(()))

@app.get("/stream-large")
async def stream_large():
    return StreamingResponse((bytes([number]) * 65_536 for number in range(48)), media_type="application/x-large")

@app.get("/lines")
async def lines() -> list[int]:
    return [1, 2]

@app.get("/events", response_class=EventSourceResponse)
async def events(last_event_id: Annotated[int, Header()] = 0):
    for number in range(last_event_id, 4):
        yield ServerSentEvent(data={"number": number}, event="tick", id=str(number), retry=1000)
    yield ServerSentEvent(raw_data="two\\nlines", comment="over")

def record(text):
    with open(os.environ["RECORD"], "wb", buffering=0) as told:
        told.write(text.encode())

@app.post("/background", status_code=202)
async def background(tasks: BackgroundTasks, text: str):
    tasks.add_task(record, text)
    return "accepted"

@app.get("/file")
async def file():
    return FileResponse(os.environ["FILE"], media_type="text/plain", filename="\\u6771 file.txt")

app.mount("/static", StaticFiles(directory=os.path.dirname(os.environ["FILE"])))

async def old(request):
    return PlainTextResponse("old " + request.scope["root_path"] + " " + request.url.path)

router = APIRouter(prefix="/api/v1")

@router.get("/things/{thing}")
async def thing(thing: str):
    return {"thing": thing}

app.include_router(router)
app.router.routes.append(Mount("/old", routes=[Route("/{rest:path}", old)]))

sub = FastAPI(title="sub")

@sub.get("/hello")
async def hello(request: Request):
    return {"root_path": request.scope["root_path"], "url": str(request.url_for("hello"))}

app.mount("/sub", sub)
"""
HANDLER = """
from streaming_runtime import AsgiHandler
handler = AsgiHandler(app)
"""

BINARY = bytes(range(256)) * 4
ORDER = {"number": 7, "parts": [{"name": "Schraube für 東京", "price": 0.5}], "note": "🚀"}
MODIFIED = 1_795_000_000  # modification time of the served file: 18 November 2026
ORIGIN = "https://page.example"

# Method, URL and further arguments of httpx2.
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"method {method}": (method, "/echo", {}) for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")},
    "HEAD": ("HEAD", "/echo?a=1", {}),
    "HEAD of a stream": ("HEAD", "/stream", {}),
    "HEAD of a file": ("HEAD", "/static/file.txt", {}),
    "405": ("DELETE", "/search", {}),
    "405 for a non-standard method": ("PURGE", "/search", {}),
    "404": ("GET", "/nowhere", {}),
    "query repeated": ("GET", "/echo?tag=x&tag=y&tag=&tag", {}),
    "query encoded": ("GET", "/echo?q=a%20b&r=a+b&s=%26%3D%2B&t=%E6%9D%B1&u=%zz&v=%ff", {}),
    "query with allowed characters": ("GET", "/echo?a=/?:@!$'()*,;b", {}),
    "query unicode": (
        "GET",
        "/search",
        {"params": {"q": "Straße 東京", "tag": ["ä", "&"], "limit": 3, "exact": "yes"}},
    ),
    "query empty": ("GET", "/echo?", {}),
    "query missing": ("GET", "/search", {}),
    "query invalid": ("GET", "/search?q=x&limit=1000&exact=perhaps", {}),
    "path unicode": ("GET", "/echo/Straße/東京/🚀", {}),
    "path encoded": ("GET", "/echo/a%20b/c%2Fd/%25/%2B+%3F", {}),
    "path encoded slash in one part": ("GET", "/api/v1/things/a%2Fb", {}),
    "path not UTF-8": ("GET", "/echo/%ff", {}),
    "path double slash": ("GET", "/echo//a///b/", {}),
    "path dots": ("GET", "/echo/a/%2E%2E/b;c=d", {}),
    "router": ("GET", "/api/v1/things/one", {}),
    "mounted application": ("GET", "/sub/hello", {}),
    "mounted route": ("GET", "/old/some/path", {}),
    "openapi.json": ("GET", "/openapi.json", {}),
    "docs": ("GET", "/docs", {}),
    "docs of the mounted application": ("GET", "/sub/docs", {}),
    "cookies": ("GET", "/session", {"headers": {"cookie": "session=abc123; theme=dark"}}),
    "cookies odd": ("GET", "/echo", {"headers": {"cookie": 'a="1, 2";b=3=4;  c=;d; e=x%20y'}}),
    "cookies in two headers": ("GET", "/echo", {"headers": [("cookie", "a=1"), ("cookie", "b=2")]}),
    "headers of equal names": ("GET", "/session", {"headers": [("x-token", "1"), ("x-token", "2")]}),
    "headers odd": ("GET", "/echo", {"headers": {"x-empty": "", "X-Case": "Kept", "x-comma": 'a, b;c="d"'}}),
    "user agent": ("GET", "/echo", {"headers": {"user-agent": "one/1.0", "accept": "text/html, */*;q=0.1"}}),
    "body JSON": ("POST", "/orders", {"json": ORDER}),
    "body JSON invalid": ("POST", "/orders", {"json": {"number": "x", "parts": [{"name": 1, "price": 0}]}}),
    "body JSON malformed": ("POST", "/orders", {"content": b"{", "headers": {"content-type": "application/json"}}),
    "body JSON of another type": ("POST", "/orders", {"content": b"{}", "headers": {"content-type": "text/plain"}}),
    "body JSON latin-1": ("PUT", "/echo", {"content": b'"\xe9"', "headers": {"content-type": "application/json"}}),
    "body empty of a type": ("POST", "/orders", {"headers": {"content-type": "application/json"}}),
    "body text": ("PUT", "/echo", {"content": "zwölf", "headers": {"content-type": "text/plain; charset=utf-8"}}),
    "body binary": ("PUT", "/echo", {"content": BINARY, "headers": {"content-type": "application/octet-stream"}}),
    "body without a type": ("PATCH", "/echo", {"content": b"\x00\n"}),
    "body streamed": ("POST", "/stream-in", {"content": BINARY * 100}),
    "body chunked": ("POST", "/stream-in", {"content": [b"one", b"two", BINARY]}),
    "body large": ("POST", "/stream-in", {"content": BINARY * 4096, "headers": {"content-type": "image/png"}}),
    "body of GET": ("GET", "/echo", {"content": b"body"}),
    "form": ("POST", "/form", {"data": {"name": "a b & ü", "tag": ["x", "y"]}}),
    "form invalid": ("POST", "/form", {"data": {"tag": "x"}}),
    "multipart": (
        "POST",
        "/files",
        {
            "files": [
                ("files", ("東.bin", BINARY, "application/octet-stream")),
                ("files", ("b.txt", "ü".encode(), "text/plain")),
            ],
            "data": {"note": "zwölf"},
            # Otherwise the boundary would be random.
            "headers": {"content-type": "multipart/form-data; boundary=b0undary"},
        },
    ),
    "multipart without a file": ("POST", "/files", {"data": {"note": "x"}}),
    **{f"status {code}": ("GET", f"/status/{code}", {}) for code in (200, 202, 204, 205, 299, 304, 404, 418, 503, 599)},
    "204 by the route": ("DELETE", "/nothing", {}),
    "exception handler": ("GET", "/raise/teapot", {}),
    "HTTPException": ("GET", "/raise/http", {}),
    "unhandled exception": ("GET", "/raise/any", {}),
    "invalid response": ("GET", "/not-what-was-promised", {}),
    "unauthorized": ("GET", "/private", {}),
    "authorized": ("GET", "/private", {"auth": ("ada", "secret")}),
    "dependency": ("GET", "/dependency", {}),
    "redirect": ("GET", "/redirect?to=/folder/", {}),
    "redirect unicode": ("GET", "/redirect", {"params": {"to": "https://page.example/Straße?q=a b", "status": 303}}),
    "redirect to the slash": ("GET", "/folder?a=1", {}),
    "redirect followed": ("GET", "/redirect?to=/folder&status=301", {"follow_redirects": True}),
    "cookies set": ("GET", "/cookies", {}),
    "headers set": ("GET", "/headers", {}),
    "headers that the URL sets": ("GET", "/length", {}),
    "no content type": ("GET", "/without-a-type", {}),
    "HTML": ("GET", "/html", {}),
    "binary": ("GET", "/bytes", {}),
    "large": ("GET", "/bytes?size=3000000", {"headers": {"accept-encoding": "identity"}}),
    "compressed": ("GET", "/bytes?size=300000", {"headers": {"accept-encoding": "gzip"}}),
    "stream": ("GET", "/stream", {"headers": {"accept-encoding": "identity"}}),
    "stream compressed": ("GET", "/stream", {"headers": {"accept-encoding": "gzip"}}),
    "stream of a sync generator": ("GET", "/stream-sync", {"headers": {"accept-encoding": "identity"}}),
    "stream empty": ("GET", "/stream-empty", {"headers": {"accept-encoding": "identity"}}),
    "stream large": ("GET", "/stream-large", {"headers": {"accept-encoding": "identity"}}),
    "JSON list": ("GET", "/lines", {}),
    "event stream": ("GET", "/events", {}),
    "event stream resumed": ("GET", "/events", {"headers": {"last-event-id": "2"}}),
    "event stream invalid": ("GET", "/events", {"headers": {"last-event-id": "x"}}),
    "background task": ("POST", "/background?text=done", {}),
    "file": ("GET", "/file", {}),
    "file range": ("GET", "/file", {"headers": {"range": "bytes=5-9"}}),
    "file range at the end": ("GET", "/file", {"headers": {"range": "bytes=-4"}}),
    "file range unsatisfiable": ("GET", "/file", {"headers": {"range": "bytes=1000-"}}),
    "file range malformed": ("GET", "/file", {"headers": {"range": "lines=1"}}),
    "file if-range": ("GET", "/file", {"headers": {"range": "bytes=0-1", "if-range": '"another"'}}),
    "static": ("GET", "/static/file.txt", {}),
    "static missing": ("GET", "/static/none.txt", {}),
    "static not modified since": (
        "GET",
        "/static/file.txt",
        {"headers": {"if-modified-since": "Sun, 20 Dec 2026 00:00:00 GMT"}},
    ),
    "static etag differs": ("GET", "/static/file.txt", {"headers": {"if-none-match": '"another"'}}),
    "CORS": ("GET", "/search?q=x", {"headers": {"origin": ORIGIN}}),
    "CORS preflight": ("OPTIONS", "/echo", {"headers": {"origin": ORIGIN, "access-control-request-method": "PUT"}}),
    "CORS preflight refused": (
        "OPTIONS",
        "/echo",
        {"headers": {"origin": "https://other.example", "access-control-request-method": "PUT"}},
    ),
}

# Headers of the connection or the URL, which say nothing about the application.
NOT_COMPARED = {
    "connection": "Lambda manages the connection, so the application's is dropped",
    "content-length": "set by the URL; the application's is x-amzn-remapped-content-length",
    "date": "set by the URL; the application's is x-amzn-remapped-date",
    "transfer-encoding": "a streamed response is chunked",
    "x-amzn-requestid": "of the invocation",
    "x-amzn-trace-id": "of the invocation",
}
REMAPPED = "x-amzn-remapped-"  # before the name of a header that a function URL sets itself


def seen(response: httpx2.Response, remapped: bool) -> dict[str, Any]:
    """Return what a client sees of a response, in the order of arrival where that matters."""
    headers: dict[str, list[str]] = {}
    for raw_name, raw_value in response.headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if remapped and name.startswith(REMAPPED):
            headers.setdefault(name.removeprefix(REMAPPED), []).append(value)
        elif not remapped or name not in NOT_COMPARED:
            headers.setdefault(name, []).append(value)
    headers.pop("connection", None)
    # A deleted cookie expires now, and the two responses may be made in different seconds.
    deleted = re.compile(r"expires=[^;]*(?=; Max-Age=0\b)")
    cookies = [deleted.sub("expires=now", cookie) for cookie in headers.pop("set-cookie", [])]
    return {
        "status": response.status_code,
        # HTTP metadata has one value per name, so values are joined with commas (RFC 9110, section 5.3).
        "headers": {name: ", ".join(values) for name, values in sorted(headers.items())},
        "cookies": cookies,
        "body": response.content,
        "redirects": [seen(earlier, remapped) for earlier in response.history],
    }


class Beside:
    """FastAPI behind the local URL, and the same application behind its TestClient.

    Attributes:
        records: What the background tasks of either wrote.
    """

    def __init__(self, through_url: httpx2.Client, in_process: httpx2.Client, records: tuple[Fifo, Fifo]) -> None:
        self.through_url = through_url
        self.in_process = in_process
        self.records = records

    def ask(self, method: str, path: str, **more: Any) -> tuple[httpx2.Response, httpx2.Response]:
        """Return the responses of both."""
        answers = []
        for client in (self.through_url, self.in_process):
            client.cookies.clear()
            answers.append(client.request(method, path, **more))
        return answers[0], answers[1]


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    from fastapi.testclient import TestClient

    folder: Path = tmp_path_factory.mktemp("beside")
    file = folder / "static" / "file.txt"
    file.parent.mkdir()
    file.write_bytes(b"0123456789" * 3)
    os.utime(file, (MODIFIED, MODIFIED))
    (folder / "served.py").write_text(APPLICATION + HANDLER, encoding="utf-8")
    records = Fifo(folder / "behind-url"), Fifo(folder / "in-process")
    variables = {"PYTHONPATH": str(folder), "FILE": str(file), "RECORD": str(records[0].path)}
    function = of_handler(timeout=TIMEOUT, environment=variables)
    application = ModuleType("beside")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for record in records:
            stack.callback(record.close)
        for name in variables:  # variables of this process would override the function's
            patch.delenv(name, raising=False)
        url = stack.enter_context(running(function, 10, LogCollector()))
        agent = {"user-agent": "testclient"}
        through_url = stack.enter_context(httpx2.Client(base_url=url, headers=agent, timeout=TIMEOUT, trust_env=False))
        through_url.get("/")  # by now the function has its variables
        patch.setenv("FILE", str(file))
        patch.setenv("RECORD", str(records[1].path))
        exec(compile(APPLICATION, "beside", "exec", dont_inherit=True), application.__dict__)
        test_client = TestClient(
            application.app, url, raise_server_exceptions=False, follow_redirects=False, client=("127.0.0.1", 0)
        )
        yield Beside(through_url, stack.enter_context(test_client), records)


@pytest.mark.parametrize(("method", "path", "more"), REQUESTS.values(), ids=list(REQUESTS))
def test_fastapi_same_as_test_client(beside: Beside, method: str, path: str, more: dict[str, Any]) -> None:
    through_url, expected = beside.ask(method, path, **more)
    assert seen(through_url, remapped=True) == seen(expected, remapped=False)


def test_etag_returns_304(beside: Beside) -> None:
    etag = beside.ask("GET", "/static/file.txt")[0].headers["etag"]
    through_url, expected = beside.ask("GET", "/static/file.txt", headers={"if-none-match": etag})
    assert through_url.status_code == 304
    assert seen(through_url, remapped=True) == seen(expected, remapped=False)


def test_non_ascii_header(beside: Beside) -> None:
    # The TestClient decodes headers as UTF-8; on the wire they are Latin-1.
    response = beside.through_url.get("/latin", headers=[(b"x-name", "café".encode("latin-1"))])
    assert (response.headers["x-name"], response.json()) == ("café", "café")


def test_background_task_runs(beside: Beside) -> None:
    for record in beside.records:
        record.write(b"|")  # separates this test's record from those of earlier tests
    beside.ask("POST", "/background?text=recorded")
    for record in beside.records:
        while record.read(1) != b"|":
            pass
        assert record.read(len("recorded")) == b"recorded"
