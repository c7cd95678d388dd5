"""The events of Amazon Bedrock's ConverseStream as those of an answer.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protocols import Event, Failure, Finish, Reasoning, Text, ToolCall, ToolInput, Usage

# Errors that concern the client; the others concern this function and its role. In a stream they start in lower case.
STATUSES = {
    "ContextWindowOverflowException": 400,  # of Strands, as ModelThrottledException
    "ModelNotReadyException": 429,
    "ModelThrottledException": 429,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "ValidationException": 400,
}

# The errors of botocore and AWS for missing or invalid credentials.
NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "SSOTokenLoadError"),
    *("UnauthorizedSSOTokenError", "LoginRefreshRequired", "UnrecognizedClientException", "ExpiredTokenException"),
}


def events_of(event: dict[str, Any]) -> Iterator[Event]:
    """Yield what one event of the stream says."""
    match event:
        case {"contentBlockStart": {"start": {"toolUse": {"toolUseId": id, "name": name}}}}:
            yield ToolCall(id, name)
        case {"contentBlockDelta": {"delta": {"text": text}}}:
            yield Text(text)
        case {"contentBlockDelta": {"delta": {"reasoningContent": {"text": text}}}}:
            yield Reasoning(text)
        case {"contentBlockDelta": {"delta": {"toolUse": {"input": text}}}}:
            yield ToolInput(text)
        case {"messageStop": {"stopReason": reason}}:
            yield Finish(reason)
        case {"metadata": {"usage": {"inputTokens": tokens_in, "outputTokens": tokens_out}}}:
            yield Usage(tokens_in, tokens_out)


def failure_of(error: Exception) -> Failure:
    """Return the failure for an exception of botocore, or of the connection."""
    details = getattr(error, "response", {}).get("Error", {})
    name = details.get("Code") or type(error).__name__
    return Failure(name, details.get("Message") or str(error), STATUSES.get(name[:1].upper() + name[1:], 502))
