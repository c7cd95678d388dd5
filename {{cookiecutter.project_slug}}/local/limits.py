"""Lambda's limits of a request's size and a response's bandwidth. `responses` limits a response's size."""

from __future__ import annotations

from collections.abc import Callable

from .aws_limits import AWS_LIMITS, MB

REQUEST_LIMIT: int = AWS_LIMITS["request"]["most"] * MB  # bytes of a request's body
_BURST: int = AWS_LIMITS["stream"]["full_speed"] * MB  # bytes of a response before its bandwidth is limited
_BANDWIDTH: int = AWS_LIMITS["stream"]["rate"] * MB  # bytes a second


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
