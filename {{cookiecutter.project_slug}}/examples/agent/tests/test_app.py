"""The function itself: Strands and boto3 are real, and read frames from a server on localhost."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import pytest
from strands.models import BedrockModel

import app
import chat
from protocols import Event, Failure, Finish, Reasoning, Request, Text, ToolCall, ToolInput, ToolResult, Usage
from streaming_runtime import StreamingResponse

from tests import bedrock_server as frames  # isort: skip  # the template's own settings would sort it differently

EVENTS = Path(__file__).parent.parent / "events"
# Other files there are for other functions, or yours.
STATUSES = {"get": 200, "rest": 200, "chat": 200, "completion": 200, "post": 404}
REQUESTS = sorted(path for path in EVENTS.glob("*.json") if path.stem in STATUSES)
CALL = frames.answer(
    frames.reasoning("hm"), frames.tool("t1", "weekday", '{"day":', ' "2026-11-30"}'), reason="tool_use"
)
AFTER = frames.answer(frames.text("A ", "Monday."), tokens=(7, 2))


@pytest.fixture(scope="module")
def server() -> Iterator[frames.BedrockServer]:
    with frames.bedrock_server() as running:
        yield running


@pytest.fixture(autouse=True)
def settings(server: frames.BedrockServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the model's client find the server, with invalid credentials."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(app, "LOCAL_STANDIN", False)
    monkeypatch.setenv("STREAM_INTERVAL", "0")
    server.answers, server.requests = [], []


@pytest.fixture(scope="module")
def model(server: frames.BedrockServer) -> Any:
    """Return the model; to make its client takes long."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        return BedrockModel(model_id="some.model-v1:0", max_tokens=9)


@pytest.fixture
def bedrock(server: frames.BedrockServer, model: Any, monkeypatch: pytest.MonkeyPatch) -> frames.BedrockServer:
    monkeypatch.setattr(app, "bedrock", lambda: model)
    return server


def ask(**of: Any) -> list[Event]:
    """Return the events of the answer to a question."""
    request = Request("my-answer", **of)
    request.add_text("user", "What day is it?")

    async def collected() -> list[Event]:
        return [event async for event in app.answer(request)]

    return asyncio.run(collected())


@pytest.mark.parametrize("event", REQUESTS, ids=lambda path: path.stem)
def test_events_return_a_response(event: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOCAL_STANDIN", True)
    request = json.loads(event.read_text(encoding="utf-8"))

    async def respond() -> int:
        response = app.handler(request, None)
        return (response if isinstance(response, StreamingResponse) else await response).status_code

    status = asyncio.run(respond())
    assert status == STATUSES[event.stem]


def test_stopped_answer_closes_the_agent(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """In its own task: OpenTelemetry, which Strands uses, logs an error if a span ends in another one."""
    monkeypatch.setattr(app, "LOCAL_STANDIN", True)
    request = Request("my-answer")
    request.add_text("user", "What day is it?")

    async def stop() -> None:
        answer = app.answer(request)
        await anext(answer)
        await answer.aclose()

    asyncio.run(stop())
    assert "stream_async" not in caplog.text


def test_tool_runs_between_two_calls(bedrock: frames.BedrockServer) -> None:
    bedrock.answers = [CALL, AFTER]
    assert ask() == [
        Reasoning("hm"),
        ToolCall("t1", "weekday"),
        ToolInput('{"day":'),
        ToolInput(' "2026-11-30"}'),
        Finish("tool_use"),
        Usage(3, 5),
        ToolResult("t1", "Monday"),
        Text("A "),
        Text("Monday."),
        Finish("end_turn"),
        Usage(7, 2),
    ]


def test_request_of_model(bedrock: frames.BedrockServer) -> None:
    bedrock.answers = [CALL, AFTER]
    history = [{"role": "user", "content": [{"text": "Hi"}]}, {"role": "assistant", "content": [{"text": "Hello."}]}]
    ask(messages=history, system="Be polite.")
    (path, first), (_, second) = bedrock.requests
    assert path == "/model/some.model-v1%3A0/converse-stream"
    assert [message["role"] for message in first["messages"]] == ["user", "assistant", "user"]
    assert first["system"] == [{"text": f"{app.INSTRUCTIONS}\nBe polite."}]
    assert first["inferenceConfig"] == {"maxTokens": 9}
    [tool] = first["toolConfig"]["tools"]
    assert tool["toolSpec"]["name"] == "weekday"
    assert second["messages"][-1]["content"][0]["toolResult"]["content"] == [{"text": "Monday"}]


def test_failing_tool(bedrock: frames.BedrockServer) -> None:
    """The model learns of it, and so does the client."""
    bedrock.answers = [frames.answer(frames.tool("t1", "weekday", '{"day": "soon"}'), reason="tool_use"), AFTER]
    [result] = [event for event in ask() if isinstance(event, ToolResult)]
    assert result.failed
    assert "soon" in result.output


def test_throttling_is_not_retried(bedrock: frames.BedrockServer) -> None:
    """Strands would wait for up to two minutes, which are billed."""
    bedrock.answers = [(429, "ThrottlingException", "Slow down.")]
    [failure] = ask()
    assert isinstance(failure, Failure)
    assert (failure.name, failure.status) == ("ModelThrottledException", 429)
    assert len(bedrock.requests) == 1


@pytest.mark.parametrize(
    ("last", "name"),
    [
        (frames.exception("throttlingException", "Slow down."), "ModelThrottledException"),
        (frames.exception("modelStreamErrorException", "It broke."), "modelStreamErrorException"),
        (frames.text("damaged")[0][:-1] + b"\0", "ChecksumMismatch"),
    ],
    ids=["throttling", "model", "frame"],
)
def test_error_midway(bedrock: frames.BedrockServer, last: bytes, name: str) -> None:
    bedrock.answers = [[*frames.text("Be"), last]]
    begun, failure = ask()
    assert begun == Text("Be")
    assert isinstance(failure, Failure)
    assert failure.name == name


def test_cut_stream(bedrock: frames.BedrockServer) -> None:
    def broken() -> Iterator[bytes]:
        yield from frames.text("Be")
        raise frames.Cut

    bedrock.answers = [broken()]
    begun, failure = ask()
    assert begun == Text("Be")
    assert isinstance(failure, Failure)
    assert failure.name in ("ProtocolError", "ResponseStreamingError")


@pytest.mark.parametrize("reason", ["content_filtered", "guardrail_intervened", "max_tokens"])
def test_stop_reason(bedrock: frames.BedrockServer, reason: str) -> None:
    bedrock.answers = [frames.answer(frames.text("Be"), reason=reason)]
    assert ask() == [Text("Be"), Finish(reason), Usage(3, 5)]


def test_total_tokens_end_the_loop(bedrock: frames.BedrockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that calls its tool again and again is not asked a second time."""
    monkeypatch.setattr(chat, "MAX_TOTAL_TOKENS", 7)
    bedrock.answers = [CALL]
    request = Request("my-answer")
    request.add_text("user", "What day is it?")

    async def collected() -> list[Event]:
        return [event async for event in chat.limited(request, app.answer(request))]

    assert asyncio.run(collected())[-1] == Finish("max_tokens")
    assert len(bedrock.requests) == 1


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_stand_in_with_invalid_credentials(bedrock: frames.BedrockServer, code: str) -> None:
    bedrock.answers = [(403, code, "The security token is invalid.")]
    events = ask()
    assert events[0] == ToolCall("today", "weekday")
    assert ToolResult("today", date.today().strftime("%A")) in events
    said = "".join(event.text for event in events if isinstance(event, Text))
    assert f"This is a **stand-in**, not a model ({code})." in said
    assert events[-1] == Finish("end_turn")


def test_function_streams(serve: Callable[..., str], bedrock: frames.BedrockServer) -> None:
    """The second call of the model is answered only after the tool's result has arrived."""
    arrived: list[bytes] = []

    def paced() -> Iterator[bytes]:
        while not arrived:
            pass
        yield from AFTER

    bedrock.answers = [CALL, paced()]
    url = serve(**bedrock.environment)
    body = json.dumps({"messages": [{"role": "user", "text": "What day is it?"}]}).encode()
    with urlopen(HttpRequest(f"{url.rstrip('/')}/chat", body), timeout=60) as response:
        lines = iter(response.readline, b"")
        assert next(line for line in lines if b"Monday" in line).startswith(b'data: {"id": "t1", "output": "Monday"')
        arrived.append(b"result")
        assert b"".join(lines).endswith(
            b'event: end\ndata: {"stopReason": "end_turn", "usage": {"inputTokens": 10, "outputTokens": 7}}\n\n'
        )
