"""Serves a model's answers over HTTP, in each protocol at its path, within limits, and until they are stopped."""

from __future__ import annotations

import json
import logging
import os
from base64 import b64decode
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import stop
from protocols import PROTOCOLS, Event, Failure, Finish, Item, OpenAI, Protocol, Request, Usage
from streaming_runtime import EventSourceResponse, StreamingResponse

# Settings. Limits apply to each request; they are no budget for a day or a caller.
MAX_PROMPT = int(os.environ.get("MAX_PROMPT", "100000"))  # characters of a request, the whole conversation
MAX_TOKENS = int(os.environ.get("MAX_TOKENS", "1024"))  # of what the model writes in one call
MAX_TOTAL_TOKENS = int(os.environ.get("MAX_TOTAL_TOKENS", "50000"))  # in and out, of all calls for one answer
PING = float(os.environ.get("PING", "15"))  # seconds of silence, as while a tool runs, after which a heartbeat is sent
LOG_PROMPTS = os.environ.get("LOG_PROMPTS") == "1"  # otherwise nothing that people or the model write is logged

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
DEADLINE = "The answer took longer than the function may run."

Events = AsyncGenerator[Event, None]
Answer = Callable[[Request], Events]
log = logging.getLogger("chat")


class AnswerStream(EventSourceResponse):
    """An answer, which tells of an exception or of the function's deadline in the words of its protocol."""

    def __init__(self, content: AsyncGenerator[Item, None], protocol: Protocol) -> None:
        super().__init__(content, PING, headers=protocol.headers)
        self._protocol = protocol

    def final_chunk(self, report: Any) -> bytes:
        """Encode the end of an answer that the exception of `report` ended."""
        name = report["errorType"]
        message = DEADLINE if name == "StreamDeadlineExceeded" else "The answer failed."
        return b"".join(self.encode(item) for item in self._protocol.write(Failure(name, message)))


def respond(event: dict[str, Any], answer: Answer) -> StreamingResponse | Awaitable[StreamingResponse]:
    """Answer a request: `GET /` with the page, and `POST` to a protocol's path with the events of `answer`."""
    method, path = route(event)
    match method, path:
        case "GET", "/":
            return StreamingResponse(PAGE, media_type="text/html")
        case "POST", "/stop":
            return stop_answer(event)
        case "POST", str(path) if path in PROTOCOLS:
            return start_answer(event, PROTOCOLS[path], answer)
        case "GET", str(path) if path.startswith("/api/chat/"):
            # useChat asks for the rest of an answer after a reload. Nothing is stored, so nothing is left.
            return StreamingResponse("", 204)
    return text(404, f"Not found. Try GET / or POST to {', '.join(PROTOCOLS)}.")


def stop_answer(event: dict[str, Any]) -> StreamingResponse:
    """Stop the answer that `{"id": "…"}` names. A caller who knows the id may do so: it is random."""
    if not stop.AVAILABLE:
        return text(501, "Answers cannot be stopped: STOP_TABLE names no table. Set HasTable in template.yaml to yes.")
    match body_of(event):
        case {"id": str(id)} if 0 < len(id) <= 128:
            stop.stop(id)
            return StreamingResponse("", 204)
    return text(400, 'The request must be {"id": "…"} with the id of an answer.')


async def start_answer(event: dict[str, Any], kind: type[Protocol], answer: Answer) -> StreamingResponse:
    """Return the response of one protocol. Its status tells of an error before the model's first event."""
    try:
        if len(event.get("body") or "") > MAX_PROMPT:
            raise ValueError("The conversation is too long; start a new one.")
        if not isinstance(body := body_of(event), dict):
            raise ValueError("The request is not a JSON object.")
        protocol = kind(body)
    except ValueError as error:
        return refusal(kind, Failure("", str(error), 400))
    request = protocol.request
    request.settings["maxTokens"] = min(request.settings.get("maxTokens", MAX_TOKENS), MAX_TOKENS)
    if LOG_PROMPTS:
        log.info("prompt of %s: %s", request.id, json.dumps(request.messages))
    events = limited(request, answer(request))
    if isinstance(protocol, OpenAI) and not protocol.streams:
        return whole(protocol, [event async for event in events])
    first = await anext(events)
    if isinstance(first, Failure):
        return refusal(kind, first)
    return AnswerStream(items(protocol, first, events), protocol)


async def limited(request: Request, events: Events) -> Events:
    """Yield the events until the answer ends, is stopped or reaches a limit, then close the model's stream."""
    watch, tokens, reason = stop.Watch(request.id), [0, 0], ""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):  # of one call of the model: its usage follows, and maybe another call
                reason = event.reason
                continue
            if watch.stopped() or sum(tokens) > MAX_TOTAL_TOKENS:
                reason = "max_tokens" if sum(tokens) > MAX_TOTAL_TOKENS else "cancelled"
                break
            if isinstance(event, Usage):
                tokens = [tokens[0] + event.input, tokens[1] + event.output]
            yield event
            if isinstance(event, Failure):
                log.warning("answer %s failed: %s", request.id, event.name)
                return
    log.info("answer %s: %d tokens in, %d out, %s", request.id, *tokens, reason or "incomplete")
    yield Finish(reason) if reason else Failure("IncompleteStream", "The model's answer broke off.")


async def items(protocol: Protocol, first: Event, events: Events) -> AsyncGenerator[Item, None]:
    """Yield what goes out for the events."""
    async with aclosing(events):
        for item in protocol.write(first):
            yield item
        async for event in events:
            for item in protocol.write(event):
                yield item


def whole(protocol: OpenAI, events: list[Event]) -> StreamingResponse:
    """Return an answer in one piece."""
    if isinstance(events[-1], Failure):
        return refusal(OpenAI, events[-1])
    return StreamingResponse(json.dumps(protocol.whole(events)), media_type="application/json")


def refusal(kind: type[Protocol], failure: Failure) -> StreamingResponse:
    """Return an error before the stream, as clients of the protocol expect it."""
    media_type, body = kind.refusal(failure)
    return StreamingResponse(body, failure.status, media_type=media_type)


def text(status: int, message: str) -> StreamingResponse:
    """Return a response about an error in plain text."""
    return StreamingResponse(f"{message}\n", status, media_type="text/plain")


def body_of(event: dict[str, Any]) -> Any:
    """Return the JSON of a request; None if it is not JSON."""
    body = event.get("body") or ""
    try:
        return json.loads(b64decode(body) if event.get("isBase64Encoded") else body)
    except (ValueError, RecursionError):
        return None


def route(event: dict[str, Any]) -> tuple[Any, Any]:
    """Return method and path of a request to the function URL or a REST API."""
    if "httpMethod" in event:
        return event["httpMethod"], event.get("path")
    return event.get("requestContext", {}).get("http", {}).get("method"), event.get("rawPath")
