"""When the one who reads an invocation's messages is given up, and what the runtime may do meanwhile."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from local.function import Function
from local.invocation import Begin, Chunk, End, Invocation, RuntimeApi


def test_who_has_read_the_end_is_not_given_up_whatever_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.invocation._PATIENCE", 0.01)
    given_up: list[str] = []

    async def main() -> None:
        read, unread = Invocation({}), Invocation({})
        patience = asyncio.Event()
        read.give_up = lambda: given_up.append("who has read")
        unread.give_up = patience.set
        for invocation in (read, unread):
            invocation.end(End("Runtime.ExitError"))
        assert [message async for message in read.messages()] == [End("Runtime.ExitError")]
        read.end(End("Runtime.TruncatedResponse"))
        await patience.wait()  # as long as it takes
        await asyncio.sleep(0)

    asyncio.run(main())
    assert given_up == []


def test_who_does_not_take_the_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.invocation._PATIENCE", 0.01)

    async def main() -> None:
        invocation = Invocation({})
        patience = asyncio.Event()
        invocation.end(End())
        invocation.give_up = patience.set
        messages = invocation.messages()
        assert await anext(messages) == End()
        await patience.wait()
        await messages.aclose()

    asyncio.run(main())


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The body of an answer of the Runtime API."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None
    return await reader.readexactly(int(length[1]))


def test_a_runtime_gets_its_next_event_on_the_same_connection_though_the_end_was_not_taken_yet() -> None:
    async def main() -> None:
        function = Function("Stream", Path(), Path("bootstrap"), "app.handler", "python3", 30, 128, {})
        api = RuntimeApi(function, lambda _: None, lambda *_: None)
        host, _, port = (await api.start()).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        to_next = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"
        first = Invocation("first")
        api.offer(first)
        writer.write(to_next)
        assert await answer(reader) == b'"first"'
        target = f"/2018-06-01/runtime/invocation/{first.request_id}/response"
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode() + b"1\r\nx\r\n0\r\n\r\n")
        messages = first.messages()
        assert [await anext(messages) for _ in range(3)] == [Begin("text/plain"), Chunk(b"x"), End()]
        await answer(reader)
        writer.write(to_next)
        await api.settled.wait()
        api.offer(Invocation("second"))
        assert await answer(reader) == b'"second"'
        await messages.aclose()
        writer.close()
        api.stop_timer()
        await api.close()

    asyncio.run(main())
