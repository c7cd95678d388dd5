"""The local URL, the probe and the inspector's data with the longest timeout, on a clock that the test moves."""

import asyncio
import http.client
import inspect
import time

import pytest
from tests.local.conftest import Serve
from tests.local.test_journal import Clock

from local import journal
from local.aws_limits import AWS_LIMITS
from local.invocation import Invocation
from local.probe import main, probe

MOST = AWS_LIMITS["timeout"]["most"]
SLOW = """
    def handler(event, context):
        yield str(context.get_remaining_time_in_millis()).encode()
        if event["rawPath"] == "/slow":
            wait()
            yield b" more"
"""


class Skip:
    """Seconds by which the clock of event loops is ahead."""

    seconds = 0.0


@pytest.fixture
def skip(monkeypatch: pytest.MonkeyPatch) -> Skip:
    skip = Skip()
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda self: time.monotonic() + skip.seconds)
    return skip


def test_function_runs_for_half_an_hour(serve: Serve, skip: Skip) -> None:
    served = serve(SLOW, timeout=MOST)
    response = served.start("/slow")
    left = int(response.read1(100))
    assert MOST * 1000 - 60_000 < left <= MOST * 1000
    skip.seconds = MOST - 60
    assert served.get("/quick")[0] == 200  # wakes the event loop, whose timers are not due yet
    served.gate.write(b"x")
    assert response.read() == b" more"


def test_function_is_ended_after_half_an_hour(serve: Serve, skip: Skip) -> None:
    served = serve(SLOW, timeout=MOST)
    response = served.start("/slow")
    response.read1(100)
    skip.seconds = MOST
    served.socket().close()  # wakes the event loop
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    assert f"Task timed out after {MOST}.00 seconds" in served.log


def test_probe_waits_for_half_an_hour(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.signature(probe).parameters["timeout"].default == MOST
    assert main([serve(SLOW, timeout=MOST).url]) == 0
    assert "in 1 chunks" in capsys.readouterr().out


def test_inspector_shows_half_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "time", clock := Clock())
    record = journal.Record(Invocation(None))
    for _ in range(MOST):
        clock.now += 1
        entry, _ = record.add_chunk(b"x")
    assert (entry[0], record.chunks) == (MOST, MOST)
