"""A ring of invocations that ended: a summary of each, and the details of as many as fit into a number of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Archive:
    """Keeps the last invocations in the order in which they were added.

    Attributes:
        summaries: Of each invocation by its ID, as JSON objects.
        details: JSON texts by the ID of their invocation. The oldest are dropped first, so this has fewer entries.
        size: Bytes of all details.
    """

    def __init__(self, limit: int, budget: int) -> None:
        """Create an empty archive of at most `limit` invocations with at most `budget` bytes of details."""
        self.summaries: dict[str, dict[str, Any]] = {}
        self.details: dict[str, bytes] = {}
        self.size = 0
        self._limit = limit
        self._budget = budget

    def add(self, summary: dict[str, Any], detail: bytes) -> Iterator[tuple[str, str]]:
        """Add an invocation; yield what that cost: "dropped" or "forgotten", and the ID of the invocation."""
        name = summary["id"]
        self.summaries[name] = summary
        self.details[name] = detail
        self.size += len(detail)
        while self.size > self._budget:
            oldest = next(iter(self.details))
            self._drop(oldest)
            self.summaries[oldest]["dropped"] = True
            yield "dropped", oldest
        while len(self.summaries) > self._limit:
            oldest = next(iter(self.summaries))
            self._drop(oldest)
            del self.summaries[oldest]
            yield "forgotten", oldest

    def _drop(self, name: str) -> None:
        self.size -= len(self.details.pop(name, b""))
