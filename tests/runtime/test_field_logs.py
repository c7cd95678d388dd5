"""Logging in frames never blocks on itself and never leaves half a frame.

Lambda reads frames from the descriptor in _LAMBDA_TELEMETRY_LOG_FD, each a type, a length, a time and the text:
(FramedTelemetryLogSink in awslambdaric/bootstrap.py)
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest
from tests.helpers.sandbox import BOOTSTRAP, Running, Sandbox
from tests.helpers.scripted_api import Event, due, event

from streaming_runtime import logs

HUGE = {"STREAMING_RUNTIME_DEADLINE_MARGIN_MS": "3600000"}
BIG = 1_000_000  # more than a pipe holds, so that its writer waits


class Pipe:
    """A runtime whose log frames are read when the test wants to."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        os.mkfifo(sandbox.task / "frames")
        os.mkfifo(sandbox.task / "gate")
        self._descriptor = -1
        self._data = b""

    def start(self, code: str, *events: Event, **environment: str) -> Running:
        # Opened for both: opening a FIFO for reading would wait for its writer, and the other way round.
        keep = os.open(self._sandbox.task / "frames", os.O_RDWR)
        running = self._sandbox.start(
            code,
            *events,
            command=("sh", "-c", 'exec "$0" 9>frames', BOOTSTRAP),
            environment={"_LAMBDA_TELEMETRY_LOG_FD": "9", **HUGE, **environment},
        )
        self._descriptor = os.open(self._sandbox.task / "frames", os.O_RDONLY)
        self._data = os.read(self._descriptor, 1)  # the runtime has it open
        os.close(keep)
        return running

    def frames(self) -> list[str]:
        """The texts of all frames, until the runtime has ended. Fails where one is not whole."""
        while data := os.read(self._descriptor, 1 << 20):
            self._data += data
        os.close(self._descriptor)
        return list(_texts(self._data))

    def open_gate(self) -> None:
        (self._sandbox.task / "gate").write_bytes(b"")


def _texts(data: bytes) -> Iterator[str]:
    while data:
        kind, length = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
        assert kind & 0xFFFFFF00 == 0xA55A0000, data[:80]
        assert len(data) >= 16 + length
        yield data[16 : 16 + length].decode()
        data = data[16 + length :]


@pytest.fixture
def pipe(sandbox: Sandbox) -> Pipe:
    return Pipe(sandbox)


def wait_for(running: Running, text: bytes) -> None:
    """Waits until the runtime has printed a line with this text."""
    assert running.process.stdout is not None
    line = b""
    while text not in line:
        line = running.process.stdout.readline()
        assert line, "the runtime has ended"


def kept(texts: list[str]) -> list[str]:
    """The texts without what `logging` puts before the message."""
    return [text.rstrip("\n").rpartition("\t")[2] for text in texts]


def test_log_in_garbage_collection(pipe: Pipe) -> None:
    code = """
        import gc, logging, time
        class Noisy:
            def __init__(self):
                self.circle = self
            def __del__(self):
                time.busy = True
                logging.warning("collected")
                del time.busy
        time_ns = time.time_ns
        def collect():  # in the middle of logging, as an allocation there may
            if not hasattr(time, "busy"):
                Noisy()
                gc.collect()
            return time_ns()
        def handler(event, context):
            time.time_ns = collect
            for number in range(50):
                logging.warning("line %d", number)
            time.time_ns = time_ns
            return "served"
        """
    running = pipe.start(code, event())
    texts = kept(pipe.frames())
    assert running.end().bodies == [b'"served"']
    assert [text for text in texts if text != "collected"] == [f"line {number}" for number in range(50)]
    assert "collected" in texts


SIGNALS = """
    import logging, os, signal
    class Stop(BaseException):
        pass
    def on_signal(number, frame):
        print("signal")
        {action}
        print("returned")
    signal.signal(signal.SIGUSR1, on_signal)
    def handler(event, context):
        try:
            logging.warning("x" * {size})
        except Stop:
            logging.warning("stopped")
        logging.warning("after")
        return "served"
    """


def test_log_in_signal_handler(pipe: Pipe) -> None:
    running = pipe.start(SIGNALS.format(action="logging.warning('inner')", size=BIG), event())
    running.process.send_signal(signal.SIGUSR1)
    wait_for(running, b"returned")
    texts = kept(pipe.frames())
    assert running.end().bodies == [b'"served"']
    assert texts == ["x" * BIG, "inner", "after"]


def test_exception_of_signal_handler(pipe: Pipe) -> None:
    """The frame is finished before the exception goes on; it is raised in the function, as without frames."""
    running = pipe.start(SIGNALS.format(action="raise Stop", size=BIG), event())
    running.process.send_signal(signal.SIGUSR1)
    wait_for(running, b"signal")
    texts = kept(pipe.frames())
    assert running.end().bodies == [b'"served"']
    assert texts == ["x" * BIG, "stopped", "after"]


def test_log_in_forked_child(pipe: Pipe) -> None:
    """A thread of the parent holds the lock for good in the child's memory."""
    code = f"""
        import logging, os, threading
        def handler(event, context):
            thread = threading.Thread(target=logging.warning, args=("x" * {BIG},))
            thread.start()
            open("gate").close()
            child = os.fork()
            if child == 0:
                print("child")
                logging.warning("in the child")
                os._exit(0)
            thread.join()
            _, status = os.waitpid(child, 0)
            return status
        """
    running = pipe.start(code, event())
    pipe.open_gate()
    wait_for(running, b"child")
    while data := os.read(pipe._descriptor, 1 << 20):
        pipe._data += data
    ended = running.end()
    assert ended.bodies == [b"0"]
    assert b"in the child" in pipe._data


DEFINITIONS = {"sync": "def", "async": "async def"}


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=list(DEFINITIONS))
def test_deadline_in_frame(pipe: Pipe, definition: str) -> None:
    code = f"""
        import asyncio, logging
        {definition} handler(event, context):
            if event == 2:
                logging.warning("next")
                return "served"
            logging.warning("x" * {BIG})
            print("went on")
        """
    running = pipe.start(code, due(b"1", 400), event(b"2"))
    time.sleep(0.6)  # the deadline, which nothing else shows: the writer waits for this pipe
    first, second, third = pipe.frames()
    ended = running.end()
    assert json.loads(ended.posts[0].body)["errorType"] == "StreamDeadlineExceeded"
    assert ended.bodies[1] == b'"served"'
    assert kept([first]) == ["x" * BIG]
    assert second.startswith("[ERROR] StreamDeadlineExceeded: ")
    assert kept([third]) == ["next"]
    assert "went on" not in ended.output


def test_deadline_between_frames(pipe: Pipe) -> None:
    """Frame after frame, to a reader that is slower: the deadline must not wait for a moment without one."""
    code = f"""
        import logging
        def handler(event, context):
            while True:
                logging.warning("x" * {BIG})
        """
    running = pipe.start(code, due(b"1", 400))
    while running.process.poll() is None:
        time.sleep(0.002)  # a reader that is slower than the writer
        pipe._data += os.read(pipe._descriptor, 1 << 16)
        if b"StreamDeadlineExceeded" in pipe._data[-(1 << 17) :]:
            break
    *lines, error = pipe.frames()
    assert set(kept(lines)) == {"x" * BIG}
    assert error.startswith("[ERROR] StreamDeadlineExceeded: ")
    assert json.loads(running.end().posts[0].body)["errorType"] == "StreamDeadlineExceeded"


def test_non_blocking_descriptor(pipe: Pipe) -> None:
    """A child process that shares the descriptor may have made it so, as Node.js does."""
    code = f"""
        import logging, os
        def handler(event, context):
            os.set_blocking(9, False)
            logging.warning("x" * {BIG})
            logging.warning("after")
            return "served"
        """
    running = pipe.start(code, event())
    time.sleep(0.1)
    assert kept(pipe.frames()) == ["x" * BIG, "after"]
    assert running.end().bodies == [b'"served"']


def test_log_state_has_one_place() -> None:
    state = {name for name, value in vars(logs).items() if not name.startswith("__") and isinstance(value, logs._Log)}
    assert state == {"_log"}
