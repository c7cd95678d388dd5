"""A chat with a model of Amazon Bedrock, token by token as server-sent events, and a page for it.

The function's role must allow bedrock:InvokeModelWithResponseStream on the model. Without credentials, or if
LOCAL_STANDIN is 1, a stand-in answers.
"""

import json
import logging
import os
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from streaming_runtime import EventSourceResponse, ServerSentEvent, StreamingResponse

MODEL_ID = os.environ.get("MODEL_ID", "global.amazon.nova-2-lite-v1:0")  # or the ARN of a model or inference profile
LOCAL_STANDIN = os.environ.get("LOCAL_STANDIN") == "1"
INTERVAL = float(os.environ.get("STREAM_INTERVAL", "0.05"))  # seconds between words of the stand-in
MAX_TOKENS = 1024  # of an answer
MAX_BODY = 100_000  # characters of a request
ROLES = ("user", "assistant")  # in turns
PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
# The errors of botocore and AWS for missing or invalid credentials.
NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "SSOTokenLoadError"),
    *("UnauthorizedSSOTokenError", "LoginRefreshRequired", "UnrecognizedClientException", "ExpiredTokenException"),
}


@cache
def bedrock() -> Any:
    """Return the client, created on first use so that the page is served without boto3."""
    import boto3

    return boto3.client("bedrock-runtime")


def answer(messages: list[dict[str, Any]]) -> Iterator[ServerSentEvent]:
    """Yield the model's answer as `token` events, then `end`; or `error`, possibly after some tokens."""
    if LOCAL_STANDIN:
        yield from standin("LOCAL_STANDIN is 1")
        return
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError  # the connection to Bedrock broke

    settings = {"modelId": MODEL_ID, "inferenceConfig": {"maxTokens": MAX_TOKENS}}
    end: dict[str, Any] = {}
    try:
        with closing(bedrock().converse_stream(messages=messages, **settings)["stream"]) as stream:
            for event in stream:
                if text := event.get("contentBlockDelta", {}).get("delta", {}).get("text"):
                    yield ServerSentEvent({"text": text}, event="token")
                end |= event.get("messageStop", {}) | event.get("metadata", {})
        yield ServerSentEvent({name: end.get(name) for name in ("stopReason", "usage")}, event="end")
    except (BotoCoreError, ClientError, HTTPError) as error:
        logging.warning("%s: %s", type(error).__name__, error)
        of_aws = error.response.get("Error", {}) if isinstance(error, ClientError) else {}
        name, message = of_aws.get("Code") or type(error).__name__, of_aws.get("Message") or str(error)
        if name in NO_CREDENTIALS:
            yield from standin(name)
        else:
            yield ServerSentEvent({"errorType": name, "errorMessage": message}, event="error")


def standin(reason: str) -> Iterator[ServerSentEvent]:
    """Yield the events of a model for a text that says that it is a stand-in."""
    text = f"""This is a stand-in, not a model ({reason}). Its words stream as a model's tokens do. For real answers, \
the function requires AWS credentials that allow bedrock:InvokeModelWithResponseStream, and a model that your account \
can access in this region. MODEL_ID names the model, currently {MODEL_ID}."""
    for word in text.split():
        yield ServerSentEvent({"text": f"{word} "}, event="token")
        time.sleep(INTERVAL)
    yield ServerSentEvent({"stopReason": "end_turn", "usage": None}, event="end")


def conversation(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the messages of a request `{"messages": [{"role": "user", "text": "…"}, …]}` in Bedrock's format."""
    body = event.get("body") or ""
    if len(body) > MAX_BODY:
        raise ValueError("The conversation is too long; start a new one.")
    try:
        request = json.loads(b64decode(body) if event.get("isBase64Encoded") else body)
    except (ValueError, RecursionError):
        raise ValueError("The request is not JSON.") from None
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or len(messages) % 2 == 0:
        raise ValueError("The request needs a list of messages that starts and ends with the user's.")
    for number, message in enumerate(messages):
        role = ROLES[number % 2]
        match message:
            case {"role": given, "text": str(text)} if given == role and text.strip():
                yield {"role": role, "content": [{"text": text}]}
            case _:
                raise ValueError(f"Message {number + 1} must be from the {role} and have a text.")


def route(event: dict[str, Any]) -> tuple[Any, Any]:
    """Return method and path of a request to the function URL or a REST API."""
    if "httpMethod" in event:
        return event["httpMethod"], event.get("path")
    return event.get("requestContext", {}).get("http", {}).get("method"), event.get("rawPath")


def handler(event: dict[str, Any], context: Any) -> StreamingResponse:
    """Answer `GET /` with the page and `POST /chat` with the next message of the conversation."""
    match route(event):
        case "GET", "/":
            return StreamingResponse(PAGE, media_type="text/html")
        case "POST", "/chat":
            try:
                return EventSourceResponse(answer(list(conversation(event))))
            except ValueError as error:
                return StreamingResponse(f"{error}\n", 400, media_type="text/plain")
        case _:
            return StreamingResponse("Not found. Try GET / or POST /chat.\n", 404, media_type="text/plain")
