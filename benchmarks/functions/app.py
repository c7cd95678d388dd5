"""The benchmark's function as a Lambda handler: as a stream, and in one piece for a runtime that cannot stream."""

import os
from collections.abc import Iterator

COUNT = int(os.environ["CHUNKS"])
CHUNK = b"x" * int(os.environ["CHUNK_SIZE"])


def stream(_event: object, _context: object) -> Iterator[bytes]:
    for _ in range(COUNT):
        yield CHUNK


def whole(_event: object, _context: object) -> bytes:
    return CHUNK * COUNT
