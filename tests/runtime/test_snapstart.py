"""SnapStart: hooks before the snapshot, the snapshot, hooks after the restore; what is posted where one fails."""

from __future__ import annotations

import json
import select
from collections.abc import Mapping

import pytest
from tests.runtime.conftest import PATIENCE, Answer, Ended, Reset, Sandbox, event, refusal

pytestmark = pytest.mark.own_interpreter  # calls in their order

SNAP_START = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
RESTORED = Answer((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",))
PREFIX = "/2018-06-01/runtime"

# Stands in for the package of this name, which comes with Lambda's Python: its registry, without its documentation.
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
    """A sandbox in whose task folder the hooks' package lies."""
    (sandbox.task / "snapshot_restore_py.py").write_text(HOOKS)
    return sandbox


def get(ended: Ended, target: str) -> bytes:
    return f"GET {PREFIX}{target} HTTP/1.1\r\nHost: {ended.host}\r\n\r\n".encode()


def post(ended: Ended, target: str, kind: str, report: Mapping[str, object]) -> bytes:
    body = json.dumps(report).encode()
    head = (
        f"POST {PREFIX}{target} HTTP/1.1\r\n"
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


def test_hooks_run_around_the_snapshot_in_the_order_that_lambda_documents(snap_start: Sandbox) -> None:
    ended = snap_start.run(ALL, RESTORED, event(), environment=SNAP_START)
    assert ended.output.splitlines() == [
        *("import", "before 3", "before 2", "before 1", "after-1", "after-2", "after-3", "last", "handler")
    ]
    assert [request.raw for request in ended.requests[:2]] == [
        get(ended, "/restore/next"),
        get(ended, "/invocation/next"),
    ]
    assert ended.bodies == [b"0"]  # a hook that has run is taken out, as awslambdaric does
    # The connection from before the snapshot is not used afterwards, though the server kept it.
    assert [request.connection for request in ended.requests] == [0, 1, 1, 2]


def test_all_that_was_printed_is_out_before_the_snapshot_is_asked_for_and_nothing_after_it_has_run(
    snap_start: Sandbox,
) -> None:
    # What -u does for the stream that Python made, nothing does for one that the function made.
    buffered = "import sys\n    sys.stdout.reconfigure(write_through=False)\n    import snapshot"
    code = ALL.replace('"before", number', '"before", number, end=";"').replace("import snapshot", buffered)
    running = snap_start.start(code, environment=SNAP_START, hold=True)
    running.api.wait_until(b"/restore/next", request=0)
    pipe = running.process.stdout
    assert pipe is not None
    expected = b"import\nbefore 3;before 2;before 1;"
    came = b""
    while len(came) < len(expected):
        assert select.select([pipe], [], [], PATIENCE)[0], f"still in the process's buffer, behind {came!r}"
        came += pipe.read1()  # type: ignore[attr-defined]
    assert came == expected


@pytest.mark.parametrize("present", [True, False], ids=["not imported", "not there"])
def test_without_hooks_the_snapshot_is_taken_all_the_same(sandbox: Sandbox, present: bool) -> None:
    if present:
        (sandbox.task / "snapshot_restore_py.py").write_text("raise RuntimeError('not for the runtime to import')\n")
    ended = sandbox.run("def handler(e, c):\n    yield b'x'\n", RESTORED, event(), environment=SNAP_START)
    assert [request.target for request in ended.requests[:2]] == [PREFIX + "/restore/next", PREFIX + "/invocation/next"]
    assert ended.bodies == [b"x"]


@pytest.mark.parametrize("kind", ["on-demand", "provisioned-concurrency", "lambda-managed-instances", "", None])
def test_other_initialization_types_take_no_snapshot_and_run_no_hook(snap_start: Sandbox, kind: str | None) -> None:
    ended = snap_start.run(ALL, event(), environment={"AWS_LAMBDA_INITIALIZATION_TYPE": kind})
    assert ended.output.splitlines() == ["import", "handler"]
    assert [request.target for request in ended.requests if request.method == "GET"] == [
        PREFIX + "/invocation/next"
    ] * 2
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
    # awslambdaric catches whatever a hook raises.
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    "cancellation": ("raise __import__('asyncio').CancelledError('late')", "CancelledError", "late"),
}


SIDES = {  # of the snapshot: where a failure is posted and as what, the exit status, and which hook had run before
    "before_snapshot": ("/init/error", "Runtime.BeforeSnapshotError", 64, "other 2"),
    "after_restore": ("/restore/error", "Runtime.AfterRestoreError", 65, "other 1"),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("statement", "kind", "message"), FAILURES.values(), ids=list(FAILURES))
def test_a_hook_that_fails_is_reported_by_its_side_of_the_snapshot_and_ends_the_process(
    snap_start: Sandbox, side: str, statement: str, kind: str, message: str
) -> None:
    target, error_type, status, other = SIDES[side]
    ended = snap_start.run(failing(side, statement), RESTORED, event(), environment=SNAP_START)
    trace = f'  File "{snap_start.task / "app.py"}", line 6, in hook\n    {statement}\n'
    report = {"errorMessage": message, "errorType": kind, "requestId": "", "stackTrace": [trace]}
    restored = [get(ended, "/restore/next")] if side == "after_restore" else []
    assert [request.raw for request in ended.requests] == [*restored, post(ended, target, error_type, report)]
    assert (ended.status, ended.errors) == (status, "")
    first, *entries = ended.output.removesuffix("\n").split("\n")
    assert first == other
    assert len(entries) == 1
    assert entries[0].startswith(f"[ERROR] {kind}{message and ': '}{message}\r")


NO_RESTORE: dict[str, tuple[Answer, str]] = {
    "refused": (refusal("403 Forbidden", b"no"), "the request for a restore failed: status 403, b'no'"),
    "failed": (refusal("500 Internal Server Error", b""), "the request for a restore failed: status 500, b''"),
    "accepted, but not done": (refusal("202 Accepted", b""), "the request for a restore failed: status 202, b''"),
    "garbage": (Answer((b"SSH-2.0-x\r\n\r\n",)), "Runtime API at {host}: not an HTTP response: 'SSH-2.0-x'"),
    "broken off": (
        Answer((b"HTTP/1.1 2",), close=True),
        "Runtime API at {host}: connection closed before the end of the response head",
    ),
}


@pytest.mark.parametrize(("answer", "message"), NO_RESTORE.values(), ids=list(NO_RESTORE))
def test_a_restore_that_is_refused_is_an_init_error_and_the_status_is_64(
    snap_start: Sandbox, answer: Answer, message: str
) -> None:
    ended = snap_start.run(ALL, answer, event(), environment=SNAP_START)
    assert [request.raw for request in ended.requests[:1]] == [get(ended, "/restore/next")]
    assert [request.target for request in ended.requests[1:]] == [PREFIX + "/init/error"]
    assert ended.posts[0].headers["lambda-runtime-function-error-type"] == "Runtime.BeforeSnapshotError"
    report = json.loads(ended.posts[0].body)
    assert (report["errorType"], report["errorMessage"]) == ("RuntimeApiError", message.replace("{host}", ended.host))
    assert (ended.status, ended.errors) == (64, "")
    assert "after" not in ended.output
    assert "handler" not in ended.output


@pytest.mark.traced
@pytest.mark.parametrize("when", ["before_snapshot", "after_restore"])
@pytest.mark.parametrize("answer", [refusal("403 Forbidden", b"no"), Reset(at=b"POST")], ids=["refused", "reset"])
def test_a_report_of_a_failed_hook_that_is_not_taken_ends_the_process_too(
    snap_start: Sandbox, when: str, answer: Answer | Reset
) -> None:
    ended = snap_start.run(failing(when, "1 / 0"), RESTORED, event(), posts=[answer], environment=SNAP_START)
    assert len(ended.posts) == 1
    assert PREFIX + "/invocation/next" not in [request.target for request in ended.requests]
    assert ended.status == 1
    assert ended.errors.startswith("streaming_runtime: ")
    assert ended.errors.count("\n") == 1


def test_a_function_that_cannot_be_imported_takes_no_snapshot(snap_start: Sandbox) -> None:
    ended = snap_start.run(ALL + "\n    1 / 0\n", RESTORED, environment=SNAP_START)
    assert [request.target for request in ended.requests] == [PREFIX + "/init/error"]
    assert ended.posts[0].headers["lambda-runtime-function-error-type"] == "ZeroDivisionError"
    assert ended.status == 1
    assert "before" not in ended.output
