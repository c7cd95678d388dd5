#!/usr/bin/env bash
# Event-stream clients dispatch events that hold no data.
#
# The HTML standard (section 9.2.6) dispatches nothing when the data buffer is empty. httpx-sse 0.4.3, openai 3.57.0 and
# anthropic 2.14.0 dispatch an event with empty data where the lines before an empty line set only `retry`, and for each
# comment with an empty line of its own (a usual heartbeat) once an `id` was seen. sseclient-py 1.9.0 follows the standard.
. "$(dirname "$0")/lib/packages.sh"
packages httpx==0.28.1 httpx-sse==0.4.3 openai==3.57.0 anthropic==2.14.0 sseclient-py==1.9.0

python - <<'PY'
import anthropic._streaming
import httpx
import httpx_sse
import openai._streaming
import sseclient

STREAM = b"retry: 1000\n\nid: 1\ndata: first\n\n: heartbeat\n\ndata: second\n\n"


def httpx_sse_client():
    transport = httpx.MockTransport(
        lambda request: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=STREAM)
    )
    with httpx.Client(transport=transport) as client, httpx_sse.connect_sse(client, "GET", "http://test/") as source:
        return [event.data for event in source.iter_sse()]


seen = {
    "httpx-sse": httpx_sse_client(),
    "openai": [event.data for event in openai._streaming.SSEDecoder().iter_bytes(iter([STREAM]))],
    "anthropic": [event.data for event in anthropic._streaming.SSEDecoder().iter_bytes(iter([STREAM]))],
    "sseclient-py": [event.data for event in sseclient.SSEClient(iter([STREAM])).events()],
}
for name, data in seen.items():
    print(f"{name:12} {data}")
extra = ["", "first", "", "second"]
assert seen == {"httpx-sse": extra, "openai": extra, "anthropic": extra, "sseclient-py": ["first", "second"]}
PY
