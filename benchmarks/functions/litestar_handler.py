"""The event stream of Litestar as a handler of ours."""

from litestar_app import app

from streaming_runtime import AsgiHandler

handler = AsgiHandler(app)
