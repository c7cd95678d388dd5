"""The AWS region and account that a function sees on this machine."""

from __future__ import annotations

import os

#: AWS's own placeholder for an account, as its documentation uses it.
ACCOUNT = "123456789012"


def region() -> str:
    """Return the AWS region that the function is told to run in."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
