"""Clients that people have read the chat example's answers as their own types, from the local URL.

Each is the real package, in the environment of the group `clients`. Behind the function is boto3, whose parser of event
streams reads the frames that a server on localhost sends.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.helpers.support import TEMPLATE, environment, user_environment
from tests.local.conftest import TIMEOUT, function

from local.function_url import running

CLIENTS = Path(__file__).with_name("protocol_clients.py")
CHAT = TEMPLATE / "examples" / "chat"

pytestmark = pytest.mark.slow


def _load_frames() -> Any:
    """Return the module of the example's tests that makes frames."""
    spec = importlib.util.spec_from_file_location("bedrock_server", CHAT / "tests" / "bedrock_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bedrock_server"] = module
    spec.loader.exec_module(module)
    return module


frames = _load_frames()


@pytest.fixture(scope="session")
def python() -> Path:
    return environment("clients") / "python"


@pytest.fixture
def bedrock(stack: ExitStack) -> Any:
    return stack.enter_context(frames.bedrock_server())


@pytest.fixture
def url(bedrock: Any, stack: ExitStack, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Serve the bedrock example; the parameter is the timeout of its function."""
    code = tmp_path / "src"
    for folder in (TEMPLATE / "runtime", CHAT / "src", TEMPLATE / "examples" / "bedrock" / "src"):
        shutil.copytree(folder, code, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    variables = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path), **bedrock.environment}
    timeout = getattr(request, "param", TIMEOUT)
    served = function(code=code, handler="app.handler", timeout=timeout, environment=variables)
    return stack.enter_context(running(served)).rstrip("/")


def read_by(client: str, python: Path, url: str) -> Any:
    command: list[str | Path] = [python, CLIENTS, client, url]
    done = subprocess.run(
        command, env=user_environment(), capture_output=True, text=True, timeout=4 * TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TEXT = [*frames.reasoning("Hm"), *frames.text("Be", "cause ☀.")]
CALL = frames.answer(frames.text("Let me see."), frames.tool("t1", "add", '{"a":', " 1}"), reason="tool_use")
AFTER = frames.answer(frames.text("Two."), tokens=(7, 2))
FAILED = [*frames.text("Be"), frames.exception("throttlingException", "Too many.")]


def hanging(never: threading.Event) -> Iterator[bytes]:
    """Yield a text, and then nothing."""
    yield from frames.text("Be")
    never.wait(TIMEOUT)


# The time within which the client must make its first six requests, on a busy machine too, is not bounded by it: the
# timeout is that of one invocation.
@pytest.mark.parametrize("url", [4.0], indirect=True)
def test_openai_client(url: str, bedrock: Any, python: Path, stack: ExitStack) -> None:
    never = threading.Event()
    stack.callback(never.set)
    refused = (429, "ThrottlingException", "Slow down.")
    bedrock.answers = [frames.answer(TEXT), CALL, AFTER, AFTER, FAILED, refused, hanging(never), AFTER]
    assert read_by("openai", python, url) == {
        "text": {
            "events": ["chunk", "content.delta", "content.done"],
            "text": "Because ☀.",
            "reasoning": "Hm",
            "calls": [],
            "reason": "stop",
            "tokens": [3, 5],
        },
        "tool": {
            "events": [
                "chunk",
                "content.delta",
                "content.done",
                "tool_calls.function.arguments.delta",
                "tool_calls.function.arguments.done",
            ],
            "text": "Let me see.",
            "reasoning": None,
            "calls": [["t1", "add", '{"a": 1}']],
            "reason": "tool_calls",
            "tokens": [3, 5],
        },
        "after tool": "Two.",
        "whole": ["Two.", "stop", 9],
        "error midway": ["Be", "APIError", "Too many.", "throttlingException"],
        "error before": [429, "ThrottlingException"],
        "deadline": "StreamDeadlineExceeded",
    }
    _, third = bedrock.requests[2]
    assert third["messages"][1:] == [
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "add", "input": {"a": 1}}}]},
        {
            "role": "user",
            "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "2"}], "status": "success"}}],
        },
    ]


def test_pydantic_ai_client(url: str, bedrock: Any, python: Path) -> None:
    """It runs its own tool, and sends the result with the next request."""
    bedrock.answers = [CALL, AFTER, frames.answer(TEXT), FAILED]
    assert read_by("pydantic_ai", python, url) == {
        "called": [1],
        "text": "Two.",
        "tokens": 17,
        "streamed": ["Be", "cause ☀."],
        "error midway": "ModelRateLimitError",
    }


def test_agui_models(url: str, bedrock: Any, python: Path) -> None:
    bedrock.answers = [frames.answer(TEXT, frames.tool("t1", "add", '{"a":', " 1}"), reason="tool_use"), AFTER, FAILED]
    found = read_by("agui", python, url)
    assert found["tool"] == {
        "types": [
            *("RUN_STARTED", "REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT"),
            *("REASONING_MESSAGE_END", "REASONING_END"),
            *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
            *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "RUN_FINISHED"),
        ],
        "text": "Because ☀.",
        "input": '{"a": 1}',
        "end": {
            "type": "RUN_FINISHED",
            "threadId": "t",
            "runId": "tool",
            "outcome": {"type": "success"},
            "result": {"stopReason": "tool_use"},
            "usage": [{"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}],
        },
    }
    assert found["after tool"]["text"] == "Two."
    assert found["error midway"]["end"] == {"type": "RUN_ERROR", "message": "Too many.", "code": "throttlingException"}


def test_ui_message_models(url: str, bedrock: Any, python: Path) -> None:
    bedrock.answers = [frames.answer(TEXT, frames.tool("t1", "add", '{"a":', " 1}"), reason="tool_use"), AFTER, FAILED]
    found = read_by("ui_messages", python, url)
    assert found["tool"]["parts"] == [
        {"type": "step-start"},
        {"type": "reasoning", "text": "Hm"},
        {"type": "text", "text": "Because ☀."},
        {"type": "tool-add", "toolCallId": "t1", "input": {"a": 1}, "state": "input-available"},
    ]
    assert found["tool"]["reason"] == "tool-calls"
    assert found["tool"]["metadata"] == {"usage": {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}}
    assert found["after tool"]["parts"][1:] == [{"type": "text", "text": "Two."}]
    assert bedrock.requests[1][1]["messages"][2]["content"][0]["toolResult"]["content"] == [{"text": "2"}]
    assert found["error midway"]["errors"] == ["Too many."]
    assert found["error midway"]["parts"][1:] == [{"type": "text", "text": "Be"}]


DEADLINES = {
    "/chat": (
        {"messages": [{"role": "user", "text": "Why?"}]},
        b'event: error\ndata: {"errorType": "StreamDeadlineExceeded", "errorMessage": "The answer took longer ',
    ),
    "/api/chat": (
        {"messages": [{"role": "user", "parts": [{"type": "text", "text": "Why?"}]}]},
        b'data: {"type": "error", "errorText": "The answer took longer than the function may run."}\n\n'
        b"data: [DONE]\n\n",
    ),
    "/ag-ui": (
        {"threadId": "t", "runId": "r", "messages": [{"role": "user", "content": "Why?"}]},
        b'data: {"type": "RUN_ERROR", "message": "The answer took longer than the function may run.", '
        b'"code": "StreamDeadlineExceeded"}\n\n',
    ),
}


@pytest.mark.parametrize("url", [4.0], indirect=True)
def test_deadline_in_protocols_words(url: str, bedrock: Any, stack: ExitStack) -> None:
    """OpenAI's client shows its own above."""
    never = threading.Event()
    stack.callback(never.set)
    bedrock.answers = [hanging(never) for _ in DEADLINES]

    def told(path: str) -> bytes:
        with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)) as connection:
            connection.request("POST", path, json.dumps(DEADLINES[path][0]))
            with closing(connection.getresponse()) as response, pytest.raises(http.client.IncompleteRead) as broken:
                response.read()
        return broken.value.partial

    with ThreadPoolExecutor() as pool:
        for (_, end), received in zip(DEADLINES.values(), pool.map(told, DEADLINES), strict=True):
            assert end in received
