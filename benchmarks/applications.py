"""`python -m benchmarks.applications`: what applications and event streams take, beside their peers.

FastAPI is measured beside a floor, which calls the same application with a constant scope and makes the socket calls,
and beside Mangum on AWS's own client, which cannot stream. `--against FOLDER` adds another version of our runtime, as
for `python -m benchmarks`. `--document FILE` writes the figures into the table of a document.
Exit status: 1 if a target is missed, 2 if a runtime failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .measure import MANY_LARGE, MANY_SMALL, ONE_SMALL
from .peers import AGAINST, AWSLAMBDARIC, FLOOR, OURS, Peer, versions
from .process import Payload, Runtime
from .server import RuntimeFailed

_ROOT = Path(__file__).parent.parent
_PROJECT = _ROOT / "{{cookiecutter.project_slug}}"
_MANGUM = "Mangum"
_TABLE = re.compile(r"(?<=<!-- applications -->\n\n).*?(?=\n\n)", re.DOTALL)


class Case(NamedTuple):
    """What is measured.

    Attributes:
        name: What it is.
        handler: Our handler.
        payload: What it responds with.
        floor: The module of the floor, if there is one.
        unit: Unit of the figure: ms, or MB/s, or start for the time from the start of the process.
        targets: The targeted ratio of our figure to that of a peer.
    """

    name: str
    handler: str
    payload: Payload
    floor: str
    unit: str
    targets: dict[str, float]


_FLOOR = "fastapi_floor"
CASES = [
    Case("FastAPI, one chunk", "fastapi_handler.handler", ONE_SMALL, _FLOOR, "ms", {AGAINST: 0.65, FLOOR: 1.2}),
    Case("FastAPI, 1,000 chunks", "fastapi_handler.handler", MANY_SMALL, _FLOOR, "ms", {AGAINST: 0.26, FLOOR: 1.0}),
    Case(
        "FastAPI, chunks of 64 KiB", "fastapi_handler.handler", MANY_LARGE, _FLOOR, "MB/s", {AGAINST: 2.1, FLOOR: 0.9}
    ),
    Case("one event", "event_handlers.sync", ONE_SMALL, "", "ms", {AGAINST: 0.5}),
    Case("1,000 events, sync", "event_handlers.sync", MANY_SMALL, "", "ms", {AGAINST: 0.38}),
    Case("1,000 events, async", "event_handlers.asynchronous", MANY_SMALL, "", "ms", {AGAINST: 0.38}),
    Case("Litestar, 1,000 events", "litestar_handler.handler", MANY_SMALL, "", "ms", {AGAINST: 0.38}),
    Case("FastAPI, start to first answer", "fastapi_handler.handler", ONE_SMALL, _FLOOR, "start", {AGAINST: 0.75}),
]


def main(arguments: list[str] | None = None, cases: list[Case] = CASES) -> int:
    """Print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.applications", description="Measure applications.")
    parser.add_argument("--quick", action="store_true", help="take fewer samples, for a first impression")
    parser.add_argument("--against", metavar="FOLDER", type=Path, help="compare with the runtime in FOLDER too")
    parser.add_argument("--document", metavar="FILE", type=Path, help="write the figures into the table of FILE")
    options = parser.parse_args(arguments)
    event = json.dumps(json.loads((_PROJECT / "events" / "get.json").read_bytes())).encode()
    gc.disable()  # the server is a part of this process
    ours = versions(_PROJECT / "runtime", options.against or _PROJECT / "runtime", _ROOT / "build" / "bench-apps")
    missed = False
    rows = []
    for case in cases:
        peers = [peer._replace(handler=case.handler) for peer in ours[: 2 if options.against else 1]]
        if case.floor:
            peers.append(Peer(FLOOR, "", (sys.executable, "-c", f"import {case.floor}")))
        if case.floor and case.payload is ONE_SMALL:
            handler = "mangum_handler.handler"
            peers.append(Peer(_MANGUM, "", (sys.executable, "-m", AWSLAMBDARIC, handler), handler, streams=False))
        try:
            values = _measure(case, peers, event, options.quick)
        except RuntimeFailed as failure:
            print(failure, file=sys.stderr)
            return 2
        unit = "ms" if case.unit == "start" else case.unit
        rows.append([case.name, *(f"{values[n]:,.2f} {unit}" if n in values else "-" for n in (OURS, FLOOR, _MANGUM))])
        line = f"{case.name:32}" + "".join(f"  {name} {value:,.2f} {unit}" for name, value in values.items())
        for name in values.keys() & case.targets.keys():
            ratio, target = values[OURS] / values[name], case.targets[name]
            met = ratio >= target if case.unit == "MB/s" else ratio <= target
            missed = missed or not met
            line += f"  {ratio:.2f} of {name}: {'meets' if met else 'MISSES'} {target}"
        print(line, flush=True)
    if options.document:
        header = [["figure (median)", "streaming_runtime", "floor", "Mangum on awslambdaric"], ["---"] * 4]
        table = "\n".join(f"| {' | '.join(row)} |" for row in [*header, *rows])
        text, count = _TABLE.subn(lambda _: table, options.document.read_text(encoding="utf-8"))
        if not count:
            print(f"{options.document} has no table after '<!-- applications -->'", file=sys.stderr)
            return 2
        options.document.write_text(text, encoding="utf-8")
    return int(missed)


def _measure(case: Case, peers: list[Peer], event: bytes, quick: bool) -> dict[str, float]:
    """Return the median of each peer, which take turns."""
    samples: dict[str, list[float]] = {peer.name: [] for peer in peers}
    if case.unit == "start":
        for round_ in range(3 if quick else 13):
            for peer in peers:
                with Runtime(peer, case.payload, event) as runtime:
                    if round_:  # the first round fills the system's file cache
                        samples[peer.name].append((runtime.cold_start + runtime.invoke()) / 1e6)
        return {name: median(times) for name, times in samples.items()}
    count = (200 if quick else 1000) if case.payload is ONE_SMALL else (4 if quick else 15)
    block = 20 if case.payload is ONE_SMALL else 1
    for _ in range(1 if quick else 3):
        with ExitStack() as stack:
            runtimes = {peer.name: stack.enter_context(Runtime(peer, case.payload, event)) for peer in peers}
            for peer in peers:
                if case.floor and peer.streams:
                    runtimes[peer.name].check()
                runtimes[peer.name].invoke()
            for _ in range(0, count, block):
                for name, runtime in runtimes.items():
                    samples[name] += [runtime.invoke() / 1e6 for _ in range(block)]
    medians = {name: median(times) for name, times in samples.items()}
    if case.unit == "MB/s":
        return {name: case.payload.total / 1000 / value for name, value in medians.items()}
    return medians


if __name__ == "__main__":
    sys.exit(main())
