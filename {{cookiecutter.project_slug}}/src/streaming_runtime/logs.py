"""Logging in awslambdaric's formats, so that log queries and level filters keep working.

Text: ``[LEVEL]<tab>time<tab>request id<tab>message``. JSON: one object a line, with ``timestamp``, ``level``,
``message``, ``logger`` and ``requestId``.
https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

_TIME = "%Y-%m-%dT%H:%M:%S"
_TEXT_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s"
_NO_BREAK_SPACE = "\u00a0"
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"aws_request_id", "message", "asctime"}

_request_id = ""
_tenant_id: str | None = None


def setup() -> None:
    """Sends the root logger to standard output, as ``AWS_LAMBDA_LOG_FORMAT`` and ``AWS_LAMBDA_LOG_LEVEL`` say."""
    for stream in (sys.stdout, sys.stderr):
        _adapt(stream)
    handler = _StandardOutput()
    handler.setFormatter(_JsonFormatter() if _json_wanted() else _TextFormatter(_TEXT_FORMAT, _TIME))
    root = logging.getLogger()
    root.addHandler(handler)
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    level = "DEBUG" if level == "TRACE" else level
    if level in logging.getLevelNamesMapping():
        root.setLevel(level)


def enter_invocation(request_id: str, tenant_id: str | None) -> None:
    """From here on, log lines carry these ids."""
    global _request_id, _tenant_id
    _request_id, _tenant_id = request_id, tenant_id


def write(text: str) -> None:
    """Writes `text` to the log as it is."""
    sys.stdout.write(text)


def flush() -> None:
    """Brings out what a handler printed without ending the line, before Lambda may freeze the process."""
    sys.stdout.flush()
    sys.stderr.flush()


def error(report: dict[str, Any]) -> None:
    """Logs what `errors.report` made of an exception, as one log entry."""
    if _json_wanted():
        write(_to_json({"timestamp": time.strftime(_TIME + "Z", time.gmtime()), "level": "ERROR", **report}) + "\n")
        return
    head = ": ".join(part for part in (report["errorType"], report["errorMessage"]) if part)
    lines = f"[ERROR] {head}".splitlines()
    if report["stackTrace"]:
        lines.append("Traceback (most recent call last):")
    for entry in report["stackTrace"]:
        for line in entry.splitlines():
            # Spaces at the start of a line would be lost on their way to CloudWatch.
            text = line.lstrip(" ")
            lines.append(_NO_BREAK_SPACE * (len(line) - len(text)) + text)
    # A carriage return breaks the line within a log entry; a line feed would start another entry.
    write("\r".join(lines) + "\n")


def _json_wanted() -> bool:
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _adapt(stream: TextIO) -> None:
    # What a handler prints has to be out before Lambda freezes or ends the process.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        # A character that cannot be encoded must not turn the log of an error into an error.
        reconfigure(line_buffering=True, errors="backslashreplace")


class _StandardOutput(logging.Handler):
    """Looks `sys.stdout` up for each record, since user code may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        record.aws_request_id = _request_id
        try:
            write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


class _TextFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)


class _JsonFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": self.formatTime(record, _TIME + "Z"),
            # Lambda's level filter knows the standard levels only.
            "level": logging.getLevelName(min(50, max(0, record.levelno)) // 10 * 10),
            "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0]:
            import traceback

            kind, value, trace = record.exc_info
            entry["stackTrace"] = traceback.format_tb(trace)
            entry["errorType"] = kind.__name__
            entry["errorMessage"] = str(value)
            entry["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        entry["requestId"] = _request_id
        if _tenant_id is not None:
            entry["tenantId"] = _tenant_id
        for name, value in vars(record).items():
            if name not in _STANDARD_ATTRIBUTES and value is not None:
                entry.setdefault(name, value)
        return _to_json(entry)
