"""Breakpoints in a stream: `python -m local --debug`, and debugpy's own client in the place of an editor."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from debugpy.common.messaging import JsonIOStream
from tests.helpers.support import TEMPLATE, free_ports
from tests.local.conftest import TIMEOUT
from tests.local.test_command import WITH_URL, lines_until

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]

# Each has a breakpoint at its second chunk, in the function of that name.
SOURCES = {
    "generator": """
        def lines(event):
            yield "one "
            second = "two"
            yield second  # here

        def handler(event, context):
            return lines(event)
        """,
    "async generator": """
        import asyncio

        async def lines(event):
            yield "one "
            await asyncio.sleep(0)
            second = "two"
            yield second  # here

        async def handler(event, context):
            return lines(event)
        """,
    "FastAPI route": """
        from fastapi import FastAPI
        from fastapi.responses import StreamingResponse
        from streaming_runtime import AsgiHandler

        app = FastAPI()

        @app.get("/")
        async def route():
            async def lines():
                yield "one "
                second = "two"
                yield second  # here
            return StreamingResponse(lines())

        handler = AsgiHandler(app)
        """,
}


class Editor:
    """A client of the Debug Adapter Protocol: https://microsoft.github.io/debug-adapter-protocol/specification"""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._stream = JsonIOStream.from_socket(self._socket, "debugger")
        self._number = 0
        self._messages: list[dict[str, Any]] = []
        self.request("initialize", adapterID="test", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)

    def send(self, command: str, **arguments: Any) -> int:
        """Send a request, and return its number."""
        self._number += 1
        self._stream.write_json({"seq": self._number, "type": "request", "command": command, "arguments": arguments})
        return self._number

    def answer(self, number: int) -> dict[str, Any]:
        """Return the body of the response to a request."""
        message = self._next("request_seq", number)
        assert message["success"], message
        body: dict[str, Any] = message.get("body", {})
        return body

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request, and return the body of the response."""
        return self.answer(self.send(command, **arguments))

    def event(self, name: str) -> dict[str, Any]:
        """Return the body of the next event with this name."""
        body: dict[str, Any] = self._next("event", name).get("body", {})
        return body

    def _next(self, key: str, value: object) -> dict[str, Any]:
        """Return the next message with this value."""
        while True:
            for message in self._messages:
                if message.get(key) == value:
                    self._messages.remove(message)
                    return message
            self._messages.append(self._stream.read_json())

    def attach(self, path: Path, line: int) -> None:
        """Attach, with a breakpoint."""
        attaching = self.send("attach", justMyCode=True)
        self.event("initialized")
        verified = self.request("setBreakpoints", source={"path": str(path)}, breakpoints=[{"line": line}])
        assert [of["line"] for of in verified["breakpoints"]] == [line]
        self.request("configurationDone")
        self.answer(attaching)

    def close(self) -> None:
        """Close the connection as an editor that is closed does."""
        self._socket.close()


ONE = WITH_URL.replace("Timeout: 60", "Timeout: 1")
TWO = f"""{ONE}
  ChatFunction:
    Type: AWS::Serverless::Function
    Properties: {{CodeUri: src/, Handler: served.handler, FunctionUrlConfig: {{InvokeMode: RESPONSE_STREAM}}}}
"""


@pytest.fixture
def start(tmp_path: Path, stack: ExitStack) -> Start:
    """Serve a handler's source with `--debug`; return the process."""
    (tmp_path / "runtime").symlink_to(TEMPLATE / "runtime")
    (tmp_path / "src").mkdir()
    (tmp_path / "template.yaml").write_text(ONE, encoding="utf-8")

    def run(source: str, *arguments: str) -> subprocess.Popen[str]:
        write(tmp_path, source)
        process = subprocess.Popen(
            [sys.executable, "-m", "local", "--port", "0", "--no-inspector", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TEMPLATE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.enter_context(process)
        stack.callback(process.send_signal, signal.SIGINT)
        return process

    return run


def write(folder: Path, source: str) -> None:
    """Write the handler."""
    (folder / "src" / "served.py").write_text(textwrap.dedent(source), encoding="utf-8")


def marked(folder: Path, source: str) -> tuple[Path, int]:
    """Return path and line of the breakpoint."""
    lines = textwrap.dedent(source).splitlines()
    return folder / "src" / "served.py", next(at for at, line in enumerate(lines, 1) if line.endswith("# here"))


def url_of(process: subprocess.Popen[str]) -> str:
    return lines_until(process, "StreamFunction (")[-1].rpartition(" ")[2]


def begin(url: str, stack: ExitStack) -> http.client.HTTPConnection:
    """Send a request without waiting for its response."""
    connection = stack.enter_context(closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)))
    connection.request("GET", "/")
    return connection


def attach(
    process: subprocess.Popen[str],
    port: int,
    path: Path,
    line: int,
    stack: ExitStack,
    printed: str = "Attach a debugger to ",
) -> Editor:
    """Attach to the function once it listens."""
    assert f"{printed}127.0.0.1:{port}" in lines_until(process, printed)[-1]
    editor = stack.enter_context(closing(Editor(port)))
    editor.attach(path, line)
    return editor


@pytest.mark.parametrize("kind", SOURCES)
def test_breakpoint_midway_through_a_stream(kind: str, start: Start, stack: ExitStack, tmp_path: Path) -> None:
    """It outlasts the timeout, which is one second, while the client holds the first chunk."""
    [port] = free_ports(1)
    process = start(SOURCES[kind], "--debug", "--debug-port", str(port))
    url = url_of(process)
    path, line = marked(tmp_path, SOURCES[kind])
    editor = attach(process, port, path, line, stack)
    connection = begin(url, stack)
    response = connection.getresponse()
    assert response.read1() == b"one "
    stopped = editor.event("stopped")
    assert stopped["reason"] == "breakpoint"
    frame = editor.request("stackTrace", threadId=stopped["threadId"])["stackFrames"][0]
    assert (frame["name"].rpartition(".")[2], frame["line"], frame["source"]["path"]) == ("lines", line, str(path))
    assert editor.request("evaluate", expression="second", frameId=frame["id"])["result"] == "'two'"
    assert select.select([connection.sock], [], [], 1.5)[0] == []
    editor.request("continue", threadId=stopped["threadId"])
    process_lines = lines_until(process, "GET /  200 ")
    assert "2 chunks" in process_lines[-1]


@pytest.mark.parametrize("any_ports", [False, True], ids=["one after the other", "any free ports"])
def test_editor_for_each_function(any_ports: bool, start: Start, stack: ExitStack, tmp_path: Path) -> None:
    """Both stop at the same line while the other one waits."""
    (tmp_path / "template.yaml").write_text(TWO, encoding="utf-8")
    first = 0 if any_ports else two_free_ports()
    process = start(SOURCES["generator"], "--debug", "--debug-port", str(first))
    urls = [row.rpartition(" ")[2] for row in lines_until(process, "ChatFunction ")[-2:]]
    path, line = marked(tmp_path, SOURCES["generator"])
    pattern = re.compile(r"(\w+) +\| Attach a debugger to 127\.0\.0\.1:(\d+) at any time")
    assert process.stdout is not None
    said = (pattern.match(text) for text in process.stdout)
    ports = {found[1]: int(found[2]) for found in itertools.islice(filter(None, said), 2)}
    if first:
        assert ports == {"StreamFunction": first, "ChatFunction": first + 1}
    stopped = []
    for url, name in zip(urls, ("StreamFunction", "ChatFunction"), strict=True):
        editor = stack.enter_context(closing(Editor(ports[name])))
        editor.attach(path, line)
        stopped.append((editor, begin(url, stack), editor.event("stopped")["threadId"]))
    for editor, connection, thread in stopped:
        editor.request("continue", threadId=thread)
        assert connection.getresponse().read() == b"one two"


def two_free_ports() -> int:
    """Return a port that is free, as is the one after it."""
    while True:
        [port] = free_ports(1)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port


def test_debugging_goes_on_after_a_change(start: Start, stack: ExitStack, tmp_path: Path) -> None:
    [port] = free_ports(1)
    process = start(SOURCES["generator"], "--debug", "--debug-port", str(port))
    url = url_of(process)
    for chunk in ("two", "three"):
        source = SOURCES["generator"].replace("two", chunk)
        if chunk == "three":
            write(tmp_path, source)
            lines_until(process, "The code changed.")
        path, line = marked(tmp_path, source)
        editor = attach(process, port, path, line, stack)
        connection = begin(url, stack)
        stopped = editor.event("stopped")
        editor.request("continue", threadId=stopped["threadId"])
        assert connection.getresponse().read() == f"one {chunk}".encode()


def test_function_waits_for_the_editor(start: Start, stack: ExitStack, tmp_path: Path) -> None:
    """A breakpoint at the top of the module is hit, because nothing was imported before."""
    [port] = free_ports(1)
    source = "VALUE = 1  # here\ndef handler(event, context):\n    return VALUE\n"
    process = start(source, "--debug", "wait", "--debug-port", str(port))
    url = url_of(process)
    connection = begin(url, stack)
    editor = attach(process, port, *marked(tmp_path, source), stack, "The function waits for a debugger to attach to ")
    stopped = editor.event("stopped")
    editor.request("continue", threadId=stopped["threadId"])
    assert connection.getresponse().read() == b"1"


def test_one_environment_while_debugging(start: Start, stack: ExitStack, tmp_path: Path) -> None:
    [port] = free_ports(1)
    process = start(SOURCES["generator"], "--debug", "--debug-port", str(port), "--concurrency", "5")
    url = url_of(process)
    editor = attach(process, port, *marked(tmp_path, SOURCES["generator"]), stack)
    begin(url, stack)
    stopped = editor.event("stopped")
    assert begin(url, stack).getresponse().status == 429
    editor.request("disconnect", terminateDebuggee=False)
    assert stopped["threadId"]
