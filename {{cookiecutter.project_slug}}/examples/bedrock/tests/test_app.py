"""The function itself: botocore and its parser are real, and read frames from a server on localhost."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import botocore.exceptions
import pytest
from botocore.config import Config
from botocore.session import Session

import app
import converse
from protocols import Event, Failure, Finish, Reasoning, Request, Text, ToolCall, ToolInput, Usage
from streaming_runtime import StreamingResponse

from tests import bedrock_server as frames  # isort: skip  # the template's own settings would sort it differently

EVENTS = Path(__file__).parent.parent / "events"
# Other files there are for other functions, or yours.
STATUSES = {"get": 200, "rest": 200, "chat": 200, "completion": 200, "post": 404}
REQUESTS = sorted(path for path in EVENTS.glob("*.json") if path.stem in STATUSES)


@pytest.fixture(scope="module")
def server() -> Iterator[frames.BedrockServer]:
    with frames.bedrock_server() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: frames.BedrockServer) -> Any:
    """Return a real client of the server; to make one takes long."""
    return new_client(server.environment["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"])


def new_client(url: str) -> Any:
    key: Any = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    config = Config(retries={"total_max_attempts": 1})
    return Session().create_client("bedrock-runtime", endpoint_url=url, config=config, **key)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the machine's credentials, and request none from the network."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(app, "INTERVAL", 0)
    monkeypatch.setattr(app, "LOCAL_STANDIN", False)
    monkeypatch.setattr(app, "MODEL_ID", "some.model-v1:0")


@pytest.fixture
def bedrock(server: frames.BedrockServer, client: Any, monkeypatch: pytest.MonkeyPatch) -> frames.BedrockServer:
    """Let the function call the server."""
    monkeypatch.setattr(app, "bedrock", lambda: client)
    server.answers, server.requests = [], []
    return server


def ask(**of: Any) -> list[Event]:
    """Return the events of the answer to a question."""
    request = Request("my-answer", settings={"maxTokens": 9}, **of)
    request.add_text("user", "Why?")

    async def collected() -> list[Event]:
        return [event async for event in app.answer(request)]

    return asyncio.run(collected())


@pytest.mark.parametrize("event", REQUESTS, ids=lambda path: path.stem)
def test_events_return_a_response(event: Path) -> None:
    request = json.loads(event.read_text(encoding="utf-8"))

    async def respond() -> int:
        response = app.handler(request, None)
        return (response if isinstance(response, StreamingResponse) else await response).status_code

    status = asyncio.run(respond())
    assert status == STATUSES[event.stem]


def test_answer(bedrock: frames.BedrockServer) -> None:
    bedrock.answers = [frames.answer(frames.reasoning("hm"), frames.text("Be", "cause ☀."))]
    assert ask() == [Reasoning("hm"), Text("Be"), Text("cause ☀."), Finish("end_turn"), Usage(3, 5)]


def test_request_of_model(bedrock: frames.BedrockServer) -> None:
    bedrock.answers = [frames.answer(frames.text("Yes."))]
    tool = {"name": "add", "description": "Adds.", "inputSchema": {"json": {"type": "object"}}}
    ask(system="Be brief.", tools=[tool])
    ((path, asked),) = bedrock.requests
    assert path == "/model/some.model-v1%3A0/converse-stream"
    assert asked == {
        "messages": [{"role": "user", "content": [{"text": "Why?"}]}],
        "inferenceConfig": {"maxTokens": 9},
        "system": [{"text": "Be brief."}],
        "toolConfig": {"tools": [{"toolSpec": tool}]},
    }


def test_tool_use_in_pieces(bedrock: frames.BedrockServer) -> None:
    bedrock.answers = [frames.answer(frames.tool("t1", "add", '{"a":', " 1}"), reason="tool_use")]
    assert ask()[:4] == [ToolCall("t1", "add"), ToolInput('{"a":'), ToolInput(" 1}"), Finish("tool_use")]


@pytest.mark.parametrize("reason", ["content_filtered", "guardrail_intervened", "max_tokens"])
def test_stop_reason(bedrock: frames.BedrockServer, reason: str) -> None:
    bedrock.answers = [frames.answer(frames.text("Be"), reason=reason)]
    assert ask()[1] == Finish(reason)


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [(400, "ValidationException", 400), (403, "AccessDeniedException", 502), (429, "ThrottlingException", 429)],
)
def test_refusal(bedrock: frames.BedrockServer, status: int, code: str, shown: int) -> None:
    bedrock.answers = [(status, code, "You cannot have it.")]
    assert ask() == [Failure(code, "You cannot have it.", shown)]


@pytest.mark.parametrize(
    ("name", "status"), [("throttlingException", 429), ("modelStreamErrorException", 502), ("validationException", 400)]
)
def test_error_midway(bedrock: frames.BedrockServer, name: str, status: int) -> None:
    bedrock.answers = [[*frames.text("Be"), frames.exception(name, "No more.")]]
    assert ask() == [Text("Be"), Failure(name, "No more.", status)]


def test_cut_stream(bedrock: frames.BedrockServer) -> None:
    """In the middle of a frame, and between two: the protocol's end is missing."""
    whole = b"".join(frames.text("Be", "cause."))

    def broken() -> Iterator[bytes]:
        yield whole[:-9]
        raise frames.Cut

    bedrock.answers = [broken()]
    begun, failure = ask()
    assert begun == Text("Be")
    assert isinstance(failure, Failure)
    assert failure.name in ("ProtocolError", "ResponseStreamingError")
    bedrock.answers = [[whole]]
    assert ask() == [Text("Be"), Text("cause.")]  # chat.py reports that the end is missing


def test_damaged_frame(bedrock: frames.BedrockServer) -> None:
    [frame] = frames.text("Be")
    bedrock.answers = [[*frames.text("So "), frame[:-1] + bytes([frame[-1] ^ 1])]]
    begun, failure = ask()
    assert begun == Text("So ")
    assert isinstance(failure, Failure)
    assert failure.name == "ChecksumMismatch"


def test_unreachable_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "bedrock", lambda: new_client("http://127.0.0.1:9"))
    [failure] = ask()
    assert isinstance(failure, Failure)
    assert failure.name == "EndpointConnectionError"


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def test_stand_in_without_credentials() -> None:
    events = ask()
    assert len(events) > 20
    assert "**stand-in**, not a model (NoCredentialsError)" in said(events)
    assert "some.model-v1:0" in said(events)
    assert events[-1] == Finish("end_turn")


def test_credential_error_names() -> None:
    names = {name for name in converse.NO_CREDENTIALS if not name.endswith("Exception")}  # the others are AWS's own
    assert names <= set(dir(botocore.exceptions))


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_stand_in_with_invalid_credentials(bedrock: frames.BedrockServer, code: str) -> None:
    bedrock.answers = [(403, code, "The security token is invalid.")]
    assert f"not a model ({code})" in said(ask())


def test_stand_in_on_request(bedrock: frames.BedrockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOCAL_STANDIN", True)
    assert "not a model (LOCAL_STANDIN is 1)" in said(ask())
    assert not bedrock.requests


def test_function_streams(serve: Callable[..., str], bedrock: frames.BedrockServer) -> None:
    """The second piece is sent only after the first has arrived."""
    gate = iter([*frames.answer(frames.text("Be", "cause."))])
    arrived: list[bytes] = []

    def paced() -> Iterator[bytes]:
        yield next(gate)
        yield next(gate)
        while not arrived:
            pass
        yield from gate

    bedrock.answers = [paced()]
    url = serve(**bedrock.environment)
    body = json.dumps({"messages": [{"role": "user", "text": "Why?"}]}).encode()
    with urlopen(HttpRequest(f"{url.rstrip('/')}/chat", body), timeout=60) as response:
        assert urlsplit(response.url).path == "/chat"
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        arrived.append(response.readline() + response.readline())
        assert arrived == [b'event: token\ndata: {"text": "Be"}\n']
        assert response.read().endswith(
            b'event: end\ndata: {"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 5}}\n\n'
        )
