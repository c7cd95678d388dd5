"""Powertools' utilities around streams: the rows of docs/observability.md that have no test of their own."""

from __future__ import annotations

import json

import pytest
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import ERROR, INIT_ERROR, event
from tests.runtime.watching import url_event

pytestmark = [pytest.mark.own_interpreter, pytest.mark.slow]

ENVIRONMENT = {"AWS_LAMBDA_FUNCTION_NAME": "hello", "AWS_REGION": "us-east-1"}
RESOLVER = """
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.event_handler import LambdaFunctionUrlResolver, Response
from streaming_runtime import streaming
app, metrics = LambdaFunctionUrlResolver(), Metrics(namespace="shop", service="shop")
def items():
    yield b"one"
    metrics.add_metric("Chunks", "Count", 1)
    yield "two"
async def later():
    yield b"one"
    metrics.add_metric("Chunks", "Count", 1)
    yield "two"
@app.get("/sync")
def sync():
    return Response(200, "text/plain", items(), headers={"x-a": "1"})
@app.get("/async")
def async_():
    return Response(201, "text/event-stream", later())
@app.get("/json")
def json_():
    return Response(200, "application/json", items())
@metrics.log_metrics
@streaming
def handler(event, context):
    return app.resolve(event, context)
"""


@pytest.mark.filterwarnings("ignore")
def test_resolver(sandbox: Sandbox) -> None:
    events = [event(url_event(path)) for path in ("/sync", "/async", "/json")]
    ended = sandbox.run(RESOLVER, *events, environment=ENVIRONMENT)
    sync = b'{"statusCode":200,"headers":{"x-a":"1","content-type":"text/plain"},"cookies":[]}' + bytes(8)
    later = b'{"statusCode":201,"headers":{"content-type":"text/event-stream"},"cookies":[]}' + bytes(8)
    assert ended.bodies[:2] == [sync + b"onetwo", later + b"onetwo"]
    metrics = [json.loads(line) for line in ended.output.splitlines() if line.startswith("{")]
    assert [entry["Chunks"] for entry in metrics] == [[1.0], [1.0]]
    assert ended.posts[2].target == ERROR  # Powertools encodes a JSON body itself
    assert json.loads(ended.bodies[2])["errorMessage"] == "Object of type generator is not JSON serializable"


def test_parser(sandbox: Sandbox) -> None:
    code = """
    from aws_lambda_powertools.utilities.data_classes import LambdaFunctionUrlEvent, event_source
    from aws_lambda_powertools.utilities.parser import BaseModel, event_parser
    from streaming_runtime import streaming
    class Order(BaseModel):
        rawPath: str
    @event_parser(model=Order)
    @streaming
    def parsed(event, context):
        yield event.rawPath
    @event_source(data_class=LambdaFunctionUrlEvent)
    @streaming
    def sourced(event, context):
        yield event.path
    """
    for name in ("parsed", "sourced"):
        ended = sandbox.run(code, event(url_event("/a")), environment={**ENVIRONMENT, "_HANDLER": f"app.{name}"})
        assert ended.bodies == [b"/a"]


IDEMPOTENCY = """
import copy
from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import IdempotencyItemNotFoundError
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from streaming_runtime import streaming
class Memory(BasePersistenceLayer):
    def __init__(self):
        super().__init__()
        self.records = {}
    def _get_record(self, idempotency_key):
        if idempotency_key not in self.records:
            raise IdempotencyItemNotFoundError
        return self.records[idempotency_key]
    def _put_record(self, data_record):
        from aws_lambda_powertools.utilities.idempotency.exceptions import IdempotencyItemAlreadyExistsError
        if data_record.idempotency_key in self.records:
            raise IdempotencyItemAlreadyExistsError(old_data_record=self.records[data_record.idempotency_key])
        self.records[data_record.idempotency_key] = data_record
    def _update_record(self, data_record):
        self.records[data_record.idempotency_key] = data_record
    def _delete_record(self, data_record):
        del self.records[data_record.idempotency_key]
memory = Memory()
calls = []
@idempotent_function(data_keyword_argument="order", persistence_store=memory)
def make(order):
    calls.append(order)
    return ["made ", str(len(calls))]
@streaming
def handler(event, context):
    yield from make(order=event)
"""


def test_idempotency(sandbox: Sandbox) -> None:
    """The data is made once and streamed twice; around the handler, idempotency is refused."""
    ended = sandbox.run(IDEMPOTENCY, event(b'{"id": 1}'), event(b'{"id": 1}'), environment=ENVIRONMENT)
    assert ended.bodies == [b"made 1", b"made 1"]
    refused = IDEMPOTENCY.replace("@streaming\n", "@idempotent(persistence_store=memory)\n@streaming\n")
    ended = sandbox.run(refused, environment=ENVIRONMENT)
    assert ended.targets == [INIT_ERROR]
    report = json.loads(ended.bodies[0])
    assert report["errorType"] == "Runtime.DecoratorOrder"
    assert report["errorMessage"].endswith("use idempotent_function for the function that makes the data")


def test_batch(sandbox: Sandbox) -> None:
    code = """
    from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
    from streaming_runtime import streaming
    processor = BatchProcessor(event_type=EventType.SQS)
    def work(record):
        if record.body == "bad":
            raise ValueError
    @streaming
    def handler(event, context):
        return process_partial_response(event, work, processor, context)
    """
    records = [
        {"messageId": str(number), "body": body, "eventSource": "aws:sqs"}
        for number, body in enumerate(("good", "bad"))
    ]
    ended = sandbox.run(code, event(json.dumps({"Records": records}).encode()), environment=ENVIRONMENT)
    assert json.loads(ended.bodies[0]) == {"batchItemFailures": [{"itemIdentifier": "1"}]}


LIBRARIES = {
    "log_metrics of aws_lambda_powertools": (
        "from aws_lambda_powertools import Metrics\nwatch = Metrics(namespace='a', service='b').log_metrics\n"
    ),
    "serverless_function of sentry_sdk": (
        "from sentry_sdk.integrations.serverless import serverless_function as watch\n"
    ),
    "LambdaDecorator of datadog_lambda": "from datadog_lambda.wrapper import datadog_lambda_wrapper as watch\n",
    "event_parser of aws_lambda_powertools": (
        "from aws_lambda_powertools.utilities.parser import BaseModel, event_parser\n"
        "class Order(BaseModel): pass\nwatch = event_parser(model=Order)\n"
    ),
}
STREAM = "from streaming_runtime import *\nfrom streaming_runtime import streaming\n"
ABOVE = "put @streaming (from streaming_runtime import streaming) directly above `def handler`"


@pytest.mark.parametrize("name", list(LIBRARIES))
def test_refused_orders(sandbox: Sandbox, name: str) -> None:
    """At the start, and for a handler that returns a stream when it does."""
    preamble = STREAM + LIBRARIES[name]
    generator = "def handler(event, context):\n    yield b''\n"
    ended = sandbox.run(f"{preamble}@watch\n{generator}", environment=ENVIRONMENT)
    assert ended.targets == [INIT_ERROR]
    report = json.loads(ended.bodies[0])
    assert (report["errorType"], report["errorMessage"]) == (
        "Runtime.DecoratorOrder",
        f"{name} ends before the stream of the handler begins: {ABOVE}",
    )
    ended = sandbox.run(f"{preamble}@streaming\n@watch\n{generator}", environment=ENVIRONMENT)
    report = json.loads(ended.bodies[0])
    assert (report["errorType"], report["errorMessage"]) == (
        "TypeError",
        f"@streaming must be below {name}, which would not see the stream: {ABOVE}",
    )
    returned = "def handler(e, c):\n    return StreamingResponse('x') if calls else calls.append(1) or 1\n"
    events = event(b"{}"), event(url_event("/"))
    ended = sandbox.run(f"{preamble}calls = []\n@watch\n{returned}", *events, environment=ENVIRONMENT)
    assert ended.bodies[0] == b"1"
    assert json.loads(ended.bodies[1])["errorType"] == "Runtime.DecoratorOrder"


def test_logger_needs_no_streaming(sandbox: Sandbox) -> None:
    code = """
    from aws_lambda_powertools import Logger
    logger = Logger(service="shop")
    @logger.inject_lambda_context
    def handler(event, context):
        yield b"one"
        logger.info("midway")
    """
    ended = sandbox.run(code, event(), environment={**ENVIRONMENT, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"})
    assert ended.bodies == [b"one"]
    assert json.loads(ended.output)["function_request_id"]


def test_instrumented_handler_is_refused(sandbox: Sandbox) -> None:
    """OpenTelemetry's instrumentation replaces the handler by a wrapper of its own."""
    code = """
    from opentelemetry.instrumentation.aws_lambda import AwsLambdaInstrumentor
    def handler(event, context):
        yield b""
    AwsLambdaInstrumentor().instrument()
    """
    ended = sandbox.run(code, environment=ENVIRONMENT)
    report = json.loads(ended.bodies[0])
    assert report["errorType"] == "Runtime.DecoratorOrder"
    assert (
        report["errorMessage"] == f"instrument of opentelemetry ends before the stream of the handler begins: {ABOVE}"
    )
