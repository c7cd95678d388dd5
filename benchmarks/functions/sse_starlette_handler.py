"""The event stream of sse-starlette as a handler of ours."""

from sse_starlette_app import app

from streaming_runtime import AsgiHandler

handler = AsgiHandler(app)
