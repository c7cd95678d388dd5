"""awslambdaric itself with the same functions and events: both runtimes must post and log the same.

The table in a generated project's README lists the deliberate differences; `DIFFERENCES` tests them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.helpers.log_frames import Frames
from tests.helpers.protocol import ERROR_TYPE
from tests.helpers.sandbox import BOOTSTRAP, UNTRACED, Ended, Sandbox
from tests.helpers.scripted_api import Answer, ConcurrentApi, Request, event, refusal

# The interpreter that awslambdaric is installed for.
pytestmark = [pytest.mark.own_interpreter, pytest.mark.slow]

AWSLAMBDARIC = (sys.executable, "-m", "awslambdaric")
IMPORT_SYSTEM = re.compile(r'[\s\xa0]+File "(<frozen importlib|.*/importlib/)')
CLIENT = json.dumps({"custom": {"k": "v"}, "env": {"locale": "de"}, "client": {"app_title": "shop"}, "w3c": {"a": 1}})
TRACE = json.dumps({"w3c": {"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": 7, "other": "x"}})
IDENTITY = '{"cognitoIdentityId": "me", "cognitoIdentityPoolId": "pool"}'
FUNCTION = {
    "AWS_LAMBDA_FUNCTION_NAME": "hello",
    "AWS_LAMBDA_FUNCTION_VERSION": "7",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/hello",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[7]abc",
    "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",  # from 3.12 on, awslambdaric does not escape text
}
JSON_LOGS = {"AWS_LAMBDA_LOG_FORMAT": "JSON"}


@dataclass
class Case:
    """A function, its events, and its environment."""

    code: str
    events: tuple[Answer, ...] = (event(b'{"a": "\xc3\xa4"}'),)
    environment: Mapping[str, str | None] = field(default_factory=dict)


def handler(*lines: str, imports: str = "logging") -> str:
    return "\n".join([f"import {imports}", "def handler(event, context):", *(f"    {line}" for line in lines)]) + "\n"


CONTEXT = """
    def handler(event, context):
        names = sorted(name for name in dir(context) if not name.startswith("_"))
        values = [getattr(context, name) for name in names]
        shown = [repr(value) for value in values if not callable(value)]
        client = context.client_context and context.client_context.client
        return names, shown, repr(client), repr(context), context.w3c(), context.get_remaining_time_in_millis()
    """
LOGS = """
    import logging, warnings
    logging.getLogger().setLevel(1)
    logging.warning("at import")
    def handler(event, context):
        for level in (1, 10, 20, 25, 30, 40, 50, 99):
            logging.getLogger("shop").log(level, "sold %d, zwölf\\tx", 3)
        logging.info({"a": [1, None], "b": {1}}), logging.info("%s", {"a": 1}), logging.info("two\\nlines")
        extra = {"user": 7, "none": None, "set": {1}, "errorType": "mine", "location": 1, "message_": "x"}
        logging.info("extra", extra=extra), logging.captureWarnings(True), warnings.warn("old")
    """
CASES: dict[str, Case] = {
    "value": Case("def handler(e, c):\n    return e\n"),
    "values": Case(
        """
        import decimal, collections, enum
        class Level(enum.IntEnum):
            LOW = 1
        def handler(event, context):
            number = decimal.Decimal("12345678901234567890.10")
            more = {True: None, 1.5: "x", None: (1, 2), "b": b"text"}
            return [number, decimal.Decimal("NaN"), float("inf"), Level.LOW, collections.OrderedDict(a=1), more, "ä\\n"]
        """
    ),
    "no value": Case("def handler(e, c):\n    pass\n"),
    "value without JSON form": Case("def handler(e, c):\n    return {1}\n"),
    "malformed event": Case("def handler(e, c):\n    return e\n", (event(b"{"),)),
    "event with a byte order mark": Case("def handler(e, c):\n    return e\n", (event(b"\xef\xbb\xbf{}"),)),
    "event of another content type": Case(
        "def handler(e, c):\n    return len(e)\n", (event(b"{", Content_Type="x/y"),)
    ),
    "context": Case(
        CONTEXT,
        (
            event(
                Lambda_Runtime_Client_Context=CLIENT,
                Lambda_Runtime_Cognito_Identity=IDENTITY,
                Lambda_Runtime_Aws_Tenant_Id="blue",
            ),
            event(Lambda_Runtime_Client_Context=TRACE),
            event(Lambda_Runtime_Client_Context="{}", Lambda_Runtime_Cognito_Identity="{}"),
            event(Lambda_Runtime_Client_Context="{", Lambda_Runtime_Cognito_Identity="{"),
        ),
        {**FUNCTION},
    ),
    "context without a function name": Case(CONTEXT),
    "trace id": Case(
        "import os\ndef handler(e, c):\n    return os.environ.get('_X_AMZN_TRACE_ID')\n",
        (event(Lambda_Runtime_Trace_Id="Root=1"), event(), event(Lambda_Runtime_Trace_Id="")),
        {"_X_AMZN_TRACE_ID": "of the start"},
    ),
    "invocation id": Case(
        "def handler(e, c):\n    return 1 / e\n",
        tuple(event(body, Lambda_Runtime_Invocation_Id=i) for body in (b"1", b"0") for i in ("abc", "", None)),
    ),
    "text logs": Case(LOGS),
    "JSON logs": Case(LOGS, (event(Lambda_Runtime_Aws_Tenant_Id="blue"), event()), JSON_LOGS),
    "record with an exception": Case(
        handler("try: 1 / 0", "except ZeroDivisionError: logging.exception('failed')"), environment=JSON_LOGS
    ),
    **{
        f"{log_format} logs from level {level}": Case(
            handler("for level in (10, 20, 30, 40): logging.log(level, 'x')"),
            environment={"AWS_LAMBDA_LOG_FORMAT": log_format, "AWS_LAMBDA_LOG_LEVEL": level},
        )
        for log_format in ("TEXT", "json")
        for level in ("", "TRACE", "debug", "WARN", "FATAL", "NO SUCH")
    },
    "own filter": Case(
        """
        import logging
        def keep(record):
            return record.aws_request_id and record.tenant_id != "red"
        logging.getLogger().handlers[0].addFilter(keep)
        def handler(event, context):
            logging.warning("kept")
        """,
        (event(), event(Lambda_Runtime_Aws_Tenant_Id="red")),
    ),
    "own log handler": Case(
        """
        import logging, sys
        own = logging.StreamHandler(sys.stdout)
        own.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03dZ %(aws_request_id)s %(message)s"))
        logging.getLogger().addHandler(own)
        def handler(event, context):
            logging.warning("twice")
        """,
        environment={"TZ": "Asia/Tokyo"},
    ),
    "print and log": Case(handler("print('a'), context.log('b'), context.log('c\\n')", "print('d', end='')")),
    "error": Case(
        """
        def deep(n):
            if n:
                return deep(n - 1)
            raise KeyError("ä")
        def handler(event, context):
            deep(event)
        """,
        (event(b"0"), event(b"3"), event(b"7")),
        FUNCTION,
    ),
    "error in JSON": Case("def handler(e, c):\n    raise OSError(2, 'gone')\n", environment=JSON_LOGS),
    "error without a message": Case("class Odd(Exception): pass\ndef handler(e, c):\n    raise Odd\n"),
    "unknown module": Case("", environment={"_HANDLER": "none.handler"}),
    "failing import": Case("import no_such_module\n"),
    "missing handler": Case("x = 1\n"),
    "name without a module": Case("", environment={"_HANDLER": "handler"}),
    "built-in module": Case("", environment={"_HANDLER": "sys.exit"}),
    "syntax error": Case("def handler(e, c):\n    return (\n"),
    "error at import": Case("def fail():\n    raise ValueError('early')\nfail()\n"),
    "module in a package": Case(
        "import os\nos.makedirs('a/b', exist_ok=True)\n"
        "with open('a/b/c.py', 'w') as f: f.write('def h(e, c):\\n    return 1 / 0')\nfrom a.b.c import h as handler\n"
    ),
}


# What follows these is the wording of the JSON library, or of Python.
WORDS = re.compile(r"(Unable to (un)?marshal \w+: |Unable to parse [\w ]+: |Bad handler 'handler': )[^\r\n]*")
# What only this runtime adds to the errors that Lambda knows as `Runtime.…`: a remedy, and lines of the function.
REMEDY = re.compile(r"; (add `\w+` to|set Handler in) [^\r\n]*")
LINES = re.compile(r"(\[ERROR\] Runtime\.(?!UserCodeSyntaxError)[^\r]*)\r.*")


def run_both(sandbox: Sandbox, case: Case, posts: Sequence[Answer] = ()) -> tuple[Ended, Ended]:
    """Run a case with awslambdaric and with our runtime."""
    sandbox.api_type = ConcurrentApi
    environment: dict[str, str | None] = {"PYTHONPATH": str(sandbox.task), **case.environment}
    name = environment.get("_HANDLER") or "app.handler"
    command = (*AWSLAMBDARIC, name)
    theirs = sandbox.run(case.code, *case.events, posts=posts, command=command, environment=environment | UNTRACED)
    return theirs, sandbox.run(case.code, *case.events, posts=posts, environment=environment)


def posts(ended: Ended) -> list[dict[str, Any]]:
    """What was posted, without what only HTTP or a stream needs."""
    found = []
    for post in ended.posts:
        body = json.loads(post.body)
        cause = json.loads(post.headers.get("lambda-runtime-function-xray-error-cause", "null"))
        if cause is not None:
            cause["paths"].sort()
            cause["exceptions"][0]["message"] = WORDS.sub(r"\1", cause["exceptions"][0]["message"])
        if isinstance(body, dict) and "stackTrace" in body:
            body["errorMessage"] = REMEDY.sub("", WORDS.sub(r"\1", body["errorMessage"]))
            if body["errorType"].startswith("Runtime.") and body["errorType"] != "Runtime.UserCodeSyntaxError":
                body["stackTrace"] = []
            body["stackTrace"] = [entry for entry in body["stackTrace"] if not IMPORT_SYSTEM.match(entry)]
        kind = post.target.endswith("/init/error") and post.headers[ERROR_TYPE]
        invocation_id = post.headers.get("lambda-runtime-invocation-id")
        found.append({"target": post.target, "kind": kind, "id": invocation_id, "cause": cause, "body": body})
    return found


def log(ended: Ended) -> list[str]:
    """The log's lines, without times and without awslambdaric's own messages about a failed start or end."""
    output = re.sub(r"\[ERROR\] \[\d+\] LAMBDA_RUNTIME Failed to get next.*\n", "", ended.output)
    output = re.sub(r"\[WARNING\].*LAMBDA_WARNING.*\n", "", output)
    output = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d{3})*", "TIME", output)
    entries = []
    for entry in WORDS.sub(r"\1", output).split("\n"):
        frames = re.split(r"\r(?=\xa0\xa0File)", LINES.sub(r"\1", REMEDY.sub("", entry)))
        entries.append("\r".join(frame for frame in frames if not IMPORT_SYSTEM.match(frame)))
    return entries


@pytest.mark.traced
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_parity_with_awslambdaric(sandbox: Sandbox, case: Case) -> None:
    theirs, ours = run_both(sandbox, case)
    assert theirs.posts, (theirs.output, theirs.errors)
    assert posts(ours) == posts(theirs)
    assert log(ours) == log(theirs)


TWICE = (event(b"1"), event(b"2"))
CONTEXT_VARIABLE = """
    from contextvars import ContextVar
    seen = ContextVar("seen", default=0)
    def handler(event, context):
        seen.set(seen.get() + 1)
        return seen.get()
    """
CAUSES = """
    def handler(event, context):
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise ValueError from error
    """
#: The rows of the table: a function, and the outcomes of its invocations with awslambdaric and with our runtime.
DIFFERENCES: dict[str, tuple[Case, list[object], list[object]]] = {
    "dict with statusCode": (
        Case("def handler(e, c):\n    return {'statusCode': 201, 'body': 'b'}\n"),
        [{"statusCode": 201, "body": "b"}],
        ['{"statusCode":201,"headers":{"content-type":"application/json"},"cookies":[]}' + "\0" * 8 + "b"],
    ),
    "async": (Case("async def handler(e, c):\n    return 1\n"), ["Runtime.MarshalError"], [1]),
    "named tuple": (
        Case("import collections\ndef handler(e, c):\n    return collections.namedtuple('P', 'x')(1)\n"),
        [{"x": 1}],
        [[1]],
    ),
    "_asdict": (
        Case("class P:\n    def _asdict(self):\n        return {'x': 1}\ndef handler(e, c):\n    return P()\n"),
        [{"x": 1}],
        ["Runtime.MarshalError"],
    ),
    "bytes as a key": (
        Case("def handler(e, c):\n    return {b'x': 1}\n"),
        [{"x": 1}],
        ["Runtime.MarshalError"],
    ),
    "NaN": (Case("def handler(e, c):\n    return e != e\n", (event(b"NaN"),)), ["Runtime.UnmarshalError"], [True]),
    "context variable": (Case(CONTEXT_VARIABLE, TWICE), [1, 2], [1, 1]),
    "SystemExit": (Case("def handler(e, c):\n    raise SystemExit\n", TWICE), [], ["SystemExit"]),
    "SystemExit at import": (Case("raise SystemExit\n"), [], ["SystemExit"]),
    "KeyboardInterrupt": (Case("def handler(e, c):\n    raise KeyboardInterrupt\n", TWICE), [], ["KeyboardInterrupt"]),
    "BaseException": (
        Case("def handler(e, c):\n    if e == 1:\n        raise BaseException\n    return e\n", TWICE),
        [],
        ["BaseException", 2],
    ),
    "unformattable log call": (Case(handler("logging.error('%d', 'x')")), ["TypeError"], [None]),
    "charset": (
        Case("def handler(e, c):\n    return len(e)\n", (event(Content_Type="application/json; charset=utf-8"),)),
        [2],
        [0],
    ),
}


@pytest.mark.parametrize(("case", "theirs", "ours"), DIFFERENCES.values(), ids=list(DIFFERENCES))
def test_documented_differences(sandbox: Sandbox, case: Case, theirs: list[object], ours: list[object]) -> None:
    found = run_both(sandbox, case)
    assert [[outcome(post) for post in ended.posts] for ended in found] == [theirs, ours]


def outcome(post: Request) -> object:
    """The type of the reported error, or the returned value."""
    try:
        body = json.loads(post.body)
    except ValueError:
        return post.body.decode()
    return body["errorType"] if post.target.endswith("/error") else body


def test_faults_name_lines(sandbox: Sandbox) -> None:
    traces = [posts_raw(ended)["stackTrace"] for ended in run_both(sandbox, Case("import no_such_module\n"))]
    assert [len(trace) for trace in traces] == [0, 1]


def posts_raw(ended: Ended) -> dict[str, Any]:
    """The error object of the first post, unchanged."""
    report: dict[str, Any] = json.loads(ended.posts[0].body)
    return report


def test_stack_trace_includes_causes(sandbox: Sandbox) -> None:
    traces = [posts(ended)[0]["body"]["stackTrace"] for ended in run_both(sandbox, Case(CAUSES))]
    assert ["Caused by ZeroDivisionError: division by zero\n" in trace for trace in traces] == [False, True]


def test_refused_response_difference(sandbox: Sandbox) -> None:
    found = run_both(sandbox, Case("def handler(e, c):\n    return e\n", TWICE), posts=[refusal("413 Too Large")])
    assert [len(ended.posts) for ended in found] == [1, 2]


FRAMED = ("text logs", "JSON logs", "record with an exception", "error", "error in JSON")


@pytest.mark.parametrize("name", FRAMED)
@pytest.mark.parametrize("level", ["", "INFO"])
def test_parity_of_log_frames(sandbox: Sandbox, name: str, level: str) -> None:
    sandbox.api_type = ConcurrentApi
    case, frames = CASES[name], Frames(sandbox)
    environment = {**case.environment, "AWS_LAMBDA_LOG_LEVEL": level, "PYTHONPATH": str(sandbox.task)}
    found = [
        [
            (frame.kind, re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?", "TIME", frame.text))
            for frame in frames.run(case.code, *case.events, program=program, **environment)[0]
        ]
        for program in ((BOOTSTRAP,), (*AWSLAMBDARIC, "app.handler"))
    ]
    assert found[0]
    assert found[0] == found[1]


HOOKS = """
    import snapshot_restore_py as hooks, sys
    hooks.register_before_snapshot(print, "before", 1)
    hooks.register_before_snapshot(print, "before", 2)
    hooks.register_after_restore(print, "after")
    def fail():
        {before}
    hooks.register_before_snapshot(fail)
    def fail_later():
        {after}
    hooks.register_after_restore(fail_later)
    def handler(event, context):
        return "served"
    """
RUN = ["before 2", "before 1", "after"]


@pytest.mark.traced
@pytest.mark.parametrize("fault", ["pass", "1 / 0", "sys.exit(7)"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_parity_of_snapstart_hooks(sandbox: Sandbox, when: str, fault: str) -> None:
    code = HOOKS.format(**{"before": "pass", "after": "pass"} | {when: fault})
    restored = Answer((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",))
    environment = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    theirs, ours = run_both(sandbox, Case(code, (restored, event()), environment))
    # awslambdaric asks again if no answer comes.
    targets = [list(dict.fromkeys(request.target for request in ended.requests)) for ended in (theirs, ours)]
    assert targets[0] == targets[1]
    assert [post["body"]["errorType"] for post in posts(ours) if post["kind"]] == [
        post["body"]["errorType"] for post in posts(theirs) if post["kind"]
    ]
    if fault != "pass":
        assert ours.status == theirs.status == {"before": 64, "after": 65}[when]
    printed = [[line for line in ended.output.split("\n") if line in RUN] for ended in (theirs, ours)]
    assert printed[0] == printed[1] == ([] if when == "before" and fault != "pass" else RUN)
