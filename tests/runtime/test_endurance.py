"""Twenty thousand invocations in one process: nothing grows, and no invocation sees data of another."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.helpers.sandbox import SOURCE, UNTRACED, Sandbox
from tests.helpers.scripted_api import ACCEPTED, LIMIT

INVOCATIONS, WARM = 20_000, 2_000

HANDLER = '''
import asyncio
import contextvars
import json
import logging
import os
from streaming_runtime import EventSourceResponse, StreamingResponse

variable = contextvars.ContextVar("variable", default="clean")
loops = set()

def own(event, context):
    """What this invocation sees; all of it must be its own."""
    seen = [variable.get(), context.aws_request_id, os.environ.get("_X_AMZN_TRACE_ID"), context.tenant_id]
    variable.set("dirty")
    return json.dumps(seen)

def handler(event, context):
    return globals()[event](own(event, context))

def sync(seen):
    yield seen

def asynchronous(seen):
    async def items():
        loops.add(id(asyncio.get_running_loop()))
        logging.error("async")
        variable.set("dirtier")
        yield seen
        await asyncio.sleep(0)
        yield f" {len(loops)} {len(asyncio.all_tasks())}"
    return items()

def events(seen):
    return EventSourceResponse([seen], ping=60)

def metadata(seen):
    return StreamingResponse([seen], 201, {"x-a": "1"}, cookies=["a=1"])

def early(seen):
    logging.error("sync")
    raise ValueError(seen)

def late(seen):
    yield seen
    raise ValueError("late")

def value(seen):
    return seen
'''
EVENTS = ("sync", "asynchronous", "events", "metadata", "early", "late", "value")


class EndlessApi:
    """Serves one connection after the other, with as little HTTP as the runtime needs."""

    def __init__(self) -> None:
        self.pid = 0
        self.measured: dict[int, tuple[int, int, int]] = {}
        self.wrong: list[tuple[int, bytes]] = []
        self.posts: Counter[str] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT)
        self._listener.close()

    def _serve(self) -> None:
        for number in range(INVOCATIONS):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if not self._exchange(connection, number):
                    return
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()  # which ends the runtime

    def _exchange(self, connection: socket.socket, number: int) -> bool:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            came = connection.recv(65536)
            if not came:
                return False
            data += came
        # The runtime waits for its event, so that nothing changes while it is measured.
        if number in (WARM, INVOCATIONS - 1):
            self.measured[number] = measure(self.pid)
        kind = EVENTS[number % len(EVENTS)]
        tenant = f"Lambda-Runtime-Aws-Tenant-Id: tenant-{number}\r\n" if number % 3 == 0 else ""
        trace = f"Lambda-Runtime-Trace-Id: trace-{number}\r\n" if number % 2 == 0 else ""
        body = f'"{kind}"'
        connection.sendall(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Deadline-Ms: 1700000000000\r\n"
            f"Lambda-Runtime-Aws-Request-Id: id-{number}\r\n{tenant}{trace}"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        data = b""
        while not is_whole(data):
            came = connection.recv(65536)
            if not came:
                return False
            data += came
        connection.sendall(ACCEPTED.pieces[0])
        self._judge(number, kind, data)
        return connection.recv(1) == b""

    def _judge(self, number: int, kind: str, data: bytes) -> None:
        target = data.split(b" ", 2)[1].decode()
        self.posts[target.rpartition("/")[2]] += 1
        trace = f'"trace-{number}"' if number % 2 == 0 else "null"
        tenant = f'"tenant-{number}"' if number % 3 == 0 else "null"
        seen = f'["clean", "id-{number}", {trace}, {tenant}]'
        expected = seen.replace('"', '\\"') if kind in ("early", "value") else seen
        right = expected.encode() in data and f"/id-{number}/" in target
        if kind == "asynchronous":
            right = right and b"\r\n 1 1\r\n0\r\n\r\n" in data  # one event loop, and only this task
        if not right:
            self.wrong.append((number, data))


def is_whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    if b"Transfer-Encoding: chunked" in head:
        return body.endswith(b"\r\n\r\n") and (b"\r\n0\r\n" in body or body.startswith(b"0\r\n"))
    return len(body) == int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0])


def measure(pid: int) -> tuple[int, int, int]:
    """The descriptors, threads and KiB of resident memory of a process."""
    folder = Path(f"/proc/{pid}")
    given_up = time.monotonic() + LIMIT
    while len(os.listdir(folder / "task")) > 1 and time.monotonic() < given_up:
        time.sleep(0.01)  # a thread that was joined may still be ending
    memory = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS:"))
    return len(os.listdir(folder / "fd")), len(os.listdir(folder / "task")), int(memory.split()[1])


@pytest.mark.slow
@pytest.mark.own_interpreter
@pytest.mark.timeout(240)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc, which only Linux has")
def test_twenty_thousand_invocations(sandbox: Sandbox) -> None:
    api = EndlessApi()
    command = ("sh", "-c", 'exec "$0" > log', str(SOURCE / "bootstrap"))
    # coverage.py keeps memory for every thread.
    environment = {"AWS_LAMBDA_RUNTIME_API": api.host} | UNTRACED
    running = sandbox.start(HANDLER, command=command, environment=environment)
    api.pid = running.process.pid
    api.start()
    try:
        _, errors = running.process.communicate(timeout=150)
    finally:
        running.process.kill()
        api.close()
    assert errors.count(b"\n") == 1, errors  # the message that the server has closed the connection
    assert api.wrong == []
    assert sum(api.posts.values()) == INVOCATIONS
    assert api.posts["error"] == sum(EVENTS[n % len(EVENTS)] == "early" for n in range(INVOCATIONS))
    (descriptors, threads, before), (descriptors_later, threads_later, after) = api.measured.values()
    assert (descriptors, threads) == (descriptors_later, threads_later) == (descriptors, 1)
    assert after - before < 1024
    # Each line of the log carries the id of the invocation that wrote it.
    ids = [line.split("\t")[2] for line in (sandbox.task / "log").read_text().splitlines() if line.endswith("sync")]
    logging = {"asynchronous", "early"}
    assert ids == [f"id-{n}" for n in range(INVOCATIONS) if EVENTS[n % len(EVENTS)] in logging]
