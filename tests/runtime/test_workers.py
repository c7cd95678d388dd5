"""Lambda Managed Instances: many invocations at once, each in a worker process; how workers end and are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime.conftest import (
    ACCEPTED,
    PATIENCE,
    SOURCE,
    Answer,
    ConcurrentApi,
    Running,
    Sandbox,
    event,
    refusal,
    response_head,
)

INIT_ERROR = "/2018-06-01/runtime/init/error"
# A process group of its own, so that no worker outlives its test.
COMMAND = (
    sys.executable,
    "-c",
    "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])",
    str(SOURCE / "bootstrap"),
)
AN_INVOCATION = "def handler(e, c):\n    yield b'x'\n"


@pytest.fixture
def instances(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose Runtime API serves many at once; no process that it started is left."""
    started: list[Running] = []
    start = sandbox.start

    def recorded(*arguments: object, **options: object) -> Running:
        started.append(start(*arguments, command=COMMAND, **options))  # type: ignore[arg-type]
        return started[-1]

    sandbox.api_type = ConcurrentApi
    monkeypatch.setattr(sandbox, "start", recorded)
    yield sandbox
    for running in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)


def workers(count: object, **more: str) -> dict[str, str | None]:
    return {"AWS_LAMBDA_MAX_CONCURRENCY": str(count), **more}


class Line:
    """What processes of the function write to a FIFO, line by line, in the order in which it came."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._file = os.fdopen(os.open(path, os.O_RDWR), "rb", buffering=0)  # never at its end

    def read(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += self._file.read(1)
        return line.decode().strip()

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def line(sandbox: Sandbox) -> Iterator[Line]:
    line = Line(sandbox.task / "line")
    yield line
    line.close()


TELL = """
import os
def tell(*words):
    with open("line", "w") as line:
        print(*words, file=line)
def wait(name):
    with open(name) as gate:
        return gate.read()
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_as_many_invocations_as_the_variable_says_are_served_at_once_each_in_a_process_of_its_own(
    instances: Sandbox, line: Line, kind: str
) -> None:
    code = (
        TELL + f"{kind} handler(event, context):\n"
        "    yield str(os.getpid())\n"
        "    tell(event, os.getpid())\n"
        "    wait(f'gate{event}')\n"
        "    yield f' {event}'\n"
    )
    for number in range(4):
        os.mkfifo(instances.task / f"gate{number}")
    running = instances.start(code, *(event(b"%d" % number) for number in range(4)), environment=workers(4))
    # All four are at work, and none of them is told to go on before.
    at_work = dict(line.read().split() for _ in range(4))
    assert set(at_work) == {"0", "1", "2", "3"}
    assert len({*at_work.values(), str(running.process.pid)}) == 5
    for number in range(4):
        (instances.task / f"gate{number}").write_text("go")
    ended = running.end()
    bodies = [b"%x\r\n%b\r\n2\r\n %b\r\n" % (len(pid), pid.encode(), key.encode()) for key, pid in at_work.items()]
    expected = [response_head(ended.host) + body + b"0\r\n\r\n" for body in bodies]
    assert sorted(post.raw for post in ended.posts) == sorted(expected)
    assert ended.status == 1


ENDINGS = {
    "killed": "os.kill(os.getpid(), 9)",
    "exit": "os._exit(3)",
    "sys.exit": "raise SystemExit",
    "sys.exit with the status of one that returned": "raise SystemExit(64)",
    "interrupt": "raise KeyboardInterrupt",
}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
def test_a_worker_that_ended_after_it_had_worked_is_replaced(instances: Sandbox, line: Line, ending: str) -> None:
    code = (
        TELL + "import time\n"
        # The worker itself lives for more than a second: one that lived for less is not replaced.
        "def handler(event, context):\n"
        "    if event == 'end':\n"
        "        time.sleep(1.1)\n"
        f"        {ending}\n"
        "    tell(os.getpid())\n"
        "    return 'served'\n"
    )
    running = instances.start(code, event(b'"end"'), event(b"1"), environment=workers(1), hold=True)
    replaced = int(line.read())
    assert replaced != running.process.pid
    running.api.wait_for_gets(3)  # type: ignore[attr-defined]
    os.kill(running.process.pid, signal.SIGTERM)
    ended = running.end()
    assert [post.body for post in ended.posts if post.target.endswith("/response")] == [b'"served"']
    assert re.search(r"^streaming_runtime: worker \d+ ended with status -?\d+$", ended.errors, re.MULTILINE)
    assert ended.status == 128 + signal.SIGTERM


@pytest.mark.timeout(60)
@pytest.mark.parametrize("statement", ["os.kill(os.getpid(), 9)", "os._exit(0)"], ids=["killed", "exit"])
def test_a_worker_that_ends_at_once_is_not_replaced(instances: Sandbox, statement: str) -> None:
    ended = instances.start(f"import os\n{statement}\n", event(), environment=workers(3)).end()
    assert (ended.status, ended.requests) == (1, [])
    status = -9 if "kill" in statement else 0
    assert len(re.findall(rf"streaming_runtime: worker \d+ ended with status {status}\n", ended.errors)) == 3


@pytest.mark.timeout(60)
def test_init_errors_of_all_workers_are_posted_and_a_403_to_the_others_is_no_failure(instances: Sandbox) -> None:
    forbidden = refusal("403 Forbidden", b"InvalidStateTransition")
    ended = instances.start("1 / 0\n", posts=[ACCEPTED, forbidden, forbidden], environment=workers(3)).end()
    assert [request.target for request in ended.requests] == [INIT_ERROR] * 3
    assert {json.loads(post.body)["errorType"] for post in ended.posts} == {"ZeroDivisionError"}
    assert ended.status == 1
    assert re.fullmatch(r"(streaming_runtime: worker \d+ ended with status 64\n){3}", ended.errors)


@pytest.mark.timeout(60)
def test_an_init_error_that_is_refused_for_another_reason_is_named(instances: Sandbox) -> None:
    ended = instances.start("1 / 0\n", posts=[refusal("500 Oh", b"no")], environment=workers(1)).end()
    assert ended.status == 1
    assert ended.errors.startswith("streaming_runtime: the Runtime API rejected the error report: status 500, b'no'\n")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("statement", ["raise KeyboardInterrupt('odd')", "raise BaseException('odd')"])
def test_whatever_ends_a_worker_leaves_a_trace_in_the_log(instances: Sandbox, statement: str) -> None:
    ended = instances.start(f"{statement}\n", environment=workers(1)).end()
    assert ended.status == 1
    assert "odd" in ended.output + ended.errors


BUSY = refusal("500 Internal Server Error", b"busy")


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_worker_to_which_next_fails_tries_five_times_and_ends(instances: Sandbox) -> None:
    ended = instances.start(AN_INVOCATION, *[BUSY] * 5, event(), environment=workers(1)).end()
    assert [request.method for request in ended.requests] == ["GET"] * 5
    what = "streaming_runtime: the request for an invocation failed: status 500, b'busy'"
    *lines, last = ended.errors.splitlines()
    assert lines == [*(f"{what}; retrying in {delay} s" for delay in (0.1, 0.2, 0.4, 0.8)), what]
    assert last.endswith(" ended with status 64")


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_worker_goes_on_when_next_works_again_and_has_all_its_attempts_again(instances: Sandbox) -> None:
    answers = [BUSY, Answer((b"HTTP/1.1 2",), close=True), event(), BUSY, BUSY, BUSY, event()]
    ended = instances.start(AN_INVOCATION, *answers, environment=workers(1)).end()
    assert ended.bodies == [b"x", b"x"]
    delays = re.findall(r"retrying in (\S+) s\n", ended.errors)
    assert delays[:5] == ["0.1", "0.2", "0.1", "0.2", "0.4"]


class Provider:
    """Hands out log streams: accepts connections and keeps all that comes on each."""

    def __init__(self, path: Path) -> None:
        self.streams: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def serve(self, count: int) -> None:
        connections = [self._listener.accept()[0] for _ in range(count)]
        for connection in connections:
            connection.settimeout(PATIENCE)
            with connection, connection.makefile("rb") as file:
                self.streams.append(file.read())

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Iterator[Provider]:
    monkeypatch.chdir(sandbox.task)  # such a path must be short
    provider = Provider(Path("logs"))
    provider._listener.settimeout(PATIENCE)
    yield provider
    provider.close()


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_every_worker_has_log_streams_of_its_own(instances: Sandbox, line: Line, provider: Provider) -> None:
    code = (
        TELL + "import subprocess, sys\n"
        "print('import')\n"
        "def handler(event, context):\n"
        "    tell(event)\n"
        "    wait('gate' + event)\n"
        "    print('out', event)\n"
        "    print('err', event, file=sys.stderr)\n"
        "    subprocess.run(['/bin/sh', '-c', 'echo child'])\n"
        "    context.log('end')\n"
    )
    for name in "ab":
        os.mkfifo(instances.task / f"gate{name}")
    running = instances.start(
        code,
        event(b'"a"'),
        event(b'"b"'),
        environment=workers(2, _LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET="logs", PATH=os.defpath),
    )
    served = threading.Thread(target=provider.serve, args=(4,))
    served.start()
    assert {line.read(), line.read()} == {"a", "b"}
    for name in "ab":
        (instances.task / f"gate{name}").write_text("go")
    ended = running.end()
    served.join(PATIENCE)
    out = [stream.decode() for stream in provider.streams if b"import" in stream]
    err = [stream.decode() for stream in provider.streams if b"import" not in stream]
    assert sorted(out) == [f"import\nout {name}\nchild\nend" for name in "ab"]
    assert sorted(text.partition("streaming_runtime")[0] for text in err) == ["err a\n", "err b\n"]
    assert ended.output == ""
    assert re.fullmatch(r"(streaming_runtime: worker \d+ ended with status 64\n){2}", ended.errors)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_workers_do_not_share_the_descriptor_for_frames(instances: Sandbox) -> None:
    (instances.task / "frames").touch()
    code = """
        import logging, os
        def handler(event, context):
            logging.error("logged")
            return os.environ.get("_LAMBDA_TELEMETRY_LOG_FD")
        """
    with open(instances.task / "frames", "wb") as frames:
        variables = workers(1, _LAMBDA_TELEMETRY_LOG_FD=str(frames.fileno()))
        ended = instances.start(code, event(), environment=variables).end()
    assert ended.bodies == [b"null"]
    assert ended.output.endswith("\tlogged\n")
    assert (instances.task / "frames").read_bytes() == b""


@pytest.mark.timeout(60)
def test_log_streams_that_cannot_be_had_are_an_error_that_is_named(instances: Sandbox) -> None:
    variables = workers(1, _LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET="/no/such/socket")
    ended = instances.start(AN_INVOCATION, event(), environment=variables).end()
    assert (ended.status, ended.requests) == (1, [])
    assert "No such file or directory" in ended.output + ended.errors


SHUTDOWN = """
import signal
from streaming_runtime.event_loop import event_loop
async def hook():
    tell("stopping")
    wait("gate")
    tell("stopped")
event_loop.shutdown_hooks.append(hook)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "at work"])
def test_sigterm_ends_the_workers_with_their_parent(instances: Sandbox, line: Line, busy: bool) -> None:
    code = TELL + "def handler(e, c):\n    tell('at work')\n    wait('never')\n"
    os.mkfifo(instances.task / "never")
    events = [event(), event()] if busy else []
    running = instances.start(code, *events, environment=workers(2), hold=True)
    running.api.wait_until(b"\r\n\r\n", request=1)
    if busy:
        assert [line.read(), line.read()] == ["at work", "at work"]
    os.kill(running.process.pid, signal.SIGTERM)
    # Standard output is at its end once no worker holds it any more.
    ended = running.end()
    assert ended.status == 128 + signal.SIGTERM
    assert (ended.posts, ended.output) == ([], "")


@pytest.mark.timeout(60)
def test_the_parent_ends_after_its_workers_have_run_their_shutdown_hooks(instances: Sandbox, line: Line) -> None:
    code = TELL + SHUTDOWN + "def handler(e, c):\n    pass\n"
    os.mkfifo(instances.task / "gate")
    running = instances.start(code, environment=workers(1), hold=True)
    running.api.wait_until(b"/next", request=0)
    os.kill(running.process.pid, signal.SIGTERM)
    assert line.read() == "stopping"
    # Lambda takes the end of this process for the end of all.
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(0.5)
    (instances.task / "gate").write_text("go")
    assert line.read() == "stopped"
    assert running.end().status == 128 + signal.SIGTERM


@pytest.mark.own_interpreter
@pytest.mark.parametrize("value", ["", "0", "00", "-1", "+2", " 2", "1.5", "two", "²", "0x2"])
def test_a_number_of_workers_that_cannot_be_is_named(instances: Sandbox, value: str) -> None:
    ended = instances.start(AN_INVOCATION, event(), environment=workers(value)).end()
    assert (ended.status, ended.requests, ended.output) == (1, [], "")
    assert ended.errors == (
        f"streaming_runtime: AWS_LAMBDA_MAX_CONCURRENCY must be a positive integer, got {value!r}\n"
    )


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_child_that_a_wrapper_has_left_is_no_worker(instances: Sandbox) -> None:
    wrapper = instances.task / "wrapper"
    wrapper.write_text('#!/bin/sh\n/bin/true &\nexec "$@"\n')
    wrapper.chmod(0o755)
    variables = workers(1, STREAMING_RUNTIME_EXEC_WRAPPER=str(wrapper))
    ended = instances.start(AN_INVOCATION, event(), environment=variables).end()
    assert ended.bodies == [b"x"]
    assert ended.errors.count(" ended with status ") == 1
    assert "Traceback" not in ended.errors


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_one_worker_is_a_process_too(instances: Sandbox) -> None:
    running = instances.start(
        "import os\ndef handler(e, c):\n    return os.getppid()\n", event(), environment=workers(1)
    )
    assert running.end().bodies == [b"%d" % running.process.pid]


# Where the signal comes: a moment that no gate reaches, so that the system's call itself stands in for it.
MOMENTS = {
    "before the parent knows of the worker": "if pid: os.kill(os.getpid(), signal.SIGTERM)",
    "before the worker has a handling of its own": "os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.own_interpreter
@pytest.mark.timeout(60)
@pytest.mark.parametrize("statement", MOMENTS.values(), ids=list(MOMENTS))
def test_sigterm_leaves_nothing_behind_though_a_worker_is_just_being_started(statement: str) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(SOURCE)!r})
from streaming_runtime import workers
os.setsid()
real = os.fork
def fork():
    pid = real()
    {statement}
    return pid
os.fork = fork
sys.exit(workers.supervise(3, signal.pause))
"""
    with subprocess.Popen((sys.executable, "-B", "-c", program), stderr=subprocess.PIPE) as process:
        try:
            process.wait(PATIENCE / 3)
            assert process.returncode == 128 + signal.SIGTERM
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
