"""Lambda's limits of a request's size and a response's bandwidth. `responses` limits a response's size.

https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html
"""

from __future__ import annotations

from collections.abc import Callable

_MB = 1024 * 1024
REQUEST_LIMIT = 6 * _MB  # bytes of a request's body
_BURST = 6 * _MB  # bytes of a response before its bandwidth is limited
_BANDWIDTH = 2 * _MB  # bytes a second


class TokenBucket:
    """The bandwidth of one response: a burst that may be sent immediately, refilled at Lambda's rate."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Create a full bucket; `clock` returns seconds."""
        self._clock = clock
        self._tokens: float = _BURST
        self._filled_at = clock()

    def take(self, size: int) -> float:
        """Take `size` bytes, and return the seconds to wait before they may be sent."""
        now = self._clock()
        self._tokens = min(_BURST, self._tokens + (now - self._filled_at) * _BANDWIDTH) - size
        self._filled_at = now
        return max(0.0, -self._tokens / _BANDWIDTH)
