"""The tests' own helpers where a mistake in them would hide one in the product."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.helpers.chunks import chunked, complete_chunks, split_chunks
from tests.helpers.gates import Drain, Fifo, Gate
from tests.helpers.protocol import check_protocol
from tests.helpers.scripted_api import ERROR, RESPONSE, Request
from tests.helpers.support import ROOT

PROGRAM = """
import signal, subprocess, sys
from tests.helpers.processes import IGNORABLE, restore_signals
assert all(signal.getsignal(number) is signal.SIG_IGN for number in IGNORABLE)
restore_signals()
shown = "import signal; print(*(signal.getsignal(number) is signal.SIG_IGN for number in (1, 2, 3, 15)))"
subprocess.run([sys.executable, "-c", shown], check=True, timeout=60)
"""


def test_children_start_with_default_signals() -> None:
    """A script's background job ignores SIGINT, and its children would inherit that."""
    shell = ("sh", "-c", 'trap "" HUP INT QUIT TERM; exec "$0" -c "$1"', sys.executable, PROGRAM)
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False False False False\n"


VIOLATIONS = {
    "an error after a response": [(RESPONSE, b"1\r\nx\r\n0\r\n\r\n"), (ERROR, b"{}")],
    "trailers in a body": [(RESPONSE, b"22\r\nLambda-Runtime-Function-Error-Type\r\n0\r\n\r\n")],
    "another trailer": [(RESPONSE, b"0\r\nX: y\r\n\r\n")],
    "something after the end": [(RESPONSE, b"0\r\n\r\n0\r\n\r\n")],
    "a chunk in another form": [(RESPONSE, b"01\r\nx\r\n0\r\n\r\n")],
}


@pytest.mark.parametrize("sent", VIOLATIONS.values(), ids=list(VIOLATIONS))
def test_violations_are_found(sent: list[tuple[str, bytes]]) -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with pytest.raises(AssertionError):
        check_protocol([Request(0, head + body, "POST", target) for target, body in sent])


def test_split_chunks() -> None:
    assert split_chunks(b"1\r\nx\r\n0\r\n\r\n") == ([b"x"], b"\r\n")
    assert split_chunks(b"2\r\nx") == ([b"x"], None)
    assert split_chunks(b"1") == ([], None)
    assert split_chunks(b"0\r\nA: b\r\n\r\n") == ([], b"A: b\r\n\r\n")
    assert complete_chunks(chunked(b"x" * 16, b"y")) == [b"x" * 16, b"y"]
    for body in (b"1\r\nx\r\n", b"0\r\nA: b\r\n\r\n"):
        with pytest.raises(AssertionError):
            complete_chunks(body)


def test_gate_without_a_function_times_out(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gate"):
        Gate(tmp_path / "gate", limit=0.01).release()


def test_fifo_without_a_writer_times_out(tmp_path: Path) -> None:
    with closing(Fifo(tmp_path / "fifo", limit=0.01)) as fifo:
        fifo.write(b"x")
        with pytest.raises(AssertionError, match="only b'x' came through fifo"):
            fifo.read(2)


def test_drain_returns_what_was_written(tmp_path: Path) -> None:
    drain = Drain(tmp_path / "drain")
    (tmp_path / "drain").write_bytes(b"x" * 1_000_000)
    assert drain.finish() == b"x" * 1_000_000
