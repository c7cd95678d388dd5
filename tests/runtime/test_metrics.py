"""The metrics of an invocation, in CloudWatch's embedded metric format.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import time

import pytest
from tests.helpers.sandbox import EARLY, Sandbox
from tests.helpers.scripted_api import REQUEST_ID, Answer, Event, Reset, due, event, refusal

pytestmark = pytest.mark.own_interpreter

NAMESPACE = "STREAMING_RUNTIME_METRICS_NAMESPACE"
ON = {
    NAMESPACE: "Shop/zwölf",
    "AWS_LAMBDA_FUNCTION_NAME": "hello",
    "AWS_LAMBDA_FUNCTION_VERSION": "7",
}
UNITS = {
    "TimeToFirstByte": "Milliseconds",
    "BytesStreamed": "Bytes",
    "ChunksStreamed": "Count",
    "MidStreamErrors": "Count",
}


def metrics(line: str) -> dict[str, float]:
    """The values of one line, which must follow the specification."""
    entry = json.loads(line)
    aws = entry.pop("_aws")
    assert set(aws) == {"Timestamp", "CloudWatchMetrics"}
    assert type(aws["Timestamp"]) is int
    assert abs(aws["Timestamp"] - time.time() * 1000) < 600_000  # milliseconds
    [directive] = aws["CloudWatchMetrics"]
    assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
    assert directive["Namespace"] == ON[NAMESPACE]
    for dimensions in directive["Dimensions"]:
        assert all(isinstance(entry[name], str) and entry[name] for name in dimensions)
    assert directive["Dimensions"] == [["FunctionName"]]
    defined = {definition["Name"]: definition["Unit"] for definition in directive["Metrics"]}
    assert len(defined) == len(directive["Metrics"])
    assert defined == {name: unit for name, unit in UNITS.items() if name in defined}
    values: dict[str, float] = {name: entry.pop(name) for name in defined}
    assert all(type(value) in (int, float) for value in values.values())
    assert entry == {"FunctionName": "hello", "FunctionVersion": "7", "requestId": REQUEST_ID}
    return values


def counts(line: str) -> tuple[float, float, float]:
    """The bytes, chunks and errors of a line, which must have all three."""
    values = metrics(line)
    return values["BytesStreamed"], values["ChunksStreamed"], values["MidStreamErrors"]


@pytest.mark.parametrize("environment", [{}, {NAMESPACE: ""}], ids=["unset", "empty"])
def test_no_metrics_without_namespace(sandbox: Sandbox, environment: dict[str, str]) -> None:
    assert sandbox.run("def handler(e, c):\n    yield 'x'\n", event(), environment=environment).output == ""


SENT: dict[str, tuple[str, int, int]] = {
    "generator": ("def handler(e, c):\n    yield from ['one', b'', 'zw\\u00f6lf', '']\n", 9, 2),
    "async generator": ("async def handler(e, c):\n    for item in ['one', b'', 'x']:\n        yield item\n", 4, 2),
    "value": ("def handler(e, c):\n    return {}\n", 2, 1),
    "async value": ("async def handler(e, c):\n    return [1]\n", 3, 1),
    "in pieces": ("def handler(e, c):\n    yield from [b'x' * 100_000, b'x' * 16384, b'x' * 16383]\n", 132_767, 3),
    "with metadata": (
        "from streaming_runtime import StreamingResponse\n"
        "def handler(e, c):\n    return StreamingResponse(['a', 'b'], 201, {'x-a': '1'})\n",
        2,
        2,
    ),
    "event stream": (
        "from streaming_runtime import EventSourceResponse\n"
        "def handler(e, c):\n    return EventSourceResponse(['a', 'b'])\n",
        18,
        2,
    ),
}


@pytest.mark.parametrize(("code", "size", "number"), SENT.values(), ids=list(SENT))
@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_metrics_count_the_payload(sandbox: Sandbox, code: str, size: int, number: int, log_format: str) -> None:
    ended = sandbox.run(code, event(), event(), environment={**ON, "AWS_LAMBDA_LOG_FORMAT": log_format})
    lines = ended.output.splitlines()
    assert [counts(line) for line in lines] == [(size, number, 0)] * 2
    for line in lines:
        assert 0 < metrics(line)["TimeToFirstByte"] < 60_000


def test_time_to_first_byte(sandbox: Sandbox) -> None:
    code = """
        import time
        def handler(event, context):
            yield b""
            start = time.monotonic()
            while time.monotonic() < start + 0.02:
                pass
            yield b"x"
            sent = time.monotonic()
            while time.monotonic() < sent + 0.2:
                pass
            print((sent - start) * 1000)
            yield b"y"
        """
    ended = sandbox.run(code, event(), environment=ON)
    milliseconds, line = ended.output.splitlines()
    # It is counted from the event, a moment before the handler's start, to the first byte and not to the second.
    assert 20 <= metrics(line)["TimeToFirstByte"] < float(milliseconds) + 200


NOTHING: dict[str, tuple[str, int]] = {
    "empty stream": ("def handler(e, c):\n    yield from ['', '']\n", 0),
    "only metadata": (
        "from streaming_runtime import StreamingResponse\ndef handler(e, c):\n    return StreamingResponse([])\n",
        0,
    ),
    "error": ("def handler(e, c):\n    1 / 0\n", 0),
    "async error": ("async def handler(e, c):\n    1 / 0\n    yield\n", 0),
    "error after an empty item": ("def handler(e, c):\n    yield ''\n    1 / 0\n", 1),
    "wrong event": (
        "from streaming_runtime import EventSourceResponse\ndef handler(e, c):\n    return EventSourceResponse([1])\n",
        0,
    ),
}


@pytest.mark.parametrize(("code", "failed"), NOTHING.values(), ids=list(NOTHING))
def test_no_first_byte_time_without_bytes(sandbox: Sandbox, code: str, failed: int) -> None:
    line = sandbox.run(code, event(), environment=ON).output.splitlines()[-1]
    assert metrics(line) == {"BytesStreamed": 0, "ChunksStreamed": 0, "MidStreamErrors": failed}


FAILED: dict[str, tuple[str, Event, list[Answer | Reset], tuple[int, int, int]]] = {
    "error": ("def handler(e, c):\n    yield 'one'\n    1 / 0\n", event(), [], (3, 1, 1)),
    "async error": ("async def handler(e, c):\n    yield 'one'\n    1 / 0\n", event(), [], (3, 1, 1)),
    "wrong item": ("def handler(e, c):\n    yield 'one'\n    yield 1\n", event(), [], (3, 1, 1)),
    "exit": ("import sys\ndef handler(e, c):\n    yield 'one'\n    sys.exit()\n", event(), [], (3, 1, 1)),
    "deadline": ("import time\ndef handler(e, c):\n    yield 'one'\n    time.sleep(60)\n", due(), [], (3, 1, 1)),
    "connection broken at the end": (
        "def handler(e, c):\n    yield 'one'\n",
        event(),
        [Reset(at=b"0\r\n\r\n")],
        (3, 1, 1),
    ),
    "refused": ("def handler(e, c):\n    yield 'one'\n", event(), [refusal("413 Content Too Large")], (3, 1, 1)),
    "error while closing": (
        "from streaming_runtime import StreamingResponse\n"
        "class Items:\n    def __iter__(self):\n        return iter(['one'])\n    def close(self):\n        1 / 0\n"
        "def handler(e, c):\n    return StreamingResponse(Items())\n",
        event(),
        [],
        (3, 1, 0),
    ),
}


@pytest.mark.parametrize(("code", "invocation", "posts", "expected"), FAILED.values(), ids=list(FAILED))
def test_mid_stream_errors_are_counted(
    sandbox: Sandbox,
    code: str,
    invocation: Answer,
    posts: list[Answer | Reset],
    expected: tuple[int, int, int],
) -> None:
    ended = sandbox.run(code, invocation, posts=posts, environment={**ON, **EARLY})
    lines = [line for line in ended.output.splitlines() if line.startswith('{"_aws"')]
    assert [counts(line) for line in lines] == [expected]


def test_refused_error_is_not_counted(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    1 / 0\n", event(), posts=[refusal("413 Too Large")], environment=ON)
    assert metrics(ended.output.splitlines()[-1])["MidStreamErrors"] == 0


def test_error_count_is_per_invocation(sandbox: Sandbox) -> None:
    code = """
        def handler(event, context):
            yield "x" * event
            if event == 1:
                raise ValueError
        """
    ended = sandbox.run(code, event(b"1"), event(b"2"), environment={**ON, "AWS_LAMBDA_LOG_FORMAT": "JSON"})
    lines = [json.loads(line) for line in ended.output.splitlines()]
    assert [line.get("MidStreamErrors", line.get("errorType")) for line in lines] == ["ValueError", 1, 0]


def test_metrics_line_before_next(sandbox: Sandbox) -> None:
    code = """
        import sys
        class Output:
            def write(self, text):
                sys.__stdout__.write(text)
                seen.append([text.startswith('{"_aws"'), closed])
            def flush(self):
                pass
        seen, closed = [], False
        from streaming_runtime import StreamingResponse
        class Items:
            def __iter__(self):
                return iter(["x"])
            def close(self):
                global closed
                closed = True
        def handler(event, context):
            if event == 2:
                return seen
            sys.stdout = Output()
            return StreamingResponse(Items())
        """
    ended = sandbox.run(code, event(b"1"), event(b"2"), environment=ON)
    assert json.loads(ended.bodies[1]) == [[True, True]]
    assert ended.output.startswith('{"_aws"')


def test_pings_are_not_counted(sandbox: Sandbox) -> None:
    code = """
        import threading
        from streaming_runtime import EventSourceResponse
        from streaming_runtime.event_stream import Heartbeat
        sent, beat = threading.Event(), Heartbeat.beat
        def note(heartbeat):
            left = beat(heartbeat)
            if left == heartbeat._interval:
                sent.set()
            return left
        Heartbeat.beat = note
        def handler(event, context):
            return EventSourceResponse(events(), 0.01)
        def events():
            sent.wait()
            yield "x"
        """
    ended = sandbox.run(code, event(), environment=ON)
    assert b": ping\n" in ended.bodies[0]
    values = metrics(ended.output)
    assert (values["BytesStreamed"], values["ChunksStreamed"]) == (9, 1)
