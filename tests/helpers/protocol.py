"""What must hold of the bytes that the runtime sends: error reports, trailers, and the rules of the Runtime API."""

from __future__ import annotations

import base64
import json
from typing import Any

from tests.helpers.chunks import split_chunks
from tests.helpers.scripted_api import REQUEST_ID, Request

ERROR_TYPE = "lambda-runtime-function-error-type"
#: The message of the deadline's error; the group is the number of milliseconds that were left.
DEADLINE_MESSAGE = r"the handler was still running (\d+) ms before the Lambda timeout"
#: How the message ends for a value that has no JSON form.
JSON_REMEDY = "; make it a JSON value first, such as a date by isoformat()"


def error_report(kind: str, message: str, *stack_trace: str) -> dict[str, Any]:
    """The report of an error, as it is posted."""
    return {"errorMessage": message, "errorType": kind, "requestId": REQUEST_ID, "stackTrace": list(stack_trace)}


def error_trailers(report: dict[str, Any]) -> bytes:
    """The end of a response that failed midway, as it must be on the wire."""
    body = base64.b64encode(json.dumps(report).encode()).decode()
    return (
        "0\r\n"
        f"Lambda-Runtime-Function-Error-Type: {report['errorType']}\r\n"
        f"Lambda-Runtime-Function-Error-Body: {body}\r\n"
        "\r\n"
    ).encode()


def report_of(post: Request) -> dict[str, Any]:
    """The report of a failed invocation: in the trailers of a response, else in the body of a post to `/error`."""
    if post.target.endswith("/response"):
        body = base64.b64decode(post.trailers["lambda-runtime-function-error-body"])
    else:
        body = post.body
    report: dict[str, Any] = json.loads(body)
    return report


def check_protocol(requests: list[Request]) -> None:
    """Fail unless the requests of a runtime keep three rules, which hold whatever has happened.

    Nothing is posted to `/error` after a response has begun, no text of a trailer is within a body, and only the last
    chunk is empty.
    """
    begun = False
    for request in requests:
        if request.method == "GET":
            begun = False
            continue
        if request.target.endswith("/error"):
            assert not begun, "an error was posted after the response had begun"
            continue
        begun = True
        head, separator, body = request.raw.partition(b"\r\n\r\n")
        assert not separator or b"Transfer-Encoding: chunked" in head
        parts, end = split_chunks(body)
        assert all(parts)
        assert b"Lambda-Runtime-Function-Error" not in b"".join(parts)
        if end is not None:
            *trailers, empty, nothing = end.split(b"\r\n")
            assert (empty, nothing) == (b"", b"")
            names = [line.partition(b":")[0] for line in trailers]
            assert names in ([], [b"Lambda-Runtime-Function-Error-Type", b"Lambda-Runtime-Function-Error-Body"])
