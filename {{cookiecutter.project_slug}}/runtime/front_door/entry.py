"""Checks the token of each request before the handler runs.

`Handler` in template.yaml names this module, and `FRONT_DOOR_HANDLER` there names the function's own handler, which
gets the request only if its token is valid.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from .guard import Guard
from .keys import KeySet
from .tokens import Verifier


def _own_handler() -> Any:
    module, _, name = os.environ["FRONT_DOOR_HANDLER"].rpartition(".")
    return getattr(import_module(module.replace("/", ".")), name)


def _guard() -> Guard:
    issuer = os.environ["JWT_ISSUER"]
    verifier = Verifier(
        KeySet(issuer, os.environ.get("JWT_ALGORITHM", "RS256")),
        issuer,
        os.environ["JWT_AUDIENCE"],
        float(os.environ.get("JWT_LEEWAY", "0")),
    )
    return Guard(verifier, os.environ.get("JWT_CLIENT_ID", ""), os.environ.get("JWT_SCOPE", "openid"))


_guarded = _guard()
_handler = _own_handler()


def handler(event: Any, context: Any) -> Any:
    """Call the function's own handler, or answer in its place if the request has no valid token."""
    answer = _guarded.answer(event)
    return _handler(event, context) if answer is None else answer
