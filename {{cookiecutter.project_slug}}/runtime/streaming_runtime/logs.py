"""Logging in the formats of awslambdaric, so that log queries and level filters keep working.

Text: ``[LEVEL]<tab>time<tab>request id<tab>message``. JSON: one object per line, with ``timestamp``, ``level``,
``message``, ``logger`` and ``requestId``. Lambda may pass a descriptor that accepts framed entries, which keeps an
entry of several lines together.
https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html
"""

from __future__ import annotations

import os
import sys
import time
from _thread import RLock
from io import BufferedWriter, FileIO

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from logging import LogRecord
    from typing import Any, TextIO

    from ._types import Report

#: Environment variable: a descriptor that accepts log entries in frames.
FRAMES_VARIABLE = "_LAMBDA_TELEMETRY_LOG_FD"

_NO_BREAK_SPACE = "\u00a0"
_ERROR, _WARNING = 40, 30  # of `logging`
# Types of frames without a level. A level adds 4, and 4 more for each step of 10 from `logging.NOTSET` on.
_JSON_FRAME, _TEXT_FRAME = 0xA55A0002, 0xA55A0003

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"  # of both formats, in UTC
_TEXT_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
# Attributes of a record that a JSON line does not repeat as fields, besides those that every record has.
_RESERVED_FIELDS = {
    "aws_request_id",
    "tenant_id",
    "message",
    "stackTrace",
    "errorType",
    "errorMessage",
    "location",
}


class _Log:
    """The state of the log: its format and destination, and the invocation that entries belong to.

    Nothing here waits for itself: garbage collection and signal handlers, which may log at any time, even while a frame
    is written, add their frames to a queue.

    Attributes:
        request_id: Id of the current invocation.
        tenant_id: Its tenant, or None.
        json_format: Whether entries are JSON objects.
        level: Name of the lowest level to log; empty if Lambda did not set one.
        descriptor: Accepts frames; None if Lambda does not, or if the function closed it.
    """

    request_id = ""
    tenant_id: str | None = None
    json_format = False
    level = ""
    descriptor: int | None = None
    _identity: tuple[int, int] | None = None
    _writing = False

    def __init__(self) -> None:
        self._queue: list[bytes] = []
        self._lock = RLock()

    def configure(self) -> None:
        """Read format, level and descriptor from the environment."""
        self.json_format = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
        self.level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
        if self.level == "TRACE":
            self.level = "DEBUG"
        descriptor = os.environ.pop(FRAMES_VARIABLE, "")
        self.descriptor = int(descriptor) if descriptor.isdecimal() else None
        if self.descriptor is not None:
            self._identity = _identity(self.descriptor)
            os.register_at_fork(after_in_child=self._reset_in_child)

    @property
    def framed(self) -> bool:
        """Whether entries are written as frames: no longer after the function closed the descriptor.

        Another file of the function's may have its number then, which must not receive frames.
        """
        if self.descriptor is not None and (self._identity is None or _identity(self.descriptor) != self._identity):
            self.descriptor = None
        return self.descriptor is not None

    def write(self, text: str, frame_type: int, end: str = "") -> None:
        """Write one entry: as a frame if Lambda accepts frames, else with `end` to standard output."""
        if self.framed:
            data = text.encode("utf-8", "backslashreplace")
            head = frame_type.to_bytes(4, "big") + len(data).to_bytes(4, "big")
            try:
                self._write_frame(head + (time.time_ns() // 1000).to_bytes(8, "big") + data)
                return
            except OSError:  # nobody reads the frames any more
                self.descriptor = None
        print_text(text + end)

    def write_record(self, text: str, levelno: int, as_json: bool) -> None:
        """Write a formatted record of `logging`."""
        base = _JSON_FRAME if as_json else _TEXT_FRAME
        # Like awslambdaric: a text entry carries its level only if a level was configured.
        frame_type = _frame_type(base, levelno if self.json_format or self.level else 0)
        # A formatter of the function's may omit the line break.
        self.write(text, frame_type, "" if text.endswith("\n") else "\n")

    def _write_frame(self, frame: bytes) -> None:
        self._queue.append(frame)
        with self._lock:
            if self._writing:  # by this very thread, further up the stack: it writes the queue to its end
                return
            self._writing = True
            try:
                self._write_queue()
            finally:
                self._writing = False

    def _write_queue(self) -> None:
        """Write all frames, each completely, whatever a signal handler raises meanwhile; then raise that."""
        assert self.descriptor is not None
        interruption: BaseException | None = None
        while self._queue:
            frame = self._queue.pop(0)
            # Its buffer knows how much was written, even if a signal handler raised in between.
            file = BufferedWriter(FileIO(self.descriptor, "wb", closefd=False), len(frame) + 1)
            file.write(frame)
            while True:
                try:
                    file.flush()
                    break
                except BlockingIOError:  # a child process that shares the descriptor changed its mode
                    os.set_blocking(self.descriptor, True)
                except OSError:
                    raise
                except BaseException as error:
                    interruption = error
        if interruption is not None:
            raise interruption

    def _reset_in_child(self) -> None:
        # In a forked child, the thread that held the lock does not exist, and the queue is the parent's.
        self._lock = RLock()
        self._queue.clear()
        self._writing = False

    def add_ids(self, record: LogRecord) -> bool:
        """Add the ids of the invocation to `record`. As the first filter, so that the function's filters see them."""
        record.aws_request_id = self.request_id
        record.tenant_id = self.tenant_id
        return True


_log = _Log()


def setup() -> None:
    """Adapt standard output and error, and `logging` as soon as something imports it.

    ``AWS_LAMBDA_LOG_FORMAT`` and ``AWS_LAMBDA_LOG_LEVEL`` determine format and level.
    """
    _log.configure()
    for stream in (sys.stdout, sys.stderr):
        _adapt(stream)
    if "logging" in sys.modules:
        _configure_logging()
    else:
        sys.meta_path.insert(0, _LoggingFinder())


def enter_invocation(request_id: str, tenant_id: str | None) -> None:
    """Add these ids to all log entries from now on."""
    _log.request_id, _log.tenant_id = request_id, tenant_id


def is_destination(descriptor: int) -> bool:
    """Whether log text may be written to this number, even if it is closed now. Nothing else may have it."""
    return descriptor <= 2 or descriptor == _log.descriptor


def write(text: str) -> None:
    """Write `text` to the log unchanged."""
    _log.write(text, _TEXT_FRAME)


def print_text(text: str) -> None:
    """Write `text` to standard output, or to standard error if the function closed or replaced that."""
    try:
        sys.stdout.write(text)
    except Exception:
        print_error(text)


def print_error(text: str) -> None:
    """Write `text` to standard error, if that is still usable."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        return  # there is nowhere left to report this


def flush() -> None:
    """Flush what a handler printed without a line break, before Lambda may freeze the process."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the function closed or replaced it
            continue


def error(report: Report) -> None:
    """Log an error report, as made by `errors.report`, in one entry."""
    if _log.json_format:
        entry = {"timestamp": time.strftime(_TIME_FORMAT + "Z", time.gmtime()), "level": "ERROR", **report}
        _log.write(to_json(entry), _frame_type(_JSON_FRAME, _ERROR), "\n")
        return
    head = ": ".join(part for part in (report["errorType"], report["errorMessage"]) if part)
    lines = [f"[ERROR] {head}"]
    if report["stackTrace"]:
        lines.append("Traceback (most recent call last):")
    for entry in report["stackTrace"]:
        for line in entry.splitlines():
            # CloudWatch drops ordinary spaces at the start of a line.
            text = line.lstrip(" ")
            lines.append(_NO_BREAK_SPACE * (len(line) - len(text)) + text)
    if _log.framed:
        _log.write("\n".join(lines), _frame_type(_TEXT_FRAME, _ERROR), "\n")
    else:
        # A carriage return breaks the line within a log entry; a line feed would start a new entry.
        _log.write("\r".join(lines).replace("\n", "\r") + "\n", _TEXT_FRAME)


def warn(message: str) -> None:
    """Log a warning of the runtime's own."""
    seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    now = time.strftime(_TIME_FORMAT, time.gmtime(seconds))
    if _log.json_format:
        entry = {"timestamp": now + "Z", "level": "WARNING", "message": message, "requestId": _log.request_id}
        _log.write(to_json(entry), _frame_type(_JSON_FRAME, _WARNING), "\n")
    else:
        text = f"[WARNING]\t{now}.{milliseconds:03}Z\t{_log.request_id}\t{message}\n"
        _log.write(text, _frame_type(_TEXT_FRAME, _WARNING))


def to_json(value: dict[str, Any]) -> str:
    """Encode `value` on one line. Values without a JSON form become text."""
    return wire.encode_json(value, str)


def _adapt(stream: TextIO) -> None:
    # A character that cannot be encoded must not turn the report of an error into another error.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True, errors="backslashreplace")


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return what identifies the file behind `descriptor`; None if it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _frame_type(base: int, levelno: int) -> int:
    return base + (4 + levelno // 10 * 4 if levelno else 0)


class _LoggingFinder:
    """Configures `logging` when it is imported: importing it up front would double the cold start."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name != "logging":
            return None
        from importlib.machinery import PathFinder

        # The standard library's, even if the function has a module of that name.
        spec = PathFinder.find_spec(name, [os.path.dirname(os.__file__)])
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_configure(module: Any) -> None:
            execute(module)
            sys.meta_path.remove(self)
            _configure_logging()

        spec.loader.exec_module = execute_and_configure  # type: ignore[method-assign]
        return spec


def _configure_logging() -> None:
    """Send the root logger's records to Lambda's log, from the configured level on."""
    import logging

    # Like awslambdaric, which does not reserve the name ``taskName`` (new in Python 3.12) and so logs it.
    reserved = {*vars(logging.makeLogRecord({})), *_RESERVED_FIELDS} - {"taskName"}

    class JsonFormatter(logging.Formatter):
        def format(self, record: LogRecord) -> str:
            timestamp = self.formatTime(record, _TIME_FORMAT + "Z")
            entry = {"timestamp": timestamp, "level": logging.getLevelName(_standard_level(record)), **_fields(record)}
            for name, value in vars(record).items():
                if name not in reserved and value is not None:
                    entry.setdefault(name, value)
            return to_json(entry) + "\n"

    class LambdaHandler(logging.Handler):
        def emit(self, record: LogRecord) -> None:
            try:
                as_json = isinstance(self.formatter, JsonFormatter)
                _log.write_record(self.format(record), _standard_level(record), as_json)
            except Exception:
                self.handleError(record)

    logging.Formatter.converter = time.gmtime
    handler = LambdaHandler()
    handler.setFormatter(JsonFormatter() if _log.json_format else logging.Formatter(_TEXT_FORMAT, _TIME_FORMAT))
    handler.addFilter(_log.add_ids)
    root = logging.getLogger()
    root.addHandler(handler)
    if _log.level in logging.getLevelNamesMapping():
        root.setLevel(_log.level)


def _fields(record: LogRecord) -> dict[str, Any]:
    """Return the fields of a JSON line between its level and the fields that the function added to `record`."""
    is_object = isinstance(record.msg, dict) and not record.args
    entry: dict[str, Any] = {"message": record.msg if is_object else record.getMessage(), "logger": record.name}
    if record.exc_info and record.exc_info[0]:
        import traceback

        kind, value, trace = record.exc_info
        entry["stackTrace"] = traceback.format_tb(trace)
        entry["errorType"] = kind.__name__
        entry["errorMessage"] = str(value)
    entry["requestId"] = _log.request_id
    if record.exc_info and record.exc_info[0]:
        entry["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
    if _log.tenant_id is not None:
        entry["tenantId"] = _log.tenant_id
    return entry


def _standard_level(record: LogRecord) -> int:
    # Lambda's level filter knows the standard levels only.
    return min(50, max(0, record.levelno)) // 10 * 10
