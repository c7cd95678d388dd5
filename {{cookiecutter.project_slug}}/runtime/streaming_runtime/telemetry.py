"""OpenTelemetry: one span an invocation, which ends with the last chunk of its stream.

The function's package provides opentelemetry-sdk and an exporter. A tracer provider that the function has configured is
used. Without one, spans go to the OTLP endpoint of ``OTEL_EXPORTER_OTLP_ENDPOINT``. Without that, none are made.
"""

from __future__ import annotations

import os
import time

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind

from . import logs
from .decorators import encloses
from .enclosure import streaming
from .invocation import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from opentelemetry.trace import Span

    from ._types import Handler


# Where spans go, by the names of https://opentelemetry.io/docs/specs/otel/protocol/exporter/
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def traced(handler: Handler, flush_ms: int) -> Handler:
    """Return `handler` with a span around its call, within which its stream is sent.

    Args:
        handler: The function's handler.
        flush_ms: How long to wait at most until the span was sent, before Lambda may freeze the process.
    """
    provider: Any = _provider(flush_ms)
    if provider is None:
        logs.print_error(f"streaming_runtime: no spans are made, because {_ENDPOINTS[0]} is not set\n")
        return handler
    tracer = trace.get_tracer("streaming_runtime", tracer_provider=provider)
    enclosed = handler if encloses(handler) else streaming(handler)

    def call(event: Any, context: Any) -> Any:
        try:
            with tracer.start_as_current_span(
                str(context.function_name),
                extract(_carrier(event, context)),
                SpanKind.SERVER,
                _attributes(event, context),
            ) as span:
                result: Any = None
                try:
                    result = enclosed(event, context)
                except BaseException as error:
                    span.set_attribute("error.type", type(error).__name__)
                    raise
                finally:
                    _describe(span, result)
                return result
        finally:
            provider.force_flush(flush_ms)

    return call


def _provider(flush_ms: int) -> Any:
    """Return the tracer provider, or None if spans have nowhere to go."""
    provider = trace.get_tracer_provider()
    if not hasattr(provider, "force_flush"):  # nobody has configured the SDK
        if not any(map(os.environ.get, _ENDPOINTS)):
            return None
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        os.environ.setdefault("OTEL_SERVICE_NAME", os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""))
        provider = TracerProvider(resource=Resource.create())
        # With a timeout, because the batch processor (1.45.1) ignores the one of force_flush().
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=flush_ms / 1000)))
        trace.set_tracer_provider(provider)
    return provider


def _carrier(event: Any, context: Any) -> dict[str, str]:
    """Return the headers that may hold the caller's trace: of Lambda, of the request, of the client context."""
    headers = event.get("headers") if isinstance(event, dict) else None
    carrier = {name.lower(): value for name, value in headers.items()} if isinstance(headers, dict) else {}
    if "_X_AMZN_TRACE_ID" in os.environ:
        carrier["X-Amzn-Trace-Id"] = os.environ["_X_AMZN_TRACE_ID"]
    w3c: dict[str, str] = context.w3c()
    return carrier | w3c


def _attributes(event: Any, context: Any) -> dict[str, str]:
    """Return attributes by https://opentelemetry.io/docs/specs/semconv/faas/aws-lambda/ and …/http/http-spans/."""
    attributes = {"faas.invocation_id": context.aws_request_id, "cloud.resource_id": context.invoked_function_arn}
    request = event.get("requestContext") if isinstance(event, dict) else None
    http = request.get("http") if isinstance(request, dict) else None
    if isinstance(http, dict):
        attributes |= {"faas.trigger": "http", "http.request.method": http["method"], "url.path": event["rawPath"]}
    return attributes


def _describe(span: Span, result: Any) -> None:
    """Add what is known of the response once it has ended."""
    assert current.exchange is not None
    stream = current.exchange.stream
    if stream.first_byte_at is not None:
        since = time.monotonic() - stream.first_byte_at
        span.add_event("http.response.first_byte", timestamp=time.time_ns() - int(since * 1e9))
    if stream.started:
        span.set_attribute("http.response.status_code", stream.status_code)
        span.set_attribute("http.response.body.size", stream.bytes_sent)
        span.set_attribute("streaming.chunks", stream.chunks_sent)
    elif isinstance(result, dict) and isinstance(result.get("statusCode"), int):
        span.set_attribute("http.response.status_code", result["statusCode"])
