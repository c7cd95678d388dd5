"""What an exception looks like to Lambda: the error object, its type, and the cause for X-Ray.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-invokeerror
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import FrameSummary
    from typing import Any

_XRAY_LIMIT = 1024 * 1024  # bytes; Lambda refuses a longer header
_CHAIN_LIMIT = 20  # exceptions that a stack trace tells of
_LIBRARY = os.path.dirname(os.__file__)
# Where the frames are that stand between Lambda and the user's code: this package, the event loop, the import system.
_MACHINERY = (
    os.path.join(os.path.dirname(os.path.abspath(__file__)), ""),
    os.path.join(_LIBRARY, "asyncio", ""),
    os.path.join(_LIBRARY, "importlib", ""),
    "<frozen importlib.",
)


class RuntimeFault(Exception):
    """An error that Lambda knows by a name of its own, ``Runtime.…``, rather than by its Python class."""

    def __init__(self, error_type: str, message: str, stack_trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.stack_trace = stack_trace or []


def report(error: BaseException, request_id: str = "") -> dict[str, Any]:
    """The error object that Lambda hands to the caller, of JSON values only."""
    return {
        "errorMessage": _message(error),
        "errorType": _type_name(error),
        "requestId": request_id,
        "stackTrace": error.stack_trace if isinstance(error, RuntimeFault) else _stack_trace(error, set()),
    }


def xray_cause(error: BaseException) -> str:
    """The value of the header ``Lambda-Runtime-Function-XRay-Error-Cause``; empty if it would be too long."""
    frames = [] if isinstance(error, RuntimeFault) else _frames(error)
    kind = "LambdaValidationError" if isinstance(error, RuntimeFault) else _type_name(error)
    stack = [{"label": frame.name, "path": frame.filename, "line": frame.lineno} for frame in frames]
    cause = json.dumps(
        {
            "working_directory": _working_directory(),
            "exceptions": [{"message": _message(error), "type": kind, "stack": stack}],
            "paths": sorted({frame.filename for frame in frames}),
        }
    )
    return cause if len(cause) < _XRAY_LIMIT else ""


def _stack_trace(error: BaseException, seen: set[int]) -> list[str]:
    """The frames of `error`; then, for each exception behind or within it, its name and its frames."""
    from traceback import StackSummary

    seen.add(id(error))
    entries = StackSummary.from_list(_frames(error)).format()
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for label, other in (("Caused by", behind), *(("Holds", member) for member in inner)):
        # The chain may lead back to where it came from.
        if other is not None and id(other) not in seen and len(seen) < _CHAIN_LIMIT:
            entries += [f"{label} {_type_name(other)}: {_message(other)}\n", *_stack_trace(other, seen)]
    return entries


def _type_name(error: BaseException) -> str:
    return error.error_type if isinstance(error, RuntimeFault) else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # an exception of the user's whose __str__ is broken
        return f"<no message: __str__ raised {type(failure).__name__}>"


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # the handler removed it
        return ""


def _frames(error: BaseException) -> list[FrameSummary]:
    """The frames of the user's code: the runtime's own, which come first, are left out."""
    from traceback import extract_tb

    frames = list(extract_tb(error.__traceback__))
    first = 0
    while first < len(frames) and frames[first].filename.startswith(_MACHINERY):
        first += 1
    return frames[first:]
