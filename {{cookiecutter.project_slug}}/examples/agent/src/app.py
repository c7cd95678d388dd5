"""An agent with one tool, built with Strands: a page, and the protocols of chat.py for clients that exist.

The function's role must allow bedrock:InvokeModelWithResponseStream on the model. Without credentials, or if
LOCAL_STANDIN is 1, a stand-in for the model calls the tool.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from datetime import date
from functools import cache
from typing import Any

import chat
import converse
from protocols import Event, Request, ToolResult
from streaming_runtime import StreamingResponse

MODEL_ID = os.environ.get("MODEL_ID", "global.amazon.nova-2-lite-v1:0")  # or the ARN of a model or inference profile
LOCAL_STANDIN = os.environ.get("LOCAL_STANDIN") == "1"
INSTRUCTIONS = "Answer briefly. Ask the tool for days of the week: you cannot compute them reliably."


def weekday(day: str) -> str:
    """Tell the day of the week of a date.

    Args:
        day: The date as YYYY-MM-DD.
    """
    return date.fromisoformat(day).strftime("%A")


@cache
def bedrock() -> Any:
    """Return the model, created on first use so that the page is served without Strands, which takes long to import."""
    from strands.models import BedrockModel

    return BedrockModel(model_id=MODEL_ID, max_tokens=chat.MAX_TOKENS)


async def answer(request: Request) -> AsyncGenerator[Event, None]:
    """Yield the events of the agent's answer: those of each call of the model, and the results of the tool."""
    if LOCAL_STANDIN:
        async with aclosing(run(standin("LOCAL_STANDIN is 1"), request)) as events:
            async for event in events:
                yield event
        return
    from botocore.eventstream import ParserError
    from botocore.exceptions import BotoCoreError, ClientError
    from strands.types.exceptions import ContextWindowOverflowException, ModelThrottledException
    from urllib3.exceptions import HTTPError  # the connection to Bedrock broke

    of_model = (BotoCoreError, ClientError, HTTPError, ParserError)
    try:
        async with aclosing(run(bedrock(), request)) as events:
            async for event in events:
                yield event
    except (*of_model, ContextWindowOverflowException, ModelThrottledException) as error:
        failure = converse.failure_of(error)
        if failure.name in converse.NO_CREDENTIALS:
            async with aclosing(run(standin(failure.name), request)) as events:
                async for event in events:
                    yield event
        else:
            yield failure


async def run(model: Any, request: Request) -> AsyncGenerator[Event, None]:
    """Yield the events of an agent with this model."""
    from strands import Agent, ModelRetryStrategy, tool
    from strands.types.exceptions import MaxTokensReachedException

    messages: Any = request.messages  # Strands has the same types, which cannot be imported before they are needed
    agent = Agent(
        model,
        messages=messages[:-1],
        tools=[tool(weekday)],
        system_prompt=f"{INSTRUCTIONS}\n{request.system}",
        callback_handler=None,  # which would print the answer into the log
        retry_strategy=ModelRetryStrategy(max_attempts=1),  # the client can wait, and pays nothing for it
    )
    try:
        items: Any = agent.stream_async(messages[-1]["content"])  # a generator, whose type says less
        async with aclosing(items):
            async for item in items:
                for event in converse.events_of(item.get("event", {})):
                    yield event
                for block in item.get("message", {}).get("content", ()):
                    if result := block.get("toolResult"):
                        output = "".join(part.get("text", "") for part in result["content"])
                        yield ToolResult(result["toolUseId"], output, result["status"] == "error")
    except MaxTokensReachedException:  # the model's own event has told so
        pass


def standin(reason: str) -> Any:
    """Return a model that needs no credentials."""
    from standin import StandIn

    return StandIn(f"This is a **stand-in**, not a model ({reason}). A model would be `{MODEL_ID}`.")


def handler(event: dict[str, Any], context: Any) -> StreamingResponse | Awaitable[StreamingResponse]:
    """Answer `GET /` with the page, and requests of each protocol with the agent's answer."""
    return chat.respond(event, answer)
