"""The event stream of FastAPI as a handler of ours."""

from fastapi_events_app import app

from streaming_runtime import AsgiHandler

handler = AsgiHandler(app)
