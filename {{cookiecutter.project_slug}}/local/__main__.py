"""`python -m local`: serves the function of `template.yaml` at a URL on localhost until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from watchfiles import awatch

from .server import serving, write_log
from .template import Function, TemplateError, load_function


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 when interrupted, 1 when the URL cannot be served."""
    options = _parser().parse_args(arguments)
    try:
        function = load_function(options.template, options.function)
    except TemplateError as error:
        print(f"local: {error}", file=sys.stderr)
        return 1
    return asyncio.run(_serve(function, options.host, options.port, options.sandboxes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local", description=__doc__)
    parser.add_argument("--port", type=int, default=3000, help="port of the URL (default: 3000; 0 takes any free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--template", type=Path, default=Path("template.yaml"), help="default: template.yaml")
    parser.add_argument("--function", default="StreamFunction", help="logical id (default: StreamFunction)")
    parser.add_argument(
        "--sandboxes", type=int, default=10, help="invocations that may run at once; more are refused (default: 10)"
    )
    return parser


async def _serve(function: Function, host: str, port: int, limit: int) -> int:
    stop = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        # However often it comes, the processes are ended first.
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            url, sandboxes = await stack.enter_async_context(serving(function, host, port, limit, write_log))
        except (OSError, OverflowError, UnicodeError) as error:  # the last two: no port, no name of a host
            print(f"local: cannot listen on {host}:{port}: {error}; give another PORT", file=sys.stderr)
            return 1
        print(f"{function.name} ({function.handler}) streams at {url}", flush=True)
        print("Ctrl-C ends it. A change in the code takes effect with the next request.", flush=True)
        async for _ in awatch(function.code, stop_event=stop):
            print("The code has changed.", flush=True)
            await sandboxes.renew()
    return 0


if __name__ == "__main__":
    sys.exit(main())
