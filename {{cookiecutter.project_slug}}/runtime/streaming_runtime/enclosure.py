"""`streaming`: a handler whose decorators see its whole stream.

Most libraries that watch a function wrap its handler, and look at the call. A handler that streams has returned before
its first chunk is sent: spans and metrics end too early, and errors midway are not seen. Below `streaming` the stream is
sent within the call, so that whatever encloses the call encloses the stream.
"""

from __future__ import annotations

import functools

from . import errors
from .errors import RuntimeFault
from .invocation import current
from .marshalling import streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import Handler

# Packages whose decorators look at the call of a handler, and not at its stream.
_LIBRARIES = frozenset(
    {"aws_lambda_powertools", "aws_xray_sdk", "datadog_lambda", "ddtrace", "opentelemetry", "sentry_sdk"}
)
_HARMLESS = "inject_lambda_context"  # the one of their decorators that does nothing after the call
_STORES_RESULT = "idempotent"  # the one that sends the result of a call again
_YIELDS, _AWAITS = 0x20 | 0x200, 0x80  # flags of a function's code, as in `inspect`
_DEPTH = 100  # decorators


def streaming(function: Handler) -> Handler:
    """Send the stream of the handler `function` within its call, so that the decorators above enclose the stream.

    They get a dict with the status as ``statusCode`` after the last chunk, and a failure midway as an exception; the
    deadline is an `Exception` to them. A result that is no stream is returned to them unchanged. Called by other code
    than the runtime, such as a test, the handler is as if it were not decorated.

    Args:
        function: The handler: a function, or an `AsgiHandler`. Decorators that change the response may be below this
            one, but none of a library that watches the function.

    Raises:
        TypeError: `function` has a decorator of such a library.
    """
    if (found := _watching(_links(function))) is not None:
        raise TypeError(f"@streaming must be below {found}, which would not see the stream: {_remedy(function)}")

    @functools.wraps(function, updated=())
    def handler(event: Any, context: Any) -> Any:
        if current.exchange is None:
            return function(event, context)
        return current.exchange.enclose(function, event, context)

    return handler


def checked(handler: Handler) -> Handler:
    """Return `handler`, which has decorators, with a check of what it returns where that is necessary.

    Raises:
        RuntimeFault: The decorators are in an order that cannot work.
    """
    links = _links(handler)
    innermost = links[-1]
    for number, link in enumerate(links):
        if getattr(link, "__globals__", None) is globals():  # that of `streaming`
            _check_enclosing(links[:number])
            return handler
    found = _watching(links)
    if found is None:
        return handler
    problem = f"{found} ends before the stream of the handler begins: {_remedy(innermost)}"
    if _flags(innermost) & (_YIELDS | _AWAITS):
        raise _refusal(problem, innermost)

    @functools.wraps(handler, updated=())
    def check(event: Any, context: Any) -> Any:
        result = handler(event, context)
        if streams(result) or hasattr(type(result), "__await__"):
            raise _refusal(problem, innermost)
        return result

    return check


def _check_enclosing(links: list[Any]) -> None:
    for link in links:
        if _flags(link) & _YIELDS:
            problem = f"{_name(link)} yields what the handler returns: put it below @streaming"
            raise _refusal(problem, link)
        if _name(link) == _STORES_RESULT and _library(link):
            problem = (
                f"{_name(link)} of {_library(link)} would answer a repeated call with the result of the first, which does "
                "not hold the stream: use idempotent_function for the function that makes the data"
            )
            raise _refusal(problem, links[-1])


def decorators(handler: Handler) -> list[str]:
    """Return the names of the decorators of `handler`, the outermost first."""
    return [_name(link) for link in _links(handler)[:-1]]


def _refusal(message: str, function: Any) -> RuntimeFault:
    return RuntimeFault("Runtime.DecoratorOrder", message, errors.location(function))


def _remedy(function: Any) -> str:
    name = getattr(_links(function)[-1], "__name__", "handler")
    return f"put @streaming (from streaming_runtime import streaming) directly above `def {name}`"


def _links(handler: Any) -> list[Any]:
    """Return `handler`, what it wraps, and so on down to the function itself."""
    links = [handler]
    while len(links) < _DEPTH:
        wrapped = getattr(links[-1], "__wrapped__", None) or getattr(links[-1], "func", None)
        if not callable(wrapped):
            break
        links.append(wrapped)
    return links


def _watching(links: list[Any]) -> str | None:
    """Return the first of a library's decorators among `links` that does something after the call; None if none does."""
    for link in links:
        if (library := _library(link)) and _name(link) != _HARMLESS:
            return f"{_name(link)} of {library}"
    return None


def _library(link: Any) -> str:
    """Return the name of the library that `link` is from, or ""."""
    package = str(getattr(_code_of(link), "__module__", None)).partition(".")[0]
    globals_ = getattr(_code_of(link), "__globals__", None)
    if globals_ is not None:  # which a decorator does not copy from what it wraps
        package = str(globals_.get("__name__")).partition(".")[0]
    return package if package in _LIBRARIES else ""


def _name(link: Any) -> str:
    code = getattr(_code_of(link), "__code__", None)
    if code is None:
        return type(link).__name__.strip("_")
    return code.co_qualname.partition(".<locals>")[0].rpartition(".")[2].strip("_")


def _code_of(link: Any) -> Any:
    """Return the function or type that makes up the decorator `link`."""
    if (wrapper := getattr(link, "_self_wrapper", None)) is not None:  # of wrapt
        return wrapper
    code = getattr(link, "__code__", None)
    if code is None:
        return type(link)
    # Powertools makes decorators of functions that have a parameter for the handler.
    for name, cell in zip(code.co_freevars, link.__closure__ or ()):
        if name == "decorator":
            return cell.cell_contents
    return link


def _flags(function: Any) -> int:
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code.co_flags if code is not None else 0
