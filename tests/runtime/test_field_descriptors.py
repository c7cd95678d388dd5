"""What the function does to descriptors must not bring log text into a response, end the process or silence a report.

Source: POSIX, section 2.14: a new descriptor has the lowest number that is free, such as 1 after close(1).
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.sandbox import BOOTSTRAP, SOURCE, Sandbox
from tests.helpers.scripted_api import Answer, event, event_head

from streaming_runtime import runtime_api

CLOSING = {
    "0": "os.close(0)",
    "1": "os.close(1)",
    "2": "os.close(2)",
    "all three": "os.closerange(0, 3)",
    "all": "os.closerange(0, 256)",
    "as files": "sys.stdin.close(), sys.stdout.close(), sys.stderr.close()",
}
PRINTS = """
    import logging, os, sys
    {before}
    {definition} handler(event, context):
        if event == 1:
            {closing}
            return "closed"
        for write in (print, lambda text: print(text, file=sys.stderr), logging.warning, context.log):
            try:
                write("log text")
            except (OSError, ValueError):
                pass
        for number in (0, 1, 2):
            try:
                os.write(number, b"log text")
            except OSError:
                pass
        if event == 3:
            raise ValueError("log text")
        return sorted(kind(number) for number in os.listdir("/proc/self/fd") if int(number) < 3)
    def kind(number):
        try:
            return os.readlink("/proc/self/fd/" + number).partition(":")[0]
        except OSError:
            return "listing"
    """


@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize("closing", CLOSING.values(), ids=list(CLOSING))
def test_closed_standard_descriptor(sandbox: Sandbox, closing: str, definition: str) -> None:
    code = PRINTS.format(before="", definition=definition, closing=closing)
    ended = sandbox.run(code, event(b"1"), event(b"2"), event(b"3"), event(b"4"))
    assert all(b"log text" not in request.raw for request in ended.requests if request is not ended.posts[2])
    if closing == CLOSING["all"] and definition == "async def":
        return  # these were the event loop's, so that all later invocations fail
    assert json.loads(ended.bodies[2])["errorMessage"] == "log text"
    for body in (ended.bodies[1], ended.bodies[3]):
        assert "socket" not in json.loads(body)
        assert "anon_inode" not in json.loads(body)


@pytest.mark.parametrize("closing", ["os.close(1)", "os.closerange(0, 3)"])
def test_event_loop_after_closing(sandbox: Sandbox, closing: str) -> None:
    """The event loop's own descriptors are made when the first async handler runs."""
    code = PRINTS.format(before=closing, definition="async def", closing="pass")
    ended = sandbox.run(code, event(b"2"), event(b"2"))
    for body in ended.bodies:
        assert not {"socket", "anon_inode"} & set(json.loads(body))


FRAMES = ("sh", "-c", 'exec "$0" 9>frames', BOOTSTRAP)
TELEMETRY: dict[str, str | None] = {"_LAMBDA_TELEMETRY_LOG_FD": "9"}
LOST = {
    "closed": "os.close(9)",
    "taken by a file": "os.close(9); opened.append(os.open('other', os.O_CREAT | os.O_RDWR)); os.dup2(opened[0], 9)",
    "taken by a socket": "os.close(9); opened.append(socket.socketpair()); os.dup2(opened[0][0].fileno(), 9)",
    "all closed": "os.closerange(3, 256)",
}


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
@pytest.mark.parametrize("closing", LOST.values(), ids=list(LOST))
def test_closed_frame_descriptor(sandbox: Sandbox, closing: str, log_format: str) -> None:
    code = f"""
        import logging, os, socket
        opened = []
        def handler(event, context):
            if event == 1:
                logging.warning("before")
                {closing}
                logging.warning("after")
                raise ValueError("reported")
            logging.warning("later")
            return "served"
        """
    (sandbox.task / "frames").touch()
    (sandbox.task / "other").touch()
    variables = {**TELEMETRY, "AWS_LAMBDA_LOG_FORMAT": log_format}
    ended = sandbox.run(code, event(b"1"), event(b"2"), command=FRAMES, environment=variables)
    assert ended.posts[-1].body == b'"served"', ended.errors
    assert all(b"later" not in request.raw and b"\tafter" not in request.raw for request in ended.requests)
    assert b"before" in (sandbox.task / "frames").read_bytes()
    assert (sandbox.task / "other").read_bytes() == b""
    lines = ended.output.split("\n")
    assert [word for line in lines for word in ("after", "reported", "later") if word in line] == [
        "after",
        "reported",
        "later",
    ]


def test_frames_without_reader(sandbox: Sandbox) -> None:
    os.mkfifo(sandbox.task / "frames")
    reader = os.open(sandbox.task / "frames", os.O_RDONLY | os.O_NONBLOCK)
    os.mkfifo(sandbox.task / "gate")
    code = """
        import logging
        def handler(event, context):
            open("gate").read()
            logging.warning("after")
            raise ValueError("reported")
        """
    running = sandbox.start(code, event(), command=FRAMES, environment=TELEMETRY)
    gate = os.open(sandbox.task / "gate", os.O_WRONLY)
    os.close(reader)
    os.close(gate)
    ended = running.end()
    assert json.loads(ended.bodies[0])["errorMessage"] == "reported"
    assert "\tafter\n[ERROR] ValueError: reported\r" in ended.output


def test_invalid_frame_descriptor(sandbox: Sandbox) -> None:
    code = "import logging\ndef handler(e, c):\n    logging.warning('printed')\n    return 'served'\n"
    ended = sandbox.run(code, event(), environment={"_LAMBDA_TELEMETRY_LOG_FD": "99"})
    assert ended.bodies == [b'"served"']
    assert ended.output.endswith("\tprinted\n")


EXHAUSTING = """
    import asyncio, os, resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    opened = []
    {definition} handler(event, context):
        if event == 3:
            while opened:
                opened.pop().close()
            return "third"
        try:
            while True:
                opened.append(open(os.devnull))
        except OSError:
            pass
        if event == 2:
            return "second"
        {statement}
    """
OUTCOMES = {
    "result": ("return 'first'", False),
    "stream": ("return iter(['first'])", False),
    "error": ("raise ValueError('first')", True),
}


@pytest.mark.traced
@pytest.mark.parametrize("close", [False, True], ids=["kept", "closed"])
@pytest.mark.parametrize("definition", ["def", "async def"])
@pytest.mark.parametrize(("statement", "failed"), OUTCOMES.values(), ids=list(OUTCOMES))
def test_exhausted_descriptors(sandbox: Sandbox, definition: str, statement: str, failed: bool, close: bool) -> None:
    """Also where the Runtime API closes the connection after an event, so that the response needs a new one."""
    first = Answer((event_head() + b"Content-Length: 1\r\n\r\n1",), close=close)
    if close:
        first = Answer((event_head(Connection="close") + b"Content-Length: 1\r\n\r\n1",), close=True)
    code = EXHAUSTING.format(definition=definition, statement=statement)
    ended = sandbox.run(code, first, event(b"2"), event(b"3"))
    assert len(ended.posts) == 3, ended.errors + ended.output
    assert ended.posts[0].target.endswith("/error" if failed else "/response")
    assert b"first" in ended.bodies[0]
    assert ended.bodies[1:] == [b'"second"', b'"third"']


def test_spare_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up for a socket once; without it the error is raised. It comes back when a descriptor is free."""
    connection = runtime_api.Connection("127.0.0.1:1")
    spare = connection._spare
    assert spare is not None

    def exhausted(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("streaming_runtime.runtime_api._socket.socket", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            connection._create()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(spare)
        patch.setattr(os, "open", exhausted)
        connection._reserve()
        assert connection._spare is None
    connection._reserve()
    assert connection._spare is not None
    os.close(connection._spare)


def test_worker_with_closed_output(tmp_path: Path) -> None:
    """The log socket that the worker opens has the closed number already."""
    program = f"""
import os, socket, sys
sys.path.insert(0, {str(SOURCE)!r})
from streaming_runtime import workers
os.environ["_LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET"] = "logs"
server = socket.socket(socket.AF_UNIX)
server.bind("logs")
server.listen()
os.close(1)
workers._redirect_output()
streams = [server.accept()[0] for _ in range(2)]
os.write(1, b"out")
os.write(2, b"err")
assert [stream.recv(3) for stream in streams] == [b"out", b"err"]
assert os.get_inheritable(1)
"""
    subprocess.run((sys.executable, "-B", "-c", program), cwd=tmp_path, check=True, timeout=60)
