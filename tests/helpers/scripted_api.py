"""A Runtime API that answers from a script and records every byte that the runtime sends."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import h11

REQUEST_ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
ARN = "arn:aws:lambda:us-east-1:123456789012:function:hello"
PREFIX = "/2018-06-01/runtime"
NEXT = f"{PREFIX}/invocation/next"
RESPONSE = f"{PREFIX}/invocation/{REQUEST_ID}/response"
ERROR = f"{PREFIX}/invocation/{REQUEST_ID}/error"
INIT_ERROR = f"{PREFIX}/init/error"
LIMIT = 30.0  # seconds for which a test waits for the runtime

_TRAILER = "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"


@dataclass(frozen=True)
class Answer:
    """What the server sends, piece by piece, and whether it then closes the connection."""

    pieces: tuple[bytes, ...]
    close: bool = False


@dataclass(frozen=True)
class Reset:
    """In place of an answer: reset the connection as soon as the request holds these bytes."""

    at: bytes


@dataclass(frozen=True)
class Deaf:
    """In place of an answer: read only the first bytes of the request, and reset the connection once released."""

    released: threading.Event = field(default_factory=threading.Event)


#: What answers a `/next`: an answer, or a function that makes one when the request comes.
Event = Answer | Reset | Callable[[], Answer]
Post = Answer | Reset | Deaf

ACCEPTED = Answer((b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",))


def event_head(**headers: str | None) -> bytes:
    """The head of an answer to `/next`, up to its framing; `headers` replace a default one, or remove it with None."""
    values: dict[str, str | None] = {
        "Content-Type": "application/json",
        "Lambda-Runtime-Aws-Request-Id": REQUEST_ID,
        "Lambda-Runtime-Deadline-Ms": "1700000000000",
        "Lambda-Runtime-Invoked-Function-Arn": ARN,
    }
    values.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{name}: {value}\r\n" for name, value in values.items() if value is not None]
    return ("HTTP/1.1 200 OK\r\n" + "".join(lines)).encode()


def event(body: bytes = b"{}", **headers: str | None) -> Answer:
    """An answer to `/next` as Lambda sends it."""
    return Answer((event_head(**headers) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),))


def due(body: bytes = b"{}", milliseconds: int = 400) -> Callable[[], Answer]:
    """An event whose deadline is so many milliseconds after the runtime asked for it."""
    return lambda: event(body, Lambda_Runtime_Deadline_Ms=f"{time.time() * 1000 + milliseconds:.0f}")


def refusal(status: str, body: bytes = b"{}") -> Answer:
    """An answer with this status, such as an error."""
    return Answer((b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body),))


def response_head(host: str, content_type: str = "application/octet-stream", more: str = "") -> bytes:
    """The head of a streamed response, as it must be on the wire."""
    return (
        f"POST {RESPONSE} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        f"Content-Type: {content_type}\r\n"
        "Lambda-Runtime-Function-Response-Mode: streaming\r\n"
        "Transfer-Encoding: chunked\r\n"
        f"Trailer: {_TRAILER}\r\n"
        f"{more}"
        "\r\n"
    ).encode()


@dataclass
class Request:
    """One request of the runtime: its exact bytes, and what h11 reads from them."""

    connection: int
    raw: bytes = b""
    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    whole: bool = False


class ScriptedApi:
    """Answer each `/next` with the next of `events`, and each post with the next of `posts` or, after these, 202.

    A `/next` after the last event gets no answer: the connection is closed, which ends the runtime, or with `hold`
    kept open.
    """

    def __init__(self, events: Sequence[Event], posts: Sequence[Post], hold: bool) -> None:
        self.requests: list[Request] = []
        self._events, self._posts, self._hold = list(events), list(posts), hold
        self._received = threading.Condition()
        self._closed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def wait_until(self, raw: bytes, request: int) -> bytes:
        """Wait until the request with this number holds the bytes `raw`; return all of it that has come."""
        with self._received:
            came = self._received.wait_for(
                lambda: len(self.requests) > request and raw in self.requests[request].raw, LIMIT
            )
            assert came, f"no {raw!r} in {self.requests}"
            return self.requests[request].raw

    def wait_until_closed(self, connection: int) -> None:
        """Wait until the server has closed the connection with this number."""
        with self._received:
            assert self._received.wait_for(lambda: self._closed > connection, LIMIT)

    def close(self) -> None:
        """End the thread; the runtime must have ended before. A second call does nothing."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread from accept
        self._thread.join(LIMIT)

    def _serve(self) -> None:
        with self._listener:
            self._accept()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                while self._exchange(connection):
                    pass
            with self._received:
                self._closed += 1
                self._received.notify_all()

    def _exchange(self, connection: socket.socket) -> bool:
        """Serve one request; return False when the connection is over."""
        request = Request(self._closed)
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=4 * 1024 * 1024)
        post: Post = ACCEPTED
        while not request.whole:
            try:
                data = connection.recv(65536)
            except ConnectionError:
                return False
            if not data:
                return False
            with self._received:
                if not request.raw:
                    self.requests.append(request)
                    if data.startswith(b"POST") and self._posts:
                        post = self._posts.pop(0)
                request.raw += data
                parser.receive_data(data)
                _read_events(parser, request)
                self._received.notify_all()
            if isinstance(post, Deaf):
                assert post.released.wait(2 * LIMIT)
            if isinstance(post, Deaf) or (isinstance(post, Reset) and post.at in request.raw):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
        assert isinstance(post, Answer)
        answer: Event | None = post
        if request.method == "GET":
            answer = self._events.pop(0) if self._events else None
        if callable(answer):
            answer = answer()
        if answer is None and self._hold:
            return bool(connection.recv(1))
        if not isinstance(answer, Answer):
            return False
        for piece in answer.pieces:
            connection.sendall(piece)
        return not answer.close


class ConcurrentApi(ScriptedApi):
    """Serve every connection in its own thread."""

    def wait_for_gets(self, count: int) -> None:
        """Wait until the runtime has asked for so many invocations."""
        with self._received:
            assert self._received.wait_for(
                lambda: sum(request.method == "GET" for request in self.requests) >= count, LIMIT
            ), self.requests

    def _accept(self) -> None:
        threads: list[threading.Thread] = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threads.append(threading.Thread(target=self._converse, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join(LIMIT)

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            while self._exchange(connection):
                pass


def _read_events(parser: h11.Connection, request: Request) -> None:
    while (happened := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(happened, h11.Request):
            request.method, request.target = happened.method.decode(), happened.target.decode()
            request.headers = {name.decode(): value.decode() for name, value in happened.headers}
        elif isinstance(happened, h11.Data):
            request.body += happened.data
        elif isinstance(happened, h11.EndOfMessage):
            request.trailers = {name.decode(): value.decode() for name, value in happened.headers}
            request.whole = True
            assert parser.trailing_data == (b"", False)
