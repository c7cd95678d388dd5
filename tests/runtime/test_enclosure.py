"""`streaming`: whatever encloses the handler's call encloses its stream."""

from __future__ import annotations

import json

import pytest
from tests.helpers.protocol import ERROR_TYPE
from tests.helpers.sandbox import EARLY, Ended, Sandbox
from tests.helpers.scripted_api import ERROR, INIT_ERROR, due, event

RESPONSE = "response"
PREAMBLE = """
import asyncio, contextlib, functools, time
from streaming_runtime import *
from streaming_runtime import streaming
def items(event):
    print("begin")
    if event == "before": raise ValueError(event)
    yield b"one"
    if event == "midway": raise ValueError(event)
    if event == "deadline": time.sleep(9)
    yield b"two"
    print("end")
async def later(event):
    print("begin")
    if event == "before": raise ValueError(event)
    yield b"one"
    if event == "midway": raise ValueError(event)
    if event == "deadline": await asyncio.sleep(9)
    yield b"two"
    print("end")
class Watch(contextlib.ContextDecorator):
    def __enter__(self): print("enter")
    def __exit__(self, kind, error, trace): print("exit", kind and kind.__name__, isinstance(error, Exception))
def watched(handler):
    @functools.wraps(handler)
    def watch(event, context):
        with Watch():
            result = handler(event, context)
            print("returned", result)
            return result
    return watch
"""
FASTAPI = """
import fastapi, fastapi.responses
app = fastapi.FastAPI()
@app.get("/{outcome}")
async def route(outcome: str):
    return fastapi.responses.StreamingResponse(later(outcome))
"""
KINDS = {
    "sync generator": "def handler(event, context):\n    yield from items(event)\n",
    "async generator": "async def handler(event, context):\n    async for item in later(event): yield item\n",
    "iterator": "def handler(event, context):\n    return items(event)\n",
    "StreamingResponse": "def handler(event, context):\n    return StreamingResponse(items(event))\n",
    "async StreamingResponse": "async def handler(event, context):\n    return StreamingResponse(later(event))\n",
    "async handler, sync content": "async def handler(event, context):\n    return StreamingResponse(items(event))\n",
    "dict": "def handler(event, context):\n    return {'statusCode': 200, 'body': items(event)}\n",
}
STREAMED = "{'statusCode': 200, 'streamed': {'bytes': 6, 'chunks': 2}}"
WHOLE = ["enter", "begin", "end", f"returned {STREAMED}", "exit None False"]
#: Event, what the log holds, and what was posted: the end of its target, its payload, the type of its error.
OUTCOMES: dict[str, tuple[list[str], tuple[str, bytes, str]]] = {
    "whole": (WHOLE, ("response", b"onetwo", "")),
    "before": (["enter", "begin", "exit ValueError True"], ("error", b"", "ValueError")),
    "midway": (["enter", "begin", "exit ValueError True"], ("response", b"one", "ValueError")),
    "deadline": (
        ["enter", "begin", "exit StreamDeadlineExceeded True"],
        ("response", b"one", "StreamDeadlineExceeded"),
    ),
}


def lines(ended: Ended) -> list[str]:
    return [line for line in ended.output.split("\n") if line and not line.startswith("[")]


def outcome(ended: Ended) -> tuple[str, bytes, str]:
    """The one post: the end of its target, the payload of a response, the type of its error."""
    (post,) = ended.posts
    kind = post.target.rpartition("/")[2]
    payload = post.body.rpartition(bytes(8))[2] if kind == RESPONSE else b""
    return kind, payload, post.trailers.get(ERROR_TYPE, "") or post.headers.get(ERROR_TYPE, "")


@pytest.mark.traced
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", list(OUTCOMES))
def test_decorator_encloses_stream(sandbox: Sandbox, kind: str, name: str) -> None:
    code = f"{PREAMBLE}@watched\n@streaming\n{KINDS[kind]}"
    ended = sandbox.run(code, due(json.dumps(name).encode(), 1200 if name == "deadline" else 60000), environment=EARLY)
    logged, posted = OUTCOMES[name]
    assert lines(ended) == logged
    assert outcome(ended) == posted


ASYNC_DECORATOR = """
def awaited(handler):
    @functools.wraps(handler)
    async def watch(event, context):
        with Watch():
            result = handler(event, context)
            if hasattr(result, "__await__"):
                result = await result
            print("returned", result)
            return result
    return watch
"""


@pytest.mark.traced
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", ["whole", "midway"])
def test_async_decorator(sandbox: Sandbox, kind: str, name: str) -> None:
    """On the event loop, the enclosed call returns an awaitable."""
    ended = sandbox.run(
        f"{PREAMBLE}{ASYNC_DECORATOR}@awaited\n@streaming\n{KINDS[kind]}", event(json.dumps(name).encode())
    )
    assert (lines(ended), outcome(ended)) == OUTCOMES[name]


@pytest.mark.traced
@pytest.mark.own_interpreter
@pytest.mark.parametrize("decorator", ["watched", "awaited"])
@pytest.mark.parametrize("name", ["whole", "midway"])
def test_asgi_application(sandbox: Sandbox, decorator: str, name: str) -> None:
    http = {"requestContext": {"http": {"method": "GET"}}, "rawPath": f"/{name}", "headers": {}}
    code = f"{PREAMBLE}{ASYNC_DECORATOR}{FASTAPI}handler = {decorator}(streaming(AsgiHandler(app)))\n"
    ended = sandbox.run(code, event(json.dumps(http).encode()))
    assert outcome(ended) == OUTCOMES[name][1]
    assert [line for line in lines(ended) if " " in line] == [line for line in OUTCOMES[name][0] if " " in line]


VALUES = ("{'a': 1}", "{'statusCode': 200, 'body': 'text'}", "None", "[1]")


@pytest.mark.traced
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_value_is_returned_unchanged(sandbox: Sandbox, value: str, kind: str) -> None:
    """Decorators may change any other result than a stream."""
    code = f"{PREAMBLE}@watched\n@streaming\n{kind} handler(event, context):\n    return {value}\n"
    plain = sandbox.run(f"{kind} handler(event, context):\n    return {value}\n", event())
    ended = sandbox.run(code, event())
    assert ended.bodies == plain.bodies
    assert f"returned {value}" in ended.output


def decorated(body: str, handler: str = "def handler(event, context):\n    yield from items(event)\n") -> str:
    decorator = (
        "def decorator(handler):\n    @functools.wraps(handler)\n    def wrapper(event, context):\n"
        f"{body}    return wrapper\n"
    )
    return f"{PREAMBLE}{decorator}@decorator\n@streaming\n{handler}"


ANSWER = """
        try:
            return handler(event, context)
        except Exception as error:
            return {"statusCode": 500, "body": str(error)}
"""


@pytest.mark.traced
@pytest.mark.parametrize(("name", "payload", "error"), [("before", b"before", ""), ("midway", b"one", "ValueError")])
@pytest.mark.parametrize("kind", ["sync generator", "async generator"])
def test_decorator_answers_error(sandbox: Sandbox, kind: str, name: str, payload: bytes, error: str) -> None:
    """Before the first byte, a decorator may answer an error; midway, the response fails nevertheless."""
    ended = sandbox.run(decorated(ANSWER, KINDS[kind]), event(json.dumps(name).encode()))
    assert outcome(ended) == ("response", payload, error)


def test_retry_before_the_first_byte(sandbox: Sandbox) -> None:
    body = """
        try:
            return handler(event, context)
        except ValueError:
            return handler("whole", context)
"""
    assert outcome(sandbox.run(decorated(body), event(b'"before"'))) == ("response", b"onetwo", "")


def test_decorated_during_an_invocation(sandbox: Sandbox) -> None:
    """A handler that imports the decorated function when it is called encloses the first stream too."""
    code = """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            from later_module import inner
            return inner(event, context)
        """
    inner = PREAMBLE + "inner = watched(streaming(lambda event, _: items(event)))\n"
    (sandbox.task / "later_module.py").write_text(inner, encoding="utf-8")
    ended = sandbox.run(code, event(b'"a"'), event(b'"b"'))
    assert ended.bodies == [b"onetwo"] * 2, ended.errors
    seen = [line.partition(" ")[0] for line in ended.output.splitlines()]
    assert seen == ["enter", "begin", "end", "returned", "exit"] * 2


def test_second_call_is_refused(sandbox: Sandbox) -> None:
    body = "        handler(event, context)\n        return handler(event, context)\n"
    ended = sandbox.run(decorated(body), event(b'"whole"'))
    assert outcome(ended) == ("response", b"onetwo", "")
    assert "RuntimeError: the handler was called again after its response was sent" in ended.output


def test_changed_result_is_refused(sandbox: Sandbox) -> None:
    body = """
        result = handler(event, context)
        result["headers"] = {}
        return result
"""
    ended = sandbox.run(decorated(body), event(b'"whole"'))
    assert "TypeError: cannot set 'headers': the response was sent" in ended.output


def test_other_result_is_reported(sandbox: Sandbox) -> None:
    ended = sandbox.run(decorated("        handler(event, context)\n        return [1]\n"), event(b'"whole"'))
    assert outcome(ended) == ("response", b"onetwo", "")
    assert "ignored what a decorator returned after the response was sent: list" in ended.output


def test_error_after_the_stream(sandbox: Sandbox) -> None:
    """A decorator that fails once the response was sent is logged."""
    ended = sandbox.run(
        decorated("        handler(event, context)\n        1 / 0\n"), event(b'"whole"'), event(b'"whole"')
    )
    assert [post.trailers for post in ended.posts] == [{}, {}]
    assert ended.output.count("[ERROR] ZeroDivisionError") == 2


@pytest.mark.traced
@pytest.mark.parametrize("started", [True, False])
def test_exit_in_stream(sandbox: Sandbox, started: bool) -> None:
    handler = f"def handler(event, context):\n    if {started}: yield b'x'\n    raise SystemExit(4)\n    yield\n"
    ended = sandbox.run(f"{PREAMBLE}@watched\n@streaming\n{handler}", event())
    assert (ended.status, outcome(ended)[2]) == (4, "SystemExit")
    assert "exit SystemExit False" in ended.output


def test_failures_before_and_while_closing(sandbox: Sandbox) -> None:
    """The first error is reported, the second one logged."""
    handler = """
class Content:
    def __iter__(self): return self
    def __next__(self): raise ValueError("first")
    def close(self): raise KeyError("second")
@watched
@streaming
def handler(event, context):
    return Content()
"""
    ended = sandbox.run(PREAMBLE + handler, event())
    assert outcome(ended) == ("error", b"", "ValueError")
    assert [line.partition(":")[0] for line in ended.output.split("\n") if line.startswith("[ERROR]")] == [
        "[ERROR] KeyError",
        "[ERROR] ValueError",
    ]


def test_heartbeat_ends_before_decorators(sandbox: Sandbox) -> None:
    handler = "def handler(event, context):\n    return EventSourceResponse(items(event), ping=9)\n"
    ended = sandbox.run(f"{PREAMBLE}@watched\n@streaming\n{handler}", event(b'"before"'))
    assert outcome(ended) == ("error", b"", "ValueError")


def test_stack_trace_of_enclosed_error(sandbox: Sandbox) -> None:
    """The frames of the decorator and of the handler, without those of the runtime between them."""
    ended = sandbox.run(f"{PREAMBLE}@watched\n@streaming\n{KINDS['sync generator']}", event(b'"before"'))
    stack = json.loads(ended.posts[0].body)["stackTrace"]
    assert [entry.split(", in ")[1].split("\n")[0] for entry in stack] == ["watch", "handler", "items"]


def test_outside_of_the_runtime() -> None:
    from streaming_runtime import streaming

    @streaming
    def handler(event: object, _context: object) -> object:
        yield event

    assert list(handler("x", None)) == ["x"]


YIELDING = (
    "def wrap(handler):\n    @functools.wraps(handler)\n    def wrapper(event, context):\n"
    "        yield from handler(event, context)\n    return wrapper\n"
)


def test_yielding_decorator_is_refused(sandbox: Sandbox) -> None:
    code = f"{PREAMBLE}{YIELDING}@wrap\n@streaming\ndef handler(event, context):\n    yield b''\n"
    ended = sandbox.run(code)
    assert ended.targets == [INIT_ERROR]
    report = json.loads(ended.posts[0].body)
    assert report["errorType"] == "Runtime.DecoratorOrder"
    assert report["errorMessage"] == "wrap yields what the handler returns: put it below @streaming"


def test_decorator_below_streaming(sandbox: Sandbox) -> None:
    """Decorators that yield or change the response are below."""
    code = f"{PREAMBLE}{YIELDING}@watched\n@streaming\n@wrap\ndef handler(event, context):\n    yield b'below'\n"
    assert outcome(sandbox.run(code, event())) == ("response", b"below", "")


READ = {
    "decorator": (
        "def log(handler):\n    @functools.wraps(handler)\n    def wrapper(event, context):\n"
        "        result = handler(event, context)\n        list(result)\n        return result\n    return wrapper\n"
        "@log\ndef handler(event, context):\n    yield b''\n",
        "'handler' was already read when its items were to be sent, probably by log: put @streaming "
        "(from streaming_runtime import streaming) directly above `def handler`",
    ),
    "class": (
        "class Log:\n    def __init__(self, handler):\n        functools.update_wrapper(self, handler)\n"
        "    def __call__(self, event, context):\n        result = self.__wrapped__(event, context)\n"
        "        list(result)\n        return result\n"
        "@Log\ndef handler(event, context):\n    yield b''\n",
        "'handler' was already read when its items were to be sent, probably by Log: put @streaming "
        "(from streaming_runtime import streaming) directly above `def handler`",
    ),
    "async": (
        "async def handler(event, context):\n    content = later(event)\n"
        "    async for item in content: pass\n    return StreamingResponse(content)\n",
        "'later' was already read when its items were to be sent, probably by code that records what the handler "
        "returns: put @streaming (from streaming_runtime import streaming) directly above `def handler`",
    ),
}


@pytest.mark.traced
@pytest.mark.parametrize(("code", "message"), READ.values(), ids=list(READ))
def test_exhausted_generator_is_an_error(sandbox: Sandbox, code: str, message: str) -> None:
    """It would be an empty response with status 200."""
    ended = sandbox.run(PREAMBLE + code, event())
    report = json.loads(ended.posts[0].body)
    assert ended.posts[0].target == ERROR
    assert (report["errorType"], report["errorMessage"]) == ("Runtime.StreamConsumed", message)
    assert report["stackTrace"]


def test_looking_at_a_response_keeps_it_whole(sandbox: Sandbox) -> None:
    code = """
    import copy
    from streaming_runtime import *
    def handler(event, context):
        response = StreamingResponse((text for text in "abc"), 201, {"x": "1"}, cookies=["a=1"])
        twin = copy.deepcopy(response)
        twin.headers["x"] = "2"
        repr(response), [list(value) for name, value in vars(response).items()
                         if hasattr(value, "__iter__") and not name.startswith("_")]
        assert response.headers["x"] == "1"
        response.content = response.content
        return copy.copy(twin)
    """
    ended = sandbox.run(code, event())
    head = b'{"statusCode":201,"headers":{"x":"2","content-type":"application/octet-stream"},"cookies":["a=1"]}'
    assert ended.bodies == [head + bytes(8) + b"abc"]
