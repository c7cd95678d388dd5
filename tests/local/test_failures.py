"""What the client and the log show of a function that fails. The next request is always served."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from tests.helpers.support import TEMPLATE
from tests.local.conftest import TIMEOUT, Serve, exchange, rest, write_handler

REFUSAL = (502, b"Internal Server Error")
GOOD = "def handler(event, context):\n    return 'good'\n"

BEFORE_THE_FIRST_BYTE = {
    "exception": ("raise ValueError('no')", "[ERROR] ValueError: no"),
    "unserializable result": ("return object()", "[ERROR] Runtime.MarshalError: Unable to marshal response"),
    "exit": ("import sys\n    sys.exit(4)", "[ERROR] SystemExit: 4"),
    "hard exit": ("os._exit(3)", "Runtime exited with error: exit status 3"),
    "signal": ("import signal\n    os.kill(os.getpid(), signal.SIGKILL)", "Runtime exited with error: signal 9"),
}


@pytest.mark.parametrize(("line", "logged"), BEFORE_THE_FIRST_BYTE.values(), ids=BEFORE_THE_FIRST_BYTE.keys())
def test_error_before_first_byte_is_502(serve: Serve, line: str, logged: str) -> None:
    served = serve(f"def handler(event, context):\n    if event['rawPath'] == '/good': return 'good'\n    {line}")
    for _ in range(3):
        assert served.get() == REFUSAL
        assert logged in served.log
        assert served.get("/good") == (200, b'"good"')


IN_THE_MIDDLE = {
    "exception": ("raise ValueError('no')", "[ERROR] ValueError: no"),
    "item of a wrong type": ("yield 1", "[ERROR] TypeError: a stream is made of bytes or str, not int"),
    "hard exit": ("os._exit(3)", "Runtime exited with error: exit status 3"),
}


@pytest.mark.parametrize(("line", "logged"), IN_THE_MIDDLE.values(), ids=IN_THE_MIDDLE.keys())
def test_midstream_error_aborts_connection(serve: Serve, line: str, logged: str) -> None:
    served = serve(f"""
        def handler(event, context):
            return StreamingResponse("good" if event["rawPath"] == "/good" else chunks())

        def chunks():
            yield b"first"
            wait()
            {line}
        """)
    response = served.start()
    assert response.read1() == b"first"
    served.gate.write(b"1")
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert logged in served.log
    assert served.get("/good") == (200, b"good")


def test_slow_client_gets_chunks_before_error(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            yield bytes(40_000)
            yield bytes(40_000)
            tell(b"!")
            raise ValueError("no")
        """)
    client = served.socket()
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert served.told.read(1) == b"!"
    received = rest(client)
    assert received.count(0) == 80_000
    assert not received.endswith(b"0\r\n\r\n")


def test_chunks_before_exit_are_delivered(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            for _ in range(50):
                yield bytes(20_000)
            os._exit(1)
        """)
    for _ in range(5):
        with pytest.raises(http.client.IncompleteRead) as raised:
            served.get()
        assert len(raised.value.partial) == 1_000_000


def test_http_1_0_midstream_error_resets(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            yield b"first"
            wait()
            if event["rawPath"] == "/bad":
                raise ValueError("no")
        """)
    client = served.socket()
    client.sendall(b"GET /bad HTTP/1.0\r\n\r\n")
    received = b""
    while not received.endswith(b"first"):
        received += client.recv(4096)
    assert b"chunked" not in received
    served.gate.write(b"1")
    with pytest.raises(ConnectionResetError):
        client.recv(4096)
    served.gate.write(b"1")
    assert exchange(served.socket(), b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nfirst")


BROKEN_MODULES = {
    "import": ("import no_such_module", "Runtime.ImportModuleError: Unable to import module 'served'"),
    "syntax": ("def handler(", "Runtime.UserCodeSyntaxError: Syntax error in module 'served'"),
    "name": ("handle = print", "Runtime.HandlerNotFound: Handler 'handler' missing on module 'served'"),
    "exception": ("raise OSError('no database')", "[ERROR] OSError: no database"),
    "hard exit": ("os._exit(5)", "Runtime exited with error: exit status 5"),
}


@pytest.mark.parametrize(("source", "logged"), BROKEN_MODULES.values(), ids=BROKEN_MODULES.keys())
def test_broken_module_until_fixed(serve: Serve, source: str, logged: str) -> None:
    served = serve(source)
    for number in range(1, 3):
        assert served.get() == REFUSAL
        assert served.log.count(logged) == number
    write_handler(served.folder, GOOD)
    assert served.get() == (200, b'"good"')


def test_init_timeout(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.runtime_api._INIT_TIMEOUT", 0.3)
    served = serve("wait()\n", timeout=0.2)
    assert served.get() == REFUSAL
    assert "Task timed out after 0.30 seconds" in served.log


@pytest.mark.parametrize(
    ("prepare", "logged"),
    [
        (lambda bootstrap: bootstrap.chmod(0o644), "Permission denied"),
        (lambda bootstrap: bootstrap.unlink(), "No such file or directory"),
        (lambda bootstrap: bootstrap.write_text("#!/no/such/shell\n"), "No such file or directory"),
        (lambda bootstrap: bootstrap.write_text("#!/bin/sh\nexit 7\n"), "Runtime exited with error: exit status 7"),
    ],
    ids=["not executable", "missing", "interpreter missing", "exits"],
)
def test_broken_bootstrap_until_fixed(serve: Serve, tmp_path: Path, prepare: object, logged: str) -> None:
    code = tmp_path / "code"
    shutil.copytree(TEMPLATE / "runtime", code)
    assert callable(prepare)
    prepare(code / "bootstrap")
    served = serve(GOOD, code=code, limit=1)
    for _ in range(2):
        assert served.get() == REFUSAL
        assert logged in served.log
    (code / "bootstrap").unlink(missing_ok=True)
    shutil.copy(TEMPLATE / "runtime" / "bootstrap", code)
    assert served.get() == (200, b'"good"')


# Otherwise the runtime would end the handler before the local URL has to.
NO_DEADLINE = {"STREAMING_RUNTIME_DEADLINE_MARGIN_MS": "0"}


@pytest.mark.parametrize("midstream", [False, True], ids=["before the first byte", "midstream"])
def test_timeout(serve: Serve, midstream: bool) -> None:
    served = serve(
        f"""
        def handler(event, context):
            if {midstream}:
                yield b"first"
            if event["rawPath"] != "/good":
                wait()
        """,
        timeout=0.5,
        **NO_DEADLINE,
    )
    if midstream:
        with pytest.raises(http.client.IncompleteRead) as raised:
            served.get()
        assert raised.value.partial == b"first"
    else:
        assert served.get() == REFUSAL
    assert "Task timed out after 0.50 seconds" in served.log
    assert served.get("/good") == (200, b"first" if midstream else b"")


WORKS_ON = """
    def handler(event, context):
        return StreamingResponse(Chunks(event["rawPath"] == "/stuck"))

    class Chunks:
        def __init__(self, stuck):
            self.stuck = stuck

        def __iter__(self):
            return iter([str(os.getpid())])

        def close(self):
            if self.stuck:
                tell(b"!")
                wait()
    """


def test_busy_environment_delays_no_request(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.pool._RETURN_TIMEOUT", 0.05)
    served = serve(WORKS_ON)
    _, first = served.get("/stuck")
    assert served.told.read(1) == b"!"
    _, second = served.get()
    assert first != second


def test_work_after_response_can_time_out(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.pool._RETURN_TIMEOUT", TIMEOUT)
    served = serve(WORKS_ON, timeout=0.5, limit=1, **NO_DEADLINE)
    _, first = served.get("/stuck")
    status, second = served.get()
    assert "Task timed out after 0.50 seconds" in served.log
    assert status == 200
    assert first != second


def test_child_processes_are_killed(serve: Serve, tmp_path: Path) -> None:
    # The child inherits the log, which therefore stays open after its parent, and a lock, which its end releases.
    lock = tmp_path / "lock"
    lock.touch()
    served = serve(
        """
        import fcntl
        import subprocess

        def handler(event, context):
            lock = os.open(os.environ["LOCK"], os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.Popen(["sleep", "1000"], pass_fds=[lock])
            os._exit(1)
        """,
        LOCK=str(lock),
    )
    assert served.get() == REFUSAL
    with lock.open() as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)


def test_log_encoding_and_line_ends(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            os.write(1, "zw\\u00f6lf ".encode()[:3])
            os.write(1, "zw\\u00f6lf ".encode()[3:] + b"a\\rb\\r\\nc\\n\\xff\\n")
            os._exit(0)
        """)
    assert served.get() == REFUSAL
    assert "zwölf a\nb\nc\n\N{REPLACEMENT CHARACTER}\n" in served.log


def test_close_ends_all_processes(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            tell(b"%8d" % os.getpid())
            if event["rawPath"] == "/stuck":
                yield b"first"
                wait()
        """)
    stuck = served.start("/stuck")
    assert stuck.read1() == b"first"
    served.get()
    pids = [int(served.told.read(8)) for _ in range(2)]
    assert len(set(pids)) == 2
    served.stack.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_busy_stream_does_not_block_others(serve: Serve) -> None:
    served = serve("""
        def handler(event, context):
            if event["rawPath"] == "/":
                return "served"
            return StreamingResponse(endless())

        def endless():
            while True:
                yield b"x"
        """)
    endless = served.start("/endless")
    ended = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not ended.is_set() and endless.read1(65536):
                pass
        endless.close()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(3):
            assert served.get() == (200, b'"served"')
        assert reader.is_alive()
    finally:
        ended.set()
        reader.join()


def test_close_while_processes_start(serve: Serve) -> None:
    served = serve(GOOD, limit=20)
    for _ in range(20):
        served.socket().sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    served.stack.close()


def test_failed_start_frees_its_slot(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(GOOD, limit=1)

    def no_more() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("local.sandbox.os.pipe", no_more)
        assert served.get() == REFUSAL
        assert "Too many open files" in served.log
    assert served.get() == (200, b'"good"')


def test_child_holding_connection_open(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.runtime_api._FINAL_READ_TIMEOUT", 0.2)
    monkeypatch.setattr("local.invocation._DRAIN_TIMEOUT", 1000)
    served = serve("""
        import signal

        def handler(event, context):
            yield b"first"
            if not os.fork():
                os.setsid()  # survives the end of its process group
                tell(b"%8d" % os.getpid())
                signal.pause()
            wait()
            os._exit(3)
        """)
    response = served.start()
    child = int(served.told.read(8))
    try:
        served.gate.write(b"1")
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_stalled_client_frees_its_slot(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.invocation._DRAIN_TIMEOUT", 0.2)
    monkeypatch.setattr("local.runtime_api._FINAL_READ_TIMEOUT", 0.2)
    served = serve(
        """
        def handler(event, context):
            if event["rawPath"] == "/good":
                return "good"
            return StreamingResponse(endless())

        def endless():
            while True:
                yield bytes(65536)
        """,
        limit=1,
        timeout=1,
        **NO_DEADLINE,
    )
    stalled = served.socket()
    stalled.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert stalled.recv(1) == b"H"
    assert served.get_once_free("/good") == (200, b'"good"')
    assert "Task timed out after 1.00 seconds" in served.log
