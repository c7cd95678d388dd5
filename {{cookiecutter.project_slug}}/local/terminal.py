"""What `python -m local` prints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from http.client import responses
from typing import TextIO

from rich.console import Console

from .invocation import Invocation
from .journal import Journal, Observer, Record
from .messages import ResponseEnd, ResponseHead
from .template import Function
from .traces import Span


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

    def show_functions(self, rows: list[tuple[str, str, str, str]]) -> None:
        """Print a table: name, handler, how it answers, and where it is."""
        table = [("function", "handler", "response", "where"), *rows]
        widths = [max(len(row[column]) for row in table) for column in range(3)]
        for number, row in enumerate(table):
            cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
            self.say("  ".join([*cells, row[3]]), "dim" if not number else None)

    def show_placeholders(self, function: str, placeholders: dict[str, list[str]]) -> None:
        """Print which variables have a value that only AWS knows."""
        for variable, references in placeholders.items():
            remedy = f"Set {', '.join(references)} in local/overrides.env, or {variable} in the shell."
            self.warn(f"{variable} of {function} is a placeholder. {remedy}")

    def show_differences(self, function: Function, others: list[str]) -> None:
        """Print what the template leaves out that streaming on Lambda needs, and which functions are not served."""
        if not function.has_url and not function.routes:
            self.warn(f"The template defines no AWS::Lambda::Url for {function.name}. On Lambda it will have no URL.")
        if function.lacks_runtime:
            self.warn(
                f"{function.name} has no streaming runtime: a response is sent when it is complete, as on Lambda."
            )
        elif not function.streams:
            self.warn("InvokeMode is not RESPONSE_STREAM: a response is sent when it is complete, as on Lambda.")
        if others:
            self.warn(f"Not served: {', '.join(others)}. Choose another function with --function.")

    def of(self, function: str, width: int) -> FunctionTerminal:
        """Return a terminal that prints the name of a function, in this width, before each line."""
        return FunctionTerminal(self, function, f"{function.ljust(width)} | ")

    def show_head(self, head: ResponseHead) -> None:
        """Print status and headers of a response."""
        self.say(f"{head.status} {responses.get(head.status, '')}", "bold")
        for name, value in head.headers:
            self.say(f"{name}: {value}", "dim")

    def log(self, text: str, request_id: str) -> None:
        """Print what the function logs, unchanged."""
        self.record_log(text, request_id)
        self.print_log(text)

    def record_log(self, text: str, request_id: str) -> None:
        """Record what was logged, without printing it."""
        super().log(text, request_id)

    def print_log(self, text: str) -> None:
        """Print a part of the log as it is."""
        self._console.out(text, end="", highlight=False)

    def refused(self, request: str, status: int, reason: str) -> None:
        """Print a line for a request that was answered without the function."""
        self.warn(f"{request}  {status}  {reason}")

    def ended(self, invocation: Invocation, end: ResponseEnd, prefix: str = "") -> None:
        """Print a line for an invocation that ended."""
        super().ended(invocation, end)
        if (record := self.records.get(invocation.request_id)) is not None:
            status = record.head.status if record.head is not None else 502
            bad = end.error_type or status >= 500
            self.say(f"{prefix}{record.label}  {status}  {'  '.join(_figures(record))}", "red" if bad else "green")


class FunctionTerminal(Observer):
    """Prints the lines of one function with its name, so that one log tells several functions apart."""

    def __init__(self, terminal: Terminal, function: str, prefix: str) -> None:
        """Print to `terminal`, with `prefix` before each line."""
        self._terminal = terminal
        self._function = function
        self._prefix = prefix
        self._partial: dict[str, str] = {}  # lines without an end, by the request ID of their invocation

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self._terminal.say(self._prefix + text, style)

    def warn(self, text: str) -> None:
        """Print a line that asks for attention."""
        self.say(text, "yellow")

    def show_differences(self, function: Function, others: list[str]) -> None:
        """Print what the template leaves out; the table has the functions that are not served."""
        self._terminal.show_differences(function, [])

    def invoked(self, invocation: Invocation) -> None:
        """Start a record of the function."""
        self._terminal.invoked(invocation, self._function)

    def head_received(self, invocation: Invocation, head: ResponseHead) -> None:
        """Record the head."""
        self._terminal.head_received(invocation, head)

    def chunk_received(self, invocation: Invocation, data: bytes) -> None:
        """Record the chunk."""
        self._terminal.chunk_received(invocation, data)

    def log(self, text: str, request_id: str) -> None:
        """Print whole lines; a piece of one waits for the rest, because other invocations log too."""
        self._terminal.record_log(text, request_id)
        *lines, rest = (self._partial.pop(request_id, "") + text).split("\n")
        for line in lines:
            self._terminal.print_log(f"{self._prefix}{line}\n")
        if rest:
            self._partial[request_id] = rest

    def traced(self, spans: Sequence[Span], request_id: str) -> None:
        """Record the spans, which the log has too."""
        self._terminal.traced(spans, request_id)

    def refused(self, request: str, status: int, reason: str) -> None:
        """Print a line for a request that was answered without the function."""
        self._terminal.refused(self._prefix + request, status, reason)

    def ended(self, invocation: Invocation, end: ResponseEnd) -> None:
        """Print what is left of its log, then a line for an invocation that ended."""
        if rest := self._partial.pop(invocation.request_id, ""):
            self._terminal.print_log(f"{self._prefix}{rest}\n")
        self._terminal.ended(invocation, end, self._prefix)


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
