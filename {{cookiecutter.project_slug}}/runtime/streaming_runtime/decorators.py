"""The decorators of a handler: which they are, and whether they can see its stream in this order."""

from __future__ import annotations

import functools
from itertools import pairwise

from .errors import RuntimeFault, location
from .marshalling import streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ._types import Handler

# Packages whose decorators look at the call of a handler, and not at its stream.
_LIBRARIES = frozenset(
    {"aws_lambda_powertools", "aws_xray_sdk", "datadog_lambda", "ddtrace", "opentelemetry", "sentry_sdk"}
)
_HARMLESS = "inject_lambda_context"  # the one of their decorators that does nothing after the call
_STORES_RESULT = "idempotent"  # the one that sends the result of a call again
_ENCLOSURE = f"{__package__}.enclosure"
_YIELDS, _AWAITS = 0x20 | 0x200, 0x80  # flags of a function's code, as in `inspect`


def checked(handler: Handler) -> Handler:
    """Return `handler`, which has decorators, with a check of what it returns where that is necessary.

    Raises:
        RuntimeFault: The decorators are in an order that cannot work.
    """
    links = _links(handler)
    innermost = links[-1]
    for number, link in enumerate(links):
        if _is_enclosure(link):
            _check_enclosing(links[:number], innermost)
            return handler
    watching = watching_decorator(handler)
    if watching is None:
        return handler
    problem = f"{watching} ends before the stream of the handler begins: {remedy(innermost)}"
    if _flags(innermost) & (_YIELDS | _AWAITS):
        raise _refusal(problem, innermost)

    @functools.wraps(handler, updated=())
    def check(event: Any, context: Any) -> Any:
        result = handler(event, context)
        if streams(result) or hasattr(type(result), "__await__"):
            raise _refusal(problem, innermost)
        return result

    return check


def encloses(handler: Handler) -> bool:
    """Whether `handler` is, or is a decorator of, a `streaming` handler."""
    return any(map(_is_enclosure, _links(handler)))


def watching_decorator(handler: Handler) -> str | None:
    """Return the outermost decorator of a library that does something after the call of `handler`; None without one."""
    for link in _links(handler):
        if (library := _library(link)) and _name(link) != _HARMLESS:
            return f"{_name(link)} of {library}"
    return None


def decorators(handler: Handler) -> list[str]:
    """Return the names of the decorators of `handler`, the outermost first."""
    return [_name(link) for link, _ in pairwise(_links(handler))]


def consumed(generator: Any, handler: Any) -> RuntimeFault:
    """Return the error for a generator that was read before its items were to be sent.

    Args:
        generator: The generator.
        handler: The handler that returned it.
    """
    names = " or ".join(decorators(handler)) or "code that records what the handler returns"
    problem = f"'{generator.__name__}' was already read when its items were to be sent, probably by {names}"
    return RuntimeFault("Runtime.StreamConsumed", f"{problem}: {remedy(handler)}", location(generator))


def remedy(handler: Handler) -> str:
    """Return what to do so that decorators see the stream of `handler`."""
    name = getattr(_links(handler)[-1], "__name__", "handler")
    return f"put @streaming (from streaming_runtime import streaming) directly above `def {name}`"


def _check_enclosing(links: Iterable[Any], innermost: Any) -> None:
    for link in links:
        if _flags(link) & _YIELDS:
            raise _refusal(f"{_name(link)} yields what the handler returns: put it below @streaming", link)
        if _name(link) == _STORES_RESULT and _library(link):
            problem = "would answer a repeated call with the result of the first, which does not hold the stream"
            instead = "use idempotent_function for the function that makes the data"
            raise _refusal(f"{_STORES_RESULT} of {_library(link)} {problem}: {instead}", innermost)


def _is_enclosure(link: Any) -> bool:
    return bool(getattr(link, "__globals__", {}).get("__name__") == _ENCLOSURE)


def _refusal(message: str, function: Any) -> RuntimeFault:
    return RuntimeFault("Runtime.DecoratorOrder", message, location(function))


def _links(handler: Any) -> list[Any]:
    """Return `handler`, what it wraps, and so on down to the function itself."""
    links = [handler]
    while callable(wrapped := getattr(links[-1], "__wrapped__", None) or getattr(links[-1], "func", None)):
        links.append(wrapped)
    return links


def _library(link: Any) -> str:
    """Return the name of the library that `link` is from, or ""."""
    source = _source(link)
    # A function's globals tell where it is from: a decorator copies the other attributes from what it wraps.
    module = getattr(source, "__globals__", {}).get("__name__") or source.__module__
    package = str(module).partition(".")[0]
    return package if package in _LIBRARIES else ""


def _name(link: Any) -> str:
    source = _source(link)
    code = getattr(source, "__code__", None)
    if code is None:
        return str(source.__name__).strip("_")
    return str(code.co_qualname).partition(".<locals>")[0].rpartition(".")[2].strip("_")


def _source(link: Any) -> Any:
    """Return the function or type that makes up the decorator `link`."""
    if (wrapper := getattr(link, "_self_wrapper", None)) is not None:  # of wrapt
        return wrapper
    code = getattr(link, "__code__", None)
    if code is None:
        return type(link)
    # Powertools makes decorators of functions that have a parameter for the handler.
    for name, cell in zip(code.co_freevars, link.__closure__ or (), strict=True):
        if name == "decorator":
            return cell.cell_contents
    return link


def _flags(function: Any) -> int:
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code.co_flags if code is not None else 0
