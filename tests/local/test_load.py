"""Many concurrent streams: the report agrees with the server, and its costs with AWS's price list."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.support import TEMPLATE, free_ports
from tests.local.conftest import Serve, function, write_handler

from local.function_url import running
from local.journal import Journal
from local.load import PRICES, Distribution, Load, Report, main

STREAM = """
    def handler(event, context):
        if event["rawPath"] == "/fail" and "x-token" not in event["headers"]:
            raise ValueError("no")
        if event["rawPath"] == "/cut":
            return cut()
        return (b"%8d" % number * 100 for number in range(20))

    def cut():
        yield b"one"
        raise ValueError("midway")
    """


def load(url: str, *arguments: str) -> tuple[int, dict[str, object]]:
    """Run the command; return its status and its report."""
    command = [sys.executable, "-m", "local.load", "--duration", "1", "--json", "--memory", "512", *arguments, url]
    environment = {**os.environ, "PYTHONPATH": str(TEMPLATE)}
    done = subprocess.run([*command, "--architecture", "arm64"], env=environment, capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_report_equals_the_servers_count(tmp_path: Path) -> None:
    write_handler(tmp_path / "code", STREAM)
    journal = _Counter()
    served = function(environment={"PYTHONPATH": str(tmp_path / "code"), "GATE": "", "TOLD": ""})
    with running(served, 20, journal) as url:
        status, report = load(url, "--concurrency", "20", "--html", str(tmp_path / "load.html"))
    assert (status, report["errors"]) == (0, {})
    assert (report["streams"], report["bytes"]) == (journal.streams, journal.size)
    assert report["bytes"] == 16_000 * journal.streams
    assert journal.streams > 20
    page = (tmp_path / "load.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert page.count("<rect") > 3
    assert f"{journal.streams} streams, 20 concurrently" in page


class _Counter(Journal):
    """Counts the invocations that ended well."""

    streams = size = 0

    def ended(self, invocation, end) -> None:  # type: ignore[no-untyped-def]
        record = self.records[invocation.request_id]
        super().ended(invocation, end)
        self.streams, self.size = self.streams + 1, self.size + record.size


@pytest.mark.slow
def test_errors_by_kind(serve: Serve) -> None:
    served = serve(STREAM, limit=1)
    for path, kind in (("fail", "status 502"), ("cut", "the response is incomplete: IncompleteRead")):
        status, report = load(f"{served.url}{path}", "--concurrency", "1")
        assert (status, report["streams"]) == (1, 0)
        assert list(report["errors"]) == [kind]  # type: ignore[call-overload]
    status, report = load(f"{served.url}fail", "--concurrency", "1", "--header", "X-Token: one")
    assert (status, report["errors"]) == (0, {})
    status, report = load(served.url, "--concurrency", "4")
    assert status == 1
    assert list(report["errors"]) == ["status 429"]  # type: ignore[call-overload]
    status, report = load(f"http://127.0.0.1:{free_ports(1)[0]}/", "--concurrency", "2")
    assert list(report["errors"]) == ["ConnectionRefusedError"]  # type: ignore[call-overload]


def test_percentiles_within_one_percent() -> None:
    values = [number / 1000 for number in range(1, 1001)]
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    for rank in (1, 50, 90, 99, 100):
        exact = values[rank * 10 - 1]
        assert exact <= distribution.percentile(rank) <= exact * 1.01
    assert len(distribution.buckets) < 700
    assert distribution.above(0.9) == pytest.approx(100, abs=10)
    assert Distribution().percentiles() is None


def test_cold_starts_are_estimated() -> None:
    report = Report(1)
    for seconds in [0.05] * 50 + [0.09] * 5 + [0.4] * 3:
        report.first_bytes.add(seconds)
    assert report.cold_starts == 3


def test_cost_of_a_million_streams() -> None:
    """AWS's way to calculate: requests, GB-seconds, and each GB beyond the free 6 MB of a response."""
    report = Report(1, elapsed=10.0, streams=1_000_000, billed=3_000_000.0, billed_bytes=2**30 * 50)
    expected = 0.20 + 3_000_000 * 0.5 * 0.0000133334 + 50 * 0.008
    assert report.cost(512, "arm64") == pytest.approx(expected)
    assert report.cost(512, "x86_64") > report.cost(512, "arm64")
    assert report.cost(1024, "arm64") == pytest.approx(0.6 + 2 * (expected - 0.6))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", PRICES["date"])
    assert PRICES["source"] == "https://aws.amazon.com/lambda/pricing/"


def test_impossible_request_ends_the_run() -> None:
    report = Load("ftp://host/", 3, 60).run()
    assert list(report.errors) == ["the URL must begin with http:// or https:// and a host, got 'ftp://host/'"]


@pytest.mark.parametrize(("option", "text"), [("--concurrency", "1001"), ("--duration", "0"), ("--duration", "3601")])
def test_load_is_bounded(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["http://127.0.0.1/", option, text])
    assert f"must be a whole number from 1 to {1000 if option == '--concurrency' else 3600}" in capsys.readouterr().err


def test_memory_of_the_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1/", "--template", str(tmp_path / "missing.yaml")]) == 1
    assert "missing.yaml does not exist" in capsys.readouterr().err
