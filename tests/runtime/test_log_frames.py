"""Logs in frames, where Lambda gives a descriptor for them; and how `logging` is set up when something imports it."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from tests.runtime.conftest import BOOTSTRAP, PATIENCE, REQUEST_ID, Answer, Ended, Sandbox, event

# awslambdaric's types of frames.
JSON = {"": 0xA55A0002, "DEBUG": 0xA55A000A, "INFO": 0xA55A000E, "WARNING": 0xA55A0012}
JSON |= {"ERROR": 0xA55A0016, "CRITICAL": 0xA55A001A}
TEXT = {level: kind + 1 for level, kind in JSON.items()}
NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Frame:
    kind: int
    text: str


class Frames:
    """Runs the bootstrap with a pipe as descriptor 9 and reads the frames that come through it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.path = sandbox.task / "frames"
        os.mkfifo(self.path)

    def run(
        self, code: str, *events: bytes | Answer, program: Sequence[str] = (BOOTSTRAP,), **environment: str | None
    ) -> tuple[list[Frame], Ended]:
        started = time.time()
        data: list[bytes] = []
        reader = threading.Thread(target=lambda: data.append(self.path.read_bytes()))
        reader.start()
        try:
            running = self._sandbox.start(
                code,
                *(one if isinstance(one, Answer) else event(one) for one in events or (b"{}",)),
                command=("sh", "-c", 'exec "$0" "$@" 9>frames', *program),
                environment={"_LAMBDA_TELEMETRY_LOG_FD": "9", **environment},
            )
            ended = running.end()
        finally:
            reader.join(PATIENCE)
        return list(parsed(data[0], started)), ended


def parsed(data: bytes, started: float) -> Iterator[Frame]:
    while data:
        assert len(data) >= 16, data
        kind, length, stamp = (int.from_bytes(data[a:b], "big") for a, b in ((0, 4), (4, 8), (8, 16)))
        assert kind in {*TEXT.values(), *JSON.values()}, data[:80]
        assert started - 1 <= stamp / 1e6 <= time.time() + 1
        assert len(data) >= 16 + length
        yield Frame(kind, data[16 : 16 + length].decode())
        data = data[16 + length :]


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


def test_text_records_are_frames_of_no_level_unless_one_was_asked_for(frames: Frames) -> None:
    came, ended = frames.run(LEVELS)
    assert [frame.kind for frame in came] == [TEXT[""]] * 8
    pattern = rf"\[WARNING\]\t\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\t{REQUEST_ID}\tzwölf\n"
    assert re.fullmatch(pattern, came[3].text)
    assert (ended.output, ended.errors.count("\n")) == ("", 1)


@pytest.mark.parametrize("level", ["INFO", "trace", "NO SUCH"])
def test_text_records_tell_their_level_where_one_was_asked_for(frames: Frames, level: str) -> None:
    assert [frame.kind for frame in frames.run(LEVELS, AWS_LAMBDA_LOG_LEVEL=level)[0]] == [TEXT[n] for n in NAMES]


def test_json_records_tell_their_level_and_are_one_object_and_a_line_end(frames: Frames) -> None:
    came, _ = frames.run(LEVELS, AWS_LAMBDA_LOG_FORMAT="JSON")
    assert [frame.kind for frame in came] == [JSON[name] for name in NAMES]
    assert all(frame.text.endswith("}\n") and json.loads(frame.text)["message"] == "zwölf" for frame in came)


FAILING = "def handler(e, c):\n    raise ValueError('one\\n two')\n"


def test_an_error_in_text_is_one_frame_of_lines_without_a_line_end(frames: Frames, sandbox: Sandbox) -> None:
    came, ended = frames.run(FAILING)
    text = (
        "[ERROR] ValueError: one\n two\nTraceback (most recent call last):\n"
        f'{2 * NBSP}File "{sandbox.task / "app.py"}", line 2, in handler\n'
        f"{4 * NBSP}raise ValueError('one\\n two')"
    )
    assert came == [Frame(TEXT["ERROR"], text)]
    assert ended.output == ""


def test_an_error_in_json_is_one_frame_without_a_line_end(frames: Frames) -> None:
    came, ended = frames.run(FAILING, AWS_LAMBDA_LOG_FORMAT="JSON")
    assert [frame.kind for frame in came] == [JSON["ERROR"]]
    assert came[0].text.endswith("}")
    entry = json.loads(came[0].text)
    assert (entry.pop("level"), len(entry.pop("timestamp"))) == ("ERROR", 20)
    assert entry == json.loads(ended.posts[0].body)


@pytest.mark.parametrize("log_format", ["Text", "JSON"])
def test_an_error_of_the_start_and_what_the_context_logs_are_frames_too(frames: Frames, log_format: str) -> None:
    came, _ = frames.run("1 / 0\n", AWS_LAMBDA_LOG_FORMAT=log_format)
    assert [frame.kind for frame in came] == [(JSON if log_format == "JSON" else TEXT)["ERROR"]]
    came, _ = frames.run("def handler(e, c):\n    c.log('a\\n')\n    c.log(1)\n", AWS_LAMBDA_LOG_FORMAT=log_format)
    assert came == [Frame(TEXT[""], "a\n"), Frame(TEXT[""], "1")]


def test_what_is_printed_stays_on_standard_output_and_a_child_does_not_see_the_descriptor(frames: Frames) -> None:
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
    assert "_aws" in json.loads(metrics)  # CloudWatch looks for these in what is printed
    assert ended.errors.startswith("printed\n")


def test_a_frame_that_is_larger_than_the_pipe_arrives_whole_from_any_thread(frames: Frames) -> None:
    code = """
        import logging, threading
        def handler(event, context):
            threads = [threading.Thread(target=logging.error, args=(str(n) * 300_000,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            context.log("z" * 300_000)
        """
    came, _ = frames.run(code)
    assert sorted(frame.text[-300_001:-1] for frame in came[:-1]) == [str(n) * 300_000 for n in range(8)]
    assert came[-1].text == "z" * 300_000


def test_frames_of_logging_and_of_the_context_do_not_mix(frames: Frames) -> None:
    code = """
        import logging, threading
        def handler(event, context):
            loggers = (logging.error, context.log)
            threads = [threading.Thread(target=loggers[n % 2], args=("x" * 300_000,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        """
    came, _ = frames.run(code)
    assert {frame.text.count("x") for frame in came} == {300_000}


@pytest.mark.parametrize("value", ["", "x", "-1"])
def test_a_descriptor_that_is_no_number_leaves_the_log_on_standard_output(sandbox: Sandbox, value: str) -> None:
    ended = sandbox.run(
        "def handler(e, c):\n    c.log('a')\n", event(), environment={"_LAMBDA_TELEMETRY_LOG_FD": value}
    )
    assert (ended.output, ended.bodies) == ("a", [b"null"])


# How logging comes to be imported: once the handler's first invocation is over, one record is one line in Lambda's
# format, whichever way it was.
RECORD = rf"\[ERROR\]\t\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z\t{REQUEST_ID}\tseen\n"
COUNT = "[type(h).__name__ for h in logging.getLogger().handlers].count('LambdaHandler')"
IMPORTS = {
    "at import": "import logging\ndef handler(e, c):\n    logging.error('seen')\n    return {count}\n",
    "within the handler": "def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n",
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
    "after its spec was looked up": (
        "import importlib.util\nassert importlib.util.find_spec('logging').name == 'logging'\n"
        "def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n"
    ),
    "again after an import that failed": (
        "import sys\nweakref = sys.modules.pop('weakref', None)\nsys.modules['weakref'] = None\n"
        "try:\n    import logging\nexcept ImportError:\n    pass\nelse:\n    raise AssertionError\n"
        "del sys.modules['weakref']\n"
        "if weakref:\n    sys.modules['weakref'] = weakref\n"
        "def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n"
    ),
    "async handler": "async def handler(e, c):\n    import logging\n    logging.error('seen')\n    return {count}\n",
}


@pytest.mark.parametrize("code", IMPORTS.values(), ids=list(IMPORTS))
def test_logging_is_set_up_once_however_it_is_imported(sandbox: Sandbox, code: str) -> None:
    ended = sandbox.run(code.replace("{count}", COUNT), event())
    assert ended.bodies == [b"1"], ended.output
    assert re.fullmatch(RECORD, ended.output)


def test_logging_that_was_imported_before_the_runtime_is_set_up_too(sandbox: Sandbox) -> None:
    wrapper = sandbox.task / "wrapper"
    wrapper.write_text(
        '#!/bin/sh\npython=$1\nshift\nfor main; do :; done\nexec "$python" -u -P -c \''
        "import logging, runpy, sys\n"
        'sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name="__main__")\' "$main"\n'
    )
    wrapper.chmod(0o755)
    code = IMPORTS["at import"].replace("{count}", COUNT)
    ended = sandbox.run(code, event(), environment={"STREAMING_RUNTIME_EXEC_WRAPPER": str(wrapper)})
    assert ended.bodies == [b"1"], ended.errors
    assert re.fullmatch(RECORD, ended.output)


def test_a_handler_that_logs_nothing_never_has_logging_imported(sandbox: Sandbox) -> None:
    code = "import sys\ndef handler(e, c):\n    if e == 1:\n        1 / 0\n    yield str('logging' in sys.modules)\n"
    ended = sandbox.run(
        code, event(), event(b"1"), event(), environment={"STREAMING_RUNTIME_PYTHON": sandbox.python_without_site()}
    )
    assert (ended.bodies[0], ended.bodies[2]) == (b"False", b"False")


def test_a_module_of_the_functions_called_logging_does_not_stand_in_for_pythons(sandbox: Sandbox) -> None:
    (sandbox.task / "logging.py").write_text("raise RuntimeError\n")
    (sandbox.task / "json.py").write_text("raise RuntimeError\n")
    code = "import json\n" + IMPORTS["at import"].replace("{count}", f"json.loads(str({COUNT}))")
    ended = sandbox.run(code, event())
    assert ended.bodies == [b"1"]
    assert re.fullmatch(RECORD, ended.output)


# Modules of the standard library that the runtime needs to report an error, by names that a function may well use.
@pytest.mark.parametrize("name", ["token", "traceback", "linecache", "tokenize", "textwrap", "collections"])
def test_an_error_is_reported_whatever_the_functions_modules_are_called(sandbox: Sandbox, name: str) -> None:
    (sandbox.task / f"{name}.py").write_text("def issue():\n    return 'mine'\n")
    code = "def handler(e, c):\n    if e:\n        yield b'x'\n    raise ValueError('it broke')\n"
    ended = sandbox.run(
        code, event(), event(b"1"), event(), environment={"STREAMING_RUNTIME_PYTHON": sandbox.python_without_site()}
    )
    assert [post.target.rpartition("/")[2] for post in ended.posts] == ["error", "response", "error"]
    assert ended.posts[1].trailers["lambda-runtime-function-error-type"] == "ValueError"
    assert ended.output.count("[ERROR] ValueError: it broke") == 3


FORMATTED: dict[str, tuple[str, Callable[[str], bool]]] = {
    "formatter of the function's": (
        "logging.getLogger().handlers[0].setFormatter(logging.Formatter('%(aws_request_id)s %(message)s'))",
        lambda text: text == f"{REQUEST_ID} seen\n",
    ),
    "handler of the function's": (
        "logging.getLogger().handlers[:] = [logging.StreamHandler(__import__('sys').stdout)]",
        lambda text: text == "seen\n",
    ),
    "basicConfig, which does nothing as with awslambdaric": (
        "logging.basicConfig(format='other: %(message)s')",
        lambda text: re.fullmatch(RECORD, text) is not None,
    ),
    "basicConfig by force": ("logging.basicConfig(format='other: %(message)s', force=True)", lambda text: text == ""),
}


@pytest.mark.parametrize(("statement", "expected"), FORMATTED.values(), ids=list(FORMATTED))
def test_a_function_may_change_how_it_logs(sandbox: Sandbox, statement: str, expected: Callable[[str], bool]) -> None:
    ended = sandbox.run(f"import logging\n{statement}\ndef handler(e, c):\n    logging.error('seen')\n", event())
    assert expected(ended.output), ended.output
