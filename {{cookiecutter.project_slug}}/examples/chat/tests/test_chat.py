"""How answers are served: routes, statuses, limits, heartbeats, the deadline, and the request to stop."""

import asyncio
import base64
import http.client
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.session import Session
from botocore.stub import Stubber

import chat
import stop
from protocols import Event, Failure, Finish, Request, Text, ToolResult, Usage
from streaming_runtime import StreamingResponse

QUESTION = {"messages": [{"role": "user", "text": "Why?"}], "id": "my-answer"}
COMPLETION = {"messages": [{"role": "user", "content": "Why?"}], "stream": True}
ANSWER: list[Event] = [Text("Be"), Text("cause."), Finish("end_turn"), Usage(3, 5)]


class Model:
    """Answers with events.

    Attributes:
        requests: What it was asked.
        given: How many events were taken from it.
        closed: Whether its answer was closed.
    """

    def __init__(self, *events: Event | Exception, after: Callable[[int], object] = lambda number: None) -> None:
        self._events = events
        self._after = after
        self.requests: list[Request] = []
        self.given = 0
        self.closed = False

    async def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        try:
            for event in self._events:
                if isinstance(event, Exception):
                    raise event
                self.given += 1
                yield event
                self._after(self.given)
        finally:
            self.closed = True


@pytest.fixture(autouse=True)
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "FOLDER", tmp_path / "stopped")
    monkeypatch.setattr(stop, "TABLE", "")
    monkeypatch.setattr(stop, "AVAILABLE", True)


def request(path: str = "/chat", body: object = QUESTION, method: str = "POST") -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {"rawPath": path, "requestContext": {"http": {"method": method, "path": path}}, "body": text}


def respond(event: dict[str, Any], model: Model | None = None) -> tuple[StreamingResponse, str]:
    """Return the response, and its whole content."""

    async def collected() -> tuple[StreamingResponse, str]:
        response = chat.respond(event, model or Model(*ANSWER))
        if not isinstance(response, StreamingResponse):
            response = await response
        content: Any = response.content
        items = [item async for item in content] if hasattr(content, "__aiter__") else content
        return response, b"".join(map(response.encode, items)).decode()

    return asyncio.run(collected())


def test_page() -> None:
    response, content = respond(request("/", "", "GET"))
    assert (response.status_code, content) == (200, chat.PAGE)
    assert response.headers == {"content-type": "text/html; charset=utf-8"}


def test_page_is_served_without_slow_imports() -> None:
    """They take longer than all else before the page, and only an answer needs them."""
    slow = "{'asyncio', 'boto3', 'botocore', 'strands'} & sys.modules.keys()"
    code = f"import sys, app; app.handler({request('/', '', 'GET')!r}, None); print({slow})"
    project = Path(__file__).parent.parent
    path = os.pathsep.join((str(project / "src"), str(project / "runtime")))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("method", "path"), [("GET", "/chat"), ("POST", "/"), ("HEAD", "/"), ("POST", "/chat/")])
def test_unknown_route(method: str, path: str) -> None:
    response, content = respond(request(path, QUESTION, method))
    assert response.status_code == 404
    assert content == "Not found. Try GET / or POST to /chat, /v1/chat/completions, /api/chat, /ag-ui.\n"


def test_rest_api_event() -> None:
    event: dict[str, Any] = {"httpMethod": "GET", "path": "/", "body": None, "headers": {}}
    assert respond(event)[1] == chat.PAGE
    body = base64.b64encode(json.dumps(QUESTION).encode()).decode()
    event = {**event, "httpMethod": "POST", "path": "/chat", "body": body, "isBase64Encoded": True}
    assert respond(event)[1].count("event: token\n") == 2


def test_answer() -> None:
    """The usage that follows the end of the model's text precedes the end of the answer."""
    model = Model(*ANSWER)
    response, content = respond(request(), model)
    assert response.status_code == 200
    assert content == (
        'event: token\ndata: {"text": "Be"}\n\nevent: token\ndata: {"text": "cause."}\n\nevent: end\n'
        'data: {"stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 5}}\n\n'
    )
    assert model.closed
    assert model.requests[0].settings == {"maxTokens": chat.MAX_TOKENS}


def test_answer_in_one_piece() -> None:
    response, content = respond(request("/v1/chat/completions", {**COMPLETION, "stream": False}))
    assert response.headers["content-type"] == "application/json"
    completion = json.loads(content)
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": "Because."}
    assert completion["usage"]["total_tokens"] == 8


@pytest.mark.parametrize("stream", [True, False])
def test_failure_before_stream_has_status(stream: bool) -> None:
    """A client tries again after a 429, which it could not read within a stream."""
    model = Model(Failure("ThrottlingException", "Too many.", 429))
    response, content = respond(request("/v1/chat/completions", {**COMPLETION, "stream": stream}), model)
    assert response.status_code == 429
    assert json.loads(content)["error"]["code"] == "ThrottlingException"
    response, content = respond(request(), Model(Failure("ThrottlingException", "Too many.", 429)))
    assert (response.status_code, content) == (429, "ThrottlingException: Too many.\n")


def test_incomplete_answer() -> None:
    _, content = respond(request(), Model(Text("Be")))
    assert content.endswith(
        'data: {"errorType": "IncompleteStream", "errorMessage": "The model\'s answer broke off."}\n\n'
    )


@pytest.mark.parametrize("body", ["", "{", "\ud800", "[" * 90_000, "null", "[]"], ids=range(6))
def test_invalid_json(body: str) -> None:
    response, content = respond(request("/chat", body))
    assert (response.status_code, content) == (400, "The request is not a JSON object.\n")


def test_long_request() -> None:
    event = request("/chat", {"messages": [{"role": "user", "text": "x" * chat.MAX_PROMPT}]})
    response, content = respond(event)
    assert (response.status_code, content) == (400, "The conversation is too long; start a new one.\n")


def test_invalid_request_in_protocols_words() -> None:
    response, content = respond(request("/v1/chat/completions", {"messages": []}))
    assert response.status_code == 400
    assert json.loads(content)["error"]["type"] == "invalid_request_error"


def test_client_cannot_raise_token_limit() -> None:
    for asked, granted in ((chat.MAX_TOKENS + 1, chat.MAX_TOKENS), (7, 7)):
        model = Model(*ANSWER)
        respond(request("/v1/chat/completions", {**COMPLETION, "max_tokens": asked}), model)
        assert model.requests[0].settings["maxTokens"] == granted


def test_total_tokens_end_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent calls the model again and again, each time with the whole conversation."""
    monkeypatch.setattr(chat, "MAX_TOTAL_TOKENS", 10)
    model = Model(Text("a"), Usage(3, 8), ToolResult("t1", "1"), Text("b"), Finish("end_turn"))
    _, content = respond(request(), model)
    assert (model.given, model.closed) == (3, True)
    assert '"stopReason": "max_tokens"' in content
    # The answer of the last call is complete.
    assert '"stopReason": "end_turn"' in respond(request(), Model(Text("a"), Finish("end_turn"), Usage(3, 8)))[1]


def test_stop_ends_answer_within_one_chunk() -> None:
    def stop_after_second(number: int) -> None:
        if number == 2:
            response, _ = respond_inside(request("/stop", {"id": "my-answer"}))
            assert response.status_code == 204

    def respond_inside(event: dict[str, Any]) -> tuple[StreamingResponse, str]:
        response = chat.respond(event, Model())
        assert isinstance(response, StreamingResponse)
        return response, ""

    model = Model(*map(Text, "abcdefgh"), after=stop_after_second)
    _, content = respond(request(), model)
    assert (model.given, model.closed) == (3, True)  # the third was on its way, and is not sent
    assert content.count("event: token\n") == 2
    assert '"stopReason": "cancelled"' in content


def test_stop_of_another_answer() -> None:
    stop.stop("another-answer")
    assert respond(request())[1].count("event: token\n") == 2


@pytest.mark.parametrize("body", ["", {}, {"id": 1}, {"id": ""}, {"id": "x" * 129}], ids=str)
def test_invalid_stop_request(body: object) -> None:
    assert respond(request("/stop", body))[0].status_code == 400


def test_stop_without_table_on_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "AVAILABLE", False)
    response, content = respond(request("/stop", {"id": "my-answer"}))
    assert response.status_code == 501
    assert content.startswith("Answers cannot be stopped: STOP_TABLE names no table.")


def test_stop_record_in_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's stubber checks the parameters against its model of DynamoDB."""
    key: Any = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client = Session().create_client("dynamodb", region_name="us-east-1", **key)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(stop, "TABLE", "stops")
    monkeypatch.setattr(stop, "dynamodb", lambda: client)
    monkeypatch.setattr(stop, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 9.0))
    record = {"id": {"S": "my-answer"}, "expires": {"N": "3609"}}
    read = {"TableName": "stops", "Key": {"id": {"S": "my-answer"}}, "ProjectionExpression": "id"}
    with Stubber(client) as table:
        watch = stop.Watch("my-answer")
        assert not watch.stopped()  # which does not read
        table.add_response("get_item", {}, read)
        clock.now = stop.INTERVAL
        assert not watch.stopped()
        table.add_response("put_item", {}, {"TableName": "stops", "Item": record})
        stop.stop("my-answer")
        table.add_response("get_item", {"Item": {"id": {"S": "my-answer"}}}, read)
        clock.now += stop.INTERVAL
        assert watch.stopped()
        table.add_client_error("get_item", "ThrottlingException")
        clock.now += stop.INTERVAL
        assert not watch.stopped()  # a table that cannot be read ends no answer
        table.assert_no_pending_responses()


def test_reload_finds_no_stream() -> None:
    """The AI SDK asks so for the rest of an answer, and takes a 204 for none."""
    response, content = respond(request("/api/chat/my-chat/stream", "", "GET"))
    assert (response.status_code, content) == (204, "")


def test_log_holds_no_text(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG)
    secret = request("/chat", {"messages": [{"role": "user", "text": "my secret"}], "id": "my-answer"})
    respond(secret, Model(Text("a secret answer"), Finish("end_turn"), Usage(3, 5)))
    respond(secret, Model(Text("a secret answer"), Failure("throttlingException", "The secret was too much.")))
    assert "answer my-answer: 3 tokens in, 5 out, end_turn" in caplog.text
    assert "answer my-answer failed: throttlingException" in caplog.text
    assert "secret" not in caplog.text
    monkeypatch.setattr(chat, "LOG_PROMPTS", True)
    respond(secret)
    assert "my secret" in caplog.text


# ---- through the local URL ----

SERVED = """
import os
import subprocess
import sys
import chat
from protocols import Finish, Text

async def answer(request):
    yield Text("Be")
    with open(os.environ["GATE"], "rb", buffering=0) as gate:
        if gate.read(1) == b"x":
            raise RuntimeError("not for the client")
    yield Text("cause.")
    yield Finish("end_turn")

def handler(event, context):
    return chat.respond(event, answer)
"""


class Conversation:
    """Requests to an answer that waits for a byte in the gate after its first text."""

    def __init__(self, url: str, gate: Path) -> None:
        self._host = urlsplit(url).netloc
        self._gate = os.open(gate, os.O_RDWR)

    def post(self, path: str, body: object) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse()

    def go_on(self, how: bytes = b".") -> None:
        os.write(self._gate, how)

    def close(self) -> None:
        os.close(self._gate)


@pytest.fixture
def conversation(serve: Callable[..., str], tmp_path: Path) -> Iterator[Callable[..., Conversation]]:
    opened: list[Conversation] = []

    def start(**environment: str) -> Conversation:
        (tmp_path / "served.py").write_text(SERVED, encoding="utf-8")
        os.mkfifo(tmp_path / "gate")
        url = serve("served.handler", tmp_path, GATE=str(tmp_path / "gate"), TMPDIR=str(tmp_path), **environment)
        opened.append(Conversation(url, tmp_path / "gate"))
        return opened[0]

    yield start
    for one in opened:
        one.close()


def lines(response: http.client.HTTPResponse, number: int) -> list[str]:
    return [response.readline().decode().strip() for _ in range(number)]


def test_stop_reaches_other_environment(conversation: Callable[..., Conversation]) -> None:
    """The request to stop is served by another process than the answer."""
    talk = conversation()
    response = talk.post("/chat", QUESTION)
    assert lines(response, 3) == ["event: token", 'data: {"text": "Be"}', ""]
    assert talk.post("/stop", {"id": "my-answer"}).status == 204
    talk.go_on()
    assert response.read().startswith(b'event: end\ndata: {"stopReason": "cancelled"')


# A request of each protocol, and how the answer ends that an exception ends, with its message and name.
ENDS = {
    "/chat": (QUESTION, 'event: error\ndata: {"errorType": "%(name)s", "errorMessage": "%(message)s"}\n\n'),
    "/v1/chat/completions": (
        COMPLETION,
        'data: {"error": {"message": "%(message)s", "type": "server_error", "param": null, "code": "%(name)s"}}\n\n',
    ),
    "/api/chat": (
        {"messages": [{"role": "user", "parts": [{"type": "text", "text": "Why?"}]}]},
        'data: {"type": "text-end", "id": "%(id)s-1"}\n\n'
        'data: {"type": "error", "errorText": "%(message)s"}\n\ndata: [DONE]\n\n',
    ),
    "/ag-ui": (
        {"threadId": "t", "runId": "r", **COMPLETION},
        'data: {"type": "TEXT_MESSAGE_END", "messageId": "r-1"}\n\n'
        'data: {"type": "RUN_ERROR", "message": "%(message)s", "code": "%(name)s"}\n\n',
    ),
}


def test_heartbeat_in_each_protocol(conversation: Callable[..., Conversation]) -> None:
    """While a model thinks or a tool runs. A comment is in no client's way."""
    talk = conversation(PING="0.05")
    for path, (body, _) in ENDS.items():
        response = talk.post(path, body)
        while not (line := response.readline()).startswith(b":"):
            assert line, path
        assert line == b": ping\n"
        talk.go_on()
        rest = response.read()
        assert b"cause." in rest, path


@pytest.mark.parametrize("path", ENDS)
@pytest.mark.parametrize(
    ("error", "message"), [("StreamDeadlineExceeded", chat.DEADLINE), ("ValueError", "The answer failed.")]
)
def test_end_by_exception(path: str, error: str, message: str) -> None:
    """Byte for byte: the open part is closed, and the error is told in the words of the protocol."""
    body, end = ENDS[path]
    model = Model(Text("Be"), ValueError("not for the client"))

    async def broken_off() -> bytes:
        response: Any = await chat.respond(request(path, body), model)  # type: ignore[misc]
        with pytest.raises(ValueError, match="not for the client"):
            async for _ in response.content:
                pass
        return bytes(response.final_chunk({"errorType": error, "errorMessage": "not for the client"}))

    ended = asyncio.run(broken_off()).decode()
    assert ended == end % {"name": error, "message": message, "id": model.requests[0].id}


@pytest.mark.parametrize("path", ENDS)
def test_exception_midway(conversation: Callable[..., Conversation], path: str) -> None:
    """Lambda gets the exception in a trailer, and the client learns of it in the words of its protocol."""
    body, end = ENDS[path]
    talk = conversation()
    response = talk.post(path, body)
    talk.go_on(b"x")
    with pytest.raises(http.client.IncompleteRead) as broken:
        response.read()
    received = broken.value.partial.decode()
    last = end.rpartition("data: {")[2]
    assert last % {"name": "RuntimeError", "message": "The answer failed."} in received
    assert "not for the client" not in received
