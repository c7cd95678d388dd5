"""What Python's `logging` writes, in awslambdaric's formats. Imported when the function imports `logging`."""

from __future__ import annotations

import logging
import time

from . import logs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TEXT_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
_OF_EXCEPTIONS = ("stackTrace", "errorType", "errorMessage", "location")
# Attributes that are no fields of a JSON line of their own. awslambdaric does not know of ``taskName``, which there is
# since Python 3.12, and so it writes it.
_RESERVED = {*vars(logging.makeLogRecord({})), "aws_request_id", "tenant_id", "message", *_OF_EXCEPTIONS} - {"taskName"}


def set_up() -> None:
    """Sends the root logger's records to Lambda's log, from the level that Lambda wants on."""
    logging.Formatter.converter = time.gmtime
    handler = _LambdaHandler()
    handler.setFormatter(_JsonFormatter() if logs.json_format else logging.Formatter(_TEXT_FORMAT, logs.TIME_FORMAT))
    handler.addFilter(_add_ids)
    root = logging.getLogger()
    root.addHandler(handler)
    if logs.level in logging.getLevelNamesMapping():
        root.setLevel(logs.level)


def _add_ids(record: logging.LogRecord) -> bool:
    """A filter, and the first one, so that the function's own filters see the ids."""
    record.aws_request_id = logs.request_id
    record.tenant_id = logs.tenant_id
    return True


class _LambdaHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            logs.record(text, _standard_level(record), as_json=isinstance(self.formatter, _JsonFormatter))
        except Exception:
            self.handleError(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": self.formatTime(record, logs.TIME_FORMAT + "Z"),
            "level": logging.getLevelName(_standard_level(record)),
            "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0]:
            import traceback

            kind, value, trace = record.exc_info
            entry["stackTrace"] = traceback.format_tb(trace)
            entry["errorType"] = kind.__name__
            entry["errorMessage"] = str(value)
        entry["requestId"] = logs.request_id
        if record.exc_info and record.exc_info[0]:
            entry["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        if logs.tenant_id is not None:
            entry["tenantId"] = logs.tenant_id
        for name, value in vars(record).items():
            if name not in _RESERVED and value is not None:
                entry.setdefault(name, value)
        return logs.to_json(entry) + "\n"


def _standard_level(record: logging.LogRecord) -> int:
    # Lambda's level filter knows the standard levels only.
    return min(50, max(0, record.levelno)) // 10 * 10
