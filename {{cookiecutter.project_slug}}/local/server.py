"""Puts a function and its URL together and listens."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future

from .function_url import FunctionUrl
from .http import Server
from .sandboxes import Sandboxes
from .template import Function


@contextlib.asynccontextmanager
async def serving(
    function: Function, host: str, port: int, limit: int, log: Callable[[str], None]
) -> AsyncIterator[tuple[str, Sandboxes]]:
    """Serves `function` until the block is left; gives the URL and the sandboxes behind it.

    Args:
        function: What to serve.
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one.
        limit: How many invocations may run at once.
        log: Receives what the function writes to its log.

    Raises:
        OSError: The port cannot be listened on.
    """
    sandboxes = Sandboxes(function, limit, log)
    server = Server(FunctionUrl(sandboxes).serve)
    address, actual_port = await server.start(host, port)
    try:
        yield f"http://{f'[{address}]' if ':' in address else address}:{actual_port}/", sandboxes
    finally:
        await server.close()
        await sandboxes.stop()


@contextlib.contextmanager
def running(function: Function, limit: int = 10, log: Callable[[str], None] | None = None) -> Iterator[str]:
    """The same in a thread of its own, for code that is not asynchronous: serves on a free port and gives the URL."""
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        async with serving(function, "127.0.0.1", 0, limit, log or write_log) as (url, _):
            started.set_result((url, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="local function URL")
    thread.start()
    try:
        url, stop = started.result()
        try:
            yield url
        finally:
            stop()
    finally:
        thread.join()


def write_log(text: str) -> None:
    """Shows what the function writes, as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()
