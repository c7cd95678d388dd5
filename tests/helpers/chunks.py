"""Response bodies in chunks: written and read byte for byte, independently of the runtime."""

from __future__ import annotations

import json
from typing import Any

#: The content type of a stream that begins with HTTP metadata, and what divides these from the payload.
METADATA_TYPE = "application/vnd.awslambda.http-integration-response"
DELIMITER = bytes(8)
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk in the only form that the runtime may send: the size in lower-case hex, then the data."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*items: bytes) -> bytes:
    """A complete body without trailers."""
    return b"".join(map(chunk, items)) + LAST_CHUNK


def split_chunks(body: bytes) -> tuple[list[bytes], bytes | None]:
    """The chunks of a body, and what follows the last of them: trailers and the empty line, or None if it was cut."""
    found: list[bytes] = []
    while body:
        line, separator, rest = body.partition(b"\r\n")
        if not separator:
            return found, None
        size = int(line, 16)
        if size == 0:
            return found, rest
        found.append(rest[:size])
        if len(rest) < size + 2:
            return found, None
        assert body.startswith(chunk(found[-1]))
        body = rest[size + 2 :]
    return found, None


def complete_chunks(body: bytes) -> list[bytes]:
    """The chunks of a body, which must be complete and have no trailers."""
    found, end = split_chunks(body)
    assert end == b"\r\n", end
    return found


def split_metadata(body: bytes) -> tuple[Any, bytes]:
    """The HTTP metadata and the payload of a body that was read from its chunks."""
    metadata, delimiter, payload = body.partition(DELIMITER)
    assert delimiter, f"no delimiter in {body[:200]!r}"
    return json.loads(metadata), payload
