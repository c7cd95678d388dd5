"""What `python -m local` prints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http.client import responses
from typing import TextIO

from rich.console import Console

from .invocation import Invocation
from .journal import Journal, Record
from .messages import ResponseEnd, ResponseHead
from .template import Function


class _PipeConsole(Console):
    """A console that goes on when the reader of its output has exited."""

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


class Terminal(Journal):
    """Prints the log and a line for each invocation, in colour if the file is a terminal."""

    def __init__(self, file: TextIO) -> None:
        """Print to `file`."""
        super().__init__()
        self._console = _PipeConsole(file=file, highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self._console.print(text, style=style)

    def warn(self, text: str) -> None:
        """Print a line that asks for attention."""
        self.say(text, "yellow")

    def show_differences(self, function: Function, others: list[str]) -> None:
        """Print what the template leaves out that streaming on Lambda needs, and which functions are not served."""
        if not function.has_url:
            self.warn(f"The template defines no AWS::Lambda::Url for {function.name}. On Lambda it will have no URL.")
        if not function.streams:
            self.warn("InvokeMode is not RESPONSE_STREAM: a response is sent when it is complete, as on Lambda.")
        if others:
            self.warn(f"Not served: {', '.join(others)}. Choose another function with --function.")

    def show_head(self, head: ResponseHead) -> None:
        """Print status and headers of a response."""
        self.say(f"{head.status} {responses.get(head.status, '')}", "bold")
        for name, value in head.headers:
            self.say(f"{name}: {value}", "dim")

    def log(self, text: str, request_id: str) -> None:
        """Print what the function logs, unchanged."""
        super().log(text, request_id)
        self._console.out(text, end="", highlight=False)

    def refused(self, request: str, status: int, reason: str) -> None:
        """Print a line for a request that was answered without the function."""
        self.warn(f"{request}  {status}  {reason}")

    def ended(self, invocation: Invocation, end: ResponseEnd) -> None:
        """Print a line for an invocation that ended."""
        super().ended(invocation, end)
        if (record := self.records.get(invocation.request_id)) is not None:
            status = record.head.status if record.head is not None else 502
            bad = end.error_type or status >= 500
            self.say(f"{record.label}  {status}  {'  '.join(_figures(record))}", "red" if bad else "green")


def _figures(record: Record) -> Iterator[str]:
    """Yield the figures of an invocation that ended."""
    yield f"first byte {record.entries[0][0] * 1000:.0f} ms" if record.entries else "no body"
    yield f"{record.chunks} {'chunk' if record.chunks == 1 else 'chunks'}"
    yield f"{record.size} {'byte' if record.size == 1 else 'bytes'}"
    yield f"{record.ended_at:.2f} s"
    if record.end is not None and record.end.error_type:
        yield record.end.error_type
    if record.client_disconnected:
        yield "client disconnected"
