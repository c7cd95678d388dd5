"""A running peer: the process of a runtime and the Runtime API that serves it, or a web server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .peers import FUNCTIONS, Peer
from .server import RuntimeApi, RuntimeFailed

_HTTP_INTEGRATION_RESPONSE = b"application/vnd.awslambda.http-integration-response"
_METADATA_DELIMITER = bytes(8)
_PROCESSORS = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
_SERVER, _RUNTIME = 0, 1
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_START = 30  # seconds for a web server to start


@dataclass(frozen=True)
class Payload:
    """What the function responds with: `count` chunks of `size` bytes."""

    count: int
    size: int

    @property
    def total(self) -> int:
        return self.count * self.size

    def __str__(self) -> str:
        return f"{self.count:,} x {self.size:,} bytes"


class Runtime:
    """The process of `peer`, whose function responds with `payload`. The ``with`` block ends it.

    Attributes:
        cold_start: Nanoseconds from the start of the process to its first ``/next``.
    """

    def __init__(self, peer: Peer, payload: Payload, event: bytes) -> None:
        self._peer = peer
        self._payload = payload
        self._api = RuntimeApi(event, peer.quick)
        started = time.perf_counter_ns()
        self._process = _start(peer, payload, {"AWS_LAMBDA_RUNTIME_API": self._api.address})
        try:
            self.cold_start = self._api.wait() - started
        except RuntimeFailed as failure:
            self.close()
            raise RuntimeFailed(f"{peer.name}: {failure}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def invoke(self) -> int:
        """Run one invocation, and return the nanoseconds from the event to the end of the response."""
        return self._api.invoke()

    def check(self) -> None:
        """Run one invocation, and compare the response with the expected one.

        Raises:
            RuntimeFailed: The payload or its chunks are wrong.
        """
        record: list[bytes] = []
        self._api.invoke(record)
        head, _, body = b"".join(record).partition(b"\r\n\r\n")
        chunks = _chunks(body) if b"chunked" in head else [body]
        if _HTTP_INTEGRATION_RESPONSE in head:
            ends = [chunk.endswith(_METADATA_DELIMITER) for chunk in chunks]
            del chunks[: ends.index(True) + 1]
        payload = self._payload if self._peer.streams else Payload(1, self._payload.total)
        if self._peer.keeps_chunks:
            right = chunks == [b"x" * payload.size] * payload.count
        else:
            right = b"".join(chunks) == b"x" * payload.total
        if not right:
            raise RuntimeFailed(f"{self._peer.name} sent {len(chunks)} chunks, {sum(map(len, chunks))} bytes")

    def peak_memory(self) -> int | None:
        """Return the peak memory of the process in bytes; None if the system does not report it."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def close(self) -> None:
        """End the process, and those that it started."""
        end(self._process)
        self._api.close()


class WebServer:
    """The process of `peer`, a web server whose application responds with `payload`. The ``with`` block ends it.

    Attributes:
        cold_start: Nanoseconds from the start of the process until it accepts a connection.
    """

    def __init__(self, peer: Peer, payload: Payload) -> None:
        self._peer = peer
        self._payload = payload
        self._buffer = bytearray(256 * 1024)
        started = time.perf_counter_ns()
        self._process = _start(peer, payload, {})
        try:
            self._connection = self._connect()
        except BaseException:
            end(self._process)
            raise
        self.cold_start = time.perf_counter_ns() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.close()
        end(self._process)

    def invoke(self, record: list[bytes] | None = None) -> int:
        """Send a request, and return the nanoseconds from there to the last byte of the response.

        Args:
            record: Receives the response.
        """
        started = time.perf_counter_ns()
        self._connection.sendall(_REQUEST)
        tail = b""
        while tail != _LAST_CHUNK:
            size = self._connection.recv_into(self._buffer)
            if not size:
                raise RuntimeFailed(f"{self._peer.name} closed the connection in the middle of a response")
            if record is not None:
                record.append(bytes(self._buffer[:size]))
            tail = (tail + self._buffer[max(0, size - len(_LAST_CHUNK)) : size])[-len(_LAST_CHUNK) :]
        return time.perf_counter_ns() - started

    def check(self) -> None:
        """Send a request, and compare the body with the expected one.

        Raises:
            RuntimeFailed: The body is wrong.
        """
        record: list[bytes] = []
        self.invoke(record)
        head, _, body = b"".join(record).partition(b"\r\n\r\n")
        if b"".join(_chunks(body)) != b"x" * self._payload.total:
            raise RuntimeFailed(f"{self._peer.name} sent {len(body)} bytes after {head.decode('latin-1')}")

    def _connect(self) -> socket.socket:
        latest = time.monotonic() + _START
        while time.monotonic() < latest and self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                connection = socket.create_connection(("127.0.0.1", self._peer.port), timeout=10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            time.sleep(0.0005)
        raise RuntimeFailed(f"{self._peer.name} accepts no connection")


def running(peer: Peer, payload: Payload, event: bytes) -> Runtime | WebServer:
    """Start a runtime or web server."""
    return WebServer(peer, payload) if peer.port else Runtime(peer, payload, event)


def _start(peer: Peer, payload: Payload, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    # Not the shell's environment: its variables would slow down some of the runtimes.
    environment = {
        "PATH": os.environ["PATH"],
        "STREAMING_RUNTIME_PYTHON": sys.executable,
        "PYTHON": sys.executable,  # for a runtime from before that variable, with --against
        "LAMBDA_TASK_ROOT": str(FUNCTIONS),
        "_HANDLER": peer.handler,
        "CHUNKS": str(payload.count),
        "CHUNK_SIZE": str(payload.size),
        **variables,
    }
    use_processor(_RUNTIME)  # which the new process inherits
    process = subprocess.Popen(
        peer.command,
        cwd=FUNCTIONS,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must reach the benchmark only, which then ends the process
    )
    use_processor(_SERVER)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and those that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def use_processor(which: int) -> None:
    """Pin this process to one processor. Whether server and runtime share one affects the figures a lot."""
    if sys.platform == "linux" and len(_PROCESSORS) > 1:
        os.sched_setaffinity(0, {_PROCESSORS[which]})


def _chunks(body: bytes) -> list[bytes]:
    """Return the chunks of a chunked body."""
    chunks: list[bytes] = []
    start = 0
    while True:
        end = body.index(b"\r\n", start)
        size = int(body[start:end], 16)
        if not size:
            return chunks
        start = end + 2
        chunks.append(body[start : start + size])
        start += size + 2
