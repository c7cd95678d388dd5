"""`python -m benchmarks.applications`: what applications and event streams take, beside their peers.

FastAPI is measured beside a floor, which calls the same application with a constant scope and makes the socket calls,
and beside Mangum on AWS's own client, which cannot stream, and hayate with its own application. Two peers serve
the same application over HTTP: uvicorn alone, for reference, and uvicorn behind the Lambda Web Adapter. They serve
Litestar's event stream of as many events beside the runtime's own one. A peer that is not at hand is left out with a
line: the adapter is that in `LAMBDA_WEB_ADAPTER` or `lambda-adapter` on the PATH, and is never built.
`--against FOLDER` adds another version of our runtime, as for `python -m benchmarks`. `--document FILE` writes the
figures into the table of a document.
Exit status: 1 if a target is missed, 2 if a runtime failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .measure import MANY_LARGE, MANY_SMALL, ONE_SMALL
from .peers import (
    AGAINST,
    AWSLAMBDARIC,
    FLOOR,
    HAYATE,
    LWA,
    MANGUM,
    OURS,
    UVICORN,
    Peer,
    application_peers,
    installed,
    left_out,
    versions,
)
from .process import Payload, Runtime, WebServer, running
from .server import RuntimeFailed

_ROOT = Path(__file__).parent.parent
_PROJECT = _ROOT / "{{cookiecutter.project_slug}}"
_TABLE = re.compile(r"(?<=<!-- applications -->\n\n).*?(?=\n\n)", re.DOTALL)
_COLUMNS = {
    OURS: OURS,
    FLOOR: "floor",
    UVICORN: "uvicorn alone",
    LWA: "Lambda Web Adapter",
    HAYATE: "hayate",
    MANGUM: "Mangum on awslambdaric",
}


class Case(NamedTuple):
    """What is measured.

    Attributes:
        name: What it is.
        handler: Our handler.
        payload: What it responds with.
        application: The ASGI application that uvicorn serves.
        unit: Unit of the figure: ms, or MB/s, or start for the time from the start of the process.
        targets: The targeted ratio of our figure to that of a peer.
        package: What the handler requires.
    """

    name: str
    handler: str
    payload: Payload
    application: str
    unit: str
    targets: dict[str, float]
    package: str = "fastapi"

    @property
    def is_plain(self) -> bool:
        """Whether it is the FastAPI application whose body is the payload, which there are more peers for."""
        return self.application == _FASTAPI


_FASTAPI = "fastapi_app:app"
_LITESTAR = "litestar_app:app"
_SSE_STARLETTE = "sse_starlette_app:app"
_FASTAPI_EVENTS = "fastapi_events_app:app"
CASES = [
    Case(
        "FastAPI, one chunk",
        "fastapi_handler.handler",
        ONE_SMALL,
        _FASTAPI,
        "ms",
        {AGAINST: 0.65, LWA: 0.22, FLOOR: 1.2},
    ),
    Case(
        "FastAPI, 1,000 chunks",
        "fastapi_handler.handler",
        MANY_SMALL,
        _FASTAPI,
        "ms",
        {AGAINST: 0.26, LWA: 0.19, FLOOR: 1.0},
    ),
    Case(
        "FastAPI, chunks of 64 KiB",
        "fastapi_handler.handler",
        MANY_LARGE,
        _FASTAPI,
        "MB/s",
        {AGAINST: 2.1, LWA: 3.4, FLOOR: 0.9},
    ),
    Case("one event", "event_handlers.sync", ONE_SMALL, _LITESTAR, "ms", {AGAINST: 0.5, LWA: 0.13}, "litestar"),
    Case(
        "1,000 events, sync",
        "event_handlers.sync",
        MANY_SMALL,
        _LITESTAR,
        "ms",
        {AGAINST: 0.38, LWA: 0.17},
        "litestar",
    ),
    Case(
        "1,000 events, async",
        "event_handlers.asynchronous",
        MANY_SMALL,
        _LITESTAR,
        "ms",
        {AGAINST: 0.38, LWA: 0.17},
        "litestar",
    ),
    Case(
        "Litestar, 1,000 events", "litestar_handler.handler", MANY_SMALL, _LITESTAR, "ms", {AGAINST: 0.38}, "litestar"
    ),
    Case(
        "sse-starlette, 1,000 events",
        "sse_starlette_handler.handler",
        MANY_SMALL,
        _SSE_STARLETTE,
        "ms",
        {},
        "sse-starlette",
    ),
    Case("FastAPI, 1,000 events", "fastapi_events_handler.handler", MANY_SMALL, _FASTAPI_EVENTS, "ms", {}),
    Case(
        "FastAPI, start to first answer",
        "fastapi_handler.handler",
        ONE_SMALL,
        _FASTAPI,
        "start",
        {AGAINST: 0.75, LWA: 0.60},
    ),
]


class Rounds(NamedTuple):
    """How many samples to take of each peer."""

    starts: int = 12
    processes: int = 3
    small: int = 1000  # invocations of one chunk by each process
    large: int = 15


QUICK = Rounds(starts=2, processes=1, small=200, large=4)


def main(arguments: list[str] | None = None, cases: list[Case] = CASES, rounds: Rounds | None = None) -> int:
    """Print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.applications", description="Measure applications.")
    parser.add_argument("--quick", action="store_true", help="take fewer samples, for a first impression")
    parser.add_argument("--against", metavar="FOLDER", type=Path, help="compare with the runtime in FOLDER too")
    parser.add_argument("--document", metavar="FILE", type=Path, help="write the figures into the table of FILE")
    options = parser.parse_args(arguments)
    rounds = rounds or (QUICK if options.quick else Rounds())
    event = json.dumps(json.loads((_PROJECT / "events" / "get.json").read_bytes())).encode()
    gc.disable()  # the server is a part of this process
    ours = versions(_PROJECT / "runtime", options.against or _PROJECT / "runtime", _ROOT / "build" / "bench-apps")
    absent = left_out()
    for name, reason in absent.items():
        print(f"left out: {name}, because {reason}", file=sys.stderr)
    missed = False
    rows = []
    for case in cases:
        if not installed(case.package):
            print(f"left out: {case.name}, because {case.package} is not installed", file=sys.stderr)
            continue
        peers = [peer._replace(handler=case.handler) for peer in ours[: 2 if options.against else 1]]
        peers += _others(case, absent)
        try:
            values = _measure(case, peers, event, rounds)
        except RuntimeFailed as failure:
            print(failure, file=sys.stderr)
            return 2
        unit = "ms" if case.unit == "start" else case.unit
        rows.append([case.name, *(f"{values[n]:,.2f} {unit}" if n in values else "-" for n in _COLUMNS)])
        line = f"{case.name:32}" + "".join(f"  {name} {value:,.2f} {unit}" for name, value in values.items())
        for name, target in case.targets.items():
            if name not in values:
                continue
            ratio = values[OURS] / values[name]
            met = ratio >= target if case.unit == "MB/s" else ratio <= target
            missed = missed or not met
            line += f"  {ratio:.2f} of {name}: {'meets' if met else 'MISSES'} {target}"
        print(line, flush=True)
    if options.document:
        header = [["figure (median)", *_COLUMNS.values()], ["---"] * (len(_COLUMNS) + 1)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in [*header, *rows])
        text, count = _TABLE.subn(lambda _: table, options.document.read_text(encoding="utf-8"))
        if not count:
            print(f"{options.document} has no table after '<!-- applications -->'", file=sys.stderr)
            return 2
        options.document.write_text(text, encoding="utf-8")
    return int(missed)


def _others(case: Case, absent: dict[str, str]) -> list[Peer]:
    """Return the peers of a case. Mangum cannot stream, so it has one chunk only."""
    others = application_peers(case.application)
    if not case.is_plain:
        return others
    others.append(Peer(FLOOR, "", (sys.executable, "-c", "import fastapi_floor")))
    if HAYATE not in absent:
        others.append(Peer(HAYATE, version(HAYATE), (sys.executable, "-c", "import hayate_app")))
    if MANGUM not in absent and case.payload is ONE_SMALL:
        handler = "mangum_handler.handler"
        others.append(Peer(MANGUM, "", (sys.executable, "-m", AWSLAMBDARIC, handler), handler, streams=False))
    return others


def _measure(case: Case, peers: list[Peer], event: bytes, rounds: Rounds) -> dict[str, float]:
    """Return the median of each peer, which take turns."""
    samples: dict[str, list[float]] = {peer.name: [] for peer in peers}
    if case.unit == "start":
        for round_ in range(rounds.starts + 1):
            for peer in peers:
                with running(peer, case.payload, event) as runtime:
                    if round_:  # the first round fills the system's file cache
                        samples[peer.name].append((runtime.cold_start + runtime.invoke()) / 1e6)
        return {name: median(times) for name, times in samples.items()}
    small = case.payload is ONE_SMALL
    block = 20 if small else 1
    for _ in range(rounds.processes):
        with ExitStack() as stack:
            runtimes: dict[str, Runtime | WebServer] = {}
            for peer in peers:
                runtimes[peer.name] = running(peer, case.payload, event)
                stack.enter_context(runtimes[peer.name])
            for peer in peers:
                if case.is_plain and peer.streams:
                    runtimes[peer.name].check()
                runtimes[peer.name].invoke()
            for _ in range(0, rounds.small if small else rounds.large, block):
                for name, runtime in runtimes.items():
                    samples[name] += [runtime.invoke() / 1e6 for _ in range(block)]
    medians = {name: median(times) for name, times in samples.items()}
    if case.unit == "MB/s":
        return {name: case.payload.total / 1000 / value for name, value in medians.items()}
    return medians


if __name__ == "__main__":
    sys.exit(main())
