"""The function itself, called as Lambda's runtime calls it; boto3 is real, but nothing goes over the network."""

import base64
import http.client
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from urllib3.exceptions import ProtocolError

import app
from streaming_runtime import EventSourceResponse, ServerSentEvent, StreamingResponse

EVENTS = Path(__file__).parent.parent / "events"
QUESTION = {"messages": [{"role": "user", "text": "Why?"}]}
ANSWER = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "Be"}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "cause ☀."}}),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    ("messageStop", {"stopReason": "max_tokens"}),
    ("metadata", {"usage": {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}, "metrics": {"latencyMs": 9}}),
]


class Wire(io.BytesIO):
    """The body of a response as urllib3 passes it to botocore; it fails at its end if it is `broken`."""

    broken = False

    def stream(self) -> Iterator[bytes]:
        while piece := self.read(50):
            yield piece
        if self.broken:
            raise ProtocolError("Connection broken")


class Bedrock:
    """Answer the requests of botocore.

    Attributes:
        status: HTTP status of the response.
        body: Its body.
        failure: Raised instead of a response.
        requests: URL and JSON of each request.
    """

    def __init__(self) -> None:
        self.status = 200
        self.body = Wire()
        self.failure: Exception | None = None
        self.requests: list[tuple[str, Any]] = []

    def send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        if self.failure:
            raise self.failure
        assert isinstance(request.body, bytes)
        self.requests.append((request.url, json.loads(request.body)))
        kind = "application/vnd.amazon.eventstream" if self.status == 200 else "application/json"
        return AWSResponse(request.url, self.status, HTTPHeaders.from_dict({"content-type": kind}), self.body)

    def stream(self, *events: tuple[str, Any], kind: str = "event") -> None:
        """Answer with `events`; further calls append to them."""
        self.body = Wire(self.body.getvalue() + b"".join(frame(kind, name, data) for name, data in events))

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer with an error."""
        self.status = status
        self.body = Wire(json.dumps({"__type": code, "message": message}).encode())


def frame(kind: str, name: str, data: Any) -> bytes:
    """Return a message of AWS's event stream encoding: https://smithy.io/2.0/aws/amazon-eventstream.html"""
    headers = b"".join(
        struct.pack("!B", len(key)) + key.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for key, value in ((":message-type", kind), (f":{kind}-type", name), (":content-type", "application/json"))
    )
    payload = json.dumps(data).encode()
    prelude = struct.pack("!II", len(headers) + len(payload) + 16, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


@pytest.fixture(scope="module")
def client() -> Any:
    """Return a real client with invalid credentials."""
    session = boto3.Session(aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="secret", region_name="us-east-1")
    return session.client("bedrock-runtime", config=Config(retries={"total_max_attempts": 1}))


@pytest.fixture
def bedrock(client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bedrock]:
    """Replace the network below the client."""
    service = Bedrock()
    monkeypatch.setattr(app, "bedrock", lambda: client)
    client.meta.events.register("before-send.bedrock-runtime.ConverseStream", service.send)
    yield service
    client.meta.events.unregister("before-send.bedrock-runtime.ConverseStream", service.send)


def request(body: object, method: str = "POST", path: str = "/chat") -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {"rawPath": path, "requestContext": {"http": {"method": method, "path": path}}, "body": text}


def events_of(response: StreamingResponse) -> list[tuple[str | None, Any]]:
    assert isinstance(response, EventSourceResponse), response.content
    assert isinstance(response.content, Iterator)
    events = list(response.content)
    assert all(isinstance(event, ServerSentEvent) and event.encode() for event in events)
    return [(event.event, event.data) for event in events]


def ask(body: object = QUESTION) -> list[tuple[str | None, Any]]:
    return events_of(app.handler(request(body), None))


def text_of(events: list[tuple[str | None, Any]]) -> str:
    return "".join(data["text"] for name, data in events if name == "token")


def refusal(event: dict[str, Any]) -> str:
    response = app.handler(event, None)
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("text/plain")
    assert isinstance(response.content, list)
    return str(response.content[0])


@pytest.mark.parametrize("event", sorted(EVENTS.glob("*.json")), ids=lambda path: path.stem)
def test_events_return_a_response(event: Path) -> None:
    response = app.handler(json.loads(event.read_text(encoding="utf-8")), None)
    assert response.status_code == {"get": 200, "rest": 200, "chat": 200}.get(event.stem, 404)
    if event.stem == "chat":
        assert events_of(response)[-1][0] == "end"


def test_page() -> None:
    response = app.handler(request("", "GET", "/"), None)
    assert (response.status_code, response.content) == (200, [app.PAGE])
    assert response.headers == {"content-type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(("method", "path"), [("GET", "/chat"), ("POST", "/"), ("HEAD", "/"), ("POST", "/chat/")])
def test_unknown_route(method: str, path: str) -> None:
    assert app.handler(request(QUESTION, method, path), None).status_code == 404


def test_rest_api_event() -> None:
    request: dict[str, Any] = {"httpMethod": "GET", "path": "/", "body": None, "headers": {}}
    assert app.handler(request, None).content == [app.PAGE]
    body = base64.b64encode(json.dumps(QUESTION).encode()).decode()
    chat = {**request, "httpMethod": "POST", "path": "/chat", "body": body, "isBase64Encoded": True}
    assert isinstance(app.handler(chat, None), EventSourceResponse)
    assert app.handler({**chat, "httpMethod": "GET"}, None).status_code == 404


def test_model_answer_streams_tokens(bedrock: Bedrock) -> None:
    bedrock.stream(*ANSWER)
    usage = {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}
    assert ask() == [
        ("token", {"text": "Be"}),
        ("token", {"text": "cause ☀."}),
        ("end", {"stopReason": "max_tokens", "usage": usage}),
    ]
    assert bedrock.body.closed


def test_model_gets_whole_conversation(bedrock: Bedrock) -> None:
    bedrock.stream(*ANSWER)
    roles = ["user", "assistant", "user"]
    ask({"messages": [{"role": role, "text": f"{number}"} for number, role in enumerate(roles)]})
    ((url, asked),) = bedrock.requests
    assert url == "https://bedrock-runtime.us-east-1.amazonaws.com/model/some.model-v1%3A0/converse-stream"
    assert asked == {
        "messages": [{"role": role, "content": [{"text": f"{number}"}]} for number, role in enumerate(roles)],
        "inferenceConfig": {"maxTokens": app.MAX_TOKENS},
    }


@pytest.mark.parametrize("status_and_code", [(403, "AccessDeniedException"), (400, "ValidationException")])
def test_model_refusal(bedrock: Bedrock, status_and_code: tuple[int, str]) -> None:
    bedrock.refuse(*status_and_code, "You cannot have it.")
    assert ask() == [("error", {"errorType": status_and_code[1], "errorMessage": "You cannot have it."})]


def test_model_failure_midway(bedrock: Bedrock) -> None:
    bedrock.stream(*ANSWER[:3])
    bedrock.stream(("throttlingException", {"message": "Too many tokens."}), kind="exception")
    error = {"errorType": "throttlingException", "errorMessage": "Too many tokens."}
    assert ask() == [("token", {"text": "Be"}), ("error", error)]


def test_broken_connection(bedrock: Bedrock) -> None:
    bedrock.stream(*ANSWER[:3])
    bedrock.body.broken = True
    assert ask()[1:] == [("error", {"errorType": "ProtocolError", "errorMessage": "Connection broken"})]


def test_unreachable_service(bedrock: Bedrock) -> None:
    bedrock.failure = EndpointConnectionError(endpoint_url="https://example.com")
    ((name, data),) = ask()
    assert (name, data["errorType"]) == ("error", "EndpointConnectionError")
    assert "https://example.com" in data["errorMessage"]


def test_stand_in_without_credentials() -> None:
    events = ask()
    assert len(events) > 20
    assert "stand-in, not a model (NoCredentialsError)" in text_of(events)
    assert "some.model-v1:0" in text_of(events)
    assert events[-1] == ("end", {"stopReason": "end_turn", "usage": None})


def test_credential_error_names() -> None:
    names = {name for name in app.NO_CREDENTIALS if not name.endswith("Exception")}  # the others are AWS's own
    assert names <= set(dir(botocore.exceptions))


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_stand_in_with_invalid_credentials(bedrock: Bedrock, code: str) -> None:
    bedrock.refuse(403, code, "The security token is invalid.")
    assert f"stand-in, not a model ({code})" in text_of(ask())


def test_stand_in_on_request(bedrock: Bedrock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOCAL_STANDIN", True)
    assert "stand-in, not a model (LOCAL_STANDIN is 1)" in text_of(ask())
    assert not bedrock.requests


@pytest.mark.parametrize("body", ["", "{", "\ud800", "[" * 90_000], ids=["empty", "half", "no text", "deep"])
def test_invalid_json(body: str) -> None:
    assert "not JSON" in refusal(request(body))


def test_long_request() -> None:
    assert "too long" in refusal(request({"messages": [{"role": "user", "text": "x" * app.MAX_BODY}]}))


@pytest.mark.parametrize("messages", [None, [], {}, "Why?", [*QUESTION["messages"], *QUESTION["messages"]]])
def test_wrong_number_of_messages(messages: object) -> None:
    assert "needs a list of messages" in refusal(request({"messages": messages}))


@pytest.mark.parametrize("body", [None, 1, "null", []])
def test_request_that_is_not_an_object(body: object) -> None:
    assert "needs a list of messages" in refusal(request(body))


@pytest.mark.parametrize(
    "message",
    [
        None,
        "Why?",
        {},
        {"role": "user"},
        {"role": "user", "text": ""},
        {"role": "user", "text": " \n"},
        {"role": "user", "text": 1},
        {"role": "assistant", "text": "Why?"},
        {"role": "system", "text": "Why?"},
        {"role": ["user"], "text": "Why?"},
    ],
)
def test_invalid_message(message: object) -> None:
    assert "Message 1 must be from the user" in refusal(request({"messages": [message]}))


def test_messages_alternate() -> None:
    assert "Message 2 must be from the assistant" in refusal(request({"messages": QUESTION["messages"] * 3}))


def test_base64_body() -> None:
    event = request(base64.b64encode(json.dumps(QUESTION).encode()).decode()) | {"isBase64Encoded": True}
    assert events_of(app.handler(event, None))[-1][0] == "end"
    assert "not JSON" in refusal(event | {"body": "x"})


def test_function_streams(serve: Callable[..., str]) -> None:
    url = urlsplit(serve(LOCAL_STANDIN="1", STREAM_INTERVAL="0.001"))
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("POST", "/chat", json.dumps(QUESTION))
    response = connection.getresponse()
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    pieces = list(iter(response.read1, b""))
    assert len(pieces) > 5
    assert pieces[0].startswith(b'event: token\ndata: {"text": "This "}\n\n')
    assert b"".join(pieces).count(b"event: end\n") == 1
    connection.close()
