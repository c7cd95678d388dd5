"""Logging in awslambdaric's formats, so that log queries and level filters keep working.

Text: ``[LEVEL]<tab>time<tab>request id<tab>message``. JSON: one object a line, with ``timestamp``, ``level``,
``message``, ``logger`` and ``requestId``. Lambda may give a descriptor that takes entries in frames, which keeps an
entry of many lines together. The metrics of an invocation are a line of the log too.
https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html
"""

from __future__ import annotations

import json
import os
import sys
import time
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from logging import LogRecord
    from typing import Any, TextIO

    from .context import Invocation
    from .response import ResponseStream

_NO_BREAK_SPACE = "\u00a0"
_ERROR = 40  # the level's number in `logging`
# Types of frames: these, and for a level of 10 and above 4 more, and 4 for each 10.
_JSON_FRAME, _TEXT_FRAME = 0xA55A0002, 0xA55A0003

#: Environment variable: a descriptor that takes log entries in frames.
FRAMES_VARIABLE = "_LAMBDA_TELEMETRY_LOG_FD"
#: Environment variable: the CloudWatch namespace for the metrics. Without it none are written.
NAMESPACE_VARIABLE = "STREAMING_RUNTIME_METRICS_NAMESPACE"

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"  # of both formats, in UTC
_TEXT_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
# Attributes of a record that are no fields of a JSON line of their own, beside those that every record has.
_NO_FIELDS = {"aws_request_id", "tenant_id", "message", "stackTrace", "errorType", "errorMessage", "location"}

# Of the invocation that is being served.
_request_id = ""
_tenant_id: str | None = None
# What Lambda wants of `logging`.
_json_format = False
_level = ""
_frames: int | None = None  # descriptor that takes frames
_frame_lock = allocate_lock()
_namespace = ""


def setup() -> None:
    """Adapts standard output and error, and `logging` as soon as something imports it.

    The format is what ``AWS_LAMBDA_LOG_FORMAT`` and ``AWS_LAMBDA_LOG_LEVEL`` say.
    """
    global _json_format, _level, _frames, _namespace
    _json_format = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
    _level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    if _level == "TRACE":
        _level = "DEBUG"
    descriptor = os.environ.pop(FRAMES_VARIABLE, "")
    _frames = int(descriptor) if descriptor.isdecimal() else None
    _namespace = os.environ.get(NAMESPACE_VARIABLE, "")
    for stream in (sys.stdout, sys.stderr):
        _adapt(stream)
    if "logging" in sys.modules:
        _set_logging_up()
    else:
        sys.meta_path.insert(0, _LoggingFinder())


def enter_invocation(invocation: Invocation) -> None:
    """From here on, log lines carry the ids of `invocation`."""
    global _request_id, _tenant_id
    _request_id, _tenant_id = invocation.request_id, invocation.tenant_id


def write(text: str) -> None:
    """Writes `text` to the log as it is."""
    _write(text, _TEXT_FRAME)


def complain(text: str) -> None:
    """Writes `text` to standard error, if the function has left one."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        return  # there is nobody left to tell


def flush() -> None:
    """Brings out what a handler printed without ending the line, before Lambda may freeze the process."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the function has closed or replaced it
            continue


def error(report: dict[str, Any]) -> None:
    """Logs what `errors.report` made of an exception, as one log entry."""
    if _json_format:
        entry = {"timestamp": time.strftime(_TIME_FORMAT + "Z", time.gmtime()), "level": "ERROR", **report}
        _write(_to_json(entry) + ("" if _frames is not None else "\n"), _frame_type(_JSON_FRAME, _ERROR))
        return
    head = ": ".join(part for part in (report["errorType"], report["errorMessage"]) if part)
    lines = [f"[ERROR] {head}", "Traceback (most recent call last):"]
    for entry in report["stackTrace"]:
        for line in entry.splitlines():
            # Spaces at the start of a line would be lost on their way to CloudWatch.
            text = line.lstrip(" ")
            lines.append(_NO_BREAK_SPACE * (len(line) - len(text)) + text)
    if _frames is not None:
        _write("\n".join(lines), _frame_type(_TEXT_FRAME, _ERROR))
    else:
        # A carriage return breaks the line within a log entry; a line feed would start another entry.
        _write("\r".join(lines).replace("\n", "\r") + "\n", _TEXT_FRAME)


def metrics(invocation: Invocation, stream: ResponseStream) -> None:
    """Writes one line of CloudWatch's embedded metric format, if a namespace is set.

    TimeToFirstByte (milliseconds, from the event's arrival to the first byte of the payload; left out where none was
    sent), BytesStreamed and ChunksStreamed (of the payload), MidStreamErrors (0 or 1).
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    if not _namespace:
        return
    values: list[tuple[str, str, float]] = [
        ("BytesStreamed", "Bytes", stream.bytes_sent),
        ("ChunksStreamed", "Count", stream.chunks_sent),
        ("MidStreamErrors", "Count", int(stream.started and stream.failed)),
    ]
    if stream.first_byte_at is not None:
        milliseconds = round((stream.first_byte_at - invocation.received_at) * 1000, 3)
        values.insert(0, ("TimeToFirstByte", "Milliseconds", milliseconds))
    definition = {
        "Namespace": _namespace,
        "Dimensions": [["FunctionName"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit, _ in values],
    }
    entry = {
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [definition]},
        "FunctionName": os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""),
        "FunctionVersion": os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", ""),
        "requestId": invocation.request_id,
        **{name: value for name, _, value in values},
    }
    # Not through a frame: CloudWatch looks for metrics in what a function prints.
    _print(_to_json(entry) + "\n")


def _to_json(value: dict[str, Any]) -> str:
    """`value` on one line; what is no JSON value as text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _adapt(stream: TextIO) -> None:
    # A character that cannot be encoded must not turn the log of an error into an error.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True, errors="backslashreplace")


def _write(text: str, frame_type: int) -> None:
    if _frames is None:
        _print(text)
        return
    data = text.encode("utf-8", "backslashreplace")
    head = frame_type.to_bytes(4, "big") + len(data).to_bytes(4, "big")
    with _frame_lock:
        _write_all(_frames, head + (time.time_ns() // 1000).to_bytes(8, "big") + data)


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
    except Exception:  # the function has closed or replaced it
        complain(text)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _frame_type(base: int, levelno: int) -> int:
    return base + (4 + levelno // 10 * 4 if levelno else 0)


class _LoggingFinder:
    """Sets `logging` up when it is imported, since importing it takes longer than starting this runtime."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name != "logging":
            return None
        from importlib.machinery import PathFinder

        # Python's own, even where the function has a module of that name.
        spec = PathFinder.find_spec(name, [os.path.dirname(os.__file__)])
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_set_up(module: Any) -> None:
            execute(module)
            sys.meta_path.remove(self)
            _set_logging_up()

        spec.loader.exec_module = execute_and_set_up  # type: ignore[method-assign]
        return spec


def _set_logging_up() -> None:
    """Sends the root logger's records to Lambda's log, from the level that Lambda wants on."""
    import logging

    # awslambdaric does not know of ``taskName``, which there is since Python 3.12, and so it writes it.
    no_fields = {*vars(logging.makeLogRecord({})), *_NO_FIELDS} - {"taskName"}

    class JsonFormatter(logging.Formatter):
        def format(self, record: LogRecord) -> str:
            timestamp = self.formatTime(record, _TIME_FORMAT + "Z")
            entry = {"timestamp": timestamp, "level": logging.getLevelName(_standard_level(record)), **_fields(record)}
            for name, value in vars(record).items():
                if name not in no_fields and value is not None:
                    entry.setdefault(name, value)
            return _to_json(entry) + "\n"

    class LambdaHandler(logging.Handler):
        def emit(self, record: LogRecord) -> None:
            try:
                _write_record(self.format(record), _standard_level(record), isinstance(self.formatter, JsonFormatter))
            except Exception:
                self.handleError(record)

    logging.Formatter.converter = time.gmtime
    handler = LambdaHandler()
    handler.setFormatter(JsonFormatter() if _json_format else logging.Formatter(_TEXT_FORMAT, _TIME_FORMAT))
    handler.addFilter(_add_ids)
    root = logging.getLogger()
    root.addHandler(handler)
    if _level in logging.getLevelNamesMapping():
        root.setLevel(_level)


def _add_ids(record: LogRecord) -> bool:
    """A filter, and the first one, so that the function's own filters see the ids."""
    record.aws_request_id = _request_id
    record.tenant_id = _tenant_id
    return True


def _write_record(text: str, levelno: int, as_json: bool) -> None:
    if _frames is None and not text.endswith("\n"):  # a formatter of the function's made it
        text += "\n"
    base = _JSON_FRAME if as_json else _TEXT_FRAME
    # awslambdaric tells the level of a text only where a level was asked for.
    _write(text, _frame_type(base, levelno if _json_format or _level else 0))


def _fields(record: LogRecord) -> dict[str, Any]:
    """What a JSON line says of `record`, behind its time and level and before its fields of the function's own."""
    is_object = isinstance(record.msg, dict) and not record.args
    entry: dict[str, Any] = {"message": record.msg if is_object else record.getMessage(), "logger": record.name}
    if record.exc_info and record.exc_info[0]:
        import traceback

        kind, value, trace = record.exc_info
        entry["stackTrace"] = traceback.format_tb(trace)
        entry["errorType"] = kind.__name__
        entry["errorMessage"] = str(value)
    entry["requestId"] = _request_id
    if record.exc_info and record.exc_info[0]:
        entry["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
    if _tenant_id is not None:
        entry["tenantId"] = _tenant_id
    return entry


def _standard_level(record: LogRecord) -> int:
    # Lambda's level filter knows the standard levels only.
    return min(50, max(0, record.levelno)) // 10 * 10
