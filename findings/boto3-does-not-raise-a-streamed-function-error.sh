#!/usr/bin/env bash
# boto3 does not raise the error of a function that failed while it streamed.
#
# InvokeWithResponseStream reports it in the last event, `InvokeComplete`, whose `ErrorCode` is an ordinary field: boto3
# 1.44.8 yields that event like any other, and the status was 200 long before. A caller who only joins the payloads
# takes half of a response for the whole.
. "$(dirname "$0")/lib/packages.sh"
packages boto3==1.44.8

PYTHONPATH=$library python - <<'PY'
from event_stream_server import invoke, message

error = b'{"ErrorCode": "Unhandled", "ErrorDetails": "the handler failed"}'
events = invoke(message("PayloadChunk", b"first") + message("InvokeComplete", error))
print(events)
assert events == [
    {"PayloadChunk": {"Payload": b"first"}},
    {"InvokeComplete": {"ErrorCode": "Unhandled", "ErrorDetails": "the handler failed"}},
]
PY
