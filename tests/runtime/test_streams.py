"""The bytes that are sent for what a handler returns or yields."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from tests.helpers.chunks import DELIMITER, METADATA_TYPE, chunked
from tests.helpers.sandbox import Ended, Sandbox
from tests.helpers.scripted_api import Answer, Reset, event, response_head


def check_bytes(ended: Ended, metadata: bytes, *items: bytes) -> None:
    """Fail unless one response was sent: metadata, delimiter and items as chunks, byte for byte."""
    head = response_head(ended.host, METADATA_TYPE)
    assert [post.raw for post in ended.posts] == [head + chunked(metadata, DELIMITER, *items)]


RAW_STREAMS = {
    "sync generator function": """
        def handler(event, context):
            yield b"one"
            yield "zwölf"
        """,
    "generator returned": """
        def handler(event, context):
            return (item for item in [b"one", "zwölf"])
        """,
    "iterator returned": """
        def handler(event, context):
            return iter([b"one", "zwölf"])
        """,
    "map over other buffers": """
        def handler(event, context):
            return map(lambda kind: kind("zwölf".encode() if kind is memoryview else b"one"), [bytearray, memoryview])
        """,
    "async generator function": """
        async def handler(event, context):
            yield b"one"
            yield "zwölf"
        """,
    "async def returning a generator": """
        async def handler(event, context):
            return (item for item in [b"one", "zwölf"])
        """,
    "async def returning an async generator": """
        async def items():
            yield b"one"
            yield "zwölf"
        async def handler(event, context):
            return items()
        """,
    "empty items between": """
        def handler(event, context):
            yield from [b"one", b"", "", "zwölf", b""]
        """,
    "empty item first": """
        def handler(event, context):
            yield from ["", b"one", "zwölf"]
        """,
    "empty item first, async": """
        async def handler(event, context):
            for item in ("", b"one", "zwölf"):
                yield item
        """,
    "callable object": """
        class Handler:
            def __call__(self, event, context):
                return iter([b"one", "zwölf"])
        handler = Handler()
        """,
}


@pytest.mark.traced
@pytest.mark.parametrize("code", RAW_STREAMS.values(), ids=list(RAW_STREAMS))
def test_raw_stream_bytes(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code, event())
    expected = response_head(ended.host) + b"3\r\none\r\n" + b"6\r\nzw\xc3\xb6lf\r\n" + b"0\r\n\r\n"
    assert [post.raw for post in ended.posts] == [expected]


EMPTY_STREAMS = {
    "generator": "def handler(e, c):\n    yield from ()\n",
    "only empty items": "def handler(e, c):\n    yield from [b'', '']\n",
    "async generator": "async def handler(e, c):\n    for item in ():\n        yield item\n",
    "empty bytes": "def handler(e, c):\n    return b''\n",
}


@pytest.mark.parametrize("code", EMPTY_STREAMS.values(), ids=list(EMPTY_STREAMS))
def test_empty_stream_bytes(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code, event())
    assert [post.raw for post in ended.posts] == [response_head(ended.host) + b"0\r\n\r\n"]


def test_empty_stream_with_metadata_bytes(sandbox: Sandbox) -> None:
    code = (
        "from streaming_runtime import StreamingResponse\ndef handler(e, c):\n    return StreamingResponse([], 204)\n"
    )
    check_bytes(sandbox.run(code, event()), b'{"statusCode":204,"headers":{},"cookies":[]}')


RESPONSES = {
    "sync": """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            return StreamingResponse(items(), 201, {"X-One": "1", "Set-Cookie": "b=2; Path=/"}, "text/plain", ["a=1"])
        def items():
            yield b"one"
            yield "zwölf"
        """,
    "async def over a sync generator": """
        from streaming_runtime import StreamingResponse
        async def handler(event, context):
            return StreamingResponse(
                items(), headers={"x-one": "1"}, status_code=201,
                cookies=["a=1", "b=2; Path=/"], media_type="text/plain"
            )
        def items():
            yield b"one"
            yield "zwölf"
        """,
    "async def over an async generator": """
        from streaming_runtime import StreamingResponse
        async def handler(event, context):
            return StreamingResponse(items(), 201, {"x-one": "1"}, "text/plain", cookies=("a=1", "b=2; Path=/"))
        async def items():
            yield b"one"
            yield "zwölf"
        """,
    "def over an async iterable": """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            return StreamingResponse(Items(), 201, {"x-one": "1"}, "text/plain", cookies=("a=1", "b=2; Path=/"))
        class Items:
            async def __aiter__(self):
                yield b"one"
                yield "zwölf"
        """,
    "attributes set later": """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            response = StreamingResponse([b"one", "zwölf"], 201, media_type="text/plain", cookies=["a=1"])
            response.headers = {"x-one": "1", **response.headers}
            response.cookies.append("b=2; Path=/")
            return response
        """,
    "headers set later in another case": """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            response = StreamingResponse([b"one", "zwölf"], 201, {"x-one": " 1\t"}, cookies=["a=1"])
            response.headers["Content-Type"] = "text/plain; charset=utf-8"
            response.headers["Set-Cookie"] = "b=2; Path=/"
            return response
        """,
    "HTTPStatus and buffers": """
        from http import HTTPStatus
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            items = [bytearray(b"one"), memoryview("zwölf".encode())]
            cookies = ["a=1", "b=2; Path=/"]
            return StreamingResponse(items, HTTPStatus.CREATED, {"x-one": "1"}, "text/plain", cookies)
        """,
}


@pytest.mark.traced
@pytest.mark.parametrize("code", RESPONSES.values(), ids=list(RESPONSES))
def test_metadata_bytes(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code, event())
    metadata = (
        b'{"statusCode":201,"headers":{"x-one":"1","content-type":"text/plain; charset=utf-8"},'
        b'"cookies":["a=1","b=2; Path=/"]}'
    )
    check_bytes(ended, metadata, b"one", "zwölf".encode())


BUFFERED = {
    "status only": ("{'statusCode': 204}", b'{"statusCode":204,"headers":{},"cookies":[]}', b""),
    "status as str": (
        "{'statusCode': '404', 'body': None}",
        b'{"statusCode":404,"headers":{"content-type":"application/json"},"cookies":[]}',
        b"",
    ),
    "plain": (
        "{'statusCode': 200, 'headers': {'X-One': 1, 'Content-Type': 'text/html'}, 'body': 'zwölf'}",
        b'{"statusCode":200,"headers":{"x-one":"1","content-type":"text/html"},"cookies":[]}',
        "zwölf".encode(),
    ),
    "base64": (
        "{'statusCode': 200, 'isBase64Encoded': True, 'headers': {'content-type': 'image/png'}, 'body': '/wD/'}",
        b'{"statusCode":200,"headers":{"content-type":"image/png"},"cookies":[]}',
        b"\xff\x00\xff",
    ),
    "cookies": (
        "{'statusCode': 200, 'cookies': ['a=1', 'b=2'], 'headers': {'Set-Cookie': 'c=3'}, 'body': '{}'}",
        b'{"statusCode":200,"headers":{"content-type":"application/json"},"cookies":["a=1","b=2","c=3"]}',
        b"{}",
    ),
    "multi-value headers": (
        "{'statusCode': 200, 'headers': {'x-a': '0'}, 'multiValueHeaders': {'x-a': [1, 2], 'X-B': ['3']}}",
        b'{"statusCode":200,"headers":{"x-a":"1, 2","x-b":"3","content-type":"application/json"},"cookies":[]}',
        b"",
    ),
    "multi-value cookies": (
        "{'statusCode': 200, 'cookies': ['c=3'], 'multiValueHeaders': {'Set-Cookie': ['a=1, 1', 'b=2']}}",
        b'{"statusCode":200,"headers":{"content-type":"application/json"},"cookies":["c=3","a=1, 1","b=2"]}',
        b"",
    ),
    "nulls": (
        "{'statusCode': 200, 'headers': None, 'multiValueHeaders': None, 'cookies': None, 'isBase64Encoded': None}",
        b'{"statusCode":200,"headers":{"content-type":"application/json"},"cookies":[]}',
        b"",
    ),
}


@pytest.mark.traced
@pytest.mark.own_interpreter
@pytest.mark.parametrize(("value", "metadata", "body"), BUFFERED.values(), ids=list(BUFFERED))
def test_buffered_response_bytes(sandbox: Sandbox, value: str, metadata: bytes, body: bytes) -> None:
    ended = sandbox.run(f"def handler(e, c):\n    return {value}\n", event())
    check_bytes(ended, metadata, *([body] if body else []))


BAD_BUFFERED = {
    "{'statusCode': 'abc'}": "status code must be an int from 200 to 599, not 'abc'",
    "{'statusCode': None}": "status code must be an int from 200 to 599, not None",
    "{'statusCode': 200, 'headers': {'x': None}}": "value of header 'x' must be a str, not None",
    "{'statusCode': 200, 'body': {}}": "body of a buffered response must be a str, not dict",
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize("value", BAD_BUFFERED)
def test_invalid_buffered_response(sandbox: Sandbox, value: str) -> None:
    ended = sandbox.run(f"def handler(e, c):\n    return {value}\n", event())
    assert [post.target.rpartition("/")[2] for post in ended.posts] == ["error"]
    error = json.loads(ended.posts[0].body)
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", BAD_BUFFERED[value])


VALUES = {
    "None": b"null",
    "True": b"true",
    "'zwölf'": '"zwölf"'.encode(),
    "''": b'""',
    "0": b"0",
    "[1, {'a': None}]": b'[1, {"a": null}]',
    "[]": b"[]",
    "(1, 2)": b"[1, 2]",
    "{}": b"{}",
    "{'body': 'x'}": b'{"body": "x"}',
}


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_json_value_bytes(sandbox: Sandbox, kind: str) -> None:
    code = f"{kind} handler(event, context):\n    return eval(event)\n"
    ended = sandbox.run(code, *(event(json.dumps(value).encode()) for value in VALUES))
    head = response_head(ended.host, "application/json")
    sent = dict(zip(VALUES, [post.raw for post in ended.posts], strict=True))
    assert sent == {value: head + chunked(body) for value, body in VALUES.items()}


@pytest.mark.traced
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview"])
def test_returned_bytes_are_raw(sandbox: Sandbox, kind: str) -> None:
    ended = sandbox.run(f"def handler(e, c):\n    return {kind}(b'\\x00\\xff')\n", event())
    assert [post.raw for post in ended.posts] == [response_head(ended.host) + b"2\r\n\x00\xff\r\n0\r\n\r\n"]


EVENTS = {
    "json": (event(b'{"a": [1]}'), b"{'a': [1]}"),
    "json with a charset": (event(b'"x"', Content_Type="application/json; charset=utf-8"), b"'x'"),
    "no content type": (event(b"1", Content_Type=None), b"1"),
    "another content type": (event(b"\xff", Content_Type="application/octet-stream"), b"b'\\xff'"),
}


@pytest.mark.parametrize(("answer", "seen"), EVENTS.values(), ids=list(EVENTS))
def test_event_decoding_by_content_type(sandbox: Sandbox, answer: Answer, seen: bytes) -> None:
    assert sandbox.run("def handler(e, c):\n    yield repr(e)\n", answer).bodies == [seen]


CLEANED_UP = """
    from streaming_runtime import StreamingResponse

    def items():
        try:
            while True:
                yield b"marker"
        finally:
            print("closed")

    async def async_items():
        try:
            while True:
                yield b"marker"
        finally:
            print("closed")

    class Iterable:
        def __iter__(self):
            return items()

    class AsyncIterable:
        def __aiter__(self):
            return async_items()

    class Resource:
        def __iter__(self):
            while True:
                yield b"marker"
        def close(self):
            print("closed")

    class Iterator:
        def __iter__(self):
            return self
        def __next__(self):
            return b"marker"
        def close(self):
            print("closed")

    class AsyncIterator:
        def __aiter__(self):
            return self
        async def __anext__(self):
            return b"marker"
        async def aclose(self):
            print("closed")

    def handler(event, context):
        if event == "finite":
            return b"served"
        return StreamingResponse(globals()[event]())
    """


@pytest.mark.parametrize(
    "content", ["items", "async_items", "Iterable", "AsyncIterable", "Resource", "Iterator", "AsyncIterator"]
)
def test_content_is_closed_after_broken_connection(sandbox: Sandbox, content: str) -> None:
    """It is closed once, and the next invocation is served."""
    ended = sandbox.run(CLEANED_UP, event(b'"%b"' % content.encode()), event(b'"finite"'), posts=[Reset(at=b"marker")])
    assert ended.methods == ["GET", "POST", "GET", "POST", "GET"]
    assert ended.posts[1].body == b"served"
    # The log has one entry for the connection, then the `finally` block's, both before the next invocation.
    log = ended.output.removesuffix("\n").split("\n")
    assert len(log) == 2
    assert log[0].startswith(f"[ERROR] RuntimeApiError: Runtime API at {ended.host}: ")
    assert log[1] == "closed"


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_finally_runs_after_response(sandbox: Sandbox, kind: str) -> None:
    code = f"""
        {kind} handler(event, context):
            try:
                yield b"x"
            finally:
                print("closed")
        """
    ended = sandbox.run(code, event())
    assert ended.bodies == [b"x"]
    assert ended.output == "closed\n"


def test_error_in_close_is_logged(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import StreamingResponse
        class Items:
            def __iter__(self):
                return iter([b"x"])
            def close(self):
                raise ValueError("in close")
        def handler(event, context):
            return StreamingResponse(Items())
        """
    ended = sandbox.run(code, event(), event())
    assert [post.raw.endswith(chunked(DELIMITER, b"x")) for post in ended.posts] == [True, True]
    assert ended.output.count("[ERROR] ValueError: in close\r") == 2


@pytest.mark.parametrize("definition", ["def", "async def"])
def test_chunk_arrives_before_the_next(sandbox: Sandbox, definition: str) -> None:
    code = f"""
        {definition} handler(event, context):
            with open("gate", "rb", buffering=0) as gate:
                while byte := gate.read(1):
                    yield b"chunk " + byte
        """
    gate = sandbox.gate()
    running = sandbox.start(code, event())
    with gate:
        for number in (b"1", b"2", b"3"):
            gate.write(number)
            # The runtime cannot be ahead, since the handler waits at the gate.
            received = running.api.wait_until(b"chunk " + number, request=1)
            assert received.endswith(b"7\r\nchunk %b\r\n" % number)
    assert running.end().posts[0].raw.endswith(b"7\r\nchunk 3\r\n0\r\n\r\n")


def test_nothing_is_sent_before_first_item(sandbox: Sandbox) -> None:
    code = """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            return StreamingResponse(items())
        def items():
            open("gate").read()
            raise ValueError("too early for a stream")
            yield
        """
    gate = sandbox.gate()
    running = sandbox.start(code, event())
    with gate:
        assert [request.method for request in running.api.requests] == ["GET"]
    assert [post.target.rpartition("/")[2] for post in running.end().posts] == ["error"]


def test_invocation_id_is_returned(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    yield b'x'\n", event(Lambda_Runtime_Invocation_Id="inv-1"))
    head = response_head(ended.host, more="Lambda-Runtime-Invocation-Id: inv-1\r\n")
    assert [post.raw for post in ended.posts] == [head + b"1\r\nx\r\n0\r\n\r\n"]


def test_async_invocations_share_event_loop(sandbox: Sandbox) -> None:
    code = """
        import asyncio
        loops = []
        async def handler(event, context):
            loops.append(asyncio.get_running_loop())
            yield str(len(set(loops)))
        """
    assert sandbox.run(code, event(), event(), event()).bodies == [b"1", b"1", b"1"]


def test_context_spans_async_stream(sandbox: Sandbox) -> None:
    """A timeout and a context variable hold across the items of an async stream, and not beyond it."""
    code = """
        import asyncio, contextvars
        variable = contextvars.ContextVar("variable", default="unset")
        async def handler(event, context):
            seen = variable.get()
            variable.set("set")
            return items(seen)
        async def items(seen):
            async with asyncio.timeout(60):
                yield seen
                yield variable.get()
        """
    ended = sandbox.run(code, event(), event())
    assert ended.bodies == [b"unsetset", b"unsetset"]


@pytest.mark.slow
@pytest.mark.traced
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_signals_during_large_chunks(sandbox: Sandbox, kind: str) -> None:
    """Signals that interrupt a send neither lose nor repeat anything."""
    code = f"""
        import signal, threading
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        def disturb(thread, stopped):
            while not stopped.wait(0.0005):
                signal.pthread_kill(thread, signal.SIGUSR1)
        {kind} handler(event, context):
            stopped = threading.Event()
            threading.Thread(target=disturb, args=(threading.get_ident(), stopped)).start()
            while not seen:
                pass
            before = len(seen)
            for number in range(5):
                yield bytes([number]) * 2_000_000  # together more than the buffers hold
            stopped.set()
            yield f"{{len(seen) > before}}"
        """
    [body] = sandbox.run(code, event()).bodies
    expected = b"".join(bytes([number]) * 2_000_000 for number in range(5)) + b"True"
    # Compare hashes, since a difference of ten megabytes cannot be read.
    assert hashlib.sha256(body).digest() == hashlib.sha256(expected).digest()


def test_ended_iterator_is_not_resumed(sandbox: Sandbox) -> None:
    code = """
        class Items:
            left = 3
            def __iter__(self):
                return self
            def __next__(self):
                assert self.left >= 0, "asked again"
                self.left -= 1
                if self.left < 0:
                    raise StopIteration
                return b"x"
        def handler(event, context):
            return Items()
        """
    ended = sandbox.run(code, event())
    assert [(post.body, post.trailers) for post in ended.posts] == [(b"xxx", {})]


OWN_DOMAIN = {"http": {}, "apiId": "a1", "domainPrefix": "a1"}
# What cannot read the HTTP metadata of a stream: API Gateway answers it with a 502 unless it streams.
CALLERS: dict[str, tuple[Any, bool]] = {
    "function URL": ({**OWN_DOMAIN, "domainName": "a1.lambda-url.us-east-1.on.aws"}, False),
    "HTTP API": ({**OWN_DOMAIN, "domainName": "a1.execute-api.us-east-1.amazonaws.com"}, True),
    "HTTP API, custom domain": ({"http": {}, "apiId": "a1", "domainPrefix": "api", "domainName": "api.test"}, True),
    "REST API": ({"resourcePath": "/"}, True),
    "load balancer": ({"elb": {}}, True),
    "other context": ({}, False),
    "no context": (None, True),
}


@pytest.mark.traced
@pytest.mark.parametrize(("context", "buffers"), CALLERS.values(), ids=list(CALLERS))
def test_dict_for_a_buffering_caller(sandbox: Sandbox, context: Any, buffers: bool) -> None:
    code = "def handler(event, context):\n    return {'statusCode': 201, 'body': 'x'}\n"
    variables: dict[str, str | None] = {"STREAMING_RUNTIME_BUFFERED_CALLERS": "direct rest-api"}
    requests = [event(json.dumps({"requestContext": context}).encode()), event(b"[]")]
    ended = sandbox.run(code, *requests, environment=variables)
    plain = b'{"statusCode": 201, "body": "x"}'
    metadata = b'{"statusCode":201,"headers":{"content-type":"application/json"},"cookies":[]}' + bytes(8)
    assert ended.bodies == [plain if buffers else metadata + b"x", plain]


def test_callers_stream_unless_told(sandbox: Sandbox) -> None:
    code = "def handler(event, context):\n    return {'statusCode': 201, 'body': 'x'}\n"
    ended = sandbox.run(code, event(b'{"requestContext": {"resourcePath": "/"}}'), event(b"{}"))
    assert all(body.endswith(bytes(8) + b"x") for body in ended.bodies)
