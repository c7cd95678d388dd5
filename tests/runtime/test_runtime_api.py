"""The client of the Runtime API against servers that answer in unusual ways, refuse, or fail."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import ERROR, INIT_ERROR, NEXT, RESPONSE, Answer, event, event_head, refusal

from streaming_runtime import runtime_api

pytestmark = pytest.mark.own_interpreter

ECHO = "def handler(e, c):\n    yield repr(e)\n"
BODY = b'{"key": "value"}'
SEEN = b"{'key': 'value'}"
HEAD = event_head()


def _names(change: Callable[[bytes], bytes]) -> bytes:
    return re.sub(rb"(?m)^[\w-]+:", lambda name: change(name[0]), HEAD)


ANSWERS = {
    "lower-case names": Answer((_names(bytes.lower) + b"content-length: 16\r\n\r\n" + BODY,)),
    "upper-case names": Answer((_names(bytes.upper) + b"CONTENT-LENGTH:16\r\n\r\n" + BODY,)),
    "mixed-case names": Answer((_names(bytes.swapcase) + b"Content-length: 16\r\n\r\n" + BODY,)),
    "spaces and tabs around values": Answer(
        (HEAD.replace(b": ", b": \t ").replace(b"\r\n", b" \t\r\n") + b"Content-Length: 16\r\n\r\n" + BODY,)
    ),
    "chunked": Answer(
        (HEAD, b"Transfer-Encoding: chunked\r\n\r\na\r\n", BODY[:10], b"\r\n6;x=y\r\n", BODY[10:], b"\r\n0\r\n\r\n")
    ),
    "chunked, with trailers": Answer(
        (HEAD + b"Transfer-Encoding: Chunked\r\n\r\n10\r\n", BODY, b"\r\n0\r\nX-Trailer: 1\r\n\r\n")
    ),
    "head in pieces": Answer((*(HEAD[i : i + 7] for i in range(0, len(HEAD), 7)), b"Content-Length: 16\r\n\r\n", BODY)),
    "body in pieces": Answer((HEAD + b"Content-Length: 16\r\n\r", b"\n" + BODY[:1], BODY[1:5], BODY[5:])),
    "connection: close": Answer((HEAD + b"Connection: close\r\nContent-Length: 16\r\n\r\n" + BODY,), close=True),
    "ends with the connection": Answer((HEAD + b"\r\n" + BODY,), close=True),
    "HTTP/1.0": Answer((HEAD.replace(b"1.1", b"1.0") + b"Content-Length: 16\r\n\r\n" + BODY,), close=True),
    "HTTP/1.0 without a length": Answer((HEAD.replace(b"1.1", b"1.0") + b"\r\n" + BODY,), close=True),
    "status without a reason": Answer((HEAD.replace(b"200 OK", b"200") + b"Content-Length: 16\r\n\r\n" + BODY,)),
    "interim response first": Answer(
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + HEAD, b"Content-Length: 16\r\n\r\n" + BODY)
    ),
}


@pytest.mark.traced
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_event_framing(sandbox: Sandbox, answer: Answer) -> None:
    ended = sandbox.run(ECHO, answer, event())
    assert ended.bodies == [SEEN, b"{}"]
    assert ended.posts[0].target == RESPONSE
    connections = [0, 1, 2, 2, 3] if answer.close else [0, 0, 1, 1, 2]
    assert [request.connection for request in ended.requests] == connections


def test_closed_connection_is_not_reused(sandbox: Sandbox) -> None:
    gate = sandbox.gate()
    code = "def handler(e, c):\n    with open('gate', 'rb') as gate:\n        gate.read()\n    yield b'x'\n"
    # The answer does not announce that the server will close the connection.
    closing = Answer(event().pieces, close=True)
    running = sandbox.start(code, closing)
    running.api.wait_until_closed(0)
    gate.release()
    ended = running.end()
    assert ended.bodies == [b"x"]
    assert [request.connection for request in ended.requests] == [0, 1, 2]


def test_large_event(sandbox: Sandbox) -> None:
    body = b'"' + b"x" * 6 * 1024 * 1024 + b'"'
    assert sandbox.run("def handler(e, c):\n    yield str(len(e))\n", event(body)).bodies == [b"6291456"]


FATAL = {
    "403": (
        refusal("403 Forbidden", b"InvalidStateTransition"),
        "the request for an invocation failed: status 403, b'InvalidStateTran",
    ),
    "500": (refusal("500 Internal Server Error", b""), "the request for an invocation failed: status 500, b''"),
    "204": (Answer((b"HTTP/1.1 204 No Content\r\n\r\n",)), "the request for an invocation failed: status 204, b''"),
    "garbage": (Answer((b"\x16\x03\x01\r\n\r\n",)), "Runtime API at {host}: not an HTTP response: "),
    "HTTP/2": (Answer((b"HTTP/2 200\r\n\r\n",)), "Runtime API at {host}: not an HTTP response: 'HTTP/2 200'"),
    "no colon": (Answer((b"HTTP/1.1 200 OK\r\noops\r\n\r\n",)), "Runtime API at {host}: invalid header: 'oops'"),
    "bad length": (
        Answer((b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",)),
        "Runtime API at {host}: invalid content length: '-1'",
    ),
    "bad chunk": (
        Answer((HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",)),
        "Runtime API at {host}: invalid chunk size: b'x'",
    ),
    "closed in the head": (Answer((b"HTTP/1.1 200",), close=True), "Runtime API at {host}: connection closed "),
    "closed in the body": (
        Answer((HEAD + b"Content-Length: 9\r\n\r\n{",), close=True),
        "Runtime API at {host}: connection closed before the end of the response body",
    ),
    "endless head": (Answer((b"x" * 300 * 1024,)), "Runtime API at {host}: response head is longer than 262144 bytes"),
    "no request id": (
        Answer((event_head(Lambda_Runtime_Aws_Request_Id=None) + b"Content-Length: 2\r\n\r\n{}",)),
        "invocation without a request id",
    ),
    "odd deadline": (
        Answer((HEAD.replace(b"1700000000000", b"\xb2") + b"Content-Length: 2\r\n\r\n{}",)),
        "invocation with an invalid deadline: '²'",
    ),
}


@pytest.mark.traced
@pytest.mark.parametrize(("answer", "message"), FATAL.values(), ids=list(FATAL))
def test_invalid_next_ends_process(sandbox: Sandbox, answer: Answer, message: str) -> None:
    ended = sandbox.run(ECHO, answer, event())
    assert [request.raw for request in ended.requests] == [
        f"GET {NEXT} HTTP/1.1\r\nHost: {ended.host}\r\n\r\n".encode()
    ]
    assert ended.status == 1
    assert ended.errors.startswith("streaming_runtime: " + message.replace("{host}", ended.host))
    assert ended.errors.count("\n") == 1


@pytest.mark.parametrize("path", ["/.rt", "/.rt/", "/a/b"])
def test_api_path_prefixes_targets(sandbox: Sandbox, path: str) -> None:
    """The address may have a path after the port, as an emulator's may."""
    environment = {"AWS_LAMBDA_RUNTIME_API": "{host}" + path}
    ended = sandbox.run(ECHO, event(), event(b"{"), environment=environment)
    prefix = path.rstrip("/")
    assert ended.targets == [prefix + target for target in (NEXT, RESPONSE, NEXT, ERROR, NEXT)]
    assert {request.headers["host"] for request in ended.requests} == {ended.host}
    assert sandbox.run("1 / 0\n", environment=environment).targets == [prefix + INIT_ERROR]


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999"])
def test_invalid_address_is_named(sandbox: Sandbox, address: str) -> None:
    ended = sandbox.run(ECHO, environment={"AWS_LAMBDA_RUNTIME_API": address})
    assert ended.status == 1
    assert ended.errors.startswith(f"streaming_runtime: Runtime API at {address}: ")
    assert ended.errors.count("\n") == 1


def test_refused_connection_is_named(sandbox: Sandbox) -> None:
    with socket.socket() as bound:  # not listening, so that no other process can take the port
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        ended = sandbox.run(ECHO, environment={"AWS_LAMBDA_RUNTIME_API": address})
    assert ended.status == 1
    assert ended.errors == f"streaming_runtime: Runtime API at {address}: [Errno 111] Connection refused\n"


@pytest.mark.parametrize("name", ["AWS_LAMBDA_RUNTIME_API", "_HANDLER"])
def test_unset_variable_is_named(sandbox: Sandbox, name: str) -> None:
    ended = sandbox.run(ECHO, environment={name: None})
    assert (ended.status, ended.requests) == (1, [])
    assert ended.errors == (f"streaming_runtime: '{name}' is not set; start the runtime with Lambda or an emulator\n")


def test_ended_connection_without_tcp_info(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime_api, "_TCP_INFO", None)  # as on macOS
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not runtime_api._closed_by_peer(ours)
        theirs.close()
        assert runtime_api._closed_by_peer(ours)
        ours.close()
        assert runtime_api._closed_by_peer(ours)


def test_break_off_without_connection() -> None:
    ours = runtime_api.Connection("127.0.0.1:1")
    ours.abort()
    ours._socket = socket.socket()  # not connected, like a socket that the other side has reset
    ours.abort()
    assert ours._socket.fileno() == -1


@pytest.mark.parametrize("body", [b'{"a": 1} \n', b' {"a": 1}', b'{"a": 1}'], ids=["after", "before", "without"])
def test_blanks_around_event(sandbox: Sandbox, body: bytes) -> None:
    assert sandbox.run("def handler(e, c):\n    return e\n", event(body)).bodies == [b'{"a": 1}']


def test_forked_child_cannot_connect() -> None:
    connection = runtime_api.Connection("127.0.0.1:9")
    connection.forked = True
    with pytest.raises(runtime_api.RuntimeApiError, match="a forked child of the function cannot respond"):
        connection.send(b"x")
