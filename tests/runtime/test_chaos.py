"""Deadlines at random moments, one after the other: each invocation has its own outcome, and no other's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from tests.helpers.sandbox import UNTRACED, Sandbox
from tests.helpers.scripted_api import due

FUNCTION = """
    import asyncio, threading, time
    from streaming_runtime import AsgiHandler, EventSourceResponse

    def sync(number, ping):
        for _ in range(60):
            yield f"{number};"
            time.sleep(0.001)

    async def asynchronous(number, ping):
        for _ in range(60):
            yield f"{number};"
            await asyncio.sleep(0.001)

    def events(number, ping):
        return EventSourceResponse(sync(number, ping), ping=ping)

    def late_events(number, ping):
        time.sleep(0.03)
        return EventSourceResponse(asynchronous(number, ping), ping=ping)

    async def application(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200})
        for left in range(59, -1, -1):
            body = scope["aws.event"]["number"].encode() + b";"
            await send({"type": "http.response.body", "body": body, "more_body": left > 0})
            await asyncio.sleep(0.001)

    asgi = AsgiHandler(application)

    def handler(event, context):
        if event["kind"] == "look":
            return [thread.name for thread in threading.enumerate()]
        if event["kind"] == "asgi":
            return asgi(event, context)
        return globals()[event["kind"]](event["number"], 0.0005)
    """
HTTP = {
    "rawPath": "/",
    "rawQueryString": "",
    "headers": {},
    "requestContext": {"http": {"method": "GET", "protocol": "HTTP/1.1", "sourceIp": "::1"}},
}
KINDS = ("sync", "asynchronous", "events", "late_events", "asgi")


def invocations(seed: int) -> Iterator[tuple[str, str, int]]:
    """The kind, number and milliseconds of invocations; after each, one that looks for what was left behind."""
    chance = random.Random(seed)
    for number in range(60):
        yield chance.choice(KINDS), f"n{number}", chance.randrange(15, 110)
        yield "look", "", 10_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_deadlines_leave_nothing_behind(sandbox: Sandbox, seed: int) -> None:
    script = list(invocations(seed))
    events = [due(json.dumps({"kind": kind, "number": n, **HTTP}).encode(), left) for kind, n, left in script]
    # coverage.py sometimes holds a lock, which the deadline's exception would leave locked.
    environment = {"STREAMING_RUNTIME_DEADLINE_MARGIN_MS": "5"} | UNTRACED
    ended = sandbox.run(FUNCTION, *events, environment=environment)
    assert len(ended.posts) == len(script)
    failed, cut = set(), 0
    for (kind, number, _), post in zip(script, ended.posts, strict=True):
        if kind == "look":
            assert [name for name in json.loads(post.body) if not name.startswith("asyncio")] == ["MainThread"]
            continue
        error = post.trailers or post.target.endswith("/error")
        if error:
            failed.add(kind)
        if post.target.endswith("/response"):
            payload = post.body.rpartition(bytes(8))[2].partition(b"event: error")[0]
            for event_streams in (b": ping\n", b"data: ", b"\n\n"):
                payload = payload.replace(event_streams, b"")
            parts = payload.count(b";")
            assert payload == b"%b;" % number.encode() * parts
            # On a machine that stalls for 50 ms, the client reads the end too slowly, so it is cut.
            cut += not post.whole
            assert error or not post.whole or parts == 60
    assert failed == set(KINDS)
    assert cut <= 6
