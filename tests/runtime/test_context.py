"""The Lambda context and the environment of an invocation, attribute by attribute as awslambdaric sets them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import ARN, REQUEST_ID, Answer, event

from streaming_runtime import context
from streaming_runtime.context import LambdaContext

FUNCTION = {
    "AWS_LAMBDA_FUNCTION_NAME": "hello",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/hello",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]abc",
}
SHOW = """
    def handler(event, context):
        def plain(value):
            names = getattr(value, "__slots__", None) or [name for name in vars(value) if name[0] != "_"]
            return {name: show(getattr(value, name)) for name in names}
        def show(value):
            return plain(value) if type(value).__module__ == "streaming_runtime.context" else value
        return {**plain(context), "w3c()": context.w3c(), "left": context.get_remaining_time_in_millis()}
    """
CLIENT: dict[str, Any] = {
    "client": {
        "installation_id": "i",
        "app_title": "t",
        "app_version_name": "n",
        "app_version_code": "c",
        "app_package_name": "p",
    },
    "custom": {"key": "value"},
    "env": {"locale": "de"},
}


def test_context_attributes(sandbox: Sandbox) -> None:
    trace = {"traceparent": "00-1-2-01", "tracestate": "a=1", "baggage": "k=v", "other": "x"}
    answer = event(
        Lambda_Runtime_Client_Context=json.dumps({**CLIENT, "w3c": trace}),
        Lambda_Runtime_Cognito_Identity='{"cognitoIdentityId": "id", "cognitoIdentityPoolId": "pool"}',
        Lambda_Runtime_Aws_Tenant_Id="blue",
    )
    ended = sandbox.run(SHOW, answer, environment=FUNCTION)
    assert json.loads(ended.bodies[0]) == {
        "aws_request_id": REQUEST_ID,
        "log_group_name": "/aws/lambda/hello",
        "log_stream_name": "2026/01/01/[$LATEST]abc",
        "function_name": "hello",
        "memory_limit_in_mb": "256",
        "function_version": "$LATEST",
        "invoked_function_arn": ARN,
        "client_context": CLIENT,
        "identity": {"cognito_identity_id": "id", "cognito_identity_pool_id": "pool"},
        "tenant_id": "blue",
        "w3c()": {"traceparent": "00-1-2-01", "tracestate": "a=1", "baggage": "k=v"},
        "left": 0,
    }


def test_context_attributes_when_absent(sandbox: Sandbox) -> None:
    ended = sandbox.run(SHOW, event(Lambda_Runtime_Invoked_Function_Arn=None))
    assert json.loads(ended.bodies[0]) == {
        "aws_request_id": REQUEST_ID,
        "log_group_name": None,
        "log_stream_name": None,
        "function_name": None,
        "memory_limit_in_mb": None,
        "function_version": None,
        "invoked_function_arn": None,
        "client_context": None,
        "identity": {"cognito_identity_id": None, "cognito_identity_pool_id": None},
        "tenant_id": None,
        "w3c()": {},
        "left": 0,
    }


CLIENT_CONTEXTS: dict[str, tuple[str, Any]] = {
    "null": ("null", None),
    "empty": ("{}", {"client": None, "custom": None, "env": None}),
    "empty client": (
        '{"client": {}}',
        {"client": dict.fromkeys(CLIENT["client"]), "custom": None, "env": None},
    ),
    "unknown keys": ('{"custom": {"a": 1}, "x": 2}', {"client": None, "custom": {"a": 1}, "env": None}),
    "not ASCII": ('{"custom": "zwölf €"}', {"client": None, "custom": "zwölf €", "env": None}),
}


@pytest.mark.parametrize(("text", "seen"), CLIENT_CONTEXTS.values(), ids=list(CLIENT_CONTEXTS))
def test_client_context_parsing(sandbox: Sandbox, text: str, seen: Any) -> None:
    ended = sandbox.run(SHOW, event(Lambda_Runtime_Client_Context=text))
    assert json.loads(ended.bodies[0])["client_context"] == seen


TRACES: dict[str, tuple[Any, dict[str, str]]] = {
    "not a dict": ("00-1-2-01", {}),
    "null": (None, {}),
    "values of other types": ({"traceparent": 1, "baggage": "k=v"}, {"baggage": "k=v"}),
}


@pytest.mark.parametrize(("trace", "seen"), TRACES.values(), ids=list(TRACES))
def test_trace_context_keeps_known_text(trace: Any, seen: dict[str, str]) -> None:
    client_context = {"w3c": trace, "custom": {}}
    context = LambdaContext("id", 0, client_context=client_context)
    assert context.w3c() == seen
    assert client_context == {"custom": {}}


def test_trace_context_is_a_copy() -> None:
    context = LambdaContext("id", 0, client_context={"w3c": {"baggage": "k=v"}})
    context.w3c().clear()
    assert context.w3c() == {"baggage": "k=v"}


def test_remaining_time_stops_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    context = LambdaContext("id", 1_700_000_000_000)
    for now, left in ((1_699_999_999.0, 1000), (1_699_999_999.9995, 1), (1_700_000_000.0, 0), (1_800_000_000.0, 0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert context.get_remaining_time_in_millis() == left
        assert type(context.get_remaining_time_in_millis()) is int


def test_context_repr_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_function_attributes", context._FunctionAttributes())  # read once
    for name, value in FUNCTION.items():
        monkeypatch.setenv(name, value)
    assert repr(LambdaContext("id", 0, ARN, None, {"cognitoIdentityId": "i"}, "blue")) == (
        "LambdaContext([aws_request_id=id,log_group_name=/aws/lambda/hello,"
        "log_stream_name=2026/01/01/[$LATEST]abc,function_name=hello,memory_limit_in_mb=256,function_version=$LATEST,"
        f"invoked_function_arn={ARN},client_context=None,"
        "identity=CognitoIdentity([cognito_identity_id=i,cognito_identity_pool_id=None]),tenant_id=blue])"
    )


TRACE_IDS: tuple[tuple[Answer, bytes], ...] = (
    (event(Lambda_Runtime_Trace_Id="Root=1-a;Sampled=0"), b'"Root=1-a;Sampled=0"'),
    (event(), b"null"),
    (event(Lambda_Runtime_Trace_Id="Root=1-b"), b'"Root=1-b"'),
    (event(Lambda_Runtime_Trace_Id=""), b"null"),
)


def test_trace_id_per_invocation(sandbox: Sandbox) -> None:
    """It is in the environment only during the invocation that it belongs to."""
    code = "import os\ndef handler(e, c):\n    return os.environ.get('_X_AMZN_TRACE_ID')\n"
    ended = sandbox.run(
        code, *(answer for answer, _ in TRACE_IDS), event(), environment={"_X_AMZN_TRACE_ID": "of the parent"}
    )
    assert ended.bodies == [*(seen for _, seen in TRACE_IDS), b"null"]
