"""`python -m local`: serve the functions of `template.yaml` at URLs on localhost until interrupted."""

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
from .sign_in import SignIn
from .template import Function, Template, TemplateError
from .terminal import Terminal

# The function that a project is generated with. It gets the first port, and is invoked unless another one is named.
_FIRST = "StreamFunction"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status.

    Without `--event`, the status is 0 after serving until a signal came, and 1 if that was not possible. With
    `--event`, it is 0 if the invocation succeeded, 1 if it failed, and 130 if a signal ended it.
    """
    options = _parser().parse_args(arguments)
    try:
        template = Template(options.template)
        functions, unserved = _choose(template, options)
        event = None if options.event is None else read_event(options.event)
    except (TemplateError, EventError) as error:
        print(f"local: {error}", file=sys.stderr)
        return 1
    options.template = options.template.resolve()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a function may log what the locale cannot encode
            stream.reconfigure(errors="backslashreplace")
    if options.event is not None:
        return asyncio.run(_invoke(functions[0], template.placeholders(functions[0].name), event, options.sampled))
    return asyncio.run(_serve(template, functions, unserved, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=3000, help="port of the first URL; 0 for any free ports (default: 3000)"
    )
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
        "--function",
        help="logical ID of the only function to serve or to invoke (default: StreamFunction, and what has a URL)",
    )
    parser.add_argument(
        "--concurrency",
        type=_count,
        help="how many invocations may run concurrently; more are throttled "
        "(default: the template's ReservedConcurrentExecutions, or 100)",
    )
    parser.add_argument(
        "--sampled",
        action="store_true",
        help="sample the trace of every invocation, as Lambda does of some, and log what X-Ray's SDK records",
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
        help="run each function under debugpy, without a timeout: an editor may attach (default), or must before the "
        "code is imported",
    )
    parser.add_argument(
        "--debug-port",
        type=int,
        default=5678,
        help="port on 127.0.0.1 for an editor to attach to the first function, and the ports after it for the others; "
        "0 for any free ports (default: 5678)",
    )
    parser.add_argument(
        "--event", metavar="FILE", help="invoke the function once with this event (- for standard input) and exit"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _choose(template: Template, options: argparse.Namespace) -> tuple[list[Function], dict[str, str]]:
    """Return the functions to serve, and for each other one why it is not served.

    These are StreamFunction and all that have an HTTP front, unless one function is chosen.

    Raises:
        TemplateError: No function can be served.
    """
    if options.function is not None or options.event is not None:
        chosen = template.function(options.function or _FIRST)
        return [chosen], {name: "" for name in template.names if name != chosen.name}
    served: list[Function] = []
    unserved: dict[str, str] = {}
    for name in sorted(template.names, key=lambda name: name != _FIRST):
        try:
            function = template.function(name)
        except TemplateError as error:
            if name == _FIRST:
                raise
            unserved[name] = str(error)
            continue
        if not function.runtime.startswith(("python", "provided")):
            unserved[name] = f"{name} runs on {function.runtime}"
        elif name == _FIRST or function.has_url or function.routes:
            served.append(function)
        else:
            unserved[name] = ""
    return served or [template.function(_FIRST)], unserved


def _on_signals(call: Callable[[], object]) -> None:
    """Call `call` for each signal that asks the process to exit, so that the function's processes end first."""
    for signal_number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, call)


async def _invoke(function: Function, placeholders: dict[str, list[str]], event: Any, sampled: bool) -> int:
    """Invoke the function once: the body goes to standard output as it arrives, the rest to standard error."""
    terminal = Terminal(sys.stderr)
    terminal.show_placeholders(function.name, placeholders)
    async with contextlib.AsyncExitStack() as stack:
        sign_in = SignIn([function])
        await sign_in.start(stack, 0)
        pool = SandboxPool(sign_in.configure(function), terminal, 1, sampled=sampled)
        stack.push_async_callback(pool.stop)
        messages = await pool.invoke(Invocation(sign_in.admit(function, event)))
        printing = asyncio.create_task(_print(messages, terminal))
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


async def _serve(
    template: Template, functions: list[Function], unserved: dict[str, str], options: argparse.Namespace
) -> int:
    terminal = Terminal(sys.stdout)
    several = len(functions) > 1
    width = max(len(function.name) for function in functions)
    stop = asyncio.Event()
    _on_signals(stop.set)
    served: list[tuple[SandboxPool, str]] = []
    reloaders = []
    async with contextlib.AsyncExitStack() as stack:
        sign_in = SignIn(functions)
        if issuer := await sign_in.start(stack, options.port):
            terminal.say(f"Tokens come from {issuer} instead of the template's issuer. To get one: curl {issuer}/token")
        for number, function in enumerate(map(sign_in.configure, functions)):
            own = terminal.of(function.name, width) if several else terminal
            port = options.debug_port and options.debug_port + number
            debugger = Debugger(port, options.debug == "wait") if options.debug else None
            pool = SandboxPool(function, own, options.concurrency, options.limits, debugger, options.sampled)
            reloader = Reloader(options.template, pool, own, sign_in)
            pool.before_invocation = reloader.check
            reloaders.append(reloader)
            try:
                served.append((pool, await _start(stack, pool, options, number)))
            except ListenError as error:
                print(f"local: {error}. Choose another port with PORT or --port", file=sys.stderr)
                return 1
        _show_served(terminal, served, unserved)
        for function in functions:
            terminal.show_placeholders(function.name, template.placeholders(function.name))
        if not is_loopback(options.host):
            names = ", ".join([options.host, *options.allow_host])
            terminal.warn(
                f"Requests must name this machine as localhost, {names}. Allow another name with --allow-host."
            )
        if not options.no_inspector:
            try:
                inspector = await _inspect(stack, served, terminal, options, sign_in)
            except ListenError as error:
                print(f"local: {error}. Choose another port with --inspector-port", file=sys.stderr)
                return 1
            terminal.say(f"Inspector at {inspector}")
        for pool, _ in served:
            await pool.start_debugging()
        terminal.say("Press Ctrl-C to stop. The next request runs your latest code.")
        try:
            await asyncio.gather(*(reloader.watch(stop) for reloader in reloaders))
        except OSError as error:  # the system's limit of watched files is reached
            terminal.warn(f"Changes are noticed with the next request only: {error}")
            await stop.wait()
    return 0


async def _start(stack: contextlib.AsyncExitStack, pool: SandboxPool, options: argparse.Namespace, number: int) -> str:
    """Serve a function and return its URL: the first one on the requested port, the next ones behind the inspector's.

    If such a port is taken, any free one will do.

    Raises:
        ListenError: The requested port is taken.
    """
    if number and options.port:
        with contextlib.suppress(ListenError):
            port = options.port + 1 + number
            return await stack.enter_async_context(serving(pool, options.host, port, options.allow_host))
    port = 0 if number else options.port
    return await stack.enter_async_context(serving(pool, options.host, port, options.allow_host))


def _show_served(terminal: Terminal, served: list[tuple[SandboxPool, str]], unserved: dict[str, str]) -> None:
    """Print where each function is, and how to call those that have no URL."""
    [(pool, url), *others] = served
    if not others:
        terminal.say(f"{pool.function.name} ({pool.function.handler}) streams at {url}")
        terminal.show_differences(pool.function, [*unserved])
        return
    rows = []
    for pool, url in served:
        function = pool.function
        answer = "streams" if function.streams else "buffered"
        rows.append((function.name, function.handler, f"{answer}, REST API" if function.routes else answer, url))
    rows += [(name, "", "no URL", f"make invoke FUNCTION={name}") for name, reason in unserved.items() if not reason]
    terminal.show_functions(rows)
    for reason in filter(None, unserved.values()):
        terminal.warn(f"Not served: {reason}")
    for pool, _ in served:
        if pool.function.lacks_runtime or not (pool.function.has_url or pool.function.routes):
            terminal.show_differences(pool.function, [])


async def _inspect(
    stack: contextlib.AsyncExitStack,
    served: list[tuple[SandboxPool, str]],
    journal: Journal,
    options: argparse.Namespace,
    sign_in: SignIn,
) -> str:
    """Start the inspector on the requested port, else on the one after the first URL's, else on any free one."""
    events = options.template.parent / "events"
    [(pool, url), *others] = served

    def start(port: int) -> contextlib.AbstractAsyncContextManager[str]:
        return inspecting(pool, journal, events, url, port, others, sign_in.admit)

    if options.inspector_port is None and options.port:
        with contextlib.suppress(ListenError):
            return await stack.enter_async_context(start(options.port + 1))
    return await stack.enter_async_context(start(options.inspector_port or 0))


if __name__ == "__main__":
    sys.exit(main())
