"""Logs in frames, where Lambda provides a descriptor for them; and how `logging` is set up when it is imported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from tests.helpers.log_frames import TEXT, TYPES, Frame, Frames
from tests.helpers.protocol import ERROR_TYPE
from tests.helpers.sandbox import Sandbox
from tests.helpers.scripted_api import REQUEST_ID, event


@pytest.fixture
def frames(sandbox: Sandbox) -> Frames:
    return Frames(sandbox)


LEVELS = """
    import logging
    logging.getLogger().setLevel(1)
    def handler(event, context):
        for level in (5, 10, 20, 30, 35, 40, 50, 99):
            logging.log(level, "zwölf")
    """
NAMES = ["", "DEBUG", "INFO", "WARNING", "WARNING", "ERROR", "CRITICAL", "CRITICAL"]


@pytest.mark.traced
@pytest.mark.parametrize("level", [None, "INFO", "trace", "NO SUCH"])
@pytest.mark.parametrize("log_format", TYPES)
def test_frame_levels(frames: Frames, log_format: str, level: str | None) -> None:
    """A text record has no level in its frame unless a level is configured, as with awslambdaric."""
    came, ended = frames.run(LEVELS, AWS_LAMBDA_LOG_FORMAT=log_format, AWS_LAMBDA_LOG_LEVEL=level)
    names = NAMES if level or log_format == "JSON" else [""] * 8
    assert [frame.kind for frame in came] == [TYPES[log_format][name] for name in names]
    if log_format == "JSON":
        assert all(frame.text.endswith("}\n") and json.loads(frame.text)["message"] == "zwölf" for frame in came)
    else:
        pattern = rf"\[WARNING\]\t\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\t{REQUEST_ID}\tzwölf\n"
        assert re.fullmatch(pattern, came[3].text)
    assert (ended.output, ended.errors.count("\n")) == ("", 1)


@pytest.mark.parametrize("log_format", TYPES)
def test_init_error_and_context_frames(frames: Frames, log_format: str) -> None:
    came, _ = frames.run("1 / 0\n", AWS_LAMBDA_LOG_FORMAT=log_format)
    assert [frame.kind for frame in came] == [TYPES[log_format]["ERROR"]]
    came, _ = frames.run("def handler(e, c):\n    c.log('a\\n')\n    c.log(1)\n", AWS_LAMBDA_LOG_FORMAT=log_format)
    assert came == [Frame(TEXT[""], "a\n"), Frame(TEXT[""], "1")]


def test_print_bypasses_frames(frames: Frames) -> None:
    """Only logs go through the descriptor, and a child of the handler does not inherit it."""
    code = """
        import os, subprocess, sys
        seen = "_LAMBDA_TELEMETRY_LOG_FD" in os.environ
        def handler(event, context):
            print("printed", seen, flush=True)
            print("printed", file=sys.stderr)
            subprocess.run(["/bin/sh", "-c", "echo ${_LAMBDA_TELEMETRY_LOG_FD-unset}; (echo oops >&9) 2>&1"])
        """
    came, ended = frames.run(code, STREAMING_RUNTIME_METRICS_NAMESPACE="Shop")
    assert came == []
    first, second, third, metrics = ended.output.splitlines()
    assert (first, second) == ("printed False", "unset")
    assert "oops" not in third
    assert "_aws" in json.loads(metrics)  # CloudWatch extracts metrics from printed lines only
    assert ended.errors.startswith("printed\n")


@pytest.mark.parametrize("loggers", ["logging.error,", "logging.error, context.log"])
def test_large_frames_of_threads_do_not_mix(frames: Frames, loggers: str) -> None:
    code = f"""
        import logging, threading
        def handler(event, context):
            loggers = ({loggers})
            threads = [
                threading.Thread(target=loggers[n % len(loggers)], args=(str(n) * 300_000,)) for n in range(8)
            ]  # each more than a pipe holds
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            context.log("z" * 300_000)
        """
    came, _ = frames.run(code)
    assert sorted(frame.text.removesuffix("\n")[-300_000:] for frame in came[:-1]) == [
        str(n) * 300_000 for n in range(8)
    ]
    assert came[-1].text == "z" * 300_000


@pytest.mark.parametrize("value", ["", "x", "-1"])
def test_invalid_frame_descriptor(sandbox: Sandbox, value: str) -> None:
    ended = sandbox.run(
        "def handler(e, c):\n    c.log('a')\n", event(), environment={"_LAMBDA_TELEMETRY_LOG_FD": value}
    )
    assert (ended.output, ended.bodies) == ("a", [b"null"])


# The ways in which logging can come to be imported. After each of them, one record is one line in Lambda's format.
RECORD = rf"\[ERROR\]\t\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\t{REQUEST_ID}\tseen\n"
COUNT = "[type(h).__name__ for h in logging.getLogger().handlers].count('LambdaHandler')"
IMPORTS = {
    "at import": "import logging\ndef handler(e, c):\n    logging.error('seen')\n    return {count}\n",
    "in the handler": "def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n",
    "a submodule first": (
        "import logging.config\ndef handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n"
    ),
    "by another library": (
        "import concurrent.futures.thread, asyncio, sys\nlogging = sys.modules['logging']\n"
        "def handler(e, c):\n    logging.error('seen')\n    return {count}\n"
    ),
    "by importlib": (
        "import importlib\ndef handler(e, c):\n    logging = importlib.import_module('logging')\n"
        "    logging.error('seen')\n    return {count}\n"
    ),
    "in threads": (
        "import sys, threading\ndef load():\n    import logging\n    logging.getLogger('x')\n"
        "def handler(e, c):\n    ts = [threading.Thread(target=load) for _ in range(8)]\n"
        "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    logging = sys.modules['logging']\n"
        "    logging.error('seen')\n    return {count}\n"
    ),
    "after find_spec": (
        "import importlib.util\nassert importlib.util.find_spec('logging').name == 'logging'\n"
        "def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n"
    ),
    "again after a failed import": (
        "import sys\nweakref = sys.modules.pop('weakref', None)\nsys.modules['weakref'] = None\n"
        "try:\n    import logging\nexcept ImportError:\n    pass\nelse:\n    raise AssertionError\n"
        "del sys.modules['weakref']\n"
        "if weakref:\n    sys.modules['weakref'] = weakref\n"
        "def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n"
    ),
    "async handler": "async def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n",
}


@pytest.mark.parametrize("code", IMPORTS.values(), ids=list(IMPORTS))
def test_logging_set_up_once(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code.replace("{count}", COUNT), event())
    assert ended.bodies == [b"1"], ended.output
    assert re.fullmatch(RECORD, ended.output)


def test_logging_imported_before_runtime(sandbox: Sandbox) -> None:
    wrapper = sandbox.script(
        "wrapper",
        '#!/bin/sh\npython=$1\nshift\nfor main; do :; done\nexec "$python" -u -P -c \''
        "import logging, runpy, sys\n"
        'sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name="__main__")\' "$main"\n',
    )
    code = IMPORTS["at import"].replace("{count}", COUNT)
    ended = sandbox.run(code, event(), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": wrapper})
    assert ended.bodies == [b"1"], ended.errors
    assert re.fullmatch(RECORD, ended.output)


def test_silent_handler_never_imports_logging(sandbox: Sandbox) -> None:
    code = "import sys\ndef handler(e, c):\n    if e == 1:\n        1 / 0\n    yield str('logging' in sys.modules)\n"
    ended = sandbox.run(code, event(), event(b"1"), event(), python=sandbox.python_without_site())
    assert (ended.bodies[0], ended.bodies[2]) == (b"False", b"False")


def test_modules_named_logging_and_json(sandbox: Sandbox) -> None:
    (sandbox.task / "logging.py").write_text("raise RuntimeError\n")
    (sandbox.task / "json.py").write_text("raise RuntimeError\n")
    code = "import json\n" + IMPORTS["at import"].replace("{count}", f"json.loads(str({COUNT}))")
    ended = sandbox.run(code, event())
    assert ended.bodies == [b"1"]
    assert re.fullmatch(RECORD, ended.output)


@pytest.mark.parametrize("name", ["token", "traceback", "linecache", "tokenize", "textwrap", "collections"])
def test_error_report_with_shadowed_modules(sandbox: Sandbox, name: str) -> None:
    """The runtime needs these modules to report an error, and a function may have one of the same name."""
    (sandbox.task / f"{name}.py").write_text("def issue():\n    return 'mine'\n")
    code = "def handler(e, c):\n    if e:\n        yield b'x'\n    raise ValueError('it broke')\n"
    ended = sandbox.run(code, event(), event(b"1"), event(), python=sandbox.python_without_site())
    assert [post.target.rpartition("/")[2] for post in ended.posts] == ["error", "response", "error"]
    assert ended.posts[1].trailers[ERROR_TYPE] == "ValueError"
    assert ended.output.count("[ERROR] ValueError: it broke") == 3


FORMATTED: dict[str, tuple[str, Callable[[str], bool]]] = {
    "own formatter": (
        "logging.getLogger().handlers[0].setFormatter(logging.Formatter('%(aws_request_id)s %(message)s'))",
        lambda text: text == f"{REQUEST_ID} seen\n",
    ),
    "own handler": (
        "logging.getLogger().handlers[:] = [logging.StreamHandler(__import__('sys').stdout)]",
        lambda text: text == "seen\n",
    ),
    # It does nothing, as with awslambdaric.
    "basicConfig": (
        "logging.basicConfig(format='other: %(message)s')",
        lambda text: re.fullmatch(RECORD, text) is not None,
    ),
    "forced basicConfig": ("logging.basicConfig(format='other: %(message)s', force=True)", lambda text: text == ""),
}


@pytest.mark.parametrize(("statement", "expected"), FORMATTED.values(), ids=list(FORMATTED))
def test_function_changes_logging(sandbox: Sandbox, statement: str, expected: Callable[[str], bool]) -> None:
    ended = sandbox.run(f"import logging\n{statement}\ndef handler(e, c):\n    logging.error('seen')\n", event())
    assert expected(ended.output), ended.output
