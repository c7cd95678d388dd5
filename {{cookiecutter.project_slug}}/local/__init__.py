"""A Lambda function URL on localhost: the Runtime API, the sandboxes and the URL, without Docker and without AWS."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import TextIO

from .function import Function
from .function_url import FunctionUrl
from .http import Server, url_of
from .sandboxes import Observer, Sandboxes


@contextlib.asynccontextmanager
async def serving(sandboxes: Sandboxes, host: str, port: int) -> AsyncIterator[str]:
    """Serves the function behind `sandboxes` until the block is left; gives the URL.

    Args:
        sandboxes: Where the function runs; they are stopped at the end.
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one.

    Raises:
        CannotListen: The message says where and why.
    """
    server = Server(FunctionUrl(sandboxes).serve)
    try:
        yield url_of(*await server.start(host, port))
    finally:
        await server.close()
        await sandboxes.stop()


@contextlib.contextmanager
def running(
    function: Function, limit: int | None = None, observer: Observer | None = None, limits: bool = False
) -> Iterator[str]:
    """The same in a thread of its own, for code that is not asynchronous: serves on a free port and gives the URL.

    What the function writes to its log goes to standard output, unless there is an `observer`.
    """
    started: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        sandboxes = Sandboxes(function, observer or Log(sys.stdout), limit, limits)
        async with serving(sandboxes, "127.0.0.1", 0) as url:
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


class Log(Observer):
    """Shows what the function writes, as it is."""

    def __init__(self, file: TextIO) -> None:
        """`file` receives it."""
        self._file = file

    def log(self, text: str, request_id: str) -> None:
        """Prints `text`."""
        self._file.write(text)
        self._file.flush()
