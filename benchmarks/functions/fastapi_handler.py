"""The FastAPI application as a handler of ours."""

from fastapi_app import app

from streaming_runtime import AsgiHandler

handler = AsgiHandler(app)
