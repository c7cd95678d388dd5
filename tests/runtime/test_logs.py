"""The log: awslambdaric's text and JSON formats, and everything that a handler prints."""

from __future__ import annotations

import json
import re
import select

import pytest
from tests.helpers.log_frames import TYPES, Frames
from tests.helpers.sandbox import SOURCE, Sandbox
from tests.helpers.scripted_api import LIMIT, REQUEST_ID, event

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
NBSP = "\N{NO-BREAK SPACE}"
LOGGING = """
    import logging
    logging.warning("at import")
    def handler(event, context):
        logging.getLogger("shop").warning("sold %d", 3)
        yield b"x"
        logging.error("within the stream")
    """


def test_text_lines(sandbox: Sandbox) -> None:
    lines = sandbox.run(LOGGING, event()).output.splitlines()
    assert [re.sub(TIME + r"\.\d{3}Z", "TIME", line) for line in lines] == [
        "[WARNING]\tTIME\t\tat import",
        f"[WARNING]\tTIME\t{REQUEST_ID}\tsold 3",
        f"[ERROR]\tTIME\t{REQUEST_ID}\twithin the stream",
    ]


def test_json_lines(sandbox: Sandbox) -> None:
    ended = sandbox.run(
        LOGGING, event(Lambda_Runtime_Aws_Tenant_Id="blue"), environment={"AWS_LAMBDA_LOG_FORMAT": "json"}
    )
    entries = [json.loads(line) for line in ended.output.splitlines()]
    assert all(re.fullmatch(TIME + "Z", entry.pop("timestamp")) for entry in entries)
    ids = {"requestId": REQUEST_ID, "tenantId": "blue"}
    assert entries == [
        {"level": "WARNING", "message": "at import", "logger": "root", "requestId": ""},
        {"level": "WARNING", "message": "sold 3", "logger": "shop", **ids},
        {"level": "ERROR", "message": "within the stream", "logger": "root", **ids},
    ]


LINES = (
    "[ERROR] ValueError: one",
    " two",
    "Traceback (most recent call last):",
    f'{2 * NBSP}File "{{app}}", line 2, in handler',
    f"{4 * NBSP}raise ValueError('one\\n two')",
)


@pytest.mark.traced
@pytest.mark.parametrize("framed", [False, True], ids=["standard output", "frames"])
@pytest.mark.parametrize("log_format", TYPES)
def test_error_entry(sandbox: Sandbox, log_format: str, framed: bool) -> None:
    """An error is one entry: on standard output a line, in which carriage returns divide those of a text."""
    code, variables = "def handler(e, c):\n    raise ValueError('one\\n two')\n", {"AWS_LAMBDA_LOG_FORMAT": log_format}
    if framed:
        came, ended = Frames(sandbox).run(code, **variables)
        assert [frame.kind for frame in came] == [TYPES[log_format]["ERROR"]]
        assert ended.output == ""
        text, line_end, separator = came[0].text, "", "\n"
    else:
        ended = sandbox.run(code, event(), environment=variables)
        text, line_end, separator = ended.output, "\n", "\r"
    if log_format == "Text":
        assert text == separator.join(LINES).replace("{app}", str(sandbox.task / "app.py")) + line_end
        return
    assert text.endswith("}" + line_end)
    assert text.count("\n") == len(line_end)
    entry = json.loads(text)
    assert list(entry) == ["timestamp", "level", "errorMessage", "errorType", "requestId", "stackTrace"]
    assert re.fullmatch(TIME + "Z", entry.pop("timestamp"))
    assert entry.pop("level") == "ERROR"
    assert entry == json.loads(ended.posts[0].body)


JSON_RECORDS = {
    "dict": ("logging.error({'a': 1})", {"level": "ERROR", "message": {"a": 1}}),
    "extra": ("logging.error('x', extra={'user': 7, 'none': None})", {"level": "ERROR", "message": "x", "user": 7}),
    "value without JSON form": (
        "logging.error('x', extra={'user': {1}})",
        {"level": "ERROR", "message": "x", "user": "{1}"},
    ),
    "level between names": ("logging.log(35, 'x')", {"level": "WARNING", "message": "x"}),
    "custom level": (
        "logging.addLevelName(31, 'NOTICE'); logging.log(31, 'x')",
        {"level": "WARNING", "message": "x"},
    ),
    "level above critical": ("logging.log(99, 'x')", {"level": "CRITICAL", "message": "x"}),
    "not ASCII": ("logging.error('zwölf')", {"level": "ERROR", "message": "zwölf"}),
}


@pytest.mark.parametrize(("call", "expected"), JSON_RECORDS.values(), ids=list(JSON_RECORDS))
def test_json_record_fields(sandbox: Sandbox, call: str, expected: dict[str, object]) -> None:
    ended = sandbox.run(
        f"import logging\ndef handler(e, c):\n    {call}\n", event(), environment={"AWS_LAMBDA_LOG_FORMAT": "JSON"}
    )
    entry = json.loads(ended.output)
    del entry["timestamp"]
    assert entry == {"logger": "root", "requestId": REQUEST_ID, **expected}


def test_json_record_with_exception(sandbox: Sandbox) -> None:
    code = """
        import logging
        def handler(event, context):
            try:
                1 / 0
            except ZeroDivisionError:
                logging.exception("failed")
        """
    entry = json.loads(sandbox.run(code, event(), environment={"AWS_LAMBDA_LOG_FORMAT": "JSON"}).output)
    path = sandbox.task / "app.py"
    assert (entry["errorType"], entry["errorMessage"]) == ("ZeroDivisionError", "division by zero")
    assert entry["location"] == f"{path}:handler:7"
    assert entry["stackTrace"][0].startswith(f'  File "{path}", line 5, in handler\n')


LEVELS = {
    None: ["WARNING"],
    "": ["WARNING"],
    "TRACE": ["DEBUG", "INFO", "WARNING"],
    "debug": ["DEBUG", "INFO", "WARNING"],
    "INFO": ["INFO", "WARNING"],
    "ERROR": [],
    "NO SUCH": ["WARNING"],
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize(("level", "logged"), LEVELS.items(), ids=[str(level) for level in LEVELS])
def test_log_level_variable(sandbox: Sandbox, level: str | None, logged: list[str]) -> None:
    code = """
        import logging
        def handler(event, context):
            logging.debug("")
            logging.info("")
            logging.warning("")
        """
    output = sandbox.run(code, event(), environment={"AWS_LAMBDA_LOG_LEVEL": level}).output
    assert re.findall(r"^\[(\w+)\]", output, re.MULTILINE) == logged


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("code", ["{}", "def handler(e, c):\n    yield b'x'\n    {}\n"], ids=["import", "handler"])
def test_print_is_flushed_before_next(sandbox: Sandbox, code: str, stream: str) -> None:
    source = "import sys\ndef handler(e, c):\n    pass\n" + code.format(f"print('text', end='', file=sys.{stream})")
    running = sandbox.start(source, *([event()] if "yield" in code else []), hold=True)
    running.api.wait_until(b"/next", request=2 if "yield" in code else 0)
    # The process waits for the answer to /next, and Lambda could freeze it now.
    pipe = getattr(running.process, stream)
    assert select.select([pipe], [], [], LIMIT)[0], "the text is still in the process's buffer"
    assert pipe.read(4) == b"text"


def test_context_log_is_verbatim(sandbox: Sandbox) -> None:
    ended = sandbox.run("def handler(e, c):\n    c.log('a')\n    c.log(1)\n    c.log('b\\n')\n", event())
    assert ended.output == "a1b\n"


def test_lone_surrogate_is_escaped(sandbox: Sandbox) -> None:
    ended = sandbox.run(
        "def handler(e, c):\n    print('\\ud800')\n", event(), environment={"PYTHONIOENCODING": "ascii"}
    )
    assert ended.output == "\\ud800\n"
    assert ended.bodies == [b"null"]


def test_logs_follow_redirected_stdout(sandbox: Sandbox) -> None:
    code = """
        import contextlib, io, logging
        def handler(event, context):
            with contextlib.redirect_stdout(io.StringIO()) as captured:
                logging.warning("seen")
            return captured.getvalue().endswith("seen\\n")
        """
    ended = sandbox.run(code, event())
    assert ended.bodies == [b"true"]
    assert ended.output == ""


@pytest.mark.parametrize("form", ["%(message)s", "%(message)s\\n"])
def test_record_is_one_line(sandbox: Sandbox, form: str) -> None:
    code = f"""
        import logging
        logging.getLogger().handlers[0].setFormatter(logging.Formatter("{form}"))
        def handler(event, context):
            logging.error("one")
            logging.error("two")
        """
    for log_format in ("TEXT", "JSON"):
        ended = sandbox.run(code, event(), environment={"AWS_LAMBDA_LOG_FORMAT": log_format})
        assert ended.output == "one\ntwo\n"


def test_filter_sees_invocation_ids(sandbox: Sandbox) -> None:
    code = """
        import logging
        def keep(record):
            return record.aws_request_id and record.tenant_id == "blue"
        logging.getLogger().handlers[0].addFilter(keep)
        def handler(event, context):
            logging.error(event)
        """
    blue, red = (event(b'"%b"' % tenant.encode(), Lambda_Runtime_Aws_Tenant_Id=tenant) for tenant in ("blue", "red"))
    assert re.findall(r"\w+$", sandbox.run(code, red, blue).output, re.MULTILINE) == ["blue"]


def test_unformattable_record_is_survived(sandbox: Sandbox) -> None:
    ended = sandbox.run("import logging\ndef handler(e, c):\n    logging.error('%d', 'x')\n", event())
    assert ended.bodies == [b"null"]
    assert "--- Logging error ---" in ended.errors


@pytest.mark.own_interpreter
def test_closed_stdout_and_stderr(sandbox: Sandbox) -> None:
    shell = ("sh", "-c", 'exec "$0" >&- 2>&-', str(SOURCE / "bootstrap"))
    ended = sandbox.run("def handler(e, c):\n    1 / 0\n", event(), event(), command=shell)
    assert [post.target.rpartition("/")[2] for post in ended.posts] == ["error", "error"]
