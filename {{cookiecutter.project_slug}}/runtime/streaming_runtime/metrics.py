"""Metrics of an invocation as one line of the log, in CloudWatch's embedded metric format.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import os
import time

from . import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .response_stream import ResponseStream
    from .runtime_api import Invocation


class Metrics:
    """Writes metrics to one CloudWatch namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def write(self, invocation: Invocation, stream: ResponseStream) -> None:
        """Write one line with the metrics of an invocation that has ended.

        TimeToFirstByte (milliseconds from the arrival of the event to the first byte of the payload; omitted if there
        was no payload), BytesStreamed and ChunksStreamed (of the payload), MidStreamErrors (0 or 1).
        """
        values: list[tuple[str, str, float]] = [
            ("BytesStreamed", "Bytes", stream.bytes_sent),
            ("ChunksStreamed", "Count", stream.chunks_sent),
            ("MidStreamErrors", "Count", int(stream.started and stream.failed)),
        ]
        if stream.first_byte_at is not None:
            milliseconds = round((stream.first_byte_at - invocation.received_at) * 1000, 3)
            values.insert(0, ("TimeToFirstByte", "Milliseconds", milliseconds))
        definition = {
            "Namespace": self._namespace,
            "Dimensions": [["FunctionName"]],
            "Metrics": [{"Name": name, "Unit": unit} for name, unit, _ in values],
        }
        entry = {
            "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [definition]},
            "FunctionName": os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""),
            "FunctionVersion": os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", ""),
            "requestId": invocation.request_id,
            **{name: value for name, _, value in values},
        }
        # Printed rather than framed: CloudWatch extracts metrics from standard output.
        logs.print_text(logs.to_json(entry) + "\n")
