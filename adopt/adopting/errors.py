"""The one exception that a user is meant to see."""

from __future__ import annotations


class Refusal(Exception):
    """Nothing was changed. The message says what was wrong, what is allowed and what to do."""
