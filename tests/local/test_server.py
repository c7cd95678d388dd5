"""The HTTP server itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import h11
import pytest

from local.http_server import Connection, Server


@pytest.mark.parametrize("turns", range(8))
def test_close_at_any_accept_step(turns: int) -> None:
    async def serve(connection: Connection, request: h11.Request) -> None:
        raise AssertionError("no request was sent")

    async def main() -> socket.socket:
        server = Server(serve)
        client = socket.create_connection(await server.start("127.0.0.1", 0), 10)
        for _ in range(turns):  # of the event loop, which accepts the connection in several steps
            await asyncio.sleep(0)
        await server.close()
        return client

    with asyncio.run(main()) as client:
        gc.collect()  # an open socket would be a ResourceWarning, which is an error here
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
