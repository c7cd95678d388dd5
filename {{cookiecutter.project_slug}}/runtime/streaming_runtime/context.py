"""What Lambda hands over for an invocation, and what a handler receives of it: the event and the context object.

The context is attribute for attribute what awslambdaric gives.
https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
"""

from __future__ import annotations

import json
import os
import time

from . import logs, wire
from .errors import RuntimeFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What needs no escape in a path (RFC 3986, section 2.3).
_UNRESERVED = frozenset("-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_W3C_FIELDS = ("traceparent", "tracestate", "baggage")
_decode = json.JSONDecoder().raw_decode

_function_attributes: dict[str, str | None] = {}


class Invocation:
    """One event and what Lambda says about it.

    Attributes:
        request_id: Id of the invocation.
        body: The event as it came.
        content_type: Of the event.
        deadline_ms: When Lambda ends the invocation, in milliseconds since the epoch; 0 if it did not say.
        function_arn: What was invoked.
        trace_id: AWS X-Ray tracing header, or None.
        client_context: JSON text of the client context, or None.
        cognito_identity: JSON text of the identity, or None.
        tenant_id: Tenant, or None.
        invocation_id: To be handed back with the response, or None.
        received_at: When the event came, by `time.monotonic`.
    """

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        """Takes an answer to ``/next``: its headers, by their names in lower case, and its body.

        Raises:
            WireError: There is no request id, or the deadline is no number.
        """
        deadline = headers.get("lambda-runtime-deadline-ms", "0")
        if not (deadline.isascii() and deadline.isdigit() and len(deadline) <= 20):
            raise wire.WireError(f"invocation with a deadline that is no number: {deadline[:80]!r}")
        self.request_id = headers.get("lambda-runtime-aws-request-id", "")
        if not self.request_id:
            raise wire.WireError("invocation without a request id")
        self.body = body
        self.content_type = headers.get("content-type", "application/json")
        self.deadline_ms = int(deadline)
        self.function_arn = headers.get("lambda-runtime-invoked-function-arn")
        self.trace_id = headers.get("lambda-runtime-trace-id") or None
        self.client_context = headers.get("lambda-runtime-client-context")
        self.cognito_identity = headers.get("lambda-runtime-cognito-identity")
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id") or None
        self.invocation_id = headers.get("lambda-runtime-invocation-id") or None
        self.received_at = time.monotonic()

    @property
    def path(self) -> str:
        """Where answers to the invocation are posted, below the version of the Runtime API."""
        request_id = self.request_id
        if not (request_id.isascii() and request_id.replace("-", "").isalnum()):
            request_id = "".join(c if c in _UNRESERVED else f"%{ord(c):02X}" for c in request_id)
        return f"/invocation/{request_id}"


class _Fields:
    """Named attributes taken from a dict of the same keys; a missing key gives None."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, values: dict[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name))

    def __repr__(self) -> str:
        fields = ",".join(f"{name}={getattr(self, name)}" for name in self.__slots__)
        return f"{type(self).__name__}([{fields}])"


class CognitoIdentity(_Fields):
    """Who called, where the caller came through Amazon Cognito."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, values: dict[str, Any]) -> None:
        self.cognito_identity_id = values.get("cognitoIdentityId")
        self.cognito_identity_pool_id = values.get("cognitoIdentityPoolId")


class Client(_Fields):
    """The mobile app that called."""

    __slots__ = (  # noqa: RUF023 - awslambdaric's order
        "installation_id",
        "app_title",
        "app_version_name",
        "app_version_code",
        "app_package_name",
    )


class ClientContext(_Fields):
    """What the caller put into the client context of an Invoke call."""

    __slots__ = ("custom", "env", "client")  # noqa: RUF023 - awslambdaric's order

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        client: dict[str, Any] | None = values.get("client")
        self.client = None if client is None else Client(client)


class LambdaContext:
    """What Lambda tells a handler about the invocation, the function and the environment.

    Attributes:
        aws_request_id: Id of this invocation.
        invoked_function_arn: ARN that was invoked, with its alias or version.
        function_name: The function's name.
        function_version: The function's version.
        memory_limit_in_mb: Memory of the function in MB, as a str.
        log_group_name: CloudWatch log group.
        log_stream_name: CloudWatch log stream.
        identity: Amazon Cognito identity of the caller.
        client_context: What the caller of Invoke passed along, or None.
        tenant_id: Tenant of the invocation, or None.
    """

    log_group_name: str | None
    log_stream_name: str | None
    function_name: str | None
    memory_limit_in_mb: str | None
    function_version: str | None

    def __init__(
        self,
        aws_request_id: str,
        deadline_ms: int,
        invoked_function_arn: str | None = None,
        client_context: dict[str, Any] | None = None,
        cognito_identity: dict[str, Any] | None = None,
        tenant_id: str | None = None,
    ) -> None:
        """`deadline_ms` is when Lambda ends the invocation, in milliseconds since the epoch."""
        self.aws_request_id = aws_request_id
        self.__dict__.update(_function())
        self.invoked_function_arn = invoked_function_arn

        trace = client_context.pop("w3c", None) if client_context else None
        self._w3c: dict[str, str] = {}
        if isinstance(trace, dict):
            self._w3c = {name: trace[name] for name in _W3C_FIELDS if isinstance(trace.get(name), str)}
        self.client_context = None if client_context is None else ClientContext(client_context)

        self.identity = CognitoIdentity(cognito_identity or {})
        self.tenant_id = tenant_id
        self._epoch_deadline_time_in_ms = deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the invocation; 0 once that has passed."""
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def w3c(self) -> dict[str, str]:
        """The W3C trace context of the invocation: traceparent, tracestate and baggage, those that came."""
        return dict(self._w3c)

    def log(self, message: object) -> None:
        """Writes `message` to the log as it is."""
        logs.write(str(message))

    def __repr__(self) -> str:
        fields = ",".join(f"{name}={value}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"LambdaContext([{fields}])"


def _function() -> dict[str, str | None]:
    """What stays the same for all invocations, read once: a look into the environment takes its time."""
    if not _function_attributes:
        get = os.environ.get
        _function_attributes.update(
            log_group_name=get("AWS_LAMBDA_LOG_GROUP_NAME"),
            log_stream_name=get("AWS_LAMBDA_LOG_STREAM_NAME"),
            function_name=get("AWS_LAMBDA_FUNCTION_NAME"),
            memory_limit_in_mb=get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
            function_version=get("AWS_LAMBDA_FUNCTION_VERSION"),
        )
    return _function_attributes


def event_of(invocation: Invocation) -> Any:
    """What the handler gets as its event: the value of the JSON that came, or else the bytes.

    Raises:
        RuntimeFault: It says that it is JSON, and is none.
    """
    kind = invocation.content_type
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        return invocation.body
    try:
        text = invocation.body.decode()
        if text.startswith("{"):  # as an event does; this takes half of the time that json.loads takes
            event, end = _decode(text)
            if end == len(text):
                return event
        return json.loads(invocation.body)
    except (ValueError, RecursionError) as error:
        raise RuntimeFault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from error


def context_of(invocation: Invocation) -> LambdaContext:
    """What the handler gets as its context.

    Raises:
        RuntimeFault: The client context or the identity is no JSON.
    """
    return LambdaContext(
        invocation.request_id,
        invocation.deadline_ms,
        invocation.function_arn,
        _json_header("Client Context", invocation.client_context),
        _json_header("Cognito Identity", invocation.cognito_identity),
        invocation.tenant_id,
    )


def _json_header(name: str, text: str | None) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        # The bytes are UTF-8; HTTP took them for latin-1.
        value: dict[str, Any] = json.loads(text.encode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise RuntimeFault("Runtime.LambdaContextUnmarshalError", f"Unable to parse {name} JSON: {error}") from error
    return value
