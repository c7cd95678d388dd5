"""`--limits`: Lambda's limits of a response's size and bandwidth, which are off by default."""

from __future__ import annotations

import asyncio
import http.client

import pytest
from tests.local.conftest import Serve

from local.limits import _BANDWIDTH, _BURST, TokenBucket
from local.responses import _STREAMED_LIMIT

MB = 1024 * 1024


def test_limits_match_aws() -> None:
    assert (_STREAMED_LIMIT, _BURST, _BANDWIDTH) == (200 * MB, 6 * MB, 2 * MB)


def test_bucket_burst_and_rate() -> None:
    now = 100.0
    bucket = TokenBucket(lambda: now)
    assert [bucket.take(MB) for _ in range(6)] == [0.0] * 6
    assert bucket.take(MB) == 0.5
    now += 0.5
    assert bucket.take(MB) == 0.5
    # Small pieces wait as long in total as large ones.
    now += 0.5
    waits = [bucket.take(MB // 8) for _ in range(16)]
    assert waits == [pytest.approx((number + 1) / 16) for number in range(16)]


def test_bucket_refills() -> None:
    now = 0.0
    bucket = TokenBucket(lambda: now)
    assert bucket.take(6 * MB) == 0.0
    now = 2.0
    assert bucket.take(4 * MB) == 0.0
    assert bucket.take(1) > 0.0
    now = 1000.0
    assert bucket.take(6 * MB) == 0.0
    assert bucket.take(2 * MB) == 1.0


SIZED = """
    def handler(event, context):
        for _ in range(int(event["rawPath"][1:])):
            yield bytes(1000)
    """


def test_response_size_limit_is_optional(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.responses._STREAMED_LIMIT", 10_500)
    assert len(serve(SIZED).get("/11")[1]) == 11_000
    limited = serve(SIZED, limits=True)
    assert len(limited.get("/10")[1]) == 10_000
    with pytest.raises(http.client.IncompleteRead) as raised:
        limited.get("/11")
    assert len(raised.value.partial) == 10_500
    assert limited.log == "A response may have at most 10500 bytes, got more\n"
    assert len(limited.get("/10")[1]) == 10_000


def test_bandwidth_limit_is_optional(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.limits._BURST", 1000)
    monkeypatch.setattr("local.limits._BANDWIDTH", 1)
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("asyncio.sleep", noted)
    assert len(serve(SIZED).get("/3")[1]) == 3000
    assert waits == []
    assert len(serve(SIZED, limits=True).get("/3")[1]) == 3000
    assert waits == [pytest.approx(1000, abs=60), pytest.approx(2000, abs=60)]
