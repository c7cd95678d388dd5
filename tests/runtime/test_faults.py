"""Every kind of failure in every place: what the platform receives, what the log says, and how the runtime goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.helpers.protocol import ERROR_TYPE, report_of
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import (
    ACCEPTED,
    ERROR,
    LIMIT,
    REQUEST_ID,
    RESPONSE,
    Answer,
    Deaf,
    Reset,
    event,
    event_head,
    refusal,
)

from streaming_runtime import errors

SERVED = event(b'"serve"')

KINDS: dict[str, tuple[str, str, str]] = {  # the statement, and the type and message that are reported
    "exception": ("raise ValueError('it broke')", "ValueError", "it broke"),
    "recursion": ("(lambda f: f(f))(lambda f: f(f))", "RecursionError", "maximum recursion depth exceeded"),
    "memory": ("raise MemoryError", "MemoryError", ""),
    "stop iteration": ("next(iter(()))", "StopIteration", ""),
    "generator exit": ("raise GeneratorExit('odd')", "GeneratorExit", "odd"),
    "cancellation": ("import asyncio; raise asyncio.CancelledError('odd')", "CancelledError", "odd"),
    "BaseException": ("raise BaseException('odd')", "BaseException", "odd"),
    "broken pipe": ("raise BrokenPipeError('of the handler')", "BrokenPipeError", "of the handler"),
    "group": ("raise ExceptionGroup('many', [ValueError(1)])", "ExceptionGroup", "many (1 sub-exception)"),
    "exit": ("raise SystemExit(7)", "SystemExit", "7"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
}
DEADLY = {"exit": 7, "interrupt": -signal.SIGINT}
PLACES = {  # the handler around the statement, and what is sent of the body before it
    "in the handler": ("KIND handler(e, c):\n    if e == 'serve':\n        return b'served'\n    STATEMENT\n", None),
    "before the first item": (
        "KIND items():\n    STATEMENT\n    yield b'x'\ndef handler(e, c):\n"
        "    return b'served' if e == 'serve' else items()\n",
        None,
    ),
    "after the first item": (
        "KIND items():\n    yield b'x'\n    STATEMENT\ndef handler(e, c):\n"
        "    return b'served' if e == 'serve' else items()\n",
        b"x",
    ),
    "in close": (
        "from streaming_runtime import StreamingResponse\nclass Items:\n"
        "    KIND CLOSE(self):\n        STATEMENT\n"
        "    KIND ITER(self):\n        yield b'x'\n"
        "def handler(e, c):\n    return b'served' if e == 'serve' else StreamingResponse(Items())\n",
        b"x",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(("place", "sent"), PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize("fault", KINDS)
def test_any_fault_anywhere(sandbox: Sandbox, fault: str, place: str, sent: bytes | None, kind: str) -> None:
    """It is reported once; then the next invocation is served, or the process ends."""
    statement, name, message = KINDS[fault]
    if fault == "stop iteration" and (kind == "async def" or ("yield" in place and "CLOSE" not in place)):
        # Python replaces it in generators and coroutines.
        wrapper = {"def": "generator", "async def": "async generator" if "items():" in place else "coroutine"}[kind]
        name, message = "RuntimeError", f"{wrapper} raised StopIteration"
    names = ("__aiter__", "aclose") if kind == "async def" else ("__iter__", "close")
    code = place.replace("ITER", names[0]).replace("CLOSE", names[1])
    ended = sandbox.run(code.replace("KIND", kind).replace("STATEMENT", statement), event(), SERVED)
    first, *others = ended.posts
    if sent is None:
        assert first.target == ERROR
        assert first.headers[ERROR_TYPE] == name
        report = report_of(first)
    else:
        assert first.target == RESPONSE
        assert first.body.endswith(sent)
        assert first.whole
        if "CLOSE" in place:  # the response was complete by then
            assert first.trailers == {}
            report = {"errorType": name, "errorMessage": message, "requestId": REQUEST_ID}
        else:
            assert first.trailers[ERROR_TYPE] == name
            report = report_of(first)
    assert (report["errorType"], report["requestId"]) == (name, REQUEST_ID)
    assert report["errorMessage"].startswith(message)
    assert ended.output.count(f"[ERROR] {name}{message and ': '}{message}") == 1
    if fault in DEADLY:
        assert (others, ended.status) == ([], DEADLY[fault])
    else:
        assert [post.body for post in others] == [b"served"]
        assert ended.status == 1  # since the server closes the connection at the end of the script


INTERRUPTS = {
    "in the task": "signal.raise_signal(signal.SIGINT)",
    "in the event loop": "asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)",
}


@pytest.mark.traced
@pytest.mark.parametrize("interrupt", INTERRUPTS.values(), ids=list(INTERRUPTS))
def test_interrupted_task_cleans_up(sandbox: Sandbox, interrupt: str) -> None:
    code = f"""
        import asyncio, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        async def handler(event, context):
            try:
                {interrupt}
                await asyncio.Event().wait()
            finally:
                print("cleaned up")
        """
    ended = sandbox.run(code, event(), SERVED)
    assert "cleaned up" in ended.output
    assert len(ended.posts) == 1
    assert ended.status == -signal.SIGINT


SWALLOWING = """
    from streaming_runtime import StreamingResponse
    def sync():
        while True:
            try:
                yield b"marker"
            except GeneratorExit:
                yield b"again"
    async def asynchronous():
        while True:
            try:
                yield b"marker"
            except GeneratorExit:
                yield b"again"
    def handler(event, context):
        return b"served" if event == "serve" else globals()[event]()
    """


@pytest.mark.parametrize(("name", "what"), [("sync", "generator"), ("asynchronous", "async generator")])
def test_generator_ignoring_close(sandbox: Sandbox, name: str, what: str) -> None:
    ended = sandbox.run(SWALLOWING, event(b'"%b"' % name.encode()), SERVED, posts=[Reset(at=b"marker")])
    assert f"[ERROR] RuntimeError: {what} ignored GeneratorExit\r" in ended.output
    assert ended.posts[1].body == b"served"


STREAM = """
    def handler(event, context):
        if event == "serve":
            return b"served"
        if event == "fail":
            raise ValueError("it broke")
        return stream(event)
    def stream(event):
        yield b"first"
        yield b"x" * 1_000_000
        if event == "broken":
            raise ValueError("it broke")
        yield b"last"
    """
BREAKS: dict[str, tuple[bytes, Reset | Answer, str]] = {
    "reset in the head": (b"{}", Reset(at=b"POST"), "Runtime API at "),
    "reset after the head": (b"{}", Reset(at=b"first"), "Runtime API at "),
    "reset in a chunk": (b"{}", Reset(at=b"xxxx"), "Runtime API at "),
    "reset at the last chunk": (b"{}", Reset(at=b"\r\n0\r\n\r\n"), "Runtime API at "),
    "reset at the trailers": (b'"broken"', Reset(at=b"Error-Body: "), "Runtime API at "),
    "reset at the error": (b'"fail"', Reset(at=b"POST"), "Runtime API at "),
    "400": (b"{}", refusal("400 Bad Request", b"no"), "the Runtime API rejected the response: status 400, b'no'"),
    "500": (b"{}", refusal("500 Internal Server Error", b""), "the Runtime API rejected the response: status 500, b''"),
    "500 to an error": (
        b'"fail"',
        refusal("500 Oh", b"no"),
        "the Runtime API rejected the error report: status 500, b'no'",
    ),
    "500 to a broken response": (
        b'"broken"',
        refusal("500 Oh", b"no"),
        "the Runtime API rejected the response: status 500",
    ),
    "garbage": (b"{}", Answer((b"\x15\x03\x01\r\n\r\n",)), "Runtime API at "),
    "garbage to an error": (b'"fail"', Answer((b"\x15\x03\x01\r\n\r\n",)), "Runtime API at "),
    "closed without an answer": (b"{}", Answer((), close=True), "Runtime API at "),
    "closed in the head": (b"{}", Answer((b"HTTP/1.1 202 Acc",), close=True), "Runtime API at "),
    "closed in the body": (
        b"{}",
        Answer((b"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{",), close=True),
        "Runtime API at ",
    ),
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize(("body", "post", "message"), BREAKS.values(), ids=list(BREAKS))
def test_broken_post_is_logged(sandbox: Sandbox, body: bytes, post: Reset | Answer, message: str) -> None:
    ended = sandbox.run(STREAM, event(body), SERVED, posts=[post])
    assert ended.methods == ["GET", "POST", "GET", "POST", "GET"]
    assert ended.posts[1].body == b"served"
    assert ended.requests[2].connection == ended.requests[1].connection + 1
    kinds = re.findall(r"^\[ERROR\] (\w+): (.*?)[\r\n]", ended.output, re.MULTILINE)
    assert kinds[-1][0] == "RuntimeApiError"
    assert kinds[-1][1].startswith(message)
    assert len(kinds) == (1 if body == b"{}" else 2)


SIGNALLED = {  # what the runtime is doing when the signal comes
    "sending the first item": ("yield b'x' * 20_000_000", b"POST"),
    "sending another": ("yield b'first'\n    yield b'x' * 20_000_000", b"first"),
    "waiting for the answer": ("yield b'first'", b"0\r\n\r\n"),
}


@pytest.mark.traced
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(("items", "seen"), SIGNALLED.values(), ids=list(SIGNALLED))
def test_signal_handler_error_mid_response(sandbox: Sandbox, items: str, seen: bytes, kind: str) -> None:
    """An exception that the function's own signal handler raises ends the response, and only that."""
    code = (
        "import os, signal\ndef fail(*_):\n    raise LookupError('signalled')\n"
        "signal.signal(signal.SIGUSR1, fail)\n"
        f"{kind} items():\n    {items}\n"
        "def handler(e, c):\n    return b'served' if e == 'serve' else items()\n"
    )
    deaf = Deaf()
    running = sandbox.start(code, event(), SERVED, posts=[deaf])
    running.api.wait_until(seen[:1] if seen == b"POST" else b"POST", request=1)
    wait_until_blocked(running.process.pid)
    running.process.send_signal(signal.SIGUSR1)
    deaf.released.set()
    ended = running.end()
    assert ended.output.count("[ERROR] LookupError: signalled") == ended.output.count("[ERROR]") == 1
    assert not ended.posts[0].whole or ended.posts[0].trailers == {}
    assert ended.posts[1].body == b"served"


def wait_until_blocked(pid: int) -> None:
    """Wait until the main thread of a process can only wait for the other side."""
    deadline, blocked = time.monotonic() + LIMIT, 0
    while blocked < 20:  # looks in a row
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        blocked = blocked + 1 if state == "S" else 0
        assert time.monotonic() < deadline, state
        os.sched_yield()


@pytest.mark.parametrize("close", [False, True])
def test_refused_next_after_broken_response(sandbox: Sandbox, close: bool) -> None:
    forbidden = Answer(refusal("403 Forbidden", b"InvalidStateTransition").pieces, close)
    ended = sandbox.run(STREAM, event(), forbidden, SERVED, posts=[Reset(at=b"first")])
    assert ended.methods == ["GET", "POST", "GET"]
    assert ended.status == 1
    assert (
        ended.errors
        == "streaming_runtime: the request for an invocation failed: status 403, b'InvalidStateTransition'\n"
    )


@pytest.mark.slow
def test_endless_answer_times_out(sandbox: Sandbox) -> None:
    deadline = str(int(time.time() * 1000) + 3000)
    ended = sandbox.run(
        STREAM,
        event(Lambda_Runtime_Deadline_Ms=deadline),
        SERVED,
        posts=[Answer((b"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{",)), ACCEPTED],
    )
    assert "[ERROR] StreamDeadlineExceeded: the handler was still running " in ended.output
    assert ended.posts[-1].body == b"served"


BYTE_BY_BYTE = {
    "content length": event(b'"serve"').pieces[0],
    "chunked": event_head() + b'Transfer-Encoding: chunked\r\n\r\n3\r\n"se\r\n4;a=b\r\nrve"\r\n0\r\nX: y\r\n\r\n',
    "lower-case names": event(b'"serve"').pieces[0].replace(b"Lambda-Runtime-Aws", b"lambda-runtime-aws"),
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\nA: b\r\n\r\n" + event(b'"serve"').pieces[0],
}


@pytest.mark.parametrize("data", BYTE_BY_BYTE.values(), ids=list(BYTE_BY_BYTE))
def test_event_byte_by_byte(sandbox: Sandbox, data: bytes) -> None:
    ended = sandbox.run(STREAM, Answer(tuple(data[i : i + 1] for i in range(len(data)))), SERVED)
    assert ended.bodies == [b"served", b"served"]
    assert ended.posts[0].target == RESPONSE


REQUEST_IDS = {
    "space": "a b",
    "percent": "50%",
    "already encoded": "%2F",
    "slash": "../../x",
    "query and fragment": "a?b#c",
    "latin-1": "zw\xf6lf",
    "tab": "a\tb",
    "long": "x" * 100_000,
    "signs": "!$&'()*+,;=:@-._~[]|^`{}<>\"\\",
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize("request_id", REQUEST_IDS.values(), ids=list(REQUEST_IDS))
def test_request_id_of_any_bytes(sandbox: Sandbox, request_id: str) -> None:
    """Whatever bytes it has, it comes back as one segment of the path."""
    head = event_head(Lambda_Runtime_Aws_Request_Id="{id}").replace(b"{id}", request_id.encode("latin-1"))
    code = "def handler(e, c):\n    yield c.aws_request_id\n    if e:\n        raise ValueError\n"
    answers = [Answer((head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),)) for body in (b"0", b"1", b"{")]
    ended = sandbox.run(code, *answers)
    segments = [post.raw.partition(b" HTTP/1.1\r\n")[0].decode("ascii").split("/") for post in ended.posts]
    assert [(len(parts), parts[-1]) for parts in segments] == [(6, "response"), (6, "response"), (6, "error")]
    assert {unquote(parts[4], "latin-1") for parts in segments} == {request_id}
    assert not any(set(parts[4]) & set(" ?#\t") for parts in segments)
    assert [body.decode() for body in ended.bodies[:2]] == [request_id] * 2
    assert json.loads(ended.bodies[2])["requestId"] == request_id


TRACES = {
    "usual": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
    "signs": "=;=",
    "blanks": "a b\tc",
    "long": "x" * 60_000,
}


@pytest.mark.parametrize("trace", TRACES.values(), ids=list(TRACES))
def test_trace_id_reaches_children(sandbox: Sandbox, trace: str) -> None:
    code = """
        import os, subprocess, sys
        def handler(event, context):
            child = "import os, sys; sys.stdout.write(os.environ['_X_AMZN_TRACE_ID'])"
            seen = subprocess.run([sys.executable, "-S", "-c", child], stdout=subprocess.PIPE, text=True).stdout
            return [os.environ["_X_AMZN_TRACE_ID"], seen]
        """
    ended = sandbox.run(code, event(Lambda_Runtime_Trace_Id=trace))
    assert [json.loads(body) for body in ended.bodies] == [[trace, trace]]


@pytest.mark.own_interpreter
@pytest.mark.parametrize(
    "deadline",
    ["0", "1", str(2**31), str(2**53), str(2**63 - 1), str(2**64), "9" * 400, "9" * 5000],
    ids=lambda text: text[:25],
)
def test_deadline_header_of_any_size(sandbox: Sandbox, deadline: str) -> None:
    ended = sandbox.run(STREAM, event(b'"serve"', Lambda_Runtime_Deadline_Ms=deadline))
    served = len(deadline) <= 20
    assert ended.bodies == ([b"served"] if served else [])
    assert ended.errors.startswith("streaming_runtime: invocation with an invalid deadline") is not served


@pytest.mark.parametrize(
    "body",
    [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b""],
    ids=["lists", "objects", "not UTF-8", "empty"],
)
def test_unreadable_event(sandbox: Sandbox, body: bytes) -> None:
    ended = sandbox.run(STREAM, event(body), SERVED)
    assert [post.target for post in ended.posts] == [ERROR, RESPONSE]
    report = json.loads(ended.posts[0].body)
    assert (report["errorType"], report["stackTrace"]) == ("Runtime.UnmarshalError", [])
    assert report["errorMessage"].startswith("Unable to unmarshal input: ")


RESPONSES = {
    "status below": ("StreamingResponse([b'x'], 199)", "status code must be an int from 200 to 599, not 199"),
    "status None": ("StreamingResponse([], None)", "status code must be an int from 200 to 599, not None"),
    "status set later": ("later('status_code', 600)", "status code must be an int from 200 to 599, not 600"),
    "header set later": (
        "later('headers', {'x': 'a\\r\\nb: c'})",
        "value of header 'x' contains a control character: ",
    ),
    "cookie set later": (
        "later('cookies', ['ü€'])",
        "value of header 'set-cookie' contains a character outside latin-1: ",
    ),
    "hop-by-hop header set later": (
        "later('headers', {'TE': 'x'})",
        "hop-by-hop header 'TE' is not allowed: Lambda manages the connection",
    ),
    "too large": ("later('cookies', ['x' * 16_384])", "status, headers and cookies take "),
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize(("value", "message"), RESPONSES.values(), ids=list(RESPONSES))
def test_invalid_metadata_is_an_early_error(sandbox: Sandbox, value: str, message: str) -> None:
    code = (
        "from streaming_runtime import StreamingResponse\n"
        "def later(name, value):\n    response = StreamingResponse([b'x'])\n    setattr(response, name, value)\n"
        "    return response\n"
        f"def handler(e, c):\n    return b'served' if e == 'serve' else {value}\n"
    )
    ended = sandbox.run(code, event(), SERVED)
    assert [post.target for post in ended.posts] == [ERROR, RESPONSE]
    report = json.loads(ended.posts[0].body)
    assert report["errorType"] == "ValueError"
    assert report["errorMessage"].startswith(message)


LOST_OUTPUT = {
    "closed": "sys.stdout.close()",
    "without flush": "sys.stdout = type('Writer', (), {'write': lambda self, text: None})()",
    "None": "sys.stdout = None",
    "stderr closed": "sys.stderr.close()",
    "descriptor closed": "os.close(1)",
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
}


@pytest.mark.parametrize("statement", LOST_OUTPUT.values(), ids=list(LOST_OUTPUT))
@pytest.mark.parametrize("failing", [False, True], ids=["returning", "failing"])
def test_lost_standard_output(sandbox: Sandbox, statement: str, failing: bool) -> None:
    code = (
        f"import os, sys\ndef handler(e, c):\n    if e == 'serve':\n        return b'served'\n    {statement}\n"
        f"    if {failing}:\n        raise ValueError\n    return b'first'\n"
    )
    ended = sandbox.run(code, event(), SERVED)
    assert [post.target for post in ended.posts] == [ERROR if failing else RESPONSE, RESPONSE]
    assert ended.posts[1].body == b"served"


def stack_trace(code: str) -> list[str]:
    """The first line of each entry of the stack trace that `code` leads to, without the frame of this file."""
    raised: list[BaseException] = []
    try:
        exec(compile(code, "user.py", "exec"), {})
    except BaseException as error:
        raised.append(error)
    try:
        report = errors.report(raised.pop(), "id")
    except BaseException as failure:
        # Not as its cause, since pytest would then inspect an exception that breaks when it is inspected.
        pytest.fail(f"report raised {type(failure).__name__}", pytrace=False)
    assert json.loads(json.dumps(report)) == report
    lines = [entry.splitlines()[0] for entry in report["stackTrace"]]
    return [re.sub(r'^  File "user.py", line (\d+).*', r"\1", line) for line in lines if __file__ not in line]


CHAINS = {
    "alone": ("raise ValueError", ["1"]),
    "cause": (
        "try:\n    1 / 0\nexcept Exception as e:\n    raise ValueError from e",
        ["4", "Caused by ZeroDivisionError: division by zero", "2"],
    ),
    "context": (
        "try:\n    1 / 0\nexcept Exception:\n    raise ValueError",
        ["4", "Caused by ZeroDivisionError: division by zero", "2"],
    ),
    "suppressed": ("try:\n    1 / 0\nexcept Exception:\n    raise ValueError from None", ["4"]),
    "cause before context": (
        "try:\n    1 / 0\nexcept Exception:\n    raise ValueError from KeyError('k')",
        ["4", "Caused by KeyError: 'k'"],
    ),
    "cycle": (
        "a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a",
        ["3", "Caused by ValueError: b"],
    ),
    "own cause": ("a = ValueError('a')\na.__cause__ = a\nraise a", ["3"]),
    "group": (
        "raise ExceptionGroup('g', [ValueError(1), ExceptionGroup('h', [KeyError(2)])])",
        ["1", "Holds ValueError: 1", "Holds ExceptionGroup: h (1 sub-exception)", "Holds KeyError: 2"],
    ),
    "false": (
        "class Falsy(Exception):\n    def __bool__(self): return False\nraise ValueError from Falsy('f')",
        ["3", "Caused by Falsy: f"],
    ),
    "failing __bool__": (
        "class Odd(Exception):\n    def __bool__(self): raise RuntimeError\nraise ValueError from Odd('o')",
        ["3", "Caused by Odd: o"],
    ),
    "length zero": (
        "class Errors(Exception):\n    def __len__(self): return 0\nraise ValueError from Errors('e')",
        ["3", "Caused by Errors: e"],
    ),
}


@pytest.mark.parametrize(("code", "expected"), CHAINS.values(), ids=list(CHAINS))
def test_stack_trace_of_chained_errors(code: str, expected: list[str]) -> None:
    assert stack_trace(code) == expected


def test_stack_trace_is_limited() -> None:
    code = "e = None\nfor n in range(5000):\n    f = ValueError(n)\n    f.__cause__ = e\n    e = f\nraise e"
    assert len([entry for entry in stack_trace(code) if entry.startswith("Caused by")]) == 19


MISLEADING = {
    "cause": ("__cause__ = property(lambda self: 1 / 0)", "x"),
    "context": ("__context__ = __suppress_context__ = property(lambda self: 1 / 0)", "x"),
    "traceback": ("__traceback__ = property(lambda self: 1 / 0)", "x"),
    "class": ("__class__ = property(lambda self: int)", "x"),
    "__str__ of another type": ("__str__ = lambda self: 5", "<no message: __str__ raised TypeError>"),
    "endless __str__": ("__str__ = lambda self: str(self)", "<no message: __str__ raised RecursionError>"),
    "exiting __str__": ("__str__ = lambda self: exit()", "<no message: __str__ raised SystemExit>"),
    "failing __getattr__": ("__getattr__ = lambda self, name: 1 / 0", "x"),
    "failing __eq__": ("__eq__ = lambda self, other: 1 / 0\n    __hash__ = None", "x"),
    "subclass of str": ("__str__ = lambda self: type('T', (str,), {})('t')", "t"),
}


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(("attribute", "message"), MISLEADING.values(), ids=list(MISLEADING))
def test_misleading_exception(sandbox: Sandbox, attribute: str, message: str, started: bool) -> None:
    """An exception whose attributes fail or mislead is reported by its type, and the next invocation is served."""
    code = (
        f"import sys\nfrom sys import exit\nclass Misleading(Exception):\n    {attribute}\n"
        f"def handler(e, c):\n    if e == 'serve' or {started}:\n        yield b'served'\n"
        "    if e != 'serve':\n        raise Misleading('x')\n"
    )
    ended = sandbox.run(code, event(), SERVED)
    first, second = ended.posts
    assert (first.target, bool(first.trailers)) == ((RESPONSE, True) if started else (ERROR, False))
    report = report_of(first)
    assert (report["errorType"], report["errorMessage"]) == ("Misleading", message)
    assert second.body == b"served"


LONG = {  # statements whose report is longer than the trailers may be
    "frames": "raised(200)",
    "message": "raise ValueError('m' * 100_000)",
    "type": "raise type('T' * 5_000, (Exception,), {})",
}


@pytest.mark.traced
@pytest.mark.parametrize("statement", LONG.values(), ids=list(LONG))
def test_trailer_size_limit(sandbox: Sandbox, statement: str) -> None:
    """Trailers are no longer than Go's HTTP server accepts, and the log holds the whole report."""
    frames = "\n".join(f"def f{n}():\n    f{n + 1}()" for n in range(200))
    code = (
        f"{frames}\ndef f200():\n    raise KeyError('innermost')\ndef raised(_):\n    f0()\n"
        f"def handler(e, c):\n    yield b'x'\n    {statement}\n"
    )
    ended = sandbox.run(code, event(), event())
    for post in ended.posts:
        assert len(post.raw.rpartition(b"\r\n0\r\n")[2]) <= 4096
        report = report_of(post)
        assert set(report) == {"errorMessage", "errorType", "requestId", "stackTrace"}
        if "raised" in statement:
            assert report["stackTrace"][-1].endswith("raise KeyError('innermost')\n")
    assert max(ended.output.count("in f"), ended.output.count("m"), ended.output.count("T")) > 200


def test_trailers_use_the_limit() -> None:
    """Together with the last chunk they are as long as allowed, and no longer."""

    def length(kind: str, message: str) -> int:
        return len(errors.trailers({"errorMessage": message, "errorType": kind, "requestId": "", "stackTrace": []}))

    # Base64 makes steps of four bytes; the type fills them, since it is sent as it is.
    lengths = {length("T" * kind, "m" * message) for kind in range(1, 9) for message in range(2500, 3100)}
    assert max(lengths) == 4096


def test_inner_generator_closed_before_next(sandbox: Sandbox) -> None:
    code = """
        import asyncio
        async def inner():
            try:
                while True:
                    yield b"marker"
            finally:
                print("inner begins")
                await asyncio.sleep(0.01)
                print("inner ends")
        async def outer():
            async for item in inner():
                yield item
        async def handler(event, context):
            if event != "serve":
                return outer()
            print("next")
            return b"served"
        """
    ended = sandbox.run(code, event(), SERVED, posts=[Reset(at=b"marker")])
    printed = [line for line in ended.output.split("\n") if line in ("inner begins", "inner ends", "next")]
    assert printed == ["inner begins", "inner ends", "next"]


def test_exit_in_another_task(sandbox: Sandbox) -> None:
    code = """
        import asyncio, sys
        async def watchdog():
            sys.exit(7)
        async def handler(event, context):
            yield b"first"
            task = asyncio.create_task(watchdog())
            await asyncio.sleep(30)
        """
    ended = sandbox.run(code, event(), SERVED)
    assert [post.trailers[ERROR_TYPE] for post in ended.posts] == ["SystemExit"]
    assert (ended.status, ended.output.count("[ERROR] SystemExit")) == (7, 1)


@pytest.mark.parametrize("place", ["before", "after"])
def test_closed_runtime_descriptor(sandbox: Sandbox, place: str) -> None:
    """A handler that closes the runtime's own descriptor costs one invocation, not the process."""
    code = (
        "import os\ndef handler(e, c):\n    if e == 'serve':\n        return b'served'\n"
        f"    return {place}()\n"
        "def before():\n    os.closerange(3, 64)\n    return b'x'\n"
        "def after():\n    def items():\n        yield b'x'\n        os.closerange(3, 64)\n        yield b'y'\n"
        "    return items()\n"
    )
    ended = sandbox.run(code, event(), SERVED)
    assert "Traceback" not in ended.errors
    assert ended.posts[-1].body == b"served"
