"""`python -m benchmarks.scale`: how times grow with the number of chunks, the size of the event, and the clients.

Three curves: chunks of 100 bytes, beside the floor; the size of the event, beside AWS's own client; and clients that
call the function URL on localhost concurrently. The first two have one process of each peer for a point, and the peers
take turns. Each curve has a part of the `--seconds`; a point that would not fit any more is left out. `--document
FILE` writes the tables into the marked part of a document.
Exit status: 2 if a runtime failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .local_url import url
from .peers import AWSLAMBDARIC, OURS, Peer, awslambdaric, floor, ours
from .process import Payload, Runtime
from .server import RuntimeFailed

_ROOT = Path(__file__).parent.parent
_PROJECT = _ROOT / "{{cookiecutter.project_slug}}"
_BUILD = _ROOT / "build" / "bench-scale"
_BEGIN, _END = "<!-- scale -->\n", "\n<!-- end of scale -->"
_APPLICATION = "FastAPI"
_CHUNK = 100  # bytes
_SHARES = (0.6, 0.1, 0.3)  # of the time, for each curve
_SAMPLES = 5  # of a point
_REQUEST = b"GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_PATIENCE = 30  # seconds for the responses to all clients


class Points(NamedTuple):
    """The points of the curves."""

    chunks: Sequence[int] = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
    events: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000, 6_000_000)  # bytes; Lambda allows 6 MB
    clients: Sequence[int] = (1, 10, 50, 100, 200)


class Budget:
    """Tells whether a point still fits into a curve's time, from what the point before it took."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def allows(self, seconds: float) -> bool:
        return time.monotonic() + seconds < self._end


def main(arguments: list[str] | None = None, points: Points | None = None) -> int:
    """Print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="Measure how times grow.")
    parser.add_argument("--seconds", metavar="N", type=float, default=54, help="time for all curves (default: 54)")
    parser.add_argument("--document", metavar="FILE", type=Path, help="write the tables into the marked part of FILE")
    options = parser.parse_args(arguments)
    points = points or Points()
    gc.disable()  # the server is a part of this process
    chunks, events, clients = (options.seconds * share for share in _SHARES)
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else set()
    try:
        tables = [_clients(points.clients, clients)]  # first: the others tie this process to one processor
        tables = [_chunks(points.chunks, chunks), _events(points.events, events), *tables]
    except (RuntimeFailed, OSError) as failure:
        print(failure, file=sys.stderr)
        return 2
    finally:
        if allowed:
            os.sched_setaffinity(0, allowed)
    text = "\n\n".join(tables)
    print(text)
    if options.document:
        before, begin, rest = options.document.read_text(encoding="utf-8").partition(_BEGIN)
        _, end, after = rest.partition(_END)
        if not end:
            print(f"{options.document} has no part between {_BEGIN.strip()} and {_END.strip()}", file=sys.stderr)
            return 2
        options.document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
    return 0


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _chunks(counts: Sequence[int], seconds: float) -> str:
    """Measure streams of more and more chunks, by a generator, by FastAPI and by the floor."""
    event = json.dumps(json.loads((_PROJECT / "events" / "get.json").read_bytes())).encode()
    runtime = ours(OURS, _PROJECT / "runtime", _BUILD)
    measured = [runtime, runtime._replace(name=_APPLICATION, handler="fastapi_handler.handler"), floor()]
    rows = []
    for count, times in _curve(
        counts, seconds, lambda count, most: _medians(measured, Payload(count, _CHUNK), event, most)
    ):
        cells = [f"{times[peer.name]:,.2f} ms" if times else "-" for peer in measured]
        cells.append(f"{times[OURS] * 1000 / count:,.1f} µs" if times else "-")
        rows.append([f"{count:,}", *cells])
    return _table(["chunks of 100 bytes", "a generator", _APPLICATION, "floor", "generator, for each chunk"], rows)


def _events(sizes: Sequence[int], seconds: float) -> str:
    """Measure one small chunk in response to larger and larger events."""
    template = json.loads((_PROJECT / "events" / "get.json").read_bytes())
    measured = [ours(OURS, _PROJECT / "runtime", _BUILD), awslambdaric()]

    def measure(size: int, most: float) -> dict[str, float]:
        event = json.dumps({**template, "body": ""})
        event = json.dumps({**template, "body": "x" * max(0, size - len(event))})
        return _medians(measured, Payload(1, _CHUNK), event.encode(), most)

    rows = []
    for size, times in _curve(sizes, seconds, measure):
        rows.append([f"{size / 1000:,.0f} KB", *(f"{times[peer.name]:,.2f} ms" if times else "-" for peer in measured)])
    return _table(["event", OURS, AWSLAMBDARIC], rows)


def _curve(
    points: Sequence[int], seconds: float, measure: Callable[[int, float], dict[str, float]]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each point and what `measure` returns for it, or nothing if the point would not fit into the time."""
    budget = Budget(seconds)
    share = seconds / (2 * len(points))  # of a point, for more than one sample
    before, took = 0, 0.0
    for point in points:
        factor = point / before if before else 0
        times: dict[str, float] = {}
        if budget.allows(took * factor / 1000):
            times = measure(point, share)
            before, took = point, sum(times.values())
        yield point, times


def _medians(measured: Sequence[Peer], payload: Payload, event: bytes, most: float) -> dict[str, float]:
    """Return the median milliseconds of each peer, from `_SAMPLES` invocations or as many as fit into `most` s."""
    times: dict[str, list[float]] = {peer.name: [] for peer in measured}
    with ExitStack() as stack:
        runtimes = {peer.name: stack.enter_context(Runtime(peer, payload, event)) for peer in measured}
        budget = Budget(most)
        if payload.count <= 10_000:
            for runtime in runtimes.values():
                runtime.invoke()
        for _ in range(_SAMPLES):
            for name, runtime in runtimes.items():
                times[name].append(runtime.invoke() / 1e6)
            if not budget.allows(sum(series[-1] for series in times.values()) / 1000):
                break
    return {name: median(series) for name, series in times.items()}


def _clients(counts: Sequence[int], seconds: float) -> str:
    """Measure concurrent clients of the function URL on localhost, each of which has an execution environment."""
    budget = Budget(seconds)
    rows = []
    took, before = 0.0, 1
    with url("--concurrency", str(max(counts))) as port:
        for count in counts:
            row = ["-", "-", "-"]
            if budget.allows(took * count / before):
                began = time.monotonic()
                _concurrent(port, count)  # starts the execution environments
                rounds = [_concurrent(port, count) for _ in range(3)]
                took, before = time.monotonic() - began, count
                first = median(time for firsts, _ in rounds for time in firsts)
                last = median(whole for _, whole in rounds)
                row = [f"{first * 1000:,.2f} ms", f"{last * 1000:,.2f} ms", f"{count / last:,.0f}"]
            rows.append([f"{count:,}", *row])
    return _table(["clients", "first byte, median", "until the last has its response", "responses a second"], rows)


def _concurrent(port: int, count: int) -> tuple[list[float], float]:
    """Send `count` requests together. Return the seconds to the first byte of each, and to the end of the last one."""
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        tails: dict[socket.socket, bytes] = {}
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client, selectors.EVENT_READ, client)
            tails[client] = b""
        firsts: list[float] = []
        begun = time.perf_counter()
        for client in tails:
            client.sendall(_REQUEST)
        left = count
        while left:
            if not (ready := selector.select(_PATIENCE)):
                raise TimeoutError(f"{left} of {count} clients got no response within {_PATIENCE} seconds")
            for key, _ in ready:
                client = key.data
                if not (data := client.recv(65536)):
                    raise ConnectionError("the response broke off")
                if not tails[client]:
                    firsts.append(time.perf_counter() - begun)
                    if not data.startswith(b"HTTP/1.1 200 "):
                        raise ConnectionError(data.decode("latin-1"))
                tails[client] = (tails[client] + data)[-len(_LAST_CHUNK) :]
                if tails[client] == _LAST_CHUNK:
                    selector.unregister(client)
                    left -= 1
        return firsts, time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
