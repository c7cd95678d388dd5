"""Every kind of failure at every place: what the platform receives, what the log says, and how it goes on.

Whatever happens, three things hold: nothing is posted to `/error` once a response has begun, no text of a trailer is
within a body, and no chunk but the last is empty. `invariants` proves them on the bytes of each test that runs the
bootstrap.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.runtime.conftest import (
    ACCEPTED,
    REQUEST_ID,
    Answer,
    Deaf,
    Ended,
    Request,
    Reset,
    Sandbox,
    event,
    event_head,
    refusal,
)

from streaming_runtime import errors

RESPONSE = f"/2018-06-01/runtime/invocation/{REQUEST_ID}/response"
ERROR = f"/2018-06-01/runtime/invocation/{REQUEST_ID}/error"
SERVED = event(b'"serve"')


def chunks(body: bytes) -> tuple[list[bytes], bytes | None]:
    """The chunks of a body as they are on the wire, and what follows the last; None where it broke off."""
    found: list[bytes] = []
    while body:
        line, separator, rest = body.partition(b"\r\n")
        if not separator:
            return found, None
        size = int(line, 16)
        if size == 0:
            return found, rest
        found.append(rest[:size])
        if len(rest) < size + 2:
            return found, None
        assert rest[size : size + 2] == b"\r\n"
        body = rest[size + 2 :]
    return found, None


def invariants(ended: Ended) -> None:
    """What must hold of all that was sent, whatever has happened."""
    begun = False
    for request in ended.requests:
        if request.method == "GET":
            begun = False
            continue
        if request.target.endswith("/error"):
            assert not begun, "an error was posted after the response had begun"
            continue
        begun = True
        head, separator, body = request.raw.partition(b"\r\n\r\n")
        assert not separator or b"Transfer-Encoding: chunked" in head
        parts, end = chunks(body)
        assert all(parts)
        assert b"Lambda-Runtime-Function-Error" not in b"".join(parts)
        if end is not None:
            *trailers, empty, nothing = end.split(b"\r\n")
            assert (empty, nothing) == (b"", b"")
            names = [line.partition(b":")[0] for line in trailers]
            assert names in ([], [b"Lambda-Runtime-Function-Error-Type", b"Lambda-Runtime-Function-Error-Body"])


KINDS: dict[str, tuple[str, str, str]] = {  # statement, type and message as they are reported
    "exception": ("raise ValueError('it broke')", "ValueError", "it broke"),
    "recursion": ("(lambda f: f(f))(lambda f: f(f))", "RecursionError", "maximum recursion depth exceeded"),
    "memory": ("raise MemoryError", "MemoryError", ""),
    "stop iteration": ("next(iter(()))", "StopIteration", ""),
    "generator exit": ("raise GeneratorExit('odd')", "GeneratorExit", "odd"),
    "cancellation": ("import asyncio; raise asyncio.CancelledError('odd')", "CancelledError", "odd"),
    "bare": ("raise BaseException('odd')", "BaseException", "odd"),
    "broken pipe": ("raise BrokenPipeError('of the handler')", "BrokenPipeError", "of the handler"),
    "group": ("raise ExceptionGroup('many', [ValueError(1)])", "ExceptionGroup", "many (1 sub-exception)"),
    "exit": ("raise SystemExit(7)", "SystemExit", "7"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
}
DEADLY = {"exit": 7, "interrupt": -signal.SIGINT}
PLACES = {  # where the statement stands, and how much of the body is sent before
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
def test_whatever_is_raised_anywhere_is_reported_once_and_the_next_invocation_served_or_the_process_ended(
    sandbox: Sandbox, fault: str, place: str, sent: bytes | None, kind: str
) -> None:
    statement, name, message = KINDS[fault]
    if fault == "stop iteration" and (kind == "async def" or ("yield" in place and "CLOSE" not in place)):
        # Python's own rule for generators and coroutines.
        wrapper = {"def": "generator", "async def": "async generator" if "items():" in place else "coroutine"}[kind]
        name, message = "RuntimeError", f"{wrapper} raised StopIteration"
    names = ("__aiter__", "aclose") if kind == "async def" else ("__iter__", "close")
    code = place.replace("ITER", names[0]).replace("CLOSE", names[1])
    ended = sandbox.run(code.replace("KIND", kind).replace("STATEMENT", statement), event(), SERVED)
    invariants(ended)
    first, *others = ended.posts
    if sent is None:
        assert first.target == ERROR
        assert first.headers["lambda-runtime-function-error-type"] == name
        report = json.loads(first.body)
    else:
        assert first.target == RESPONSE
        assert first.body.endswith(sent)
        assert first.whole
        if "CLOSE" in place:  # the response was whole by then
            assert first.trailers == {}
            report = {"errorType": name, "errorMessage": message, "requestId": REQUEST_ID}
        else:
            assert first.trailers["lambda-runtime-function-error-type"] == name
            report = json.loads(base64.b64decode(first.trailers["lambda-runtime-function-error-body"]))
    assert (report["errorType"], report["requestId"]) == (name, REQUEST_ID)
    assert report["errorMessage"].startswith(message)
    assert ended.output.count(f"[ERROR] {name}{message and ': '}{message}") == 1
    if fault in DEADLY:
        assert (others, ended.status) == ([], DEADLY[fault])
    else:
        assert [post.body for post in others] == [b"served"]
        assert ended.status == 1  # the script's end


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
def test_a_generator_that_does_not_let_itself_be_closed_is_logged_and_left(
    sandbox: Sandbox, name: str, what: str
) -> None:
    ended = sandbox.run(SWALLOWING, event(b'"%b"' % name.encode()), SERVED, posts=[Reset(at=b"marker")])
    invariants(ended)
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
    "reset within the head": (b"{}", Reset(at=b"POST"), "Runtime API at "),
    "reset behind the head": (b"{}", Reset(at=b"first"), "Runtime API at "),
    "reset within a chunk": (b"{}", Reset(at=b"xxxx"), "Runtime API at "),
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
    "closed within the head": (b"{}", Answer((b"HTTP/1.1 202 Acc",), close=True), "Runtime API at "),
    "closed within the body": (
        b"{}",
        Answer((b"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{",), close=True),
        "Runtime API at ",
    ),
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize(("body", "post", "message"), BREAKS.values(), ids=list(BREAKS))
def test_a_post_that_breaks_is_logged_and_the_next_invocation_served_on_a_new_connection(
    sandbox: Sandbox, body: bytes, post: Reset | Answer, message: str
) -> None:
    ended = sandbox.run(STREAM, event(body), SERVED, posts=[post])
    invariants(ended)
    assert [request.method for request in ended.requests] == ["GET", "POST", "GET", "POST", "GET"]
    assert ended.posts[1].body == b"served"
    assert ended.requests[2].connection == ended.requests[1].connection + 1
    kinds = re.findall(r"^\[ERROR\] (\w+): (.*?)\r", ended.output, re.MULTILINE)
    assert kinds[-1][0] == "RuntimeApiError"
    assert kinds[-1][1].startswith(message)
    assert len(kinds) == (1 if body == b"{}" else 2)


SIGNALLED = {  # what the runtime does when the signal comes
    "sending the first item": ("yield b'x' * 20_000_000", b"POST"),
    "sending another": ("yield b'first'\n    yield b'x' * 20_000_000", b"first"),
    "waiting for the answer": ("yield b'first'", b"0\r\n\r\n"),
}


@pytest.mark.traced
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(("items", "seen"), SIGNALLED.values(), ids=list(SIGNALLED))
def test_what_a_handler_of_signals_raises_in_the_middle_of_a_response_breaks_that_off(
    sandbox: Sandbox, items: str, seen: bytes, kind: str
) -> None:
    code = (
        "import os, signal\ndef fail(*_):\n    raise LookupError('signalled')\n"
        "signal.signal(signal.SIGUSR1, fail)\n"
        f"{kind} items():\n    {items}\n"
        "def handler(e, c):\n    return b'served' if e == 'serve' else items()\n"
    )
    deaf = Deaf()
    running = sandbox.start(code, event(), SERVED, posts=[deaf])
    running.api.wait_until(seen[:1] if seen == b"POST" else b"POST", request=1)
    wait_until_it_waits(running.process.pid)
    running.process.send_signal(signal.SIGUSR1)
    deaf.released.set()
    ended = running.end()
    assert ended.output.count("[ERROR] LookupError: signalled") == ended.output.count("[ERROR]") == 1
    assert not ended.posts[0].whole or ended.posts[0].trailers == {}
    assert ended.posts[1].body == b"served"


def wait_until_it_waits(pid: int) -> None:
    """Waits until the main thread of a process has nothing to do but to wait for the other side."""
    waits = 0
    while waits < 20:  # looks in a row
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        waits = waits + 1 if state == "S" else 0
        os.sched_yield()


@pytest.mark.parametrize("close", [False, True])
def test_after_a_broken_response_a_next_that_is_refused_ends_the_process(sandbox: Sandbox, close: bool) -> None:
    forbidden = Answer(refusal("403 Forbidden", b"InvalidStateTransition").pieces, close)
    ended = sandbox.run(STREAM, event(), forbidden, SERVED, posts=[Reset(at=b"first")])
    invariants(ended)
    assert [request.method for request in ended.requests] == ["GET", "POST", "GET"]
    assert ended.status == 1
    assert (
        ended.errors
        == "streaming_runtime: the request for an invocation failed: status 403, b'InvalidStateTransition'\n"
    )


@pytest.mark.slow
def test_an_answer_that_never_ends_is_given_up_at_the_deadline(sandbox: Sandbox) -> None:
    deadline = str(int(time.time() * 1000) + 3000)
    ended = sandbox.run(
        STREAM,
        event(Lambda_Runtime_Deadline_Ms=deadline),
        SERVED,
        posts=[Answer((b"HTTP/1.1 202 Accepted\r\nContent-Length: 9\r\n\r\n{",)), ACCEPTED],
    )
    invariants(ended)
    assert "[ERROR] StreamDeadlineExceeded: the handler was still running " in ended.output
    assert ended.posts[-1].body == b"served"


BYTE_BY_BYTE = {
    "length": event(b'"serve"').pieces[0],
    "chunked": event_head() + b'Transfer-Encoding: chunked\r\n\r\n3\r\n"se\r\n4;a=b\r\nrve"\r\n0\r\nX: y\r\n\r\n',
    "lower-case names": event(b'"serve"').pieces[0].replace(b"Lambda-Runtime-Aws", b"lambda-runtime-aws"),
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\nA: b\r\n\r\n" + event(b'"serve"').pieces[0],
}


@pytest.mark.parametrize("data", BYTE_BY_BYTE.values(), ids=list(BYTE_BY_BYTE))
def test_an_invocation_may_come_byte_by_byte(sandbox: Sandbox, data: bytes) -> None:
    ended = sandbox.run(STREAM, Answer(tuple(data[i : i + 1] for i in range(len(data)))), SERVED)
    invariants(ended)
    assert ended.bodies == [b"served", b"served"]
    assert ended.posts[0].target == RESPONSE


IDS = {
    "space": "a b",
    "percent": "50%",
    "encoded already": "%2F",
    "slash": "../../x",
    "query and fragment": "a?b#c",
    "latin-1": "zw\xf6lf",
    "tab": "a\tb",
    "long": "x" * 100_000,
    "signs": "!$&'()*+,;=:@-._~[]|^`{}<>\"\\",
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize("request_id", IDS.values(), ids=list(IDS))
def test_a_request_id_of_any_bytes_comes_back_as_one_segment_of_the_path(sandbox: Sandbox, request_id: str) -> None:
    head = event_head(Lambda_Runtime_Aws_Request_Id="{id}").replace(b"{id}", request_id.encode("latin-1"))
    code = "def handler(e, c):\n    yield c.aws_request_id\n    if e:\n        raise ValueError\n"
    answers = [Answer((head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),)) for body in (b"0", b"1", b"{")]
    ended = sandbox.run(code, *answers)
    invariants(ended)
    segments = [post.raw.partition(b" HTTP/1.1\r\n")[0].decode("ascii").split("/") for post in ended.posts]
    assert [(len(parts), parts[-1]) for parts in segments] == [(6, "response"), (6, "response"), (6, "error")]
    assert {unquote(parts[4], "latin-1") for parts in segments} == {request_id}
    assert not any(set(parts[4]) & set(" ?#\t") for parts in segments)
    assert [body.decode() for body in ended.bodies[:2]] == [request_id] * 2
    assert json.loads(ended.bodies[2])["requestId"] == request_id


TRACES = [
    "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
    "=;=",
    "a b\tc",
    "x" * 60_000,
]


@pytest.mark.parametrize("trace", TRACES, ids=["usual", "signs", "blanks", "long"])
def test_a_trace_id_of_any_text_reaches_the_environment_and_the_children(sandbox: Sandbox, trace: str) -> None:
    code = """
        import os, subprocess, sys
        def handler(event, context):
            child = "import os, sys; sys.stdout.write(os.environ['_X_AMZN_TRACE_ID'])"
            seen = subprocess.run([sys.executable, "-S", "-c", child], stdout=subprocess.PIPE, text=True).stdout
            return [os.environ["_X_AMZN_TRACE_ID"], seen]
        """
    ended = sandbox.run(code, event(Lambda_Runtime_Trace_Id=trace))
    invariants(ended)
    assert [json.loads(body) for body in ended.bodies] == [[trace, trace]]


@pytest.mark.own_interpreter
@pytest.mark.parametrize(
    "deadline",
    ["0", "1", str(2**31), str(2**53), str(2**63 - 1), str(2**64), "9" * 400, "9" * 5000],
    ids=lambda text: text[:25],
)
def test_a_deadline_of_any_size_is_served_or_named(sandbox: Sandbox, deadline: str) -> None:
    ended = sandbox.run(STREAM, event(b'"serve"', Lambda_Runtime_Deadline_Ms=deadline))
    invariants(ended)
    served = len(deadline) <= 20
    assert ended.bodies == ([b"served"] if served else [])
    assert ended.errors.startswith("streaming_runtime: invocation with an invalid deadline") is not served


@pytest.mark.parametrize(
    "body",
    [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b""],
    ids=["lists", "objects", "not UTF-8", "empty"],
)
def test_an_event_that_cannot_be_read_is_an_error_of_the_invocation(sandbox: Sandbox, body: bytes) -> None:
    ended = sandbox.run(STREAM, event(body), SERVED)
    invariants(ended)
    assert [post.target for post in ended.posts] == [ERROR, RESPONSE]
    report = json.loads(ended.posts[0].body)
    assert (report["errorType"], report["stackTrace"]) == ("Runtime.UnmarshalError", [])
    assert report["errorMessage"].startswith("Unable to unmarshal input: ")


RESPONSES = {
    "status below": ("StreamingResponse([b'x'], 199)", "status code must be an int from 200 to 599, not 199"),
    "status that is no number": ("StreamingResponse([], None)", "status code must be an int from 200 to 599, not None"),
    "status set later": ("later('status_code', 600)", "status code must be an int from 200 to 599, not 600"),
    "header set later": (
        "later('headers', {'x': 'a\\r\\nb: c'})",
        "value of header 'x' contains a control character: ",
    ),
    "cookie set later": (
        "later('cookies', ['ü€'])",
        "value of header 'set-cookie' contains a character outside latin-1: ",
    ),
    "hop-by-hop set later": (
        "later('headers', {'TE': 'x'})",
        "hop-by-hop header 'TE' is not allowed: Lambda manages the connection",
    ),
    "too large": ("later('cookies', ['x' * 16_384])", "status, headers and cookies take "),
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize(("value", "message"), RESPONSES.values(), ids=list(RESPONSES))
def test_metadata_that_may_not_be_sent_is_an_error_before_anything_is_sent(
    sandbox: Sandbox, value: str, message: str
) -> None:
    code = (
        "from streaming_runtime import StreamingResponse\n"
        "def later(name, value):\n    response = StreamingResponse([b'x'])\n    setattr(response, name, value)\n"
        "    return response\n"
        f"def handler(e, c):\n    return b'served' if e == 'serve' else {value}\n"
    )
    ended = sandbox.run(code, event(), SERVED)
    invariants(ended)
    assert [post.target for post in ended.posts] == [ERROR, RESPONSE]
    report = json.loads(ended.posts[0].body)
    assert report["errorType"] == "ValueError"
    assert report["errorMessage"].startswith(message)


STDOUT = {
    "closed": "sys.stdout.close()",
    "without flush": "sys.stdout = type('Writer', (), {'write': lambda self, text: None})()",
    "None": "sys.stdout = None",
    "stderr closed": "sys.stderr.close()",
    "descriptor closed": "os.close(1)",
    "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
}


@pytest.mark.parametrize("statement", STDOUT.values(), ids=list(STDOUT))
@pytest.mark.parametrize("failing", [False, True], ids=["well", "failing"])
def test_a_handler_that_loses_its_standard_output_is_served_all_the_same(
    sandbox: Sandbox, statement: str, failing: bool
) -> None:
    code = (
        f"import os, sys\ndef handler(e, c):\n    if e == 'serve':\n        return b'served'\n    {statement}\n"
        f"    if {failing}:\n        raise ValueError\n    return b'first'\n"
    )
    ended = sandbox.run(code, event(), SERVED)
    invariants(ended)
    assert [post.target for post in ended.posts] == [ERROR if failing else RESPONSE, RESPONSE]
    assert ended.posts[1].body == b"served"


def traced(code: str) -> list[str]:
    """The stack trace of what `code` raises, the first line of each entry, without the frame of this file."""
    raised: list[BaseException] = []
    try:
        exec(compile(code, "user.py", "exec"), {})
    except BaseException as error:
        raised.append(error)
    try:
        report = errors.report(raised.pop(), "id")
    except BaseException as failure:
        # Not as its cause: pytest would look into what must not be looked into.
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
    "itself": ("a = ValueError('a')\na.__cause__ = a\nraise a", ["3"]),
    "group": (
        "raise ExceptionGroup('g', [ValueError(1), ExceptionGroup('h', [KeyError(2)])])",
        ["1", "Holds ValueError: 1", "Holds ExceptionGroup: h (1 sub-exception)", "Holds KeyError: 2"],
    ),
    "false in itself": (
        "class Falsy(Exception):\n    def __bool__(self): return False\nraise ValueError from Falsy('f')",
        ["3", "Caused by Falsy: f"],
    ),
    "neither true nor false": (
        "class Odd(Exception):\n    def __bool__(self): raise RuntimeError\nraise ValueError from Odd('o')",
        ["3", "Caused by Odd: o"],
    ),
    "empty in itself": (
        "class Errors(Exception):\n    def __len__(self): return 0\nraise ValueError from Errors('e')",
        ["3", "Caused by Errors: e"],
    ),
}


@pytest.mark.parametrize(("code", "expected"), CHAINS.values(), ids=list(CHAINS))
def test_a_stack_trace_tells_what_is_behind_an_exception_and_within_it(code: str, expected: list[str]) -> None:
    assert traced(code) == expected


def test_a_stack_trace_tells_of_twenty_exceptions_at_most() -> None:
    code = "e = None\nfor n in range(5000):\n    f = ValueError(n)\n    f.__cause__ = e\n    e = f\nraise e"
    assert len([entry for entry in traced(code) if entry.startswith("Caused by")]) == 19


LIARS = {
    "cause": ("__cause__ = property(lambda self: 1 / 0)", "Liar", "x"),
    "context": ("__context__ = __suppress_context__ = property(lambda self: 1 / 0)", "Liar", "x"),
    "traceback": ("__traceback__ = property(lambda self: 1 / 0)", "Liar", "x"),
    "class": ("__class__ = property(lambda self: int)", "Liar", "x"),
    "text that is none": ("__str__ = lambda self: 5", "Liar", "<no message: __str__ raised TypeError>"),
    "text without end": ("__str__ = lambda self: str(self)", "Liar", "<no message: __str__ raised RecursionError>"),
    "text that exits": ("__str__ = lambda self: exit()", "Liar", "<no message: __str__ raised SystemExit>"),
    "attributes that fail": ("__getattr__ = lambda self, name: 1 / 0", "Liar", "x"),
    "comparison that fails": ("__eq__ = lambda self, other: 1 / 0\n    __hash__ = None", "Liar", "x"),
    "a subclass as text": ("__str__ = lambda self: type('T', (str,), {})('t')", "Liar", "t"),
}


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize(("lie", "kind", "message"), LIARS.values(), ids=list(LIARS))
def test_an_exception_that_lies_is_reported(sandbox: Sandbox, lie: str, kind: str, message: str, started: bool) -> None:
    code = (
        f"import sys\nfrom sys import exit\nclass Liar(Exception):\n    {lie}\n"
        f"def handler(e, c):\n    if e == 'serve' or {started}:\n        yield b'served'\n"
        "    if e != 'serve':\n        raise Liar('x')\n"
    )
    ended = sandbox.run(code, event(), SERVED)
    invariants(ended)
    first, second = ended.posts
    if started:
        report = json.loads(base64.b64decode(first.trailers["lambda-runtime-function-error-body"]))
    else:
        report = json.loads(first.body)
    assert (report["errorType"], report["errorMessage"]) == (kind, message)
    assert second.body == b"served"


VIOLATIONS = {
    "an error behind a response": [(RESPONSE, b"1\r\nx\r\n0\r\n\r\n"), (ERROR, b"{}")],
    "trailers in a body": [(RESPONSE, b"22\r\nLambda-Runtime-Function-Error-Type\r\n0\r\n\r\n")],
    "another trailer": [(RESPONSE, b"0\r\nX: y\r\n\r\n")],
    "something behind the end": [(RESPONSE, b"0\r\n\r\n0\r\n\r\n")],
}


@pytest.mark.parametrize("sent", VIOLATIONS.values(), ids=list(VIOLATIONS))
def test_the_invariants_find_what_they_are_for(sent: list[tuple[str, bytes]]) -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(AssertionError):
        invariants(Ended("", [Request(0, head + body, "POST", target) for target, body in sent], 0, "", ""))


def test_the_chunks_of_a_body_are_taken_apart() -> None:
    assert chunks(b"1\r\nx\r\n0\r\n\r\n") == ([b"x"], b"\r\n")
    assert chunks(b"2\r\nx") == ([b"x"], None)
    assert chunks(b"0\r\nA: b\r\n\r\n") == ([], b"A: b\r\n\r\n")


LONG = {  # an exception, and what is left of it in the trailers
    "frames": "raised(200)",
    "message": "raise ValueError('m' * 100_000)",
    "type": "raise type('T' * 5_000, (Exception,), {})",
}


@pytest.mark.traced
@pytest.mark.parametrize("statement", LONG.values(), ids=list(LONG))
def test_trailers_are_no_longer_than_a_server_of_gos_takes_and_the_log_tells_all(
    sandbox: Sandbox, statement: str
) -> None:
    frames = "\n".join(f"def f{n}():\n    f{n + 1}()" for n in range(200))
    code = (
        f"{frames}\ndef f200():\n    raise KeyError('innermost')\ndef raised(_):\n    f0()\n"
        f"def handler(e, c):\n    yield b'x'\n    {statement}\n"
    )
    ended = sandbox.run(code, event(), event())
    for post in ended.posts:
        assert len(post.raw.rpartition(b"\r\n0\r\n")[2]) <= 4096
        report = json.loads(base64.b64decode(post.trailers["lambda-runtime-function-error-body"]))
        assert set(report) == {"errorMessage", "errorType", "requestId", "stackTrace"}
        if "raised" in statement:
            assert report["stackTrace"][-1].endswith("raise KeyError('innermost')\n")
    assert max(ended.output.count("in f"), ended.output.count("m"), ended.output.count("T")) > 200


def test_trailers_with_the_last_chunk_are_as_long_as_may_be_and_no_longer() -> None:
    def length(kind: str, message: str) -> int:
        return len(errors.trailers({"errorMessage": message, "errorType": kind, "requestId": "", "stackTrace": []}))

    # Base64 makes steps of four bytes, and the type stands beside it as it is.
    lengths = {length("T" * kind, "m" * message) for kind in range(1, 9) for message in range(2500, 3100)}
    assert max(lengths) == 4096


def test_a_generator_within_another_that_broke_off_is_closed_before_the_next_invocation(sandbox: Sandbox) -> None:
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


def test_an_exit_in_another_task_is_reported(sandbox: Sandbox) -> None:
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
    invariants(ended)
    assert [post.trailers["lambda-runtime-function-error-type"] for post in ended.posts] == ["SystemExit"]
    assert (ended.status, ended.output.count("[ERROR] SystemExit")) == (7, 1)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_handler_that_closes_the_runtimes_descriptor_costs_one_invocation(sandbox: Sandbox, place: str) -> None:
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
