"""`python -m benchmarks.local_url`: what the function URL on localhost costs, beside a bare proxy.

The bare proxy copies bytes between two sockets and knows nothing of HTTP; behind it a program sends the response that
the function makes. Exit status: 1 if a target is missed.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

_PROJECT = Path(__file__).parent.parent / "{{cookiecutter.project_slug}}"
_CHUNK = 1024 * 1024
_SIZE = 512 * _CHUNK  # bytes of the stream that is timed
_REQUESTS = 1000
_ROUNDS = 5
_PAUSE = 0.003  # seconds between two requests, so that each finds all at rest
_END = b"0\r\n\r\n"  # of a chunked body

_HANDLER = f"""
def handler(event, context):
    if event["rawPath"] == "/first":
        yield b"x"
        return
    chunk = bytes({_CHUNK})
    for _ in range({_SIZE // _CHUNK}):
        yield chunk
"""
_TEMPLATE = f"""
Resources:
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties: {{CodeUri: '{_PROJECT}/runtime', Handler: measured.handler, Timeout: 300}}
"""
# Sends what the function would, in the frames that the URL would send.
_ORIGIN = f"""
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/octet-stream\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
frame = b"%x\\r\\n" % {_CHUNK} + bytes({_CHUNK}) + b"\\r\\n"
while True:
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while request := client.recv(65536):
        if request.startswith(b"GET /first"):
            client.sendall(head + b"1\\r\\nx\\r\\n0\\r\\n\\r\\n")
            continue
        client.sendall(head)
        for _ in range({_SIZE // _CHUNK}):
            client.sendall(frame)
        client.sendall(b"0\\r\\n\\r\\n")
"""
_PROXY = """
import selectors, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
buffer = memoryview(bytearray(256 * 1024))
while True:
    client, _ = listener.accept()
    origin = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    for each in (client, origin):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, origin)
        selector.register(origin, selectors.EVENT_READ, client)
        open_ = True
        while open_:
            for key, _ in selector.select():
                open_ = bool(size := key.fileobj.recv_into(buffer))
                key.data.sendall(buffer[:size])
    client.close()
    origin.close()
"""


class Measured(NamedTuple):
    """Of one way to the response.

    Attributes:
        first_byte: Seconds to the first byte of a body, the median of each round.
        throughput: Bytes a second of a long response, for each round.
    """

    first_byte: list[float]
    throughput: list[float]


def main() -> int:
    with ExitStack() as stack:
        ports = {"URL on localhost": stack.enter_context(url()), "bare proxy": stack.enter_context(_bare())}
        measured = {name: Measured([], []) for name in ports}
        for _ in range(_ROUNDS):  # in turn, so that whatever else the machine does is shared out
            for name, port in ports.items():
                measured[name].first_byte.append(statistics.median(_first_bytes(port, _REQUESTS // _ROUNDS)))
                measured[name].throughput.append(_throughput(port))
    ours, bare = measured["URL on localhost"], measured["bare proxy"]
    # The best round of each: what else the machine does makes the others worse, and is not measured.
    first, bare_first = (min(each.first_byte) * 1000 for each in (ours, bare))
    overhead = first - bare_first
    speed, bare_speed = (max(each.throughput) / 1e6 for each in (ours, bare))
    print(f"first byte, median: {first:.2f} ms; through a bare proxy {bare_first:.2f} ms")
    print(f"overhead: {overhead:.2f} ms (target: under 2)")
    print(f"throughput: {speed:.0f} MB/s (target: over 500); bare proxy {bare_speed:.0f} MB/s")
    print(f"ratio to the bare proxy: {speed / bare_speed:.2f}")
    return 0 if overhead < 2 and speed > 500 else 1


def _first_bytes(port: int, count: int) -> Iterator[float]:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(-10, count):  # the first ones start a process and warm up
            time.sleep(_PAUSE)
            start = time.perf_counter()
            client.sendall(b"GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"\r\nx\r\n" not in received:
                received += _receive(client)
            elapsed = time.perf_counter() - start
            while not received.endswith(_END):
                received += _receive(client)
            if number >= 0:
                yield elapsed


def _throughput(port: int) -> float:
    buffer = bytearray(_CHUNK)
    with socket.create_connection(("127.0.0.1", port)) as client:
        start = time.perf_counter()
        client.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
        tail = b""
        while tail != _END:
            count = client.recv_into(buffer)
            if not count:
                raise ConnectionError("the response broke off")
            tail = (tail + buffer[max(0, count - len(_END)) : count])[-len(_END) :]
        return _SIZE / (time.perf_counter() - start)


def _receive(client: socket.socket) -> bytes:
    if not (data := client.recv(65536)):
        raise ConnectionError("the response broke off")
    return data


@contextmanager
def url(*options: str) -> Iterator[int]:
    """Run `python -m local` like `make dev`, with more `options`, and yield the port."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "measured.py").write_text(_HANDLER, encoding="utf-8")
        (Path(folder) / "template.yaml").write_text(_TEMPLATE, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{_PROJECT}", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "local", "--port", "0", "--template", f"{folder}/template.yaml", *options]
        with _started(command, environment) as first_line:
            yield int(first_line.rstrip("/").rpartition(":")[2])


@contextmanager
def _bare() -> Iterator[int]:
    """Run the bare proxy in front of a program that sends the same, and yield the port."""
    with (
        _started([sys.executable, "-c", _ORIGIN]) as origin,
        _started([sys.executable, "-c", _PROXY, origin]) as proxy,
    ):
        yield int(proxy)


@contextmanager
def _started(command: list[str], environment: dict[str, str] | None = None) -> Iterator[str]:
    """Run a program until the block ends, and yield the first line that it prints.

    It prints into a file, since it would wait once nobody reads a full pipe.
    """
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, env=environment, stdout=output) as process,
    ):
        try:
            while b"\n" not in (printed := os.pread(output.fileno(), 4096, 0)):
                if process.poll() is not None:
                    raise ChildProcessError(f"{command} exited with {process.returncode}")
                time.sleep(0.01)
            yield printed.decode().splitlines()[0]
        finally:
            process.terminate()


if __name__ == "__main__":
    sys.exit(main())
