"""Libraries that watch a function see the whole stream: each library, each kind of handler, each outcome.

The libraries are the published packages, with their transport replaced by one that prints what it would send. For each
of them one process serves all kinds and outcomes. docs/observability.md names these tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.helpers.protocol import ERROR_TYPE
from tests.helpers.sandbox import EARLY, Sandbox
from tests.helpers.scripted_api import REQUEST_ID, Answer, Request, event
from tests.runtime import watching

pytestmark = [pytest.mark.own_interpreter, pytest.mark.slow]

KINDS = ("sync", "async", "response", "async-response", "events", "dict", "route", "buffered")
HALVES = (KINDS[:4], KINDS[4:])  # each in a process of its own
ASYNC = ("async", "async-response", "route")
OUTCOMES = ("whole", "before", "midway", "deadline")
ERRORS = {"whole": "", "before": "ValueError", "midway": "ValueError", "deadline": "StreamDeadlineExceeded"}
TRACE = "Root=1-5f84c7a1-0f84c7a10f84c7a10f84c7a1;Parent=53995c3f42cd8ad8;Sampled=1"
ENVIRONMENT: dict[str, str | None] = {
    "AWS_LAMBDA_FUNCTION_NAME": "hello",
    "AWS_LAMBDA_FUNCTION_VERSION": "7",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
    "AWS_REGION": "us-east-1",
    "DD_FLUSH_TO_LOG": "true",
    "DD_COLD_START_TRACING": "false",
    # Datadog's timer takes the place of the runtime's.
    "DD_APM_FLUSH_DEADLINE_MILLISECONDS": "700",
    **EARLY,
}
Record = dict[str, Any]


def powertools(kind: str, outcome: str) -> list[Record]:
    error, streamed = ERRORS[outcome], {"statusCode": 200, "streamed": {"bytes": size_of(kind), "chunks": 2}}
    if kind == "buffered":
        streamed = {"statusCode": 200, "body": "onetwo"}
    log = {"log": "called", "correlation_id": f"/{kind}/{outcome}", "function_request_id": REQUEST_ID}
    return [
        {"metrics": {"Requests": [1.0]}},
        *[log] * (kind != "buffered" or not error),  # which fails before its line is logged
        {
            "segment": "## handler",
            "ended": True,
            "causes": [error] * bool(error),
            "response": None if error else streamed,
        },
    ]


def xray(_kind: str, outcome: str) -> list[Record]:
    return [{"segment": "handler", "whole": True, "causes": [ERRORS[outcome]] * bool(ERRORS[outcome])}]


def opentelemetry(_kind: str, outcome: str) -> list[Record]:
    module = "streaming_runtime.deadline." if outcome == "deadline" else ""
    return [
        {
            "span": "hello",
            "trace": True,
            "status": "UNSET" if outcome == "whole" else "ERROR",
            "code": 200 if outcome == "whole" else None,
            "events": [module + ERRORS[outcome]] * bool(ERRORS[outcome]),
        }
    ]


def sentry(_kind: str, outcome: str) -> list[Record]:
    error = ERRORS[outcome]
    transaction = {"transaction": "hello", "lasted": True, "status": "internal_error" if error else None}
    return [*[{"event": error}] * bool(error), transaction]


def datadog(kind: str, outcome: str) -> list[Record]:
    error = ERRORS[outcome]
    if outcome == "deadline" and kind in ASYNC:
        # Its own handler of the signal ends its spans before the event loop delivers the cancellation.
        return [
            {"span": "aws.lambda", "error": 0, "type": None, "code": None},
            {"span": "aws.lambda.url", "error": 1, "type": "Impending Timeout", "code": None},
        ]
    module = "streaming_runtime.deadline." if outcome == "deadline" else "builtins."
    code = "502" if error else "200"
    return [
        {"span": "aws.lambda", "error": int(bool(error)), "type": module + error if error else None, "code": code},
        {"span": "aws.lambda.url", "error": 0, "type": None, "code": code},
    ]


LIBRARIES: dict[str, tuple[str, Callable[[str, str], list[Record]]]] = {
    "Powertools": (watching.POWERTOOLS, powertools),
    "X-Ray": (watching.XRAY, xray),
    "OpenTelemetry": (watching.OPENTELEMETRY, opentelemetry),
    "Sentry": (watching.SENTRY, sentry),
    "Datadog": (watching.DATADOG, datadog),
}


def size_of(kind: str) -> int:
    return len(b"data: one\n\ndata: two\n\n") if kind == "events" else len(b"onetwo")


def head_of(kind: str, status: int = 200) -> bytes:
    """The HTTP metadata of a response."""
    events = '"content-type":"text/event-stream; charset=utf-8","cache-control":"no-store","x-accel-buffering":"no"'
    headers = {
        "sync": None,
        "async": None,
        "events": events,
        "dict": '"content-type":"application/json"',
        "buffered": '"content-type":"application/json"',
        "route": "",
    }.get(kind, '"content-type":"application/octet-stream"')
    if headers is None:
        return b""
    return b'{"statusCode":%d,"headers":{%b},"cookies":[]}' % (status, headers.encode()) + bytes(8)


def body_of(kind: str, outcome: str) -> bytes:
    """The bytes on the wire."""
    head = head_of(kind)
    if kind != "events":
        return head + (b"onetwo" if outcome == "whole" else b"one")
    last = b'event: error\ndata: {"errorType": "%b"}\n\n' % ERRORS[outcome].encode()
    return head + b"data: one\n\n" + (b"data: two\n\n" if outcome == "whole" else last)


def records(output: str) -> dict[str, list[Record]]:
    """What the library reported, by the path of the request."""
    found: dict[str, list[Record]] = {}
    path = ""
    for line in output.splitlines():
        if line.startswith("@/"):
            path = line[1:]
            found[path] = []
        elif line.startswith("@"):
            found[path].append(json.loads(line[1:]))
        elif line.startswith("{") and path:
            entry = json.loads(line)
            if "_aws" in entry:
                names = [each["Name"] for each in entry["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
                found[path].append({"metrics": {name: entry[name] for name in names}})
            elif "message" in entry:
                keys = ("correlation_id", "function_request_id")
                found[path].append({"log": entry["message"], **{key: entry[key] for key in keys}})
    return found


def request(kind: str, outcome: str) -> Callable[[], Answer]:
    """An event, with time enough unless the deadline is to come."""

    def make() -> Answer:
        deadline = time.time() * 1000 + (1400 if outcome == "deadline" else 60_000)
        body = watching.url_event(f"/{kind}/{outcome}")
        return event(body, Lambda_Runtime_Deadline_Ms=f"{deadline:.0f}", Lambda_Runtime_Trace_Id=TRACE)

    return make


def check_response(post: Request, kind: str, outcome: str) -> None:
    if outcome == "before" and kind == "route":  # the framework answers, and then raises
        headers = b'"content-length":"21","content-type":"text/plain; charset=utf-8"'
        answer = b'{"statusCode":500,"headers":{%b},"cookies":[]}' % headers
        assert post.body == answer + bytes(8) + b"Internal Server Error"
    elif outcome == "before" or (kind == "buffered" and outcome != "whole"):  # which has nothing midway
        assert (post.target.rpartition("/")[2], post.headers[ERROR_TYPE]) == ("error", ERRORS[outcome])
    else:
        assert post.body == body_of(kind, outcome)
        assert post.trailers.get(ERROR_TYPE, "") == ERRORS[outcome]


@pytest.mark.parametrize("kinds", HALVES, ids="+".join)
@pytest.mark.parametrize("library", list(LIBRARIES))
def test_library_sees_the_whole_stream(sandbox: Sandbox, library: str, kinds: tuple[str, ...]) -> None:
    code, expected = LIBRARIES[library]
    cases = [(kind, outcome) for kind in kinds for outcome in OUTCOMES]
    (sandbox.task / "served.py").write_text(watching.HANDLERS + code, encoding="utf-8")
    events = [request(kind, outcome) for kind, outcome in cases]
    ended = sandbox.run("", *events, environment={**ENVIRONMENT, "_HANDLER": "served.handler"})
    assert len(ended.posts) == len(cases), ended.errors
    for (kind, outcome), post in zip(cases, ended.posts, strict=True):
        check_response(post, kind, outcome)
    found = records(ended.output)
    assert list(found) == [f"/{kind}/{outcome}" for kind, outcome in cases]
    for kind, outcome in cases:
        want = sorted(json.dumps(record, sort_keys=True) for record in expected(kind, outcome))
        seen = sorted(json.dumps(record, sort_keys=True) for record in found[f"/{kind}/{outcome}"])
        assert seen == want, (kind, outcome)
