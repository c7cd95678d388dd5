"""OpenTelemetry: the runtime's own span, and the instrumentation of a wrapper script, with the published SDK."""

from __future__ import annotations

import gzip
import json
import os
import socket
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from tests.helpers.sandbox import BOOTSTRAP, Sandbox
from tests.helpers.scripted_api import event
from tests.helpers.support import environment
from tests.runtime import watching
from tests.runtime.test_observability import (
    ENVIRONMENT,
    ERRORS,
    HALVES,
    OUTCOMES,
    TRACE,
    Record,
    records,
    request,
    size_of,
)

pytestmark = [pytest.mark.own_interpreter, pytest.mark.slow]

FLUSH: dict[str, str | None] = {**ENVIRONMENT, "STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS": "2000"}
PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

class Exporter(SpanExporter):
    def export(self, spans):
        own = [shown(span) for span in spans if not span.name.startswith(("GET ", "fastapi."))]  # FastAPI has its own
        report(spans=sorted(own, key=lambda span: span["name"]))
        return SpanExportResult.SUCCESS

def shown(span):
    attributes = dict(span.attributes)
    events = [event.name for event in span.events]
    errors = [event.attributes["exception.type"] for event in span.events if event.name == "exception"]
    first = [event.timestamp for event in span.events if event.name == "http.response.first_byte"]
    return {
        "name": span.name, "status": span.status.status_code.name, "code": attributes.get("http.response.status_code"),
        "size": attributes.get("http.response.body.size"), "chunks": attributes.get("streaming.chunks"),
        "error": attributes.get("error.type"), "errors": errors, "kind": span.kind.name,
        "first byte within": [span.start_time <= each <= span.end_time for each in first],
        "trace": f"{span.context.trace_id:x}", "parent": f"{span.parent.span_id:x}" if span.parent else None,
    }

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Exporter()))
trace.set_tracer_provider(provider)
def handler(event, context):
    return respond(event, context)
"""
ROOT, PARENT = "5f84c7a10f84c7a10f84c7a10f84c7a1", "53995c3f42cd8ad8"


def span_of(kind: str, outcome: str) -> Record:
    error = ERRORS[outcome]
    module = "streaming_runtime.deadline." if outcome == "deadline" else ""
    first = {"events": b"data: one\n\n"}.get(kind, b"one")
    last = f'event: error\ndata: {{"errorType": "{error}"}}\n\n' if kind == "events" else ""
    size, chunks, code = size_of(kind), 2, 200
    if kind == "buffered":  # it is sent after the span, and known whole
        size, chunks, code = None, None, None if error else 200  # type: ignore[assignment]
    elif outcome == "before":
        size, chunks, code = (len("Internal Server Error"), 1, 500) if kind == "route" else (None, None, None)  # type: ignore[assignment]
    elif error:
        size, chunks = len(first) + len(last), 2 if last else 1
    return {
        "name": "hello",
        "status": "ERROR" if error else "UNSET",
        "code": code,
        "size": size,
        "chunks": chunks,
        "error": error or None,
        "errors": [module + error] * bool(error),
        "kind": "SERVER",
        "first byte within": [] if size is None else [True],
        "trace": ROOT,
        "parent": PARENT,
    }


@pytest.mark.parametrize("kinds", HALVES, ids="+".join)
def test_one_span_an_invocation(sandbox: Sandbox, kinds: tuple[str, ...]) -> None:
    """Each kind and outcome; the batch of a span is exported before the next event is asked for."""
    cases = [(kind, outcome) for kind in kinds for outcome in OUTCOMES]
    (sandbox.task / "served.py").write_text(watching.HANDLERS + PROVIDER, encoding="utf-8")
    environment = {**FLUSH, "_HANDLER": "served.handler"}
    ended = sandbox.run("", *(request(kind, outcome) for kind, outcome in cases), environment=environment)
    assert len(ended.posts) == len(cases), ended.errors
    found = records(ended.output)
    for kind, outcome in cases:
        spans = [span for batch in found[f"/{kind}/{outcome}"] for span in batch["spans"]]
        assert spans == [span_of(kind, outcome)], (kind, outcome)


INNER = """
tracer = trace.get_tracer("app")
def sync_items():
    with tracer.start_as_current_span("inner"):
        yield "one"
        trace.get_current_span().add_event("still current")
        yield "two"
async def async_items():
    with tracer.start_as_current_span("inner"):
        yield "one"
        await asyncio.sleep(0)
        yield "two"
@app.get("/context")
async def context():
    return Answer(async_items())
def handler(event, context):
    kind = event["rawPath"]
    return asgi(event, context) if kind == "/context" else (sync_items() if kind == "/sync" else async_items())
"""


def test_context_holds_across_yields(sandbox: Sandbox) -> None:
    """Spans of the content are children of the invocation's span, in one trace."""
    (sandbox.task / "served.py").write_text(watching.HANDLERS + PROVIDER + INNER, encoding="utf-8")
    paths = ("/sync", "/async", "/context")
    events = [event(watching.url_event(path)) for path in paths]
    ended = sandbox.run("", *events, environment={**FLUSH, "_HANDLER": "served.handler"})
    batches = [json.loads(line[1:])["spans"] for line in ended.output.splitlines() if line.startswith("@{")]
    assert [[span["name"] for span in batch] for batch in batches] == [["hello", "inner"]] * 3
    assert {span["trace"] for batch in batches for span in batch} == {ROOT}
    assert {batch[0]["parent"] for batch in batches} == {PARENT}


class Collector(BaseHTTPRequestHandler):
    """A collector's stand-in on loopback, which reads OTLP over HTTP."""

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            received = ExportTraceServiceRequest.FromString(body)
            for resource in received.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                spans = [span for scope in resource.scope_spans for span in scope.spans]
                self.server.spans += [(names["service.name"], span) for span in spans]  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        count = sum(span.name == "hello" for _, span in self.server.spans)  # type: ignore[attr-defined]
        body = f"hello {count}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.spans = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.spans  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("propagators", ["tracecontext", "xray"])
def test_otlp_without_set_up(sandbox: Sandbox, propagators: str) -> None:
    """The default: spans go to the OTLP endpoint; the caller's trace comes from a W3C header or from Lambda's."""
    code = "def handler(event, context):\n    yield b'one'\n    if event == 2: return\n    yield b'two'\n"
    with collector() as (endpoint, spans):
        environment = {**FLUSH, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_PROPAGATORS": propagators}
        events = [event(body, Lambda_Runtime_Trace_Id=TRACE) for body in (watching.url_event("/"), b"2")]
        ended = sandbox.run(code, *events, environment=environment)
        assert ended.bodies == [b"onetwo", b"one"]
    assert [(service, span.name) for service, span in spans] == [("hello", "hello")] * 2
    assert spans[0][1].trace_id.hex() == ROOT
    assert (spans[1][1].trace_id.hex() == ROOT) == (propagators == "xray")
    attributes = {each.key for each in spans[0][1].attributes}
    assert {"http.request.method", "url.path", "faas.trigger", "faas.invocation_id"} <= attributes


def test_spans_without_destination(sandbox: Sandbox) -> None:
    """Neither an endpoint nor a provider: nothing waits for a collector that does not exist."""
    code = "def handler(event, context):\n    yield b'one'\n"
    ended = sandbox.run(code, event(b"1"), environment={**FLUSH, "OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert ended.bodies == [b"one"]
    assert "no spans are made, because OTEL_EXPORTER_OTLP_ENDPOINT is not set" in ended.errors + ended.output


def test_flush_time_is_limited(sandbox: Sandbox) -> None:
    """A collector that accepts the connection and does not answer delays the next event only for the time given."""
    code = """
        import time
        def handler(event, context):
            yield f"{time.monotonic()} "
        """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**FLUSH, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        environment["STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS"] = "600"
        ended = sandbox.run(code, event(b"1"), event(b"2"), environment=environment)
    first, second = (float(body) for body in ended.bodies)
    assert 0.5 < second - first < 4  # ten seconds with the exporter's own timeout


def test_invalid_set_up(sandbox: Sandbox) -> None:
    code = "def handler(event, context):\n    pass\n"
    name = "STREAMING_RUNTIME_OPENTELEMETRY_FLUSH_MS"
    wrong = sandbox.run(code, environment={name: "soon"})
    message = f"{name} must be milliseconds, such as 2000, got 'soon'"
    assert json.loads(wrong.bodies[0])["errorMessage"] == message
    (sandbox.task / "opentelemetry.py").write_text("raise ModuleNotFoundError(\"No module named 'opentelemetry'\")\n")
    missing = sandbox.run(code, environment={name: "1"})
    report = json.loads(missing.bodies[0])
    assert report["errorType"] == "Runtime.ImportModuleError"
    assert report["errorMessage"].endswith("`opentelemetry-exporter-otlp-proto-http` to src/requirements.txt")
    assert "line 1, in handler" in report["stackTrace"][0]


def test_value_has_a_status(sandbox: Sandbox) -> None:
    """A value is sent after the span; its status is known."""
    code = """
    from aws_lambda_powertools import Metrics
    from streaming_runtime import streaming
    @Metrics(namespace="a", service="b").log_metrics
    @streaming
    def handler(event, context):
        return {"statusCode": 404, "body": ""} if event else event
    """
    with collector() as (endpoint, spans):
        environment = {**FLUSH, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "PYTHONWARNINGS": "ignore"}
        sandbox.run(code, event(b'{"a": 1}'), event(b'{"requestContext": 1}'), event(b"0"), environment=environment)
    codes = [
        [each.value.int_value for each in span.attributes if each.key.endswith("status_code")] for _, span in spans
    ]
    assert codes == [[404], [404], []]


# What the scripts of two layers do, on the packages that are in them: each sets variables, names a module of the layer
# as the handler, and runs the interpreter under `opentelemetry-instrument`, which configures the SDK.
COMMON = """#!/bin/bash
set -ef -o pipefail
export PYTHONPATH="$LAMBDA_RUNTIME_DIR:{layer}:$PYTHONPATH"
export OTEL_SERVICE_NAME=${{OTEL_SERVICE_NAME:-$AWS_LAMBDA_FUNCTION_NAME}}
export ORIG_HANDLER=$_HANDLER _HANDLER=layer_module.lambda_handler
{own}
exec python3 {bin}/opentelemetry-instrument "$@"
"""
LAYERS = {
    # `otel-instrument` of https://github.com/aws-observability/aws-otel-python-instrumentation, commit 8395e7d, with
    # the package's release 0.21.0. Its module instruments the handler: earlier, AWS's client would load it again.
    "ADOT": (
        """export OTEL_PROPAGATORS=${OTEL_PROPAGATORS:-baggage,xray,tracecontext} OTEL_METRICS_EXPORTER=none
        export OTEL_LOGS_EXPORTER=none OTEL_AWS_APPLICATION_SIGNALS_ENABLED=true OTEL_PYTHON_DISTRO=aws_distro
        export OTEL_AWS_APPLICATION_SIGNALS_RUNTIME_ENABLED=false OTEL_PYTHON_CONFIGURATOR=aws_configurator
        export OTEL_RESOURCE_ATTRIBUTES="cloud.platform=aws_lambda,faas.name=$AWS_LAMBDA_FUNCTION_NAME"
        export OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=aws-lambda""",
        "from opentelemetry.instrumentation.aws_lambda import AwsLambdaInstrumentor\n"
        "AwsLambdaInstrumentor().instrument()\nfrom app import handler as lambda_handler\n",
    ),
    # `otel-instrument` of https://github.com/open-telemetry/opentelemetry-lambda, commit c72580e, with SDK 1.44.0.
    "collector layer": (
        """export OTEL_PROPAGATORS=${OTEL_PROPAGATORS:-tracecontext,baggage,xray}
        export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf
        export OTEL_RESOURCE_ATTRIBUTES="cloud.provider=aws,faas.name=$AWS_LAMBDA_FUNCTION_NAME" """,
        "from app import handler as lambda_handler\n",
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_wrapper_script_of_layer(sandbox: Sandbox, layer: str) -> None:
    """In the chained slot, on a managed Python: the span ends with the stream, and is sent before the next event."""
    code = """
        import http.client, os
        from streaming_runtime import streaming
        from opentelemetry import trace
        @streaming
        def handler(event, context):
            collector = http.client.HTTPConnection(os.environ["COLLECTOR"])
            collector.request("GET", "/")
            yield collector.getresponse().read()
            trace.get_current_span().set_attribute("midway", True)
            if event["rawPath"] == "/fails":
                raise ValueError("it broke")
            yield b"."
        """
    own, module = LAYERS[layer]
    tools = environment("layer")
    [packages] = tools.parent.glob("lib/python3*/site-packages")
    (sandbox.task / "layer_module.py").write_text(module, encoding="utf-8")
    script = sandbox.script("otel-instrument", COMMON.format(layer=packages, bin=tools, own=textwrap.dedent(own)))
    with collector() as (endpoint, spans):
        variables = {
            **ENVIRONMENT,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.path.dirname(BOOTSTRAP),  # a package has the runtime beside the handler
            "STREAMING_RUNTIME_EXEC_WRAPPER": script,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{endpoint}/v1/traces",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "COLLECTOR": endpoint.removeprefix("http://"),
        }
        events = [event(watching.url_event(path), Lambda_Runtime_Trace_Id=TRACE) for path in ("/", "/fails")]
        command = (BOOTSTRAP, str(tools / "python3"), "/var/runtime/bootstrap.py")
        ended = sandbox.run(code, *events, environment=variables, command=command)
    own_spans = [(service, span) for service, span in spans if span.name == "hello"]
    assert ended.bodies[0] == b"hello 0.", ended.output + ended.errors
    assert ended.bodies[1].startswith(b"hello 1")  # the first one was sent before the second event was asked for
    assert [(service, span.trace_id.hex()) for service, span in own_spans] == [("hello", ROOT)] * 2
    assert ["midway" in {each.key for each in span.attributes} for _, span in own_spans] == [True, True]
    assert [[each.name for each in span.events] for _, span in own_spans] == [[], ["exception"]]
