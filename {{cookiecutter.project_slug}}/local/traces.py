"""The trace daemon of an execution environment: receives the segments of sampled traces and logs them.

https://docs.aws.amazon.com/xray/latest/devguide/xray-api-segmentdocuments.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any


class TraceDaemon(asyncio.DatagramProtocol):
    """Takes the place of the daemon that Lambda provides: X-Ray's SDK sends to it what it has recorded."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Write a line for each segment to `log`."""
        self._log = log
        self._transport: asyncio.BaseTransport | None = None

    async def start(self) -> str:
        """Start to listen on loopback, and return host and port."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, _address: object) -> None:
        """Log a segment: the line with the format's name comes first, then the segment."""
        try:
            lines = list(_lines(json.loads(data.partition(b"\n")[2])))
        except (AttributeError, KeyError, TypeError, ValueError):
            lines = [f"{len(data)} bytes that are not a segment"]
        self._log("".join(f"[TRACE] {line}\n" for line in lines))


def _lines(segment: dict[str, Any], depth: int = 0) -> Iterator[str]:
    duration = (
        f"{(segment['end_time'] - segment['start_time']) * 1000:.0f} ms" if "end_time" in segment else "not ended"
    )
    causes = segment.get("cause", {}).get("exceptions", [])
    errors = "".join(f", {cause['type']}: {cause.get('message', '')}" for cause in causes)
    yield f"{'  ' * depth}{segment['name']}: {duration}{errors}"
    for each in segment.get("subsegments", []):
        yield from _lines(each, depth + 1)
