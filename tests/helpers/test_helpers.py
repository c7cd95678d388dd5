"""The tests' own helpers where a mistake in them would hide one in the product."""

from __future__ import annotations

import subprocess
import sys

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
