"""A Lambda runtime for Python whose responses stream.

This is the whole public interface. A handler is ``handler(event, context)`` and may return or yield:

- a generator, an async generator or any iterator of ``bytes`` or ``str``: a raw stream;
- a `StreamingResponse`: status, headers and cookies, then the stream;
- a dict with ``statusCode``: the format of a buffered function URL response;
- any other JSON value.
"""

from .response import StreamingResponse

__all__ = ["StreamingResponse"]
