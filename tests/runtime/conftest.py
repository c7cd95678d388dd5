"""The real bootstrap as a subprocess, against a Runtime API that answers from a script and records every byte."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h11
import pytest
from tests.helpers.support import TEMPLATE

SOURCE = TEMPLATE / "runtime"
BOOTSTRAP = str(SOURCE / "bootstrap")
REQUEST_ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
ARN = "arn:aws:lambda:us-east-1:123456789012:function:hello"
PATIENCE = 30.0  # seconds until a test that hangs is given up

# coverage.py, where the tests run under it, sees what runs in a sandbox by these; without them it does not. With them
# an interpreter takes three times as long to start, so of most tests it sees the first case only.
_TRACED: dict[str, str | None] = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
UNTRACED: dict[str, str | None] = dict.fromkeys(_TRACED)

_SHOWN = 2000  # bytes of a request

_TRAILER = "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body"


@dataclass(frozen=True)
class Answer:
    """What the server sends, piece by piece, and whether it closes the connection afterwards."""

    pieces: tuple[bytes, ...]
    close: bool = False


@dataclass(frozen=True)
class Reset:
    """In place of an answer: the connection is reset as soon as the request holds these bytes."""

    at: bytes


@dataclass(frozen=True)
class Deaf:
    """In place of an answer: of the request no more than its first bytes is received, until the connection is reset."""

    released: threading.Event = field(default_factory=threading.Event)


#: What comes to a `/next`: an answer, or what makes one when it is asked for.
Event = Answer | Reset | Callable[[], Answer]
Post = Answer | Reset | Deaf

ACCEPTED = Answer((b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",))


def event_head(**headers: str | None) -> bytes:
    """Head of an answer to `/next`, up to its framing; `headers` replace or, with None, remove a default one."""
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
    """An answer to `/next` as Lambda gives it."""
    return Answer((event_head(**headers) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body),))


def due(body: bytes = b"{}", milliseconds: int = 400) -> Callable[[], Answer]:
    """An event whose deadline is that many milliseconds after the runtime asked for it."""
    return lambda: event(body, Lambda_Runtime_Deadline_Ms=f"{time.time() * 1000 + milliseconds:.0f}")


def refusal(status: str, body: bytes = b"{}") -> Answer:
    """An answer that is an error."""
    return Answer((b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body),))


def response_head(host: str, content_type: str = "application/octet-stream", more: str = "") -> bytes:
    """The head of a streamed response, as it has to be on the wire."""
    return (
        f"POST /2018-06-01/runtime/invocation/{REQUEST_ID}/response HTTP/1.1\r\n"
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
    """One request of the runtime: its exact bytes, and what h11 makes of them."""

    connection: int
    raw: bytes = b""
    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    whole: bool = False


class ScriptedApi:
    """Answers each `/next` with the next of `events` and each post with the next of `posts`, then 202.

    A `/next` beyond the script is left without an answer: the connection is closed, which ends the runtime, or with
    `hold` kept open.
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
        """Waits until the request of this number holds the bytes `raw`; gives all that came of it."""
        with self._received:
            came = self._received.wait_for(
                lambda: len(self.requests) > request and raw in self.requests[request].raw, PATIENCE
            )
            assert came, f"no {raw!r} in {self.requests}"
            return self.requests[request].raw

    def wait_until_closed(self, connection: int) -> None:
        """Waits until the server has closed the connection of this number."""
        with self._received:
            assert self._received.wait_for(lambda: self._closed > connection, PATIENCE)

    def close(self) -> None:
        """Ends the thread; the runtime must have ended before. A second call does nothing."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread from accept
        self._thread.join(PATIENCE)

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
        """One request and its answer; False when the connection is over."""
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
                assert post.released.wait(2 * PATIENCE)
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
    """Serves every connection in a thread of its own."""

    def wait_for_gets(self, count: int) -> None:
        """Waits until so many invocations were asked for."""
        with self._received:
            assert self._received.wait_for(
                lambda: sum(request.method == "GET" for request in self.requests) >= count, PATIENCE
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
            thread.join(PATIENCE)

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


@dataclass(frozen=True)
class Ended:
    """What is left of a runtime that has ended."""

    host: str
    requests: list[Request]
    status: int
    output: str
    errors: str

    @property
    def posts(self) -> list[Request]:
        """The requests that are not `/next`."""
        return [request for request in self.requests if request.method != "GET"]

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the posts."""
        return [request.body for request in self.posts]


@dataclass
class Running:
    """A runtime, and the Runtime API it talks to."""

    api: ScriptedApi
    process: subprocess.Popen[bytes]

    def end(self) -> Ended:
        """Waits until the runtime has ended of itself."""
        output, errors = self.process.communicate(timeout=PATIENCE)
        self.api.close()
        return Ended(self.api.host, self.api.requests, self.process.returncode, output.decode(), errors.decode())


class Sandbox:
    """Runs the bootstrap on handlers that lie in the folder `task`."""

    api_type = ScriptedApi

    def __init__(self, task: Path, bytecode: Path, python: str = sys.executable, traced: bool = True) -> None:
        self.task = task
        self.python = python
        self._bytecode = bytecode
        self._traced = traced
        self._running: list[Running] = []

    def start(
        self,
        code: str,
        *events: Event,
        posts: Sequence[Post] = (),
        hold: bool = False,
        command: Sequence[str] = (BOOTSTRAP,),
        cwd: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> Running:
        """Starts the bootstrap with `code` as app.py; None in `environment` removes a variable."""
        (self.task / "app.py").write_text(textwrap.dedent(code), encoding="utf-8")
        api = self.api_type(events, posts, hold)
        variables: dict[str, str | None] = {
            "PATH": os.defpath,
            "STREAMING_RUNTIME_PYTHON": self.python,
            "PYTHONPYCACHEPREFIX": str(self._bytecode),
            "AWS_LAMBDA_RUNTIME_API": "{host}",
            "LAMBDA_TASK_ROOT": str(self.task),
            "_HANDLER": "app.handler",
            **(_TRACED if self._traced else {}),
            **(environment or {}),
        }
        process = subprocess.Popen(
            command,
            cwd=cwd or self.task,
            env={name: value.replace("{host}", api.host) for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._running.append(Running(api, process))
        return self._running[-1]

    def run(
        self,
        code: str,
        *events: Event,
        posts: Sequence[Post] = (),
        command: Sequence[str] = (BOOTSTRAP,),
        cwd: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> Ended:
        """As `start`, and waits for the end, which comes after the last of `events` at the latest."""
        return self.start(code, *events, posts=posts, command=command, cwd=cwd, environment=environment).end()

    def python_without_site(self) -> str:
        """An interpreter that does not look at site-packages as it starts: what it imports is the runtime's doing."""
        python = self.task / "python"
        python.write_text(f'#!/bin/sh\nexec "{self.python}" -S "$@"\n')
        python.chmod(0o755)
        return str(python)

    def stop(self) -> None:
        """Ends what still runs; where the test has failed, what was sent is shown with it."""
        for running in self._running:
            with running.process as process:  # closes the pipes and waits
                process.kill()
            running.api.close()
            for request in running.api.requests:
                print(f"connection {request.connection} of {running.api.host}: {request.raw[:_SHOWN]!r}")


@pytest.fixture(scope="session")
def _bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, tmp_path: Path, _bytecode: Path, interpreter: str) -> Iterator[Sandbox]:
    """Where to run handlers; whatever was started has ended when the test has."""
    sandbox = Sandbox(tmp_path, _bytecode, interpreter, request.node.get_closest_marker("traced") is not None)
    yield sandbox
    sandbox.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What runs in a sandbox runs on every interpreter of a supported version that is at hand."""
    if "interpreter" not in metafunc.fixturenames:
        return
    here = pytest.param(sys.executable, id="python")
    others = [pytest.param(path, id=version, marks=pytest.mark.slow) for version, path in _other_interpreters().items()]
    own = metafunc.definition.get_closest_marker("own_interpreter")
    metafunc.parametrize("interpreter", [here] if own else [here, *others])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Says which cases run on which interpreters, and which of them coverage.py sees.

    Each runs on the interpreter of the tests and on one of the others, which take turns. That is a minute less, and on
    GitHub's machines each of them is the interpreter of the tests once.
    """
    seen: set[str] = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if test not in seen:
            item.add_marker("traced")
        seen.add(test)
    turns = itertools.cycle(_other_interpreters())
    turn_of: dict[tuple[str, str], str] = {}
    left_out: dict[pytest.Item, None] = {}
    for item in items:
        test, _, parameters = item.nodeid.rstrip("]").partition("[")
        version, _, case = parameters.partition("-")
        if "interpreter" in getattr(item, "fixturenames", ()) and version in _other_interpreters():
            if (test, case) not in turn_of:
                turn_of[test, case] = next(turns)
            if version != turn_of[test, case]:
                left_out[item] = None
    if left_out:
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]


@functools.cache
def _other_interpreters() -> dict[str, str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found: dict[str, str] = {}
    for minor in (11, 12, 13, 14):
        name = f"python3.{minor}"
        for candidate in (shutil.which(name), *pyenv.glob(f"versions/3.{minor}.*/bin/{name}")):
            # One that pyenv only stands in for, without having it, fails.
            if candidate and f"3.{minor}" not in found and _version(candidate) == (3, minor):
                found[f"3.{minor}"] = str(candidate)
    found.pop(f"3.{sys.version_info.minor}", None)
    return found


def _version(python: str | Path) -> tuple[int, ...]:
    command = (python, "-c", "import sys; print(*sys.version_info[:2])")
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60)
    return tuple(map(int, ended.stdout.split()))
