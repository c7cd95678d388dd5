"""Functions with libraries that watch them: the same handlers for each library, and what the library reports."""

from __future__ import annotations

import json

#: A handler for each kind of result, which does what the last part of the path says.
HANDLERS = """
import asyncio, json, os, time
from fastapi import FastAPI
from fastapi.responses import StreamingResponse as Answer
from streaming_runtime import AsgiHandler, EventSourceResponse, StreamingResponse, streaming

def report(**values):
    print("@" + json.dumps(values, sort_keys=True), flush=True)

def items(outcome):
    if outcome == "before": raise ValueError("it broke")
    yield "one"
    if outcome == "midway": raise ValueError("it broke")
    if outcome == "deadline": time.sleep(30)
    yield "two"

async def later(outcome):
    if outcome == "before": raise ValueError("it broke")
    yield "one"
    if outcome == "midway": raise ValueError("it broke")
    if outcome == "deadline": await asyncio.sleep(30)
    yield "two"

async def async_response(outcome):
    return StreamingResponse(later(outcome))

app = FastAPI()
@app.get("/route/{outcome}")
async def route(outcome: str):
    if outcome == "before": raise ValueError("it broke")
    return Answer(later(outcome))
asgi = AsgiHandler(app)

KINDS = {
    "sync": items,
    "async": later,
    "response": lambda outcome: StreamingResponse(items(outcome)),
    "async-response": async_response,
    "events": lambda outcome: EventSourceResponse(items(outcome), ping=None),
    "dict": lambda outcome: {"statusCode": 200, "body": items(outcome)},
    "buffered": lambda outcome: {"statusCode": 200, "body": "".join(items(outcome))},
}

def respond(event, context):
    print("@" + event["rawPath"], flush=True)
    _, kind, outcome = event["rawPath"].split("/")
    return asgi(event, context) if kind == "route" else KINDS[kind](outcome)
"""

POWERTOOLS = """
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_xray_sdk.core import xray_recorder

class Emitter:
    def send_entity(self, entity):
        sent = json.loads(entity.serialize())
        causes = [each["type"] for each in sent.get("cause", {}).get("exceptions", [])]
        metadata = sent.get("metadata", {}).get("shop", {})
        report(segment=sent["name"], causes=causes, response=metadata.get("handler response"), ended="end_time" in sent)
    def set_daemon_address(self, address):
        pass
xray_recorder.configure(emitter=Emitter(), context_missing="LOG_ERROR")
logger = Logger(service="shop")
metrics = Metrics(namespace="shop", service="shop")
tracer = Tracer(service="shop", auto_patch=False)

@logger.inject_lambda_context(correlation_id_path="rawPath")
@tracer.capture_lambda_handler
@metrics.log_metrics
@streaming
def handler(event, context):
    metrics.add_metric(name="Requests", unit="Count", value=1)
    result = respond(event, context)
    logger.info("called")
    return result
"""

XRAY = """
from aws_xray_sdk.core import xray_recorder

class Emitter:
    def send_entity(self, entity):
        sent = json.loads(entity.serialize())
        report(segment=sent["name"], causes=[each["type"] for each in sent.get("cause", {}).get("exceptions", [])],
               whole=sent["end_time"] > sent["start_time"])
    def set_daemon_address(self, address):
        pass
xray_recorder.configure(emitter=Emitter(), context_missing="LOG_ERROR")

@xray_recorder.capture("handler")
@streaming
def handler(event, context):
    return respond(event, context)
"""

OPENTELEMETRY = """
from opentelemetry import trace
from opentelemetry.instrumentation.aws_lambda import AwsLambdaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

class Exporter(SpanExporter):
    def export(self, spans):
        for span in spans:
            report(span=span.name, status=span.status.status_code.name, code=span.attributes.get("http.status_code"),
                   trace=f"{span.context.trace_id:x}" == "5f84c7a10f84c7a10f84c7a10f84c7a1",
                   events=[event.attributes["exception.type"] for event in span.events])
        return SpanExportResult.SUCCESS

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Exporter()))

@streaming
def handler(event, context):
    return respond(event, context)

AwsLambdaInstrumentor().instrument(tracer_provider=provider)
"""

SENTRY = """
import functools
import sentry_sdk
from sentry_sdk.integrations.serverless import serverless_function
from sentry_sdk.transport import Transport

class Written(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            payload = item.payload.json
            if item.type == "event":
                report(event=payload["exception"]["values"][-1]["type"])
            elif item.type == "transaction":
                report(transaction=payload["transaction"], status=payload["contexts"]["trace"].get("status"),
                       lasted=payload["timestamp"] > payload["start_timestamp"])
sentry_sdk.init("http://key@127.0.0.1:1/1", transport=Written, traces_sample_rate=1.0, default_integrations=False)

def transaction(function):
    @functools.wraps(function)
    def handler(event, context):
        with sentry_sdk.start_transaction(op="function.aws", name=context.function_name):
            return function(event, context)
    return handler

@serverless_function
@transaction
@streaming
def handler(event, context):
    return respond(event, context)
"""

DATADOG = """
from datadog_lambda.wrapper import datadog_lambda_wrapper
from ddtrace.trace import TraceFilter, tracer

class Written(TraceFilter):
    def process_trace(self, trace):
        for span in trace:
            if span.name in ("aws.lambda", "aws.lambda.url"):
                report(span=span.name, error=span.error, type=span.get_tag("error.type"),
                       code=span.get_tag("http.status_code"))
        return None
tracer.configure(trace_processors=[Written()])

@datadog_lambda_wrapper
@streaming
def handler(event, context):
    return respond(event, context)
"""


def url_event(path: str) -> bytes:
    """A function URL's event for a request to `path`."""
    headers = {"host": "localhost", "traceparent": "00-5f84c7a10f84c7a10f84c7a10f84c7a1-53995c3f42cd8ad8-01"}
    http = {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test"}
    context = {"http": http, "requestId": "1", "domainName": "a.lambda-url.us-east-1.on.aws", "domainPrefix": "a"}
    event = {"version": "2.0", "rawPath": path, "rawQueryString": "", "headers": headers, "isBase64Encoded": False}
    return json.dumps(
        {**event, "requestContext": context | {"apiId": "a", "stage": "$default", "timeEpoch": 1700000000000}}
    ).encode()
