"""`python -m local.load`: many concurrent streams from a URL: how fast they are, what fails, and what they cost on AWS.

Requests to AWS are signed as those of the probe. The memory that this needs does not grow with the number of streams.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import RequestError
from .events import EventError, read_event, request_from_event
from .probe import ProbeError, header, probe
from .template import Template, TemplateError

PRICES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("aws_prices.toml").read_text(encoding="utf-8"))
MAX_CONCURRENCY = 1000
MAX_DURATION = 3600  # seconds
_MEMORIES = (128, 256, 512, 1024, 2048, 4096)  # MB, for which the cost is shown
_MONTH = 30 * 24 * 60 * 60  # seconds
_PRECISION = 1.01  # ratio of the bounds of a bucket
_RANKS = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
# A first byte that comes so much later than usual counts as one of a cold start.
_COLD_FACTOR = 2
_COLD_SECONDS = 0.1


class Distribution:
    """Counts values in buckets, each 1 % wider than the one before, so that its size is bounded."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Count a value."""
        self.buckets[math.ceil(math.log(max(seconds, 1e-6), _PRECISION))] += 1
        self.largest = max(self.largest, seconds)

    def merge(self, other: Distribution) -> None:
        """Count the values of `other` too."""
        self.buckets += other.buckets
        self.largest = max(self.largest, other.largest)

    def percentile(self, rank: float) -> float:
        """Return the value at a rank in percent (nearest rank), at most 1 % too high."""
        left = math.ceil(self.buckets.total() * rank / 100)
        for bucket, count in sorted(self.buckets.items()):
            left -= count
            if left <= 0:
                return min(_PRECISION**bucket, self.largest)
        return 0.0

    def above(self, seconds: float) -> int:
        """Return how many values are above this one."""
        return sum(count for bucket, count in self.buckets.items() if _PRECISION**bucket > seconds * _PRECISION)

    def percentiles(self) -> dict[str, float] | None:
        """Return the percentiles of a report; None without a value."""
        return {name: self.percentile(rank) for name, rank in _RANKS.items()} if self.buckets else None


@dataclass
class Report:
    """What many streams had in common. Times are in seconds.

    Attributes:
        concurrency: How many streams ran concurrently.
        elapsed: From the first request to the end of the last stream.
        streams: Streams that were complete.
        size: Bytes of their bodies.
        billed: Sum of their durations, each rounded up to a millisecond.
        billed_bytes: Bytes beyond those that are free in each response.
        chunks: Reads from the connections.
        first_bytes: Time from the request to the first byte.
        gaps: Time between two chunks of a stream.
        errors: How many requests failed, by kind.
        ended: How many streams ended in each second.
    """

    concurrency: int
    elapsed: float = 0.0
    streams: int = 0
    size: int = 0
    billed: float = 0.0
    billed_bytes: int = 0
    chunks: int = 0
    first_bytes: Distribution = field(default_factory=Distribution)
    gaps: Distribution = field(default_factory=Distribution)
    errors: Counter[str] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)

    @property
    def cold_starts(self) -> int:
        """Streams whose first byte came so late that they probably waited for a new execution environment."""
        usual = self.first_bytes.percentile(50)
        return self.first_bytes.above(max(_COLD_FACTOR * usual, usual + _COLD_SECONDS))

    def cost(self, memory: int, architecture: str) -> float:
        """Return what the streams cost in US dollars, for a function with so many MB of memory."""
        requests = self.streams * PRICES["requests"]["price"] / 1e6
        duration = self.billed * memory / 1024 * PRICES["duration"][architecture]
        return float(requests + duration + self.billed_bytes / 2**30 * PRICES["response"]["price"])

    def to_json(self, memory: int, architecture: str) -> dict[str, Any]:
        """Return a JSON object."""
        cost = self.cost(memory, architecture)
        return {
            "concurrency": self.concurrency,
            "elapsed": self.elapsed,
            "streams": self.streams,
            "bytes": self.size,
            "chunks": self.chunks,
            "throughput": self.size / self.elapsed if self.elapsed else 0.0,
            "first_byte": self.first_bytes.percentiles(),
            "gaps": self.gaps.percentiles(),
            "mean_duration": self.billed / self.streams if self.streams else None,
            "cold_starts": self.cold_starts,
            "errors": dict(self.errors.most_common()),
            "cost": {
                "memory": memory,
                "architecture": architecture,
                "million_streams": cost / self.streams * 1e6 if self.streams else None,
                "month": cost / self.elapsed * _MONTH if self.elapsed else None,
                "month_by_memory": {
                    str(of): self.cost(of, architecture) / self.elapsed * _MONTH if self.elapsed else None
                    for of in sorted({memory, *_MEMORIES})
                },
                "prices": {name: PRICES[name] for name in ("date", "region", "source")},
            },
        }


class Load:
    """Requests streams with some threads until the time is over, and lets those that have begun end.

    Attributes:
        report: What was measured.
    """

    def __init__(self, url: str, concurrency: int, duration: float, **request: Any) -> None:
        """Prepare the requests.

        Args:
            url: Where to send them.
            concurrency: How many streams run concurrently.
            duration: For how many seconds new ones begin.
            request: More arguments of `probe`.
        """
        self.report = Report(concurrency)
        self._url = url
        self._duration = duration
        self._request = request
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._start = 0.0

    def run(self) -> Report:
        """Send the requests, and return what was measured."""
        self._start = time.perf_counter()
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.report.concurrency)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._stopped.set()
        self.report.elapsed = time.perf_counter() - self._start
        return self.report

    def _work(self) -> None:
        while not self._stopped.is_set() and time.perf_counter() - self._start < self._duration:
            error = self._stream()
            if error:
                with self._lock:
                    self.report.errors[error] += 1
                self._stopped.wait(0.1)  # what refuses all requests is not asked thousands of times a second

    def _stream(self) -> str:
        """Read one stream, and return the kind of its error, if it has one."""
        first, gaps, size, last, count = 0.0, Distribution(), 0, 0.0, 0

        def observe(at: float, received: int) -> None:
            nonlocal first, size, last, count
            if count:
                gaps.add(at - last)
            else:
                first = at
            size, last, count = size + received, at, count + 1

        try:
            result = probe(self._url, observe=observe, **self._request)
        except ProbeError as error:
            if isinstance(error.__cause__, RequestError | None):  # the request itself is not possible
                self._stopped.set()
                return str(error)
            return type(error.__cause__).__name__
        if result.status >= 400:
            return f"status {result.status}"
        if result.error:
            return result.error
        report = self.report
        with self._lock:
            report.streams += 1
            report.size += size
            report.chunks += count
            report.billed += math.ceil(result.total * 1000) / 1000
            report.billed_bytes += max(0, size - PRICES["response"]["free_bytes"])
            report.ended[int(time.perf_counter() - self._start)] += 1
            report.gaps.merge(gaps)
            if count:
                report.first_bytes.add(first)
        return ""


def lines(of: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report for a person."""
    cost = of["cost"]
    yield (
        f"{of['streams']} streams, {of['concurrency']} concurrently, in {of['elapsed']:.1f} s: "
        f"{of['bytes']} bytes in {of['chunks']} chunks, {of['throughput']:.0f} bytes/s"
    )
    for title, name in (("first byte", "first_byte"), ("gaps", "gaps")):
        if of[name]:
            yield f"{title}: " + ", ".join(f"{rank} {seconds:.3f} s" for rank, seconds in of[name].items())
    yield f"cold starts: {of['cold_starts']} (estimated: first bytes that came much later than usual)"
    yield "errors: " + (", ".join(f"{count} times {kind}" for kind, count in of["errors"].items()) or "none")
    if of["streams"]:
        prices = cost["prices"]
        yield (
            f"cost with {cost['memory']} MB on {cost['architecture']}: {cost['million_streams']:.2f} USD for a million "
            f"such streams, {cost['month']:.2f} USD for a month of this load"
        )
        by_memory = ", ".join(f"{memory} MB {month:.2f}" for memory, month in cost["month_by_memory"].items())
        yield f"a month by memory, in USD: {by_memory}"
        yield f"at the prices of {prices['region']} as noted on {prices['date']}, without the free tier"
        yield f"compare them with {prices['source']}"


def page(url: str, report: Report, of: dict[str, Any]) -> str:
    """Return the report as a page with plots."""
    text = "".join(f"<p>{html.escape(line)}</p>\n" for line in lines(of))
    ended = [report.ended[second] for second in range(max(report.ended, default=0) + 1)]
    plots = (
        _plot("Streams that ended, by second", [(f"{second} s", count) for second, count in enumerate(ended)])
        + _plot("Time to first byte, logarithmic", _bars(report.first_bytes))
        + _plot("Gaps between chunks, logarithmic", _bars(report.gaps))
    )
    style = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}rect{fill:#2459c8}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Load test</title><style>{style}</style>'
        f"</head>\n<body><h1>Load test of {html.escape(url)}</h1>\n{text}{plots}</body></html>\n"
    )


def _bars(distribution: Distribution, most: int = 60) -> list[tuple[str, int]]:
    """Return a distribution as at most so many bars of equal width on a logarithmic axis."""
    if not distribution.buckets:
        return []
    least, width = min(distribution.buckets), max(distribution.buckets) - min(distribution.buckets) + 1
    step = math.ceil(width / most)
    sums: Counter[int] = Counter()
    for bucket, count in distribution.buckets.items():
        sums[(bucket - least) // step] += count
    return [(f"{_PRECISION ** (least + index * step):.4g} s", sums[index]) for index in range(math.ceil(width / step))]


def _plot(title: str, bars: list[tuple[str, int]]) -> str:
    width, highest = 900 / max(1, len(bars)), max((count for _, count in bars), default=0) or 1
    drawn = "".join(
        f'<rect x="{index * width:.1f}" y="{160 - 150 * count / highest:.1f}" width="{max(1.0, width - 1):.1f}" '
        f'height="{150 * count / highest:.1f}"><title>{label}: {count}</title></rect>'
        for index, (label, count) in enumerate(bars)
    )
    ends = f'<text x="0" y="178">{bars[0][0]}</text><text x="900" y="178" text-anchor="end">{bars[-1][0]}</text>'
    shown = f"{drawn}{ends}" if bars else '<text x="0" y="100">no values</text>'
    return f'<h2>{title} (highest bar: {highest})</h2>\n<svg viewBox="0 0 900 182" role="img">{shown}</svg>\n'


def _function(options: argparse.Namespace) -> tuple[int, str]:
    """Return memory and architecture: those of the options, or else of the template's function."""
    memory, architecture = options.memory, options.architecture
    if memory is None or architecture is None:
        template = Template(options.template)
        settings = template.build_settings(options.function)
        memory = template.function(options.function).memory if memory is None else memory
        architecture = architecture or settings.architecture
    return memory, architecture


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 if every stream was complete and successful, else 1."""
    parser = argparse.ArgumentParser(prog="python -m local.load", description=__doc__)
    parser.add_argument("url", help="URL to request streams from")
    parser.add_argument("--concurrency", type=_number(MAX_CONCURRENCY), default=50, help="concurrent streams (50)")
    parser.add_argument(
        "--duration", type=_number(MAX_DURATION), default=30, help="seconds in which streams begin (30)"
    )
    parser.add_argument("--event", metavar="FILE", help="send the request of this event to its path below URL")
    parser.add_argument("--header", type=header, action="append", default=[], help="'Name: value'; repeatable")
    parser.add_argument("--timeout", type=float, default=900, help="seconds without a byte to wait (default: 900)")
    parser.add_argument("--no-sign", action="store_false", dest="sign", help="do not sign the requests")
    parser.add_argument("--json", action="store_true", help="print one JSON object; times are in seconds")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the report as a page with plots")
    parser.add_argument("--template", type=Path, default=Path("template.yaml"), help="where memory is read from")
    parser.add_argument("--function", default="StreamFunction", help="logical ID of the function")
    parser.add_argument("--memory", type=_number(32768), help="memory in MB (default: the template's)")
    parser.add_argument("--architecture", choices=("arm64", "x86_64"), help="default: the template's")
    options = parser.parse_args(arguments)
    try:
        memory, architecture = _function(options)
        url, request = options.url, {"timeout": options.timeout, "sign": options.sign, "headers": options.header}
        if options.event is not None:
            method, path, headers, body = request_from_event(read_event(options.event))
            url = url.rstrip("/") + path
            request |= {"method": method, "headers": [*headers.items(), *options.header], "data": body}
    except (EventError, TemplateError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    report = Load(url, options.concurrency, options.duration, **request).run()
    of = report.to_json(memory, architecture)
    print(json.dumps(of) if options.json else "\n".join(lines(of)))
    if options.html is not None:
        options.html.write_text(page(url, report, of), encoding="utf-8")
    return 1 if report.errors or not report.streams else 0


def _number(most: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, got {text!r}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
