"""Error reports: to `/error` before the first byte, in trailers afterwards, and to `/init/error` at the start."""

from __future__ import annotations

import json

import pytest
from tests.helpers.protocol import ERROR_TYPE, error_report, error_trailers
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import ARN, ERROR, INIT_ERROR, REQUEST_ID, Answer, event, refusal, response_head

# What the message about a wrong item recommends.
ITEMS = 'json.dumps(…) + "\\n" makes a line of JSON, EventSourceResponse makes events'


def test_error_report_bytes(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    raise ValueError('it broke')\n", event())
    path = str(sandbox.task / "app.py")
    frame = f"""  File "{path}", line 2, in handler\n    raise ValueError('it broke')\n"""
    body = json.dumps(error_report("ValueError", "it broke", frame)).encode()
    stack = [{"label": "handler", "path": path, "line": 2}]
    cause = {
        "working_directory": str(sandbox.task),
        "exceptions": [{"message": "it broke", "type": "ValueError", "stack": stack}],
        "paths": [path],
    }
    head = (
        f"POST {ERROR} HTTP/1.1\r\n"
        f"Host: {ended.host}\r\n"
        "Content-Type: application/json\r\n"
        "Lambda-Runtime-Function-Error-Type: ValueError\r\n"
        f"Lambda-Runtime-Function-XRay-Error-Cause: {json.dumps(cause)}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    ).encode()
    assert [post.raw for post in ended.posts] == [head + body]


BEFORE = {
    "handler": ("def handler(e, c):\n    1 / 0\n", "ZeroDivisionError", "division by zero"),
    "async handler": ("async def handler(e, c):\n    1 / 0\n", "ZeroDivisionError", "division by zero"),
    "generator": ("def handler(e, c):\n    1 / 0\n    yield\n", "ZeroDivisionError", "division by zero"),
    "async generator": ("async def handler(e, c):\n    1 / 0\n    yield\n", "ZeroDivisionError", "division by zero"),
    "content with metadata": (
        "from streaming_runtime import StreamingResponse\n"
        "def handler(e, c):\n    return StreamingResponse(1 / 0 for _ in 'a')\n",
        "ZeroDivisionError",
        "division by zero",
    ),
    "item of the wrong type": (
        "def handler(e, c):\n    yield 1\n",
        "TypeError",
        f"a stream is made of bytes or str, not int; {ITEMS}",
    ),
    "async item of the wrong type": (
        "async def handler(e, c):\n    yield {}\n",
        "TypeError",
        f"a stream is made of bytes or str, not dict; {ITEMS}",
    ),
    "content that cannot be streamed": (
        "from streaming_runtime import StreamingResponse\ndef handler(e, c):\n    return StreamingResponse(5)\n",
        "TypeError",
        "'int' object is not iterable",
    ),
    "status out of range": (
        "def handler(e, c):\n    return {'statusCode': 99}\n",
        "ValueError",
        "status code must be an int from 200 to 599, not 99",
    ),
    "body of the wrong type": (
        "def handler(e, c):\n    return {'statusCode': 200, 'body': {}}\n",
        "ValueError",
        "body of a buffered response must be a str, not dict",
    ),
    "header name of the wrong type": (
        "def handler(e, c):\n    return {'statusCode': 200, 'headers': {1: 'x'}}\n",
        "ValueError",
        "invalid header name: 1",
    ),
    "cookies as one str": (
        "def handler(e, c):\n    return {'statusCode': 200, 'cookies': 'a=1'}\n",
        "ValueError",
        "cookies must be a list of str, one for each cookie",
    ),
    "line break in a multi-value cookie": (
        "def handler(e, c):\n    return {'statusCode': 200, 'multiValueHeaders': {'set-cookie': ['a\\n']}}\n",
        "ValueError",
        "value of header 'set-cookie' contains a control character: 'a\\n'",
    ),
    "bad base64": (
        "def handler(e, c):\n    return {'statusCode': 200, 'isBase64Encoded': True, 'body': 'a'}\n",
        "Error",
        "Invalid base64-encoded string: number of data characters (1) cannot be 1 more than a multiple of 4",
    ),
    "value without JSON form": (
        "def handler(e, c):\n    return {1, 2}\n",
        "Runtime.MarshalError",
        "Unable to marshal response: Object of type set is not JSON serializable; "
        "make it a JSON value first, such as a date by isoformat()",
    ),
    "message with a lone surrogate": (
        "def handler(e, c):\n    raise ValueError('\\ud800')\n",
        "ValueError",
        "\ud800",
    ),
    "failing __str__": (
        "class Odd(Exception):\n    def __str__(self):\n        1 / 0\ndef handler(e, c):\n    raise Odd\n",
        "Odd",
        "<no message: __str__ raised ZeroDivisionError>",
    ),
    "deleted working directory": (
        "import os\ndef handler(e, c):\n    os.mkdir('gone')\n    os.chdir('gone')\n"
        "    os.rmdir(os.getcwd())\n    raise ValueError('it broke')\n",
        "ValueError",
        "it broke",
    ),
    "cancelled": (
        "import asyncio\nasync def handler(e, c):\n    asyncio.current_task().cancel()\n    await asyncio.sleep(0)\n",
        "CancelledError",
        "",
    ),
}


@pytest.mark.traced
@pytest.mark.parametrize(("code", "kind", "message"), BEFORE.values(), ids=list(BEFORE))
def test_failure_before_first_item(sandbox: Sandbox, code: str, kind: str, message: str) -> None:
    """It is posted, nothing else is sent, and the next invocation is served."""
    ended = sandbox.run(code, event(), event(b"not JSON"))
    assert [post.target for post in ended.posts] == [ERROR, ERROR]
    report = json.loads(ended.posts[0].body)
    assert (report["errorType"], report["errorMessage"], report["requestId"]) == (kind, message, REQUEST_ID)
    assert ended.posts[0].headers[ERROR_TYPE] == kind
    assert json.loads(ended.posts[1].body)["errorType"] == "Runtime.UnmarshalError"
    assert ended.output.startswith(f"[ERROR] {kind}")


@pytest.mark.parametrize(("name", "header"), [("Föhn", r"F\xf6hn"), ("A\\r\\nB", r"A\r\nB")])
def test_error_type_is_escaped_in_headers(sandbox: Sandbox, name: str, header: str) -> None:
    code = f"""
        failure = type("{name}", (Exception,), {{}})
        def handler(event, context):
            if event:
                yield b"x"
            raise failure
        """
    ended = sandbox.run(code, event(), event(b"1"))
    assert ended.posts[0].headers[ERROR_TYPE] == header
    assert ended.posts[1].trailers[ERROR_TYPE] == header


def test_unmarshal_error_has_xray_cause(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    pass\n", event(b"{"))
    message = "Unable to unmarshal input: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert json.loads(ended.posts[0].body) == error_report("Runtime.UnmarshalError", message)
    cause = json.loads(ended.posts[0].headers["lambda-runtime-function-xray-error-cause"])
    assert cause["exceptions"] == [{"message": message, "type": "LambdaValidationError", "stack": []}]


def test_oversized_xray_cause_is_dropped(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    raise ValueError('x' * 1024 * 1024)\n", event())
    assert "lambda-runtime-function-xray-error-cause" not in ended.posts[0].headers
    assert len(json.loads(ended.posts[0].body)["errorMessage"]) == 1024 * 1024


@pytest.mark.parametrize(
    "code",
    ["def handler(e, c):\n    yield b'x'\n    1 / 0\n", "async def handler(e, c):\n    yield b'x'\n    1 / 0\n"],
    ids=["sync", "async"],
)
def test_error_trailer_bytes(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code, event(), event())
    frame = f"""  File "{sandbox.task / "app.py"}", line 3, in handler\n    1 / 0\n"""
    report = error_report("ZeroDivisionError", "division by zero", frame)
    expected = response_head(ended.host) + b"1\r\nx\r\n" + error_trailers(report)
    assert [post.raw for post in ended.posts] == [expected, expected]
    assert ended.output.count("[ERROR] ZeroDivisionError: division by zero\r") == 2


AFTER = {
    "int": ("    yield b'x'\n    yield 1\n", b"1\r\nx\r\n", "int"),
    "None": ("    yield b'x'\n    yield None\n", b"1\r\nx\r\n", "NoneType"),
    "after an empty item": ("    yield b''\n    yield None\n", b"", "NoneType"),
}


@pytest.mark.parametrize(("body", "chunks", "item"), AFTER.values(), ids=list(AFTER))
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_wrong_item_after_first_closes_generator(
    sandbox: Sandbox, kind: str, body: str, chunks: bytes, item: str
) -> None:
    code = f"{kind} handler(e, c):\n  try:\n{body}  finally:\n    print('closed')\n"
    ended = sandbox.run(code, event())
    message = f"a stream is made of bytes or str, not {item}; {ITEMS}"
    source = body.splitlines()[1].strip()
    frame = f'  File "{sandbox.task / "app.py"}", line 4, in handler\n    {source}\n'
    assert [post.raw for post in ended.posts] == [
        response_head(ended.host) + chunks + error_trailers(error_report("TypeError", message, frame))
    ]
    shown = frame.rstrip().replace("\n", "\r").replace("  ", "\xa0\xa0")
    assert ended.output == f"[ERROR] TypeError: {message}\rTraceback (most recent call last):\r{shown}\nclosed\n"


def test_failures_do_not_affect_the_next(sandbox: Sandbox) -> None:
    code = """
        def handler(event, context):
            if event == 0:
                raise ValueError
            yield str(event)
            if event == 1:
                raise ValueError
        """
    ended = sandbox.run(code, *(event(b"%d" % number) for number in (0, 2, 1, 3, 0, 1, 4)))
    assert [(post.target.rpartition("/")[2], bool(post.trailers)) for post in ended.posts] == [
        ("error", False),
        ("response", False),
        ("response", True),
        ("response", False),
        ("error", False),
        ("response", True),
        ("response", False),
    ]
    # Each invocation has its own connection: for the event, then for the response.
    assert [request.connection for request in ended.requests] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]


@pytest.mark.parametrize("argument", ["", "0", "3"])
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("started", [False, True])
def test_exit_is_reported_and_ends_process(sandbox: Sandbox, kind: str, argument: str, started: bool) -> None:
    code = f"import sys\n{kind} handler(e, c):\n    if {started}:\n        yield b'x'\n    sys.exit({argument})\n"
    ended = sandbox.run(code, event(), event())
    assert ended.methods == ["GET", "POST"]
    reported = ended.posts[0].trailers if started else ended.posts[0].headers
    assert reported[ERROR_TYPE] == "SystemExit"
    assert ended.status == (3 if argument == "3" else 1)
    assert ended.errors == ""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_exit_before_stream_is_reported(sandbox: Sandbox, kind: str) -> None:
    ended = sandbox.run(f"{kind} handler(e, c):\n    raise SystemExit('enough')\n", event())
    assert [post.target for post in ended.posts] == [ERROR]
    assert (ended.status, ended.errors) == (1, "enough\n")


def test_signal_handler_sets_exit_status(sandbox: Sandbox) -> None:
    """A signal handler of the function may end the process with any status while it waits for the next event."""
    code = """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        def handler(event, context):
            yield b"x"
        """
    running = sandbox.start(code, event(), hold=True)
    running.api.wait_until(b"/next", request=2)
    running.process.terminate()
    assert running.end().status == 0


INIT = {
    "import error": (
        "import no_such_module\n",
        "app.handler",
        "Runtime.ImportModuleError",
        "Unable to import module 'app': No module named 'no_such_module'; add `no_such_module` to src/requirements.txt",
    ),
    "unknown module": (
        "",
        "nothing.handler",
        "Runtime.ImportModuleError",
        "Unable to import module 'nothing': No module named 'nothing'; "
        "set Handler in template.yaml to a module in {task}",
    ),
    "syntax error": (
        "def handler(:\n",
        "app.handler",
        "Runtime.UserCodeSyntaxError",
        "Syntax error in module 'app': invalid syntax (app.py, line 1)",
    ),
    "missing attribute": (
        "",
        "app.handler",
        "Runtime.HandlerNotFound",
        "Handler 'handler' missing on module 'app'; set Handler in template.yaml to app.NAME of a function",
    ),
    "name without a dot": (
        "",
        "app",
        "Runtime.MalformedHandlerName",
        "Bad handler 'app': it must name a module and a function, as app.handler",
    ),
    "name without a module": (
        "",
        ".handler",
        "Runtime.MalformedHandlerName",
        "Bad handler '.handler': it must name a module and a function, as app.handler",
    ),
    "empty name": (
        "",
        "",
        "Runtime.MalformedHandlerName",
        "Bad handler '': it must name a module and a function, as app.handler",
    ),
    "built-in module": (
        "",
        "sys.exit",
        "Runtime.BuiltInModuleConflict",
        "Cannot use built-in module sys as a handler module",
    ),
    "exception": ("raise KeyError('TABLE')\n", "app.handler", "KeyError", "'TABLE'"),
    "exit": ("import sys\nsys.exit(0)\n", "app.handler", "SystemExit", "0"),
    "BaseException": ("raise BaseException('odd')\n", "app.handler", "BaseException", "odd"),
}


@pytest.mark.parametrize(("code", "name", "kind", "message"), INIT.values(), ids=list(INIT))
def test_failed_init_is_reported(sandbox: Sandbox, code: str, name: str, kind: str, message: str) -> None:
    message = message.replace("{task}", str(sandbox.task))
    ended = sandbox.run(code, event(), environment={"_HANDLER": name})
    assert ended.targets == [INIT_ERROR]
    report = json.loads(ended.posts[0].body)
    assert (report["errorType"], report["errorMessage"], report["requestId"]) == (kind, message, "")
    assert (ended.status, ended.errors) == (1, "")
    assert ended.output.startswith(f"[ERROR] {kind}: {message}")


def test_init_error_bytes(sandbox: Sandbox) -> None:
    ended = sandbox.run("raise KeyError('TABLE')\n")
    frame = f"""  File "{sandbox.task / "app.py"}", line 1, in <module>\n    raise KeyError('TABLE')\n"""
    report = {"errorMessage": "'TABLE'", "errorType": "KeyError", "requestId": "", "stackTrace": [frame]}
    body = json.dumps(report).encode()
    head = (
        f"POST {INIT_ERROR} HTTP/1.1\r\n"
        f"Host: {ended.host}\r\n"
        "Content-Type: application/json\r\n"
        "Lambda-Runtime-Function-Error-Type: KeyError\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    ).encode()
    assert [request.raw for request in ended.requests] == [head + body]


def test_syntax_error_shows_line(sandbox: Sandbox) -> None:
    report = json.loads(sandbox.run("x = 1\nx = (\n").posts[0].body)
    assert report["stackTrace"] == [f'  File "{sandbox.task / "app.py"}" Line 2\n    x = (\n']


def test_refused_init_error_ends_process(sandbox: Sandbox) -> None:
    ended = sandbox.run("1 / 0\n", posts=[refusal("403 Forbidden", b"no")])
    assert len(ended.requests) == 1
    assert ended.status == 1
    assert ended.errors == "streaming_runtime: the Runtime API rejected the error report: status 403, b'no'\n"


@pytest.mark.parametrize(
    ("code", "event_body", "message"),
    [
        (
            "def handler(e, c):\n    yield b'x'\n",
            b"{}",
            "the Runtime API rejected the response: status 413, b'too big'",
        ),
        ("def handler(e, c):\n    1 / 0\n", b"{}", "the Runtime API rejected the error report: status 413, b'too big'"),
    ],
    ids=["response", "error"],
)
def test_refused_post_is_logged(sandbox: Sandbox, code: str, event_body: bytes, message: str) -> None:
    ended = sandbox.run(code, event(event_body), event(), posts=[refusal("413 Content Too Large", b"too big")])
    assert ended.methods == ["GET", "POST", "GET", "POST", "GET"]
    assert f"[ERROR] RuntimeApiError: {message}" in ended.output.splitlines()


BAD_HEADERS: dict[str, tuple[Answer, str]] = {
    "client context": (event(Lambda_Runtime_Client_Context="{"), "Unable to parse Client Context JSON: "),
    "identity": (event(Lambda_Runtime_Cognito_Identity="x"), "Unable to parse Cognito Identity JSON: "),
}


@pytest.mark.parametrize(("answer", "message"), BAD_HEADERS.values(), ids=list(BAD_HEADERS))
def test_malformed_context_header(sandbox: Sandbox, answer: Answer, message: str) -> None:
    ended = sandbox.run("def handler(e, c):\n    return c.invoked_function_arn\n", answer, event())
    report = json.loads(ended.posts[0].body)
    assert report["errorType"] == "Runtime.LambdaContextUnmarshalError"
    assert report["errorMessage"].startswith(message)
    assert json.loads(ended.posts[1].body) == ARN
