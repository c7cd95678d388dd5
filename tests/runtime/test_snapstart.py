"""SnapStart: hooks before the snapshot, the snapshot, hooks after the restore, and what is posted if one fails."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.helpers.protocol import ERROR_TYPE
from tests.helpers.sandbox import Ended, Sandbox
from tests.helpers.scripted_api import INIT_ERROR, NEXT, PREFIX, Answer, Reset, due, event, refusal

pytestmark = pytest.mark.own_interpreter

SNAP_START = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
RESTORE_NEXT = f"{PREFIX}/restore/next"
RESTORED = Answer((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",))

# Stands in for snapshot_restore_py, which comes with Lambda's Python: its registry of hooks.
HOOKS = """
_before, _after = [], []
def register_before_snapshot(func, *args, **kwargs):
    _before.append((func, args, kwargs))
    return func
def register_after_restore(func, *args, **kwargs):
    _after.append((func, args, kwargs))
    return func
def get_before_snapshot():
    return _before
def get_after_restore():
    return _after
"""


@pytest.fixture
def snap_start(sandbox: Sandbox) -> Sandbox:
    """A sandbox with the hooks' package in its task folder."""
    (sandbox.task / "snapshot_restore_py.py").write_text(HOOKS)
    return sandbox


def get(ended: Ended, target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {ended.host}\r\n\r\n".encode()


def post(ended: Ended, target: str, kind: str, report: Mapping[str, object]) -> bytes:
    body = json.dumps(report).encode()
    head = (
        f"POST {target} HTTP/1.1\r\n"
        f"Host: {ended.host}\r\n"
        "Content-Type: application/json\r\n"
        f"Lambda-Runtime-Function-Error-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


ALL = """
    import snapshot_restore_py as hooks
    print("import")
    for number in (1, 2, 3):
        hooks.register_before_snapshot(print, "before", number)
        hooks.register_after_restore(print, "after", number, sep="-")
    @hooks.register_after_restore
    def last():
        print("last")
    def handler(event, context):
        print("handler")
        return len(hooks.get_before_snapshot())
    """


def test_hook_order(snap_start: Sandbox) -> None:
    ended = snap_start.run(ALL, RESTORED, event(), environment=SNAP_START)
    assert ended.output.splitlines() == [
        *("import", "before 3", "before 2", "before 1", "after-1", "after-2", "after-3", "last", "handler")
    ]
    assert [request.raw for request in ended.requests[:2]] == [
        get(ended, RESTORE_NEXT),
        get(ended, NEXT),
    ]
    assert ended.bodies == [b"0"]  # a hook that has run is removed, as by awslambdaric
    # The connection from before the snapshot is not used afterwards, although the server kept it open.
    assert [request.connection for request in ended.requests] == [0, 1, 1, 2]


def test_output_is_flushed_before_snapshot(
    snap_start: Sandbox,
) -> None:
    # -u makes only the stream that Python opens unbuffered, not one that the function has changed.
    buffered = "import sys\n    sys.stdout.reconfigure(write_through=False)\n    import snapshot"
    code = ALL.replace('"before", number', '"before", number, end=";"').replace("import snapshot", buffered)
    running = snap_start.start(code, environment=SNAP_START, hold=True)
    running.api.wait_until(b"/restore/next", request=0)
    expected = b"import\nbefore 3;before 2;before 1;"
    assert running.log_until(expected) == expected


HELD = """
    import random, signal, threading
    import snapshot_restore_py as hooks
    @hooks.register_before_snapshot
    def before():
        print(signal.getitimer(signal.ITIMER_REAL), threading.active_count())
    def handler(event, context):
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        return 0 < left < 60
    """


def test_snapshot_holds_nothing_of_the_runtime(snap_start: Sandbox) -> None:
    """No timer and no thread, and one connection, which is closed after the restore."""
    ended = snap_start.run(HELD, RESTORED, due(milliseconds=60000), environment=SNAP_START)
    assert ended.output == "(0.0, 0.0) 1\n"
    assert ended.bodies == [b"true"]  # the deadline is that of the invocation


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_snapshot_holds_one_connection(snap_start: Sandbox) -> None:
    running = snap_start.start(HELD, environment=SNAP_START, hold=True)
    running.api.wait_until(b"/restore/next", request=0)
    opened = [os.readlink(path) for path in Path(f"/proc/{running.process.pid}/fd").iterdir()]
    assert len([path for path in opened if path.startswith("socket:")]) == 1


SEEDS = {  # what the function does, and whether its environments produce the same numbers
    "at import": ("random.seed(7)", SNAP_START, False),
    "before the snapshot": ("hooks.register_before_snapshot(random.seed, 7)", SNAP_START, False),
    "after the restore": ("hooks.register_after_restore(random.seed, 7)", SNAP_START, True),
    "without a snapshot": ("random.seed(7)", {}, True),
}


@pytest.mark.parametrize(("line", "environment", "same"), SEEDS.values(), ids=list(SEEDS))
def test_random_numbers_after_restore(snap_start: Sandbox, line: str, environment: dict[str, str], same: bool) -> None:
    code = f"import random\nimport snapshot_restore_py as hooks\n{line}\n"
    code += "def handler(e, c):\n    return random.random()\n"
    restored = [RESTORED] if environment else []
    [number] = snap_start.run(code, *restored, event(), environment=environment).bodies
    assert (float(number) == random.Random(7).random()) == same


@pytest.mark.parametrize("present", [True, False], ids=["not imported", "not installed"])
def test_snapshot_without_hooks(sandbox: Sandbox, present: bool) -> None:
    if present:
        (sandbox.task / "snapshot_restore_py.py").write_text("raise RuntimeError('not for the runtime to import')\n")
    code = "import sys\nsys.modules.pop('random', None)\ndef handler(e, c):\n    yield b'x'\n"
    ended = sandbox.run(code, RESTORED, event(), environment=SNAP_START)
    assert ended.targets[:2] == [RESTORE_NEXT, NEXT]
    assert ended.bodies == [b"x"]


@pytest.mark.parametrize("kind", ["on-demand", "provisioned-concurrency", "lambda-managed-instances", "", None])
def test_other_initialization_types(snap_start: Sandbox, kind: str | None) -> None:
    ended = snap_start.run(ALL, event(), environment={"AWS_LAMBDA_INITIALIZATION_TYPE": kind})
    assert ended.output.splitlines() == ["import", "handler"]
    assert [request.target for request in ended.requests if request.method == "GET"] == [NEXT] * 2
    assert ended.bodies == [b"3"]


def failing(when: str, statement: str) -> str:
    return (
        "import snapshot_restore_py as hooks\n"
        "def other(number):\n    print('other', number)\n"
        f"hooks.register_{when}(other, 1)\n"
        f"def hook():\n    {statement}\n"
        f"hooks.register_{when}(hook)\n"
        f"hooks.register_{when}(other, 2)\n"
        "def handler(e, c):\n    pass\n"
    )


FAILURES = {
    "exception": ("raise KeyError('TABLE')", "KeyError", "'TABLE'"),
    "exit": ("raise SystemExit(0)", "SystemExit", "0"),
    # awslambdaric catches these too.
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    "cancellation": ("raise __import__('asyncio').CancelledError('late')", "CancelledError", "late"),
}


SIDES = {  # of the snapshot: where a failure is posted, as what, the exit status, and which hook has run before
    "before_snapshot": (INIT_ERROR, "Runtime.BeforeSnapshotError", 64, "other 2"),
    "after_restore": (f"{PREFIX}/restore/error", "Runtime.AfterRestoreError", 65, "other 1"),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("statement", "kind", "message"), FAILURES.values(), ids=list(FAILURES))
def test_failing_hook_ends_process(snap_start: Sandbox, side: str, statement: str, kind: str, message: str) -> None:
    target, error_type, status, other = SIDES[side]
    ended = snap_start.run(failing(side, statement), RESTORED, event(), environment=SNAP_START)
    trace = f'  File "{snap_start.task / "app.py"}", line 6, in hook\n    {statement}\n'
    report = {"errorMessage": message, "errorType": kind, "requestId": "", "stackTrace": [trace]}
    restored = [get(ended, RESTORE_NEXT)] if side == "after_restore" else []
    assert [request.raw for request in ended.requests] == [*restored, post(ended, target, error_type, report)]
    assert (ended.status, ended.errors) == (status, "")
    first, *entries = ended.output.removesuffix("\n").split("\n")
    assert first == other
    assert len(entries) == 1
    assert entries[0].startswith(f"[ERROR] {kind}{message and ': '}{message}\r")


NO_RESTORE: dict[str, tuple[Answer, str]] = {
    "refused": (refusal("403 Forbidden", b"no"), "the request for a restore failed: status 403, b'no'"),
    "failed": (refusal("500 Internal Server Error", b""), "the request for a restore failed: status 500, b''"),
    "accepted only": (refusal("202 Accepted", b""), "the request for a restore failed: status 202, b''"),
    "garbage": (Answer((b"SSH-2.0-x\r\n\r\n",)), "Runtime API at {host}: not an HTTP response: 'SSH-2.0-x'"),
    "cut": (
        Answer((b"HTTP/1.1 2",), close=True),
        "Runtime API at {host}: connection closed before the end of the response head",
    ),
}


@pytest.mark.parametrize(("answer", "message"), NO_RESTORE.values(), ids=list(NO_RESTORE))
def test_refused_restore_is_an_init_error(snap_start: Sandbox, answer: Answer, message: str) -> None:
    ended = snap_start.run(ALL, answer, event(), environment=SNAP_START)
    assert [request.raw for request in ended.requests[:1]] == [get(ended, RESTORE_NEXT)]
    assert ended.targets[1:] == [INIT_ERROR]
    assert ended.posts[0].headers[ERROR_TYPE] == "Runtime.BeforeSnapshotError"
    report = json.loads(ended.posts[0].body)
    assert (report["errorType"], report["errorMessage"]) == ("RuntimeApiError", message.replace("{host}", ended.host))
    assert (ended.status, ended.errors) == (64, "")
    assert "after" not in ended.output
    assert "handler" not in ended.output


@pytest.mark.traced
@pytest.mark.parametrize("when", ["before_snapshot", "after_restore"])
@pytest.mark.parametrize("answer", [refusal("403 Forbidden", b"no"), Reset(at=b"POST")], ids=["refused", "reset"])
def test_refused_hook_report_ends_process(snap_start: Sandbox, when: str, answer: Answer | Reset) -> None:
    ended = snap_start.run(failing(when, "1 / 0"), RESTORED, event(), posts=[answer], environment=SNAP_START)
    assert len(ended.posts) == 1
    assert NEXT not in ended.targets
    assert ended.status == 1
    assert ended.errors.startswith("streaming_runtime: ")
    assert ended.errors.count("\n") == 1


def test_failed_import_takes_no_snapshot(snap_start: Sandbox) -> None:
    ended = snap_start.run(ALL + "\n    1 / 0\n", RESTORED, environment=SNAP_START)
    assert ended.targets == [INIT_ERROR]
    assert ended.posts[0].headers[ERROR_TYPE] == "ZeroDivisionError"
    assert ended.status == 1
    assert "before" not in ended.output
