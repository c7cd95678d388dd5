"""What an exception looks like to Lambda: the error object, the trailers that hold it, and the cause for X-Ray.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-invokeerror
"""

from __future__ import annotations

import json
import os
from binascii import b2a_base64

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: File, line, name of the function.
    Frame = tuple[str, int | None, str]

#: Header of a report of an error, and trailer behind a response that failed midway.
TYPE_HEADER = "Lambda-Runtime-Function-Error-Type"
#: Trailer that holds the error object.
BODY_TRAILER = "Lambda-Runtime-Function-Error-Body"

# Go's HTTP server, of which Lambda's emulator is made, takes no more trailers than its buffer holds.
_TRAILERS_LIMIT = 4096  # bytes
_TYPE_LIMIT = 128  # characters of an error's type among them
_XRAY_LIMIT = 1024 * 1024  # bytes; Lambda refuses a longer header
_CHAIN_LIMIT = 20  # exceptions that a stack trace tells of
_REPETITIONS = 3  # of a frame that are written out
_LIBRARY = os.path.dirname(os.__file__)
# Where the frames are that stand between Lambda and the user's code: this package, the event loop, the import system.
_MACHINERY = (
    os.path.join(os.path.dirname(os.path.abspath(__file__)), ""),
    os.path.join(_LIBRARY, "asyncio", ""),
    os.path.join(_LIBRARY, "importlib", ""),
    "<frozen importlib.",
)
# Asked for what an exception holds, since one may have attributes of the same names.
_BASE: Any = BaseException
_DEADLINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deadline.py")


class RuntimeFault(Exception):
    """An error that Lambda knows by a name of its own, ``Runtime.…``, rather than by its Python class."""

    def __init__(self, error_type: str, message: str, stack_trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.stack_trace = stack_trace or []


def report(error: BaseException, request_id: str = "") -> dict[str, Any]:
    """The error object that Lambda hands to the caller, of JSON values only."""
    fault = _fault(error)
    return {
        "errorMessage": _message(error),
        "errorType": _type_name(error),
        "requestId": request_id,
        "stackTrace": fault.stack_trace if fault else _stack_trace(error, set()),
    }


def type_header(kind: str) -> tuple[str, str]:
    """The header that names an error's type. Python allows a class name that no header may hold."""
    return TYPE_HEADER, kind.encode("unicode_escape").decode()


def trailers(report: dict[str, Any]) -> bytes:
    """The end of a response that failed. What is too much of the report is left out; the log has all of it."""
    stack, message = report["stackTrace"], report["errorMessage"]
    kind = report["errorType"][:_TYPE_LIMIT]
    while True:
        shown = {**report, "errorType": kind, "errorMessage": message, "stackTrace": stack}
        body = b2a_base64(json.dumps(shown).encode(), newline=False).decode()
        end = wire.last_chunk([type_header(kind), (BODY_TRAILER, body)])
        if len(end) <= _TRAILERS_LIMIT or not (stack or message):
            return end
        if stack:  # whose last entries say most
            stack = stack[len(stack) // 2 + 1 :]
        else:
            message = message[: len(message) // 2]


def xray_cause(error: BaseException, report: dict[str, Any]) -> str | None:
    """The value of the header ``Lambda-Runtime-Function-XRay-Error-Cause``; None if it would be too long.

    `report` is what `report` made of `error`: an exception may say another thing each time it is asked.
    """
    frames = [] if _fault(error) else _frames(error)
    kind = "LambdaValidationError" if _fault(error) else report["errorType"]
    stack = [{"label": name, "path": path, "line": line} for path, line, name in frames]
    cause = json.dumps(
        {
            "working_directory": _working_directory(),
            "exceptions": [{"message": report["errorMessage"], "type": kind, "stack": stack}],
            "paths": sorted({path for path, _, _ in frames}),
        }
    )
    return cause if len(cause) < _XRAY_LIMIT else None


def _fault(error: BaseException) -> RuntimeFault | None:
    # By its type, since an exception may say of itself what it likes.
    return error if issubclass(type(error), RuntimeFault) else None  # type: ignore[return-value]


def _stack_trace(error: BaseException, seen: set[int]) -> list[str]:
    """The frames of `error`; then, for each exception behind or within it, its name and its frames."""
    seen.add(id(error))
    entries = _formatted(_frames(error))
    behind = _BASE.__cause__.__get__(error)
    if behind is None and not _BASE.__suppress_context__.__get__(error):
        behind = _BASE.__context__.__get__(error)
    inner = BaseExceptionGroup.exceptions.__get__(error) if issubclass(type(error), BaseExceptionGroup) else ()
    for label, other in (("Caused by", behind), *(("Holds", member) for member in inner)):
        # The chain may lead back to where it came from.
        if other is not None and id(other) not in seen and len(seen) < _CHAIN_LIMIT:
            entries += [f"{label} {_type_name(other)}: {_message(other)}\n", *_stack_trace(other, seen)]
    return entries


def _formatted(frames: list[Frame]) -> list[str]:
    """The frames as `traceback` formats them for awslambdaric.

    Importing that module takes longer than all else that a report takes; and it imports others, by names such as
    ``token``, that a function may well have given to modules of its own.
    """
    entries: list[str] = []
    repeated = 0
    for number, frame in enumerate(frames):
        repeated = repeated + 1 if number and frame == frames[number - 1] else 0
        if repeated < _REPETITIONS:
            path, line, name = frame
            source = _source(path, line)
            entries.append(f'  File "{path}", line {line}, in {name}\n' + (f"    {source}\n" if source else ""))
        elif number + 1 == len(frames) or frames[number + 1] != frame:
            more = repeated - _REPETITIONS + 1
            entries.append(f"  [Previous line repeated {more} more time{'s' if more > 1 else ''}]\n")
    return entries


def _source(path: str, line: int | None) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().split(b"\n")[(line or 0) - 1].decode("utf-8", "replace").strip()
    except (OSError, ValueError, IndexError):  # it came from no file, or from one that has changed
        return ""


def _type_name(error: BaseException) -> str:
    fault = _fault(error)
    return fault.error_type if fault else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as failure:  # an exception of the user's whose __str__ is broken
        return f"<no message: __str__ raised {type(failure).__name__}>"


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # the handler removed it
        return ""


def _frames(error: BaseException) -> list[Frame]:
    """The frames of the user's code: the runtime's own, which come first and last, are left out."""
    frames: list[Frame] = []
    trace = _BASE.__traceback__.__get__(error)
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    first, last = 0, len(frames)
    while first < last and frames[first][0].startswith(_MACHINERY):
        first += 1
    while last > first and frames[last - 1][0] == _DEADLINE:  # which raises in the user's code, not from it
        last -= 1
    return frames[first:last]
