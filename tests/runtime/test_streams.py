"""What goes out for what a handler returns or yields, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from tests.runtime.conftest import Answer, Reset, Sandbox, event, response_head

HTTP = "application/vnd.awslambda.http-integration-response"
NULS = b"8\r\n" + bytes(8) + b"\r\n"

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
    "callable object": """
        class Handler:
            def __call__(self, event, context):
                return iter([b"one", "zwölf"])
        handler = Handler()
        """,
}


@pytest.mark.parametrize("code", RAW_STREAMS.values(), ids=list(RAW_STREAMS))
def test_a_raw_stream_goes_out_as_chunks_without_metadata(sandbox: Sandbox, code: str) -> None:
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
def test_an_empty_stream_still_ends(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code, event())
    assert [post.raw for post in ended.posts] == [response_head(ended.host) + b"0\r\n\r\n"]


def test_an_empty_stream_with_metadata_still_ends(sandbox: Sandbox) -> None:
    ended = sandbox.run(
        "from streaming_runtime import StreamingResponse\ndef handler(e, c):\n    return StreamingResponse([], 204)\n",
        event(),
    )
    metadata = b'{"statusCode":204,"headers":{},"cookies":[]}'
    expected = response_head(ended.host, HTTP) + b"2c\r\n%b\r\n%b0\r\n\r\n" % (metadata, NULS)
    assert [post.raw for post in ended.posts] == [expected]


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
    "def over an async iterable that is no iterator": """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            return StreamingResponse(Items(), 201, {"x-one": "1"}, "text/plain", cookies=("a=1", "b=2; Path=/"))
        class Items:
            async def __aiter__(self):
                yield b"one"
                yield "zwölf"
        """,
    "attributes changed later": """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            response = StreamingResponse([b"one", "zwölf"], 201, media_type="text/plain", cookies=["a=1"])
            response.headers = {"x-one": "1", **response.headers}
            response.cookies.append("b=2; Path=/")
            return response
        """,
    "headers set later, in another case": """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            response = StreamingResponse([b"one", "zwölf"], 201, {"x-one": " 1\t"}, cookies=["a=1"])
            response.headers["Content-Type"] = "text/plain; charset=utf-8"
            response.headers["Set-Cookie"] = "b=2; Path=/"
            return response
        """,
    "status of the standard library, and buffers": """
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
def test_a_response_sends_metadata_and_delimiter_as_chunks_of_their_own(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code, event())
    metadata = (
        b'{"statusCode":201,"headers":{"x-one":"1","content-type":"text/plain; charset=utf-8"},'
        b'"cookies":["a=1","b=2; Path=/"]}'
    )
    assert [post.raw for post in ended.posts] == [
        response_head(ended.host, HTTP)
        + b"%x\r\n%b\r\n" % (len(metadata), metadata)
        + NULS
        + b"3\r\none\r\n"
        + b"6\r\nzw\xc3\xb6lf\r\n"
        + b"0\r\n\r\n"
    ]


BUFFERED = {
    "status only": ("{'statusCode': 204}", b'{"statusCode":204,"headers":{},"cookies":[]}', b""),
    "status as text": (
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
def test_a_buffered_response_is_decoded_into_metadata_and_body(
    sandbox: Sandbox, value: str, metadata: bytes, body: bytes
) -> None:
    ended = sandbox.run(f"def handler(e, c):\n    return {value}\n", event())
    chunks = b"%x\r\n%b\r\n" % (len(metadata), metadata) + NULS
    if body:
        chunks += b"%x\r\n%b\r\n" % (len(body), body)
    assert [post.raw for post in ended.posts] == [response_head(ended.host, HTTP) + chunks + b"0\r\n\r\n"]


BAD_BUFFERED = {
    "{'statusCode': 'abc'}": "status code must be an int from 200 to 599, not 'abc'",
    "{'statusCode': None}": "status code must be an int from 200 to 599, not None",
    "{'statusCode': 200, 'headers': {'x': None}}": "value of header 'x' must be a str, not None",
    "{'statusCode': 200, 'body': {}}": "body of a buffered response must be a str, not dict",
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize("value", BAD_BUFFERED)
def test_a_buffered_response_that_cannot_be_sent_is_an_error_that_says_why(sandbox: Sandbox, value: str) -> None:
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
def test_any_other_json_value_goes_out_as_json(sandbox: Sandbox, kind: str) -> None:
    code = f"{kind} handler(event, context):\n    return eval(event)\n"
    ended = sandbox.run(code, *(event(json.dumps(value).encode()) for value in VALUES))
    head = response_head(ended.host, "application/json")
    sent = dict(zip(VALUES, [post.raw for post in ended.posts], strict=True))
    assert sent == {value: head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) for value, body in VALUES.items()}


@pytest.mark.traced
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview"])
def test_bytes_returned_go_out_as_they_are(sandbox: Sandbox, kind: str) -> None:
    ended = sandbox.run(f"def handler(e, c):\n    return {kind}(b'\\x00\\xff')\n", event())
    assert [post.raw for post in ended.posts] == [response_head(ended.host) + b"2\r\n\x00\xff\r\n0\r\n\r\n"]


EVENTS = {
    "json": (event(b'{"a": [1]}'), b"{'a': [1]}"),
    "json with a charset": (event(b'"x"', Content_Type="application/json; charset=utf-8"), b"'x'"),
    "no content type": (event(b"1", Content_Type=None), b"1"),
    "anything else": (event(b"\xff", Content_Type="application/octet-stream"), b"b'\\xff'"),
}


@pytest.mark.parametrize(("answer", "seen"), EVENTS.values(), ids=list(EVENTS))
def test_the_handler_receives_the_event_decoded_as_its_content_type_says(
    sandbox: Sandbox, answer: Answer, seen: bytes
) -> None:
    assert sandbox.run("def handler(e, c):\n    yield repr(e)\n", answer).bodies == [seen]


CLEANED_UP = """
    import os
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
def test_what_is_streamed_is_closed_once_when_the_connection_breaks_and_the_next_invocation_is_served(
    sandbox: Sandbox, content: str
) -> None:
    ended = sandbox.run(CLEANED_UP, event(b'"%b"' % content.encode()), event(b'"finite"'), posts=[Reset(at=b"marker")])
    assert [request.method for request in ended.requests] == ["GET", "POST", "GET", "POST", "GET"]
    assert ended.posts[1].body == b"served"
    # One log entry for the break, then the `finally` block, both before the next invocation.
    log = ended.output.removesuffix("\n").split("\n")
    assert len(log) == 2
    assert log[0].startswith(f"[ERROR] RuntimeApiError: Runtime API at {ended.host}: ")
    assert log[1] == "closed"


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_finally_block_runs_after_the_response_is_whole(sandbox: Sandbox, kind: str) -> None:
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


def test_an_error_while_closing_is_logged_and_the_next_invocation_served(sandbox: Sandbox) -> None:
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
    assert [post.raw.endswith(NULS + b"1\r\nx\r\n0\r\n\r\n") for post in ended.posts] == [True, True]
    assert ended.output.count("[ERROR] ValueError: in close\r") == 2


@pytest.mark.parametrize(
    "signature", ["def handler(e, c):\n    with gate:\n", "async def handler(e, c):\n    with gate:\n"]
)
def test_a_chunk_is_received_before_the_handler_may_make_the_next(sandbox: Sandbox, signature: str) -> None:
    fifo = sandbox.task / "gate"
    os.mkfifo(fifo)
    code = (
        "gate = open('gate', 'rb', buffering=0)\n"
        + signature
        + "        while byte := gate.read(1):\n            yield b'chunk ' + byte\n"
    )
    running = sandbox.start(code, event())
    with fifo.open("wb", buffering=0) as gate:
        for number in (b"1", b"2", b"3"):
            gate.write(number)
            # The runtime cannot be ahead: it waits at the gate.
            received = running.api.wait_until(b"chunk " + number, request=1)
            assert received.endswith(b"7\r\nchunk %b\r\n" % number)
    assert running.end().posts[0].raw.endswith(b"7\r\nchunk 3\r\n0\r\n\r\n")


def test_nothing_is_sent_before_the_first_item_is_made(sandbox: Sandbox) -> None:
    fifo = sandbox.task / "gate"
    os.mkfifo(fifo)
    code = """
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            return StreamingResponse(items())
        def items():
            with open("gate", "rb", buffering=0) as gate:  # until here, nothing may have gone out
                gate.read()
            raise ValueError("too early for a stream")
            yield
        """
    running = sandbox.start(code, event())
    with fifo.open("wb"):
        assert [request.method for request in running.api.requests] == ["GET"]
    assert [post.target.rpartition("/")[2] for post in running.end().posts] == ["error"]


def test_the_invocation_id_is_handed_back(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    yield b'x'\n", event(Lambda_Runtime_Invocation_Id="inv-1"))
    head = response_head(ended.host, more="Lambda-Runtime-Invocation-Id: inv-1\r\n")
    assert [post.raw for post in ended.posts] == [head + b"1\r\nx\r\n0\r\n\r\n"]


def test_async_invocations_share_one_event_loop(sandbox: Sandbox) -> None:
    code = """
        import asyncio
        loops = []
        async def handler(event, context):
            loops.append(asyncio.get_running_loop())
            yield str(len(set(loops)))
        """
    assert sandbox.run(code, event(), event(), event()).bodies == [b"1", b"1", b"1"]


def test_a_timeout_and_a_context_variable_may_span_the_items_of_an_async_stream(sandbox: Sandbox) -> None:
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
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_signals_in_the_middle_of_large_chunks_lose_and_repeat_nothing(sandbox: Sandbox, kind: str) -> None:
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
                yield bytes([number]) * 2_000_000  # all together more than the buffers hold
            stopped.set()
            yield f"{{len(seen) > before}}"
        """
    [body] = sandbox.run(code, event()).bodies
    expected = b"".join(bytes([number]) * 2_000_000 for number in range(5)) + b"True"
    # By their hashes, since nobody can read the difference of ten megabytes.
    assert hashlib.sha256(body).digest() == hashlib.sha256(expected).digest()


def test_an_iterator_that_has_ended_is_not_asked_again(sandbox: Sandbox) -> None:
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
