"""`--limits`: how much a response may hold and how fast it may go, which is Lambda's only where it is asked for."""

from __future__ import annotations

import asyncio
import http.client

import pytest
from tests.local.conftest import Serve

from local import _BANDWIDTH, _BURST, _Bucket
from local.payload import _RESPONSE_LIMIT

MB = 1024 * 1024


def test_the_limits_are_those_that_aws_documents() -> None:
    assert (_RESPONSE_LIMIT, _BURST, _BANDWIDTH) == (200 * MB, 6 * MB, 2 * MB)


def test_six_megabytes_go_at_once_and_the_rest_at_two_a_second() -> None:
    now = 100.0
    bucket = _Bucket(lambda: now)
    assert [bucket.take(MB) for _ in range(6)] == [0.0] * 6
    assert bucket.take(MB) == 0.5
    now += 0.5
    assert bucket.take(MB) == 0.5
    # A whole second has to be made up for, however small the pieces.
    now += 0.5
    waits = [bucket.take(MB // 8) for _ in range(16)]
    assert waits == [pytest.approx((number + 1) / 16) for number in range(16)]


def test_the_bucket_fills_again_while_nothing_is_sent_up_to_six_megabytes() -> None:
    now = 0.0
    bucket = _Bucket(lambda: now)
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


def test_a_response_beyond_the_limit_breaks_off_only_where_limits_hold(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.payload._RESPONSE_LIMIT", 10_500)
    assert len(serve(SIZED).get("/11")[1]) == 11_000
    limited = serve(SIZED, limits=True)
    assert len(limited.get("/10")[1]) == 10_000
    with pytest.raises(http.client.IncompleteRead) as raised:
        limited.get("/11")
    assert len(raised.value.partial) == 10_500
    assert limited.log == "The response takes more than 10500 bytes\n"
    assert len(limited.get("/10")[1]) == 10_000


def test_a_response_waits_for_the_bandwidth_only_where_limits_hold(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local._BURST", 1000)
    monkeypatch.setattr("local._BANDWIDTH", 1)
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
