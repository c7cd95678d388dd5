"""`make bench`: measures the runtime and its peers, and compares the figures with the targets.

Run it with the interpreter that has the peers installed. All of them are measured in this interpreter.
`python -m benchmarks --against FOLDER` compares two versions of our runtime instead, in one alternating run: FOLDER
holds the `bootstrap` and `streaming_runtime` of the other, such as a checkout of an earlier commit.
Exit status: 1 if a target is missed, 2 if a runtime failed.
"""

import argparse
import json
import platform
import signal
import sys
from pathlib import Path
from types import FrameType

from .figures import Figure, figures, verdicts
from .measure import QUICK, Rounds, measure
from .peers import OURS, peers, versions
from .server import RuntimeFailed

_ROOT = Path(__file__).parent.parent
_PROJECT = _ROOT / "{{cookiecutter.project_slug}}"
_BUILD = _ROOT / "build" / "bench-src"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the runtime and its peers.")
    parser.add_argument("--quick", action="store_true", help="take fewer samples, for a first impression")
    parser.add_argument("--against", metavar="FOLDER", type=Path, help="compare with the runtime in FOLDER instead")
    parser.add_argument("--chart", metavar="FILE", type=Path, help="draw the figures as SVG")
    options = parser.parse_args()
    if options.against and options.chart:
        parser.error("--chart draws the figures of all runtimes: leave out --against")
    signal.signal(signal.SIGTERM, _terminate)

    runtime = _PROJECT / "runtime"
    measured_peers = versions(runtime, options.against, _BUILD) if options.against else peers(runtime, _BUILD)
    event = json.dumps(json.loads((_PROJECT / "events" / "get.json").read_bytes())).encode()
    try:
        found = figures(measure(measured_peers, event, QUICK if options.quick else Rounds()))
    except RuntimeFailed as failure:
        print(failure, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    titles = {peer.name: peer.title for peer in measured_peers}
    for line in table(found, titles):
        print(line)
    if options.chart:
        from .chart import draw

        draw(found, titles, options.chart)
    return 0 if all(verdict.met for figure in found for verdict in verdicts(figure)) else 1


def table(found: list[Figure], titles: dict[str, str]) -> list[str]:
    """Return the figures as lines of text: our median, the ratio to each peer's, and its target."""
    row = "{:34} {:>10}  {:20} {:>10} {:>7}  {:8} {}".format
    lines = [f"CPython {platform.python_version()}; medians, and the ratio of ours to the peer's"]
    lines.append(row("", "ours", "peer", "peer's", "ratio", "target", "").rstrip())
    for figure in found:
        name, ours = f"{figure.name} ({figure.unit})", f"{figure.values[OURS]:,.1f}"
        for verdict in verdicts(figure):
            theirs = f"{figure.values[verdict.peer]:,.1f}" if verdict.peer else ""
            ratio = f"{verdict.ratio:.2f}" if verdict.peer else ""
            target = f"{'>=' if verdict.more_is_better else '<='} {verdict.target:.2f}"
            met = "met" if verdict.met else "MISSED"
            lines.append(row(name, ours, titles.get(verdict.peer, ""), theirs, ratio, target, met))
            name = ours = ""
    return lines


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
