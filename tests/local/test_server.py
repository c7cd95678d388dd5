"""The HTTP server itself: what it leaves when it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import h11
import pytest

from local.http import Connection, Server


@pytest.mark.parametrize("turns", range(8))
def test_a_connection_is_ended_however_far_it_was_taken_up_when_the_server_closes(turns: int) -> None:
    async def serve(connection: Connection, request: h11.Request) -> None:
        raise AssertionError("nothing was asked for")

    async def main() -> socket.socket:
        server = Server(serve)
        client = socket.create_connection(await server.start("127.0.0.1", 0), 10)
        for _ in range(turns):  # of the event loop, which takes it up step by step
            await asyncio.sleep(0)
        await server.close()
        return client

    with asyncio.run(main()) as client:
        gc.collect()  # what was left open would be a ResourceWarning, which is an error here
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
