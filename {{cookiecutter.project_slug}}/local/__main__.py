"""`python -m local`: serves the function of `template.yaml` at a URL on localhost until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import signal
import sys
from collections.abc import Callable, Iterator
from http.client import responses
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from watchfiles import Change, awatch

from . import serving
from .function import Function, TemplateError, load_function
from .http import CannotListen
from .inspector import inspecting
from .invocation import Chunk, End, EventError, Invocation, read_event
from .journal import Journal, Record
from .payload import Head, Response
from .sandbox import Sandboxes


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 when it has served until a signal came, 1 when it could not.

    With `--event` 0 if the invocation went well, 1 if it failed, 130 if a signal ended it.
    """
    options = _parser().parse_args(arguments)
    try:
        function = load_function(options.template, options.function)
        event = None if options.event is None else read_event(options.event)
    except (TemplateError, EventError) as error:
        print(f"local: {error}", file=sys.stderr)
        return 1
    options.template = options.template.resolve()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a function logs is shown in any locale
            stream.reconfigure(errors="backslashreplace")
    return asyncio.run(_serve(function, options) if options.event is None else _invoke(function, event))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="port of the URL (default: 3000; 0 takes any free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--inspector-port", type=int, help="port of the inspector, on loopback (default: the one after PORT, if free)"
    )
    parser.add_argument("--no-inspector", action="store_true", help="serve no inspector")
    parser.add_argument("--template", type=Path, default=Path("template.yaml"), help="default: template.yaml")
    parser.add_argument("--function", default="StreamFunction", help="logical id (default: StreamFunction)")
    parser.add_argument(
        "--concurrency",
        type=_count,
        help="invocations that may run at once; more are refused "
        "(default: ReservedConcurrentExecutions of the template, else 100)",
    )
    parser.add_argument(
        "--limits", action="store_true", help="hold a response to Lambda's 200 MB, and to 2 MB/s after the first 6 MB"
    )
    parser.add_argument("--event", metavar="FILE", help="invoke once with this event (- reads it from standard input)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a number from 0 on: {text!r}")
    return int(text)


def _on_signals(call: Callable[[], object]) -> None:
    """Calls this instead of ending at once, however often a signal comes: the processes are ended first."""
    for signal_number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, call)


async def _invoke(function: Function, event: Any) -> int:
    """Invokes the function once; the body goes to standard output as it comes, and the rest to standard error."""
    terminal = _Terminal(sys.stderr)
    sandboxes = Sandboxes(function, terminal, 1)
    printing = asyncio.create_task(_print(await sandboxes.invoke(Invocation(event)), terminal))
    _on_signals(printing.cancel)
    try:
        return await printing
    except asyncio.CancelledError:
        return 128 + signal.SIGINT
    except OSError as error:  # as when `head` has seen enough
        sys.stdout = None
        if not isinstance(error, BrokenPipeError):
            print(f"local: cannot write the response: {error}", file=sys.stderr)
        return 1
    finally:
        await sandboxes.stop()


async def _print(messages: Response, terminal: _Terminal) -> int:
    status = 1
    async for message in messages:
        match message:
            case Head():
                terminal.show_head(message)
            case Chunk(data):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            case End(error_type):
                status = 1 if error_type else 0
    return status


async def _serve(function: Function, options: argparse.Namespace) -> int:
    terminal = _Terminal(sys.stdout)
    sandboxes = Sandboxes(function, terminal, options.concurrency, options.limits)
    stop = asyncio.Event()
    _on_signals(stop.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(serving(sandboxes, options.host, options.port))
        except CannotListen as error:
            print(f"local: {error}; give another PORT", file=sys.stderr)
            return 1
        terminal.say(f"{function.name} ({function.handler}) streams at {url}")
        terminal.notes(function)
        if not options.no_inspector:
            try:
                inspector = await _inspect(stack, sandboxes, terminal, options, url)
            except CannotListen as error:
                print(f"local: {error}; give another --inspector-port", file=sys.stderr)
                return 1
            terminal.say(f"Inspector at {inspector}")
        terminal.say("Ctrl-C ends it. A change in the code takes effect with the next request.")
        try:
            await asyncio.gather(
                _watch_code(sandboxes, terminal, stop), _watch_template(options.template, sandboxes, terminal, stop)
            )
        except OSError as error:  # there are too many files that are watched
            terminal.say(f"From here on changes are not seen: {error}", "red")
            await stop.wait()
    return 0


async def _inspect(
    stack: contextlib.AsyncExitStack, sandboxes: Sandboxes, journal: Journal, options: argparse.Namespace, url: str
) -> str:
    """Starts the inspector on the port that is asked for; else on the one after the URL's, or on any free one."""
    events = options.template.parent / "events"
    if options.inspector_port is None and options.port:
        with contextlib.suppress(CannotListen):
            return await stack.enter_async_context(inspecting(sandboxes, journal, events, url, options.port + 1))
    return await stack.enter_async_context(inspecting(sandboxes, journal, events, url, options.inspector_port or 0))


async def _watch_code(sandboxes: Sandboxes, terminal: _Terminal, stop: asyncio.Event) -> None:
    async for changes in awatch(sandboxes.function.code, stop_event=stop):
        terminal.say("The code has changed.")
        if any(Path(path).name == "requirements.txt" for _, path in changes):
            terminal.say("So have its requirements: they are installed when this is started anew.", "yellow")
        await sandboxes.renew(sandboxes.function)


async def _watch_template(template: Path, sandboxes: Sandboxes, terminal: _Terminal, stop: asyncio.Event) -> None:
    def is_template(_: Change, path: str) -> bool:
        return Path(path) == template

    # The folder, since an editor may put another file in the template's place.
    async for _ in awatch(template.parent, stop_event=stop, recursive=False, watch_filter=is_template):
        try:
            function = load_function(template, sandboxes.function.name)
        except TemplateError as error:
            terminal.say(f"The template has changed, but cannot be used: {error}", "red")
            continue
        terminal.say("The template has changed.")
        terminal.notes(function)
        if function.code != sandboxes.function.code:
            terminal.say("So has CodeUri: changes there are not watched until this is started anew.", "yellow")
        await sandboxes.renew(function)


class _Pipe(Console):
    """A console that goes on without its reader."""

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


class _Terminal(Journal):
    """Shows the log and a line for each invocation; in colour, if it is a terminal."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._console = _Pipe(file=file, highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str, style: str | None = None) -> None:
        """Prints a line."""
        self._console.print(text, style=style)

    def notes(self, function: Function) -> None:
        """Prints what a user should know who expects this to be as on Lambda."""
        if not function.has_url:
            self.say(f"The template has no AWS::Lambda::Url for {function.name}: on Lambda it has none.", "yellow")
        if not function.streams:
            text = "InvokeMode is not RESPONSE_STREAM: a response is held back until it is whole, as on Lambda."
            self.say(text, "yellow")
        if function.others:
            self.say(f"Not served: {', '.join(function.others)}; --function names another one.", "yellow")

    def show_head(self, head: Head) -> None:
        """Prints status and headers of a response."""
        self.say(f"{head.status} {responses.get(head.status, '')}", "bold")
        for name, value in head.headers:
            self.say(f"{name}: {value}", "dim")

    def log(self, text: str, request_id: str) -> None:
        """Prints what the function writes, as it is."""
        super().log(text, request_id)
        self._console.out(text, end="", highlight=False)

    def refused(self, request: str, status: int, reason: str) -> None:
        """Prints a line for a request that the function does not get."""
        self.say(f"{request}  {status}  {reason}", "yellow")

    def ended(self, invocation: Invocation, end: End) -> None:
        """Prints a line for an invocation that is over."""
        super().ended(invocation, end)
        if (record := self.records.get(invocation.request_id)) is not None:
            status = record.head.status if record.head is not None else 502
            bad = end.error_type or status >= 500
            self.say(f"{record.label}  {status}  {'  '.join(_figures(record))}", "red" if bad else "green")


def _figures(record: Record) -> Iterator[str]:
    """What a line says of an invocation that is over."""
    yield f"first byte {record.entries[0][0] * 1000:.0f} ms" if record.entries else "no body"
    yield f"{record.chunks} {'chunk' if record.chunks == 1 else 'chunks'}"
    yield f"{record.size} {'byte' if record.size == 1 else 'bytes'}"
    yield f"{record.ended_at:.2f} s"
    if record.end is not None and record.end.error_type:
        yield record.end.error_type
    if record.client_gone:
        yield "client gone"


if __name__ == "__main__":
    sys.exit(main())
