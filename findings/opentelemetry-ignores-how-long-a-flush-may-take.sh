#!/usr/bin/env bash
# OpenTelemetry's batch processor ignores how long a flush may take, and says that it succeeded.
#
# `TracerProvider.force_flush(1000)` of opentelemetry-sdk 1.45.1 waits as long as the exporter does: 10 s with the OTLP
# exporter's default, if the collector accepts the connection and does not answer. It returns True, though the span was
# not sent. The exporter's own timeout limits it.
. "$(dirname "$0")/lib/packages.sh"
packages opentelemetry-sdk==1.45.1 opentelemetry-exporter-otlp-proto-http==1.45.1

python -W ignore - <<'PY'
import logging
import socket
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

logging.disable()
collector = socket.create_server(("127.0.0.1", 0))
endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}/v1/traces"


def flush(**settings):
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, **settings)))
    provider.get_tracer("demo").start_span("span").end()
    began = time.monotonic()
    result = provider.force_flush(1000)
    return result, time.monotonic() - began


for settings in ({}, {"timeout": 0.5}):
    result, seconds = flush(**settings)
    print(f"OTLPSpanExporter({settings}): force_flush(1000) returned {result} after {seconds:.1f} s")
    assert result is True
    assert (seconds > 5) == (not settings)
PY
