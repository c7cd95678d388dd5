"""A chat with a model of Amazon Bedrock: a page, and the protocols of chat.py for clients that exist.

The function's role must allow bedrock:InvokeModelWithResponseStream on the model. Without credentials, or if
LOCAL_STANDIN is 1, a stand-in answers.
"""

import os
from collections.abc import AsyncGenerator, Awaitable
from contextlib import closing
from functools import cache
from typing import Any

import chat
import converse
from protocols import Event, Finish, Request, Text
from streaming_runtime import StreamingResponse

MODEL_ID = os.environ.get("MODEL_ID", "global.amazon.nova-2-lite-v1:0")  # or the ARN of a model or inference profile
LOCAL_STANDIN = os.environ.get("LOCAL_STANDIN") == "1"
INTERVAL = float(os.environ.get("STREAM_INTERVAL", "0.05"))  # seconds between words of the stand-in


@cache
def bedrock() -> Any:
    """Return the client, created on first use so that the page is served without botocore.

    `boto3.client` would return the same one, but importing boto3 makes the first answer an eighth slower.
    """
    from botocore.session import Session

    return Session().create_client("bedrock-runtime")


async def answer(request: Request) -> AsyncGenerator[Event, None]:
    """Yield the events of the model's answer."""
    if LOCAL_STANDIN:
        async for event in standin("LOCAL_STANDIN is 1"):
            yield event
        return
    from botocore.eventstream import ParserError
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError  # the connection to Bedrock broke

    optional: dict[str, Any] = {}
    if request.system:
        optional["system"] = [{"text": request.system}]
    if request.tools:
        optional["toolConfig"] = {"tools": [{"toolSpec": tool} for tool in request.tools]}
    try:
        reply = bedrock().converse_stream(
            modelId=MODEL_ID, messages=request.messages, inferenceConfig=request.settings, **optional
        )
        # botocore blocks the event loop, which has nothing else to do: an execution environment serves one request.
        with closing(reply["stream"]) as stream:
            for part in stream:
                for event in converse.events_of(part):
                    yield event
    except (BotoCoreError, ClientError, HTTPError, ParserError) as error:
        failure = converse.failure_of(error)
        if failure.name in converse.NO_CREDENTIALS:
            async for event in standin(failure.name):
                yield event
        else:
            yield failure


async def standin(reason: str) -> AsyncGenerator[Event, None]:
    """Yield the events of a model for a text that says that it is a stand-in."""
    from asyncio import sleep

    text = f"""This is a **stand-in**, not a model ({reason}). Its words stream as a model's tokens do. For real \
answers, the function requires AWS credentials that allow `bedrock:InvokeModelWithResponseStream`, and a model that \
your account can access in this region. `MODEL_ID` names the model, currently `{MODEL_ID}`."""
    for word in text.split():
        yield Text(f"{word} ")
        await sleep(INTERVAL)
    yield Finish("end_turn")


def handler(event: dict[str, Any], context: Any) -> StreamingResponse | Awaitable[StreamingResponse]:
    """Answer `GET /` with the page, and requests of each protocol with the model's answer."""
    return chat.respond(event, answer)
