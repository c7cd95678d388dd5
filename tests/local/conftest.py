"""Functions behind the local URL: handlers are the tests' own, bootstrap and runtime the template's."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
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
from tests.helpers.gates import Fifo
from tests.helpers.support import TEMPLATE

from local.function_url import running
from local.journal import Observer
from local.template import Function

if TYPE_CHECKING:  # slow to import
    from playwright.sync_api import Browser

TIMEOUT = 60.0  # seconds after which a test that hangs fails

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# CI must have a browser, or nothing would show that the pages work.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ,
    reason="needs a browser: apt-get install chromium",
)

# What every handler of these tests may use. `wait` returns when the test says so, `tell` sends data to the test.
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


class LogCollector(Observer):
    """Collects what a function logs."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def log(self, text: str, request_id: str) -> None:
        self.pieces.append(text)


@dataclass
class Served:
    """A function behind a URL.

    Attributes:
        url: Its URL.
        gate: Each byte lets one `wait()` of a handler return.
        told: What handlers sent with `tell(data)`.
        folder: Folder of the handler's module, `served.py`.
        pieces: What the function logged.
    """

    url: str
    gate: Fifo
    told: Fifo
    folder: Path
    pieces: list[str]
    stack: ExitStack = field(repr=False)

    @property
    def log(self) -> str:
        """What the function has logged up to now."""
        return "".join(self.pieces)

    def connect(self) -> http.client.HTTPConnection:
        """Return a client, which connects with its first request."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT)
        return self.stack.enter_context(closing(connection))

    def socket(self) -> socket.socket:
        """Return a connected socket, for requests that http.client cannot send."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return self.stack.enter_context(socket.create_connection((parts.hostname, parts.port or 80), TIMEOUT))

    def start(self, path: str = "/") -> http.client.HTTPResponse:
        """Send GET on a new connection; return when the head of the response has arrived."""
        connection = self.connect()
        connection.request("GET", path)
        return connection.getresponse()

    def get(self, path: str = "/") -> tuple[int, bytes]:
        """Return status and body of one GET."""
        response = self.start(path)
        return response.status, response.read()

    def get_once_free(self, path: str = "/") -> tuple[int, bytes]:
        """Return status and body of the first GET that is not throttled."""
        while (answer := self.get(path))[0] == 429:
            time.sleep(0.01)  # without a pause it would use up descriptors and processor time
        return answer


Serve = Callable[..., Served]


def function(**settings: Any) -> Function:
    """Return a function with the handler `served.handler`; `settings` override its attributes."""
    usual: dict[str, Any] = {
        "name": "Served",
        "code": TEMPLATE / "src",
        "bootstrap": settings.get("code", TEMPLATE / "runtime") / "bootstrap",
        "handler": "served.handler",
        "runtime": "python3.13",
        "timeout": TIMEOUT,
        "memory": 256,
        "environment": {},
    }
    return Function(**{**usual, **settings})


def write_handler(folder: Path, source: str) -> None:
    """Write the module `served`, which defines `handler`."""
    folder.mkdir(exist_ok=True)
    (folder / "served.py").write_text(_PREAMBLE + textwrap.dedent(source), encoding="utf-8")


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send `data`; return all that arrives until the server closes the connection."""
    client.sendall(data)
    return rest(client)


ECHO = """
    def handler(event, context):
        return event
    """


def event_of(served: Served, request: bytes) -> dict[str, Any]:
    """Return the event that a request makes."""
    head, _, body = exchange(served.socket(), request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    size, _, rest = body.partition(b"\r\n")
    event: dict[str, Any] = json.loads(rest[: int(size, 16)])
    return event


def rest(client: socket.socket) -> bytes:
    """Return all that arrives until the server closes the connection."""
    received = b""
    while more := client.recv(65536):
        received += more
    return received


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a module. Its event loop must be the only one of the thread."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        expect.set_options(timeout=TIMEOUT * 1000)
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def luminance(colour: str) -> float:
    """Return a colour's luminance: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    found = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert found, colour
    parts = [int(part) / 255 for part in found.groups()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture(autouse=True)
def no_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the AWS configuration of the machine that the tests run on."""
    for name in list(os.environ):
        if name.startswith("AWS_") and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def serve(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve a handler's source; `url` overrides attributes of the function, further keywords are variables.

    `hosts` are allowed in `Host` besides the names of the loopback interface.
    """
    monkeypatch.delenv("PYTHONPATH", raising=False)
    numbers = itertools.count()

    def start(
        source: str,
        *,
        timeout: float = TIMEOUT,
        limit: int = 10,
        limits: bool = False,
        hosts: tuple[str, ...] = (),
        sampled: bool = False,
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
        log = LogCollector()
        address = stack.enter_context(running(served, limit, log, limits, hosts, sampled))
        return Served(address, gate, told, folder, log.pieces, stack)

    return start
