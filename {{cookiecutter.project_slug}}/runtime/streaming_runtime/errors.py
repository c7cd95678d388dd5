"""An exception as Lambda sees it: the error object, the trailers with it, and the cause for X-Ray.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-invokeerror
"""

from __future__ import annotations

import os
from binascii import b2a_base64

from . import wire
from .deadline import StreamDeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import Frame, Report

#: Header of an error report, and trailer of a response that failed midway.
TYPE_HEADER = "Lambda-Runtime-Function-Error-Type"
#: Trailer with the error object.
BODY_TRAILER = "Lambda-Runtime-Function-Error-Body"

# Lambda's emulator uses Go's HTTP server, which accepts only as many trailers as fit in its buffer.
_TRAILERS_LIMIT = 4096  # bytes
_TYPE_LIMIT = 128  # characters of an error's type in the trailers
_XRAY_LIMIT = 1024 * 1024  # bytes; Lambda rejects a longer header
_CHAIN_LIMIT = 20  # exceptions in one stack trace
_REPETITIONS = 3  # repetitions of a frame that are written out
_LIBRARY = os.path.dirname(os.__file__)
# Files whose frames come between Lambda and the user's code: this package, the event loop, the import system.
_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_INTERNAL = (
    _PACKAGE,
    os.path.join(_LIBRARY, "asyncio", ""),
    os.path.join(_LIBRARY, "importlib", ""),
    "<frozen importlib.",
)
_CODE = ("__code__", "gi_code", "ag_code")  # attributes of a function and of generators
# Its descriptors read the attributes of an exception: a subclass may define attributes of the same names.
_BASE: Any = BaseException
_DEADLINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "deadline.py")


class RuntimeFault(Exception):
    """An error that Lambda knows as ``Runtime.…`` rather than by its Python class."""

    def __init__(self, error_type: str, message: str, stack_trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.stack_trace = stack_trace or []


def report(error: BaseException, request_id: str = "", *sources: object) -> Report:
    """Return the error object that Lambda returns to the caller. It consists of JSON values.

    Args:
        error: The exception.
        request_id: Id of the invocation.
        sources: Generators and functions of the user's code. If `error` itself has no line of that, the report shows
            where the first of them is.
    """
    fault = _fault(error)
    stack_trace = fault.stack_trace if fault else _stack_trace(error, set())
    for source in sources:
        stack_trace = stack_trace or location(source)
    return {
        "errorMessage": _message(error),
        "errorType": _type_name(error),
        "requestId": request_id,
        "stackTrace": stack_trace,
    }


def location(source: Any) -> list[str]:
    """Return the line where a generator is, or where a function is defined, as a stack trace; empty if unknown."""
    frame = None
    while source is not None:  # down to the innermost generator that is delegated to, or the innermost function
        frame = getattr(source, "gi_frame", None) or getattr(source, "ag_frame", None) or frame
        inner = getattr(source, "gi_yieldfrom", None) or getattr(source, "__wrapped__", None)
        if inner is None:
            break
        source = inner
    if frame is not None:
        found = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
    elif (code := next((getattr(source, name, None) for name in _CODE if hasattr(source, name)), None)) is not None:
        found = code.co_filename, code.co_firstlineno, code.co_name
    else:
        return []
    return formatted([found])


def import_trace(error: BaseException) -> list[str]:
    """Return the stack trace of a failed import in the user's code."""
    return formatted([frame for frame in _frames(error) if not frame[0].startswith(_INTERNAL)])


def type_header(kind: str) -> tuple[str, str]:
    """Return the header with an error's type, escaped because a class name may contain any character."""
    # The codec unicode_escape does the same, but is a module to import: too late when the descriptors are used up.
    escaped = [character if character in "'\"" else ascii(character)[1:-1] for character in kind]
    return TYPE_HEADER, "".join(escaped)


def trailers(report: Report) -> bytes:
    """Encode the end of a response that failed. A report that is too long is shortened; the log has all of it."""
    stack, message = report["stackTrace"], report["errorMessage"]
    kind = report["errorType"][:_TYPE_LIMIT]
    while True:
        shown = {**report, "errorType": kind, "errorMessage": message, "stackTrace": stack}
        body = b2a_base64(wire.plain_json(shown).encode(), newline=False).decode()
        end = wire.last_chunk([type_header(kind), (BODY_TRAILER, body)])
        if len(end) <= _TRAILERS_LIMIT or not (stack or message):
            return end
        if stack:  # the last entries are the most useful
            stack = stack[len(stack) // 2 + 1 :]
        else:
            message = message[: len(message) // 2]


def xray_cause(error: BaseException, report: Report) -> str | None:
    """Return the value of the header ``Lambda-Runtime-Function-XRay-Error-Cause``; None if it would be too long.

    The message comes from `report`, because an exception may return another text each time.
    """
    frames = [] if _fault(error) else _frames(error)
    kind = "LambdaValidationError" if _fault(error) else report["errorType"]
    stack = [{"label": name, "path": path, "line": line} for path, line, name in frames]
    cause = wire.plain_json(
        {
            "working_directory": _working_directory(),
            "exceptions": [{"message": report["errorMessage"], "type": kind, "stack": stack}],
            "paths": sorted({path for path, _, _ in frames}),
        }
    )
    return cause if len(cause) < _XRAY_LIMIT else None


def _fault(error: BaseException) -> RuntimeFault | None:
    # Use type(error): an exception can override `__class__`.
    return error if issubclass(type(error), RuntimeFault) else None  # type: ignore[return-value]


def _stack_trace(error: BaseException, seen: set[int]) -> list[str]:
    """Return the frames of `error`, then type, message and frames of each cause and of each member of a group."""
    seen.add(id(error))
    entries = formatted(_frames(error))
    cause = _BASE.__cause__.__get__(error)
    if cause is None and not _BASE.__suppress_context__.__get__(error):
        cause = _BASE.__context__.__get__(error)
    members = BaseExceptionGroup.exceptions.__get__(error) if issubclass(type(error), BaseExceptionGroup) else ()
    for label, other in (("Caused by", cause), *(("Holds", member) for member in members)):
        # The chain may be a circle.
        if other is not None and id(other) not in seen and len(seen) < _CHAIN_LIMIT:
            entries += [f"{label} {_type_name(other)}: {_message(other)}\n", *_stack_trace(other, seen)]
    if issubclass(type(error), StreamDeadlineExceeded):
        thread: list[Frame] = _BASE.__getattribute__(error, "thread")
        entries += ["In a thread\n", *formatted(thread)] if thread else []
    return entries


def formatted(frames: list[Frame]) -> list[str]:
    """Format frames as `traceback` does for awslambdaric.

    Importing that module takes longer than the rest of a report. It also imports modules such as ``token``, whose
    names a function may have used for its own modules.
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
    except (OSError, ValueError, IndexError):  # not from a file, or the file has changed
        return ""


def _type_name(error: BaseException) -> str:
    fault = _fault(error)
    return fault.error_type if fault else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as failure:  # the __str__ of a user's exception may raise anything
        return f"<no message: __str__ raised {type(failure).__name__}>"


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # the handler removed it
        return ""


def _frames(error: BaseException) -> list[Frame]:
    """Return the frames of the user's code, without the frames of the runtime before and after them."""
    frames: list[Frame] = []
    trace = _BASE.__traceback__.__get__(error)
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    first, last = 0, len(frames)
    while first < last and frames[first][0].startswith(_INTERNAL):
        first += 1
    while last > first and frames[last - 1][0] == _DEADLINE:  # which raised in the user's code
        last -= 1
    kept = frames[first:last]
    # The runtime's own frames between those of the handler's decorators and of the handler.
    while kept and any(is_own := [path.startswith(_PACKAGE) for path, _, _ in kept]):
        number = is_own.index(True)
        if all(is_own[number:]):
            break
        del kept[number]
    return kept
