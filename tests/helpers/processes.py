"""How the tests start processes: as a user's shell would, whatever started the tests themselves."""

from __future__ import annotations

import signal
from types import FrameType

#: What a script's background job (SIGINT, SIGQUIT) or nohup (SIGHUP) is started with ignored.
IGNORABLE = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM)


def restore_signals() -> None:
    """Give processes that are started from now on the default action of each signal.

    A process inherits which signals are ignored, but not how they are handled: a handler here becomes the default
    action there. So each ignored signal gets a handler. That of SIGINT is Python's own; the others do nothing, so
    that a run under nohup survives its terminal as before.
    """
    for number in IGNORABLE:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _pass_over)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Do nothing, as before."""
