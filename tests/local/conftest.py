"""Functions behind the local URL: the source is the test's, bootstrap and runtime are the template's own."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import select
import shutil
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.helpers.support import TEMPLATE

from local import running
from local.function import Function
from local.journal import Observer

if TYPE_CHECKING:  # it takes its time
    from playwright.sync_api import Browser

PATIENCE = 60.0  # seconds until a test that hangs is given up

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# In CI it must not be missing, or nothing would show that the pages work.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ,
    reason="there is no browser to show a page: apt-get install chromium",
)

# What every handler of these tests may use. `wait` returns when the test says so, `tell` says something to the test.
_PREAMBLE = """
import os
from streaming_runtime import StreamingResponse

def wait():
    with open(os.environ["GATE"], "rb", buffering=0) as gate:
        return gate.read(1)

def tell(data):
    with open(os.environ["TOLD"], "wb", buffering=0) as told:
        told.write(data)
"""


class Fifo:
    """A named pipe between a test and its handlers. Both sides wait for each other, so that nothing has to be timed."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # Open for both, so that opening waits for no one and bytes stay in the pipe until they are wanted.
        self._descriptor = os.open(path, os.O_RDWR)

    def write(self, data: bytes) -> None:
        """Lets handlers go on, one for each byte."""
        os.write(self._descriptor, data)

    def read(self, size: int) -> bytes:
        """Takes `size` bytes, and fails if they do not come."""
        data = b""
        while len(data) < size:
            assert self.ready(PATIENCE), f"only {data!r} came"
            data += os.read(self._descriptor, size - len(data))
        return data

    def ready(self, seconds: float) -> bool:
        """Whether there is something to read, now or within `seconds`."""
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def close(self) -> None:
        """Closes the test's end."""
        os.close(self._descriptor)


class Pieces(Observer):
    """Collects what a function writes to its log."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def log(self, text: str, request_id: str) -> None:
        self.pieces.append(text)


@dataclass
class Served:
    """A function that is served.

    Attributes:
        url: Where.
        gate: Each byte lets one `wait()` of a handler return.
        told: What handlers said with `tell(data)`.
        folder: Folder of the handler's module, `served.py`.
        pieces: What the function wrote to its log.
    """

    url: str
    gate: Fifo
    told: Fifo
    folder: Path
    pieces: list[str]
    stack: ExitStack = field(repr=False)

    @property
    def log(self) -> str:
        """What the function has written to its log up to now."""
        return "".join(self.pieces)

    def connect(self) -> http.client.HTTPConnection:
        """A client; it connects with its first request."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)
        return self.stack.enter_context(closing(connection))

    def socket(self) -> socket.socket:
        """A connected socket, for clients that http.client cannot be."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return self.stack.enter_context(socket.create_connection((parts.hostname, parts.port or 80), PATIENCE))

    def start(self, path: str = "/") -> http.client.HTTPResponse:
        """Sends GET over a connection of its own; returns when the head of the response has come."""
        connection = self.connect()
        connection.request("GET", path)
        return connection.getresponse()

    def get(self, path: str = "/") -> tuple[int, bytes]:
        """Status and body of one GET."""
        response = self.start(path)
        return response.status, response.read()

    def get_once_free(self, path: str = "/") -> tuple[int, bytes]:
        """Status and body of the first GET that is not throttled."""
        while (answer := self.get(path))[0] == 429:
            time.sleep(0.01)  # without a pause it takes descriptors by the thousand, and other processes' time
        return answer


Serve = Callable[..., Served]


def function(**settings: Any) -> Function:
    """The function of a test's `served.handler`, but for what `settings` say of it."""
    usual: dict[str, Any] = {
        "name": "Served",
        "code": TEMPLATE / "src",
        "bootstrap": settings.get("code", TEMPLATE / "runtime") / "bootstrap",
        "handler": "served.handler",
        "runtime": "python3.13",
        "timeout": PATIENCE,
        "memory": 256,
    }
    return Function(**{**usual, **settings})


def write_handler(folder: Path, source: str) -> None:
    """Writes the module `served`, in which `handler` is looked for."""
    folder.mkdir(exist_ok=True)
    (folder / "served.py").write_text(_PREAMBLE + textwrap.dedent(source), encoding="utf-8")


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Sends `data` and returns all that comes until the server closes the connection."""
    client.sendall(data)
    return rest(client)


ECHO = """
    def handler(event, context):
        return event
    """


def event_of(served: Served, request: bytes) -> dict[str, Any]:
    """The event that a request makes."""
    head, _, body = exchange(served.socket(), request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    size, _, rest = body.partition(b"\r\n")
    event: dict[str, Any] = json.loads(rest[: int(size, 16)])
    return event


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    while more := client.recv(65536):
        received += more
    return received


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module. It has an event loop, beside which there can be no other."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE * 1000)
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    found = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert found, colour
    parts = [int(part) / 255 for part in found.groups()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def serve(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serves a handler's source; `url` has settings of the URL, and more keywords are variables of its environment."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    numbers = itertools.count()

    def start(
        source: str,
        *,
        timeout: float = PATIENCE,
        limit: int = 10,
        limits: bool = False,
        code: Path | None = None,
        url: dict[str, Any] | None = None,
        **variables: str,
    ) -> Served:
        folder = tmp_path / f"served-{next(numbers)}"
        write_handler(folder, source)
        gate, told = (stack.enter_context(closing(Fifo(folder / name))) for name in ("gate", "told"))
        names = {"PYTHONPATH": str(folder), "GATE": str(gate.path), "TOLD": str(told.path)}
        environment = {**names, **variables}
        settings: dict[str, Any] = {**({"code": code} if code else {}), **(url or {})}
        served = function(timeout=timeout, environment=environment, **settings)
        log = Pieces()
        address = stack.enter_context(running(served, limit, log, limits))
        return Served(address, gate, told, folder, log.pieces, stack)

    return start
