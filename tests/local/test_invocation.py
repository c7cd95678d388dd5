"""When the one who reads an invocation's messages is given up."""

from __future__ import annotations

import asyncio

import pytest

from local.invocation import End, Invocation


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
