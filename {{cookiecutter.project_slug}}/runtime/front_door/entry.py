"""Checks each request before the handler runs: whether it came through CloudFront, and its token.

`Handler` in template.yaml names this module, and `FRONT_DOOR_HANDLER` there names the function's own handler, which
gets the request only if every check that the template configures lets it through.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

Check = Callable[[Any], Any]


def _own_handler() -> Any:
    module, _, name = os.environ["FRONT_DOOR_HANDLER"].rpartition(".")
    return getattr(import_module(module.replace("/", ".")), name)


def _checks() -> list[Check]:
    # Imported by name, because a project has only the modules that it needs.
    found: list[Check] = []
    if "ORIGIN_SECRET" in os.environ:
        found.append(import_module(f"{__package__}.origin").Origin(os.environ["ORIGIN_SECRET"]).answer)
    if {"JWT_ISSUER", "JWT_AUDIENCE"} & os.environ.keys():  # one without the other is an error
        found.append(import_module(f"{__package__}.guard").Guard.from_environment().answer)
    if not found:
        raise ValueError("front_door.entry.handler requires ORIGIN_SECRET or JWT_ISSUER in the function's environment")
    return found


_checked = _checks()
_handler = _own_handler()


def handler(event: Any, context: Any) -> Any:
    """Call the function's own handler, or answer in its place if a check refuses the request."""
    for check in _checked:
        answer = check(event)
        if answer is not None:
            return answer
    return _handler(event, context)
