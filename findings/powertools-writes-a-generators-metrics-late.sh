#!/usr/bin/env bash
# `Metrics.log_metrics` around a generator writes an invocation's metrics with the next one.
#
# A generator's body runs after the call that made it has returned, and that is when aws-lambda-powertools 3.37.0 flushes:
# nothing is there yet. What the stream adds stays until the next invocation's flush.
. "$(dirname "$0")/lib/packages.sh"
packages aws-lambda-powertools==3.37.0

POWERTOOLS_METRICS_NAMESPACE=demo POWERTOOLS_SERVICE_NAME=demo python -W ignore - <<'PY'
import contextlib
import io
import json

from aws_lambda_powertools import Metrics

metrics = Metrics()


@metrics.log_metrics
def handler(event, context):
    metrics.add_metric(event, "Count", 1)
    yield b"chunk"


def written_by(event):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        stream = handler(event, None)
        assert list(stream) == [b"chunk"]
    return [sorted(json.loads(line).keys() & {"First", "Second"}) for line in output.getvalue().splitlines() if line]


first, second = written_by("First"), written_by("Second")
print("written by the first invocation:", first)
print("written by the second invocation:", second)
assert first == []
assert second == [["First"]]
PY
