"""The tokens that functions require, from an issuer on this machine unless the shell names another one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from .http_server import ListenError
from .template import Function

_VARIABLE = "JWT_ISSUER"
# From the port of the first function to that of the issuer.
_PORT_OFFSET = 100


class SignIn:
    """Configures functions that check tokens, and adds tokens to their test events. Others it leaves unchanged."""

    def __init__(self, functions: Iterable[Function]) -> None:
        """Make an issuer for those of `functions` that check tokens, if there are any."""
        self._issuer: Any = None
        checking = [function.environment for function in functions if _VARIABLE in function.environment]
        if checking and _VARIABLE not in os.environ:
            # Only projects that check tokens have this module, and what it imports.
            self._module: Any = import_module("local.issuer")
            audiences = sorted({{**variables, **os.environ}["JWT_AUDIENCE"] for variables in checking})
            self._issuer = self._module.Issuer(audiences if len(audiences) > 1 else audiences[0])

    async def start(self, stack: contextlib.AsyncExitStack, port: int) -> str:
        """Serve the issuer; return its URL, or an empty text if none is needed.

        Args:
            stack: What ends the issuer.
            port: The port of the first function; 0 for any free port. If the issuer's is taken, any free one will do.
        """
        if self._issuer is None:
            return ""
        if port:
            with contextlib.suppress(ListenError):
                await stack.enter_async_context(self._module.issuing(self._issuer, port + _PORT_OFFSET))
        if not self._issuer.url:
            await stack.enter_async_context(self._module.issuing(self._issuer))
        return str(self._issuer.url)

    def configure(self, function: Function) -> Function:
        """Return the function with this issuer in its environment, if it checks tokens."""
        if self._issuer is None or _VARIABLE not in function.environment:
            return function
        own = {_VARIABLE: self._issuer.url, "JWT_ALGORITHM": "RS256"}
        return dataclasses.replace(function, environment={**function.environment, **own})

    def admit(self, function: Function, event: Any) -> Any:
        """Return an event for the function with a token, if it checks tokens."""
        if self._issuer is None or _VARIABLE not in function.environment:
            return event
        return self._issuer.admit(event)
