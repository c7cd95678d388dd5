"""`python -m local`: serve a function of `template.yaml` at a URL on localhost until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .access import is_loopback
from .debugger import Debugger
from .events import EventError, read_event
from .function_url import serving
from .http_server import ListenError
from .inspector import inspecting
from .invocation import Invocation
from .journal import Journal
from .messages import Chunk, ResponseEnd, ResponseHead, ResponseMessages
from .pool import SandboxPool
from .reload import Reloader
from .template import Function, Template, TemplateError
from .terminal import Terminal


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    Without `--event`, the status is 0 after serving until a signal came, and 1 if that was not possible. With
    `--event`, it is 0 if the invocation succeeded, 1 if it failed, and 130 if a signal ended it.
    """
    options = _parser().parse_args(arguments)
    try:
        template = Template(options.template)
        function = template.function(options.function)
        event = None if options.event is None else read_event(options.event)
    except (TemplateError, EventError) as error:
        print(f"local: {error}", file=sys.stderr)
        return 1
    options.template = options.template.resolve()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a function may log what the locale cannot encode
            stream.reconfigure(errors="backslashreplace")
    if options.event is not None:
        return asyncio.run(_invoke(function, event))
    return asyncio.run(_serve(function, _other_names(template, function), options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="port of the URL; 0 for any free port (default: 3000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also accept requests with this name in Host (default: only HOST and loopback names); repeatable",
    )
    parser.add_argument(
        "--inspector-port", type=int, help="port of the inspector on 127.0.0.1 (default: PORT + 1, or any free port)"
    )
    parser.add_argument("--no-inspector", action="store_true", help="do not serve the inspector")
    parser.add_argument(
        "--template", type=Path, default=Path("template.yaml"), help="SAM template (default: template.yaml)"
    )
    parser.add_argument(
        "--function", default="StreamFunction", help="logical ID of the function (default: StreamFunction)"
    )
    parser.add_argument(
        "--concurrency",
        type=_count,
        help="how many invocations may run concurrently; more are throttled "
        "(default: the template's ReservedConcurrentExecutions, or 100)",
    )
    parser.add_argument(
        "--limits",
        action="store_true",
        help="limit the size and the bandwidth of responses as Lambda does",
    )
    parser.add_argument(
        "--debug",
        nargs="?",
        const="attach",
        choices=("attach", "wait"),
        help="run the function under debugpy, without a timeout: an editor may attach (default), or must before the "
        "code is imported",
    )
    parser.add_argument(
        "--debug-port", type=int, default=5678, help="port on 127.0.0.1 for an editor to attach to (default: 5678)"
    )
    parser.add_argument(
        "--event", metavar="FILE", help="invoke the function once with this event (- for standard input) and exit"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _other_names(template: Template, function: Function) -> list[str]:
    return [name for name in template.names if name != function.name]


def _on_signals(call: Callable[[], object]) -> None:
    """Call `call` for each signal that asks the process to exit, so that the function's processes end first."""
    for signal_number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, call)


async def _invoke(function: Function, event: Any) -> int:
    """Invoke the function once: the body goes to standard output as it arrives, the rest to standard error."""
    terminal = Terminal(sys.stderr)
    pool = SandboxPool(function, terminal, 1)
    printing = asyncio.create_task(_print(await pool.invoke(Invocation(event)), terminal))
    _on_signals(printing.cancel)
    try:
        return await printing
    except asyncio.CancelledError:
        return 128 + signal.SIGINT
    except OSError as error:  # for example, `head` has exited
        sys.stdout = None
        if not isinstance(error, BrokenPipeError):
            print(f"local: cannot write the response: {error}", file=sys.stderr)
        return 1
    finally:
        await pool.stop()


async def _print(messages: ResponseMessages, terminal: Terminal) -> int:
    status = 1
    async for message in messages:
        match message:
            case ResponseHead():
                terminal.show_head(message)
            case Chunk(data):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            case ResponseEnd(error_type):
                status = 1 if error_type else 0
    return status


async def _serve(function: Function, others: list[str], options: argparse.Namespace) -> int:
    terminal = Terminal(sys.stdout)
    debugger = Debugger(options.debug_port, options.debug == "wait") if options.debug else None
    pool = SandboxPool(function, terminal, options.concurrency, options.limits, debugger)
    reloader = Reloader(options.template, pool, terminal)
    pool.before_invocation = reloader.check
    stop = asyncio.Event()
    _on_signals(stop.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(serving(pool, options.host, options.port, options.allow_host))
        except ListenError as error:
            print(f"local: {error}. Choose another port with PORT or --port", file=sys.stderr)
            return 1
        terminal.say(f"{function.name} ({function.handler}) streams at {url}")
        terminal.show_differences(function, others)
        if not is_loopback(options.host):
            names = ", ".join([options.host, *options.allow_host])
            terminal.warn(
                f"Requests must name this machine as localhost, {names}. Allow another name with --allow-host."
            )
        if not options.no_inspector:
            try:
                inspector = await _inspect(stack, pool, terminal, options, url)
            except ListenError as error:
                print(f"local: {error}. Choose another port with --inspector-port", file=sys.stderr)
                return 1
            terminal.say(f"Inspector at {inspector}")
        await pool.start_debugging()
        terminal.say("Press Ctrl-C to stop. The next request runs your latest code.")
        try:
            await reloader.watch(stop)
        except OSError as error:  # the system's limit of watched files is reached
            terminal.warn(f"Changes are noticed with the next request only: {error}")
            await stop.wait()
    return 0


async def _inspect(
    stack: contextlib.AsyncExitStack, pool: SandboxPool, journal: Journal, options: argparse.Namespace, url: str
) -> str:
    """Start the inspector on the requested port, else on the one after the URL's, else on any free one."""
    events = options.template.parent / "events"
    if options.inspector_port is None and options.port:
        with contextlib.suppress(ListenError):
            return await stack.enter_async_context(inspecting(pool, journal, events, url, options.port + 1))
    return await stack.enter_async_context(inspecting(pool, journal, events, url, options.inspector_port or 0))


if __name__ == "__main__":
    sys.exit(main())
