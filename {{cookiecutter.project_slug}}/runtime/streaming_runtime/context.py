"""The context object that a handler receives, with the same attributes as awslambdaric's.

https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
"""

from __future__ import annotations

import os
import time

from . import logs, wire
from .errors import RuntimeFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .runtime_api import Invocation

_W3C_FIELDS = ("traceparent", "tracestate", "baggage")


class _Fields:
    """Named attributes with the values of the same keys in a dict; None for a missing key."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, values: dict[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name))

    def __repr__(self) -> str:
        fields = ",".join(f"{name}={getattr(self, name)}" for name in self.__slots__)
        return f"{type(self).__name__}([{fields}])"


class CognitoIdentity(_Fields):
    """The identity of a caller that Amazon Cognito authenticated."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")

    def __init__(self, values: dict[str, Any]) -> None:
        self.cognito_identity_id = values.get("cognitoIdentityId")
        self.cognito_identity_pool_id = values.get("cognitoIdentityPoolId")


class Client(_Fields):
    """The mobile app of the caller."""

    __slots__ = (  # noqa: RUF023 - awslambdaric's order
        "installation_id",
        "app_title",
        "app_version_name",
        "app_version_code",
        "app_package_name",
    )


class ClientContext(_Fields):
    """The client context that the caller passed to Invoke."""

    __slots__ = ("custom", "env", "client")  # noqa: RUF023 - awslambdaric's order

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        client: dict[str, Any] | None = values.get("client")
        self.client = None if client is None else Client(client)


class LambdaContext:
    """Information about the invocation, the function and the execution environment.

    Attributes:
        aws_request_id: Id of this invocation.
        invoked_function_arn: ARN that was invoked, with alias or version.
        function_name: The function's name.
        function_version: The function's version.
        memory_limit_in_mb: Memory of the function in MB, as a str.
        log_group_name: CloudWatch log group.
        log_stream_name: CloudWatch log stream.
        identity: Amazon Cognito identity of the caller.
        client_context: Client context that the caller passed to Invoke, or None.
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
        """Collect the attributes. `deadline_ms` is the Lambda timeout, in milliseconds since the epoch."""
        self.aws_request_id = aws_request_id
        self.__dict__.update(_function_attributes.get())
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
        """Return the milliseconds until the Lambda timeout; 0 once it has passed."""
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def w3c(self) -> dict[str, str]:
        """Return the W3C trace context: traceparent, tracestate and baggage, as far as the caller sent them."""
        return dict(self._w3c)

    def log(self, message: object) -> None:
        """Write `message` to the log unchanged."""
        logs.write(str(message))

    def __repr__(self) -> str:
        fields = ",".join(f"{name}={value}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"LambdaContext([{fields}])"


class _FunctionAttributes:
    """The attributes that are the same for all invocations. The environment is read once, because that takes time."""

    def __init__(self) -> None:
        self._values: dict[str, str | None] = {}

    def get(self) -> dict[str, str | None]:
        if not self._values:
            get = os.environ.get
            self._values.update(
                log_group_name=get("AWS_LAMBDA_LOG_GROUP_NAME"),
                log_stream_name=get("AWS_LAMBDA_LOG_STREAM_NAME"),
                function_name=get("AWS_LAMBDA_FUNCTION_NAME"),
                memory_limit_in_mb=get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
                function_version=get("AWS_LAMBDA_FUNCTION_VERSION"),
            )
        return self._values


_function_attributes = _FunctionAttributes()


def make_context(invocation: Invocation) -> LambdaContext:
    """Return the context object for the handler.

    Raises:
        RuntimeFault: The client context or the identity is not JSON.
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
        # The header holds UTF-8, which the parser decoded as latin-1.
        value: dict[str, Any] = wire.from_json(text.encode("latin-1"))
    except (ValueError, RecursionError) as error:
        raise RuntimeFault("Runtime.LambdaContextUnmarshalError", f"Unable to parse {name} JSON: {error}") from error
    return value
