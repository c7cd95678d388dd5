#!/usr/bin/env bash
# sseclient-py delivers an event that was cut off in the middle as if it were whole.
#
# The HTML standard (section 9.2.6) discards an event that the end of the stream interrupts. sseclient-py 1.9.0 dispatches
# what has come of it: half of a JSON text, say, when a function fails midway. httpx-sse 0.4.3 discards it.
. "$(dirname "$0")/lib/packages.sh"
packages sseclient-py==1.9.0 httpx==0.28.1 httpx-sse==0.4.3

python - <<'PY'
import httpx
import httpx_sse
import sseclient

STREAM = b'data: {"total": 1}\n\ndata: {"tot'
transport = httpx.MockTransport(
    lambda request: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=STREAM)
)
with httpx.Client(transport=transport) as client, httpx_sse.connect_sse(client, "GET", "http://test/") as source:
    discarded = [event.data for event in source.iter_sse()]
delivered = [event.data for event in sseclient.SSEClient(iter([STREAM])).events()]
print("sseclient-py", delivered)
print("httpx-sse   ", discarded)
assert delivered == ['{"total": 1}', '{"tot']
assert discarded == ['{"total": 1}']
PY
