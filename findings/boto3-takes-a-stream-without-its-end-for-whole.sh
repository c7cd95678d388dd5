#!/usr/bin/env bash
# boto3 ends its iteration quietly where a response stream stops before `InvokeComplete`.
#
# Every stream of InvokeWithResponseStream ends with that event. Where the connection ends between two messages, boto3
# 1.44.8 raises nothing: only a caller who looks for `InvokeComplete` can tell that the end is missing.
. "$(dirname "$0")/lib/packages.sh"
packages boto3==1.44.8

PYTHONPATH=$library python - <<'PY'
from event_stream_server import invoke, message

events = invoke(message("PayloadChunk", b"first"))
print(events)
assert events == [{"PayloadChunk": {"Payload": b"first"}}]
PY
