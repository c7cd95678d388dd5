"""When a reader of an invocation's messages times out, and what the runtime may do in the meantime."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from local.invocation import Invocation
from local.messages import Chunk, PostStart, ResponseEnd
from local.runtime_api import RuntimeApi
from local.template import Function


def test_drained_reader_is_not_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.invocation._DRAIN_TIMEOUT", 0.01)
    aborted: list[str] = []

    async def main() -> None:
        read, unread = Invocation({}), Invocation({})
        timed_out = asyncio.Event()
        read.abort_client = lambda: aborted.append("read")
        unread.abort_client = timed_out.set
        for invocation in (read, unread):
            invocation.finish(ResponseEnd("Runtime.ExitError"))
        assert [message async for message in read.messages()] == [ResponseEnd("Runtime.ExitError")]
        read.finish(ResponseEnd("Runtime.TruncatedResponse"))
        await timed_out.wait()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert aborted == []


def test_slow_reader_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.invocation._DRAIN_TIMEOUT", 0.01)

    async def main() -> None:
        invocation = Invocation({})
        timed_out = asyncio.Event()
        invocation.finish(ResponseEnd())
        invocation.abort_client = timed_out.set
        messages = invocation.messages()
        assert await anext(messages) == ResponseEnd()
        await timed_out.wait()
        await messages.aclose()

    asyncio.run(main())


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Return the body of a response of the Runtime API."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None
    return await reader.readexactly(int(length[1]))


def test_next_event_before_end_is_read() -> None:
    async def main() -> None:
        function = Function("Stream", Path(), Path("bootstrap"), "app.handler", "python3", 30, 128, {})
        api = RuntimeApi(function, lambda _: None, lambda *_: None, lambda _: None)
        address = await api.start()
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        to_next = f"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
        first = Invocation("first")
        api.offer(first)
        writer.write(to_next)
        assert await answer(reader) == b'"first"'
        target = f"/2018-06-01/runtime/invocation/{first.request_id}/response"
        fields = f"Host: {address}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"
        head = f"POST {target} HTTP/1.1\r\n{fields}\r\n"
        writer.write(head.encode() + b"1\r\nx\r\n0\r\n\r\n")
        messages = first.messages()
        assert [await anext(messages) for _ in range(3)] == [PostStart("text/plain"), Chunk(b"x"), ResponseEnd()]
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
