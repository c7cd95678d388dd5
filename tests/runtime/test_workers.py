"""Lambda Managed Instances: concurrent invocations in worker processes, and how workers end and are replaced."""

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
from contextlib import closing
from pathlib import Path

import pytest
from tests.helpers.chunks import chunked
from tests.helpers.gates import Fifo
from tests.helpers.sandbox import SOURCE, Running, Sandbox
from tests.helpers.scripted_api import (
    ACCEPTED,
    INIT_ERROR,
    LIMIT,
    Answer,
    ConcurrentApi,
    event,
    refusal,
    response_head,
)

pytestmark = pytest.mark.timeout(60)

# Every worker is in one process group, so that none outlives its test.
COMMAND = (
    sys.executable,
    "-c",
    "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])",
    str(SOURCE / "bootstrap"),
)
AN_INVOCATION = "def handler(e, c):\n    yield b'x'\n"


@pytest.fixture
def instances(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose Runtime API serves many connections; no process that it starts outlives the test."""
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


@pytest.fixture
def line(sandbox: Sandbox) -> Iterator[Fifo]:
    """What the processes of the function `tell`, line by line."""
    with closing(sandbox.fifo("line")) as line:
        yield line


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
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_concurrent_invocations(instances: Sandbox, line: Fifo, kind: str) -> None:
    code = (
        TELL + f"{kind} handler(event, context):\n"
        "    yield str(os.getpid())\n"
        "    tell(event, os.getpid())\n"
        "    wait(f'gate{event}')\n"
        "    yield f' {event}'\n"
    )
    gates = [instances.gate(f"gate{number}") for number in range(4)]
    running = instances.start(code, *(event(b"%d" % number) for number in range(4)), environment=workers(4))
    # All four are at work, and none of them has been released.
    at_work = dict(line.read_line().split() for _ in range(4))
    assert set(at_work) == {"0", "1", "2", "3"}
    assert len({*at_work.values(), str(running.process.pid)}) == 5
    for gate in gates:
        gate.release()
    ended = running.end()
    bodies = [chunked(pid.encode(), b" " + key.encode()) for key, pid in at_work.items()]
    expected = [response_head(ended.host) + body for body in bodies]
    assert sorted(post.raw for post in ended.posts) == sorted(expected)
    assert ended.status == 1


ENDINGS = {
    "killed": "os.kill(os.getpid(), 9)",
    "exit": "os._exit(3)",
    "sys.exit": "raise SystemExit",
    "sys.exit(64)": "raise SystemExit(64)",  # the status of a worker that returned
    "interrupt": "raise KeyboardInterrupt",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
def test_ended_worker_is_replaced(instances: Sandbox, line: Fifo, ending: str) -> None:
    code = (
        TELL + "import time\n"
        # The worker lives for more than a second, since one that lived for less is not replaced.
        "def handler(event, context):\n"
        "    if event == 'end':\n"
        "        time.sleep(1.1)\n"
        f"        {ending}\n"
        "    tell(os.getpid())\n"
        "    return 'served'\n"
    )
    running = instances.start(code, event(b'"end"'), event(b"1"), environment=workers(1), hold=True)
    replaced = int(line.read_line())
    assert replaced != running.process.pid
    running.api.wait_for_gets(3)  # type: ignore[attr-defined]
    os.kill(running.process.pid, signal.SIGTERM)
    ended = running.end()
    assert [post.body for post in ended.posts if post.target.endswith("/response")] == [b'"served"']
    assert re.search(r"^streaming_runtime: worker \d+ ended with status -?\d+$", ended.errors, re.MULTILINE)
    assert ended.status == 128 + signal.SIGTERM


@pytest.mark.parametrize("statement", ["os.kill(os.getpid(), 9)", "os._exit(0)"], ids=["killed", "exit"])
def test_worker_failing_at_start_is_not_replaced(instances: Sandbox, statement: str) -> None:
    ended = instances.start(f"import os\n{statement}\n", event(), environment=workers(3)).end()
    assert (ended.status, ended.requests) == (1, [])
    status = -9 if "kill" in statement else 0
    assert len(re.findall(rf"streaming_runtime: worker \d+ ended with status {status}\n", ended.errors)) == 3


def test_init_errors_of_all_workers(instances: Sandbox) -> None:
    forbidden = refusal("403 Forbidden", b"InvalidStateTransition")
    ended = instances.start("1 / 0\n", posts=[ACCEPTED, forbidden, forbidden], environment=workers(3)).end()
    assert ended.targets == [INIT_ERROR] * 3
    assert {json.loads(post.body)["errorType"] for post in ended.posts} == {"ZeroDivisionError"}
    assert ended.status == 1
    assert re.fullmatch(r"(streaming_runtime: worker \d+ ended with status 64\n){3}", ended.errors)


def test_refused_init_error_is_named(instances: Sandbox) -> None:
    ended = instances.start("1 / 0\n", posts=[refusal("500 Oh", b"no")], environment=workers(1)).end()
    assert ended.status == 1
    assert ended.errors.startswith("streaming_runtime: the Runtime API rejected the error report: status 500, b'no'\n")


@pytest.mark.parametrize("statement", ["raise KeyboardInterrupt('odd')", "raise BaseException('odd')"])
def test_ending_worker_is_logged(instances: Sandbox, statement: str) -> None:
    ended = instances.start(f"{statement}\n", environment=workers(1)).end()
    assert ended.status == 1
    assert "odd" in ended.output + ended.errors


BUSY = refusal("500 Internal Server Error", b"busy")


@pytest.mark.slow
def test_failing_next_is_retried_five_times(instances: Sandbox) -> None:
    ended = instances.start(AN_INVOCATION, *[BUSY] * 5, event(), environment=workers(1)).end()
    assert ended.methods == ["GET"] * 5
    what = "streaming_runtime: the request for an invocation failed: status 500, b'busy'"
    *lines, last = ended.errors.splitlines()
    assert lines == [*(f"{what}; retrying in {delay} s" for delay in (0.1, 0.2, 0.4, 0.8)), what]
    assert last.endswith(" ended with status 64")


@pytest.mark.slow
def test_retries_start_over_after_success(instances: Sandbox) -> None:
    answers = [BUSY, Answer((b"HTTP/1.1 2",), close=True), event(), BUSY, BUSY, BUSY, event()]
    ended = instances.start(AN_INVOCATION, *answers, environment=workers(1)).end()
    assert ended.bodies == [b"x", b"x"]
    delays = re.findall(r"retrying in (\S+) s\n", ended.errors)
    assert delays[:5] == ["0.1", "0.2", "0.1", "0.2", "0.4"]


class Provider:
    """Provides log streams: accepts connections and keeps all that comes on each."""

    def __init__(self, path: Path) -> None:
        self.streams: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def serve(self, count: int) -> None:
        connections = [self._listener.accept()[0] for _ in range(count)]
        for connection in connections:
            connection.settimeout(LIMIT)
            with connection, connection.makefile("rb") as file:
                self.streams.append(file.read())

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> Iterator[Provider]:
    monkeypatch.chdir(sandbox.task)  # the path of a socket must be short
    provider = Provider(Path("logs"))
    provider._listener.settimeout(LIMIT)
    yield provider
    provider.close()


@pytest.mark.slow
def test_log_streams_per_worker(instances: Sandbox, line: Fifo, provider: Provider) -> None:
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
    gates = [instances.gate(f"gate{name}") for name in "ab"]
    running = instances.start(
        code,
        event(b'"a"'),
        event(b'"b"'),
        environment=workers(2, _LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET="logs", PATH=os.defpath),
    )
    served = threading.Thread(target=provider.serve, args=(4,))
    served.start()
    assert {line.read_line(), line.read_line()} == {"a", "b"}
    for gate in gates:
        gate.release()
    ended = running.end()
    served.join(LIMIT)
    out = [stream.decode() for stream in provider.streams if b"import" in stream]
    err = [stream.decode() for stream in provider.streams if b"import" not in stream]
    assert sorted(out) == [f"import\nout {name}\nchild\nend" for name in "ab"]
    assert sorted(text.partition("streaming_runtime")[0] for text in err) == ["err a\n", "err b\n"]
    assert ended.output == ""
    assert re.fullmatch(r"(streaming_runtime: worker \d+ ended with status 64\n){2}", ended.errors)


@pytest.mark.slow
def test_frame_descriptor_is_not_shared(instances: Sandbox) -> None:
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


def test_missing_log_provider_is_named(instances: Sandbox) -> None:
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


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "at work"])
def test_sigterm_ends_all_workers(instances: Sandbox, line: Fifo, busy: bool) -> None:
    code = TELL + "def handler(e, c):\n    tell('at work')\n    wait('never')\n"
    instances.gate("never")
    events = [event(), event()] if busy else []
    running = instances.start(code, *events, environment=workers(2), hold=True)
    running.api.wait_until(b"\r\n\r\n", request=1)
    if busy:
        assert [line.read_line(), line.read_line()] == ["at work", "at work"]
    os.kill(running.process.pid, signal.SIGTERM)
    # Standard output ends when no worker holds it open.
    ended = running.end()
    assert ended.status == 128 + signal.SIGTERM
    assert (ended.posts, ended.output) == ([], "")


def test_parent_waits_for_shutdown_hooks(instances: Sandbox, line: Fifo) -> None:
    code = TELL + SHUTDOWN + "def handler(e, c):\n    pass\n"
    gate = instances.gate()
    running = instances.start(code, environment=workers(1), hold=True)
    running.api.wait_until(b"/next", request=0)
    os.kill(running.process.pid, signal.SIGTERM)
    assert line.read_line() == "stopping"
    # For Lambda, the end of this process is the end of the environment.
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(0.5)
    gate.release()
    assert line.read_line() == "stopped"
    assert running.end().status == 128 + signal.SIGTERM


@pytest.mark.own_interpreter
@pytest.mark.parametrize("value", ["", "0", "00", "-1", "+2", " 2", "1.5", "two", "²", "0x2"])
def test_invalid_concurrency_is_named(instances: Sandbox, value: str) -> None:
    ended = instances.start(AN_INVOCATION, event(), environment=workers(value)).end()
    assert (ended.status, ended.requests, ended.output) == (1, [], "")
    assert ended.errors == (
        f"streaming_runtime: AWS_LAMBDA_MAX_CONCURRENCY must be a positive integer, got {value!r}\n"
    )


@pytest.mark.slow
def test_foreign_child_is_not_a_worker(instances: Sandbox) -> None:
    wrapper = instances.script("wrapper", '#!/bin/sh\n/bin/true &\nexec "$@"\n')
    variables = workers(1, STREAMING_RUNTIME_EXEC_WRAPPER=wrapper)
    ended = instances.start(AN_INVOCATION, event(), environment=variables).end()
    assert ended.bodies == [b"x"]
    assert ended.errors.count(" ended with status ") == 1
    assert "Traceback" not in ended.errors


@pytest.mark.slow
def test_single_worker_is_a_process(instances: Sandbox) -> None:
    running = instances.start(
        "import os\ndef handler(e, c):\n    return os.getppid()\n", event(), environment=workers(1)
    )
    assert running.end().bodies == [b"%d" % running.process.pid]


# When the signal comes. No gate can reach these moments, so a replacement of `fork` sends it.
MOMENTS = {
    "before the parent knows of the worker": "if pid: os.kill(os.getpid(), signal.SIGTERM)",
    "before the worker handles signals": "os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize("statement", MOMENTS.values(), ids=list(MOMENTS))
def test_sigterm_while_forking(statement: str) -> None:
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
            process.wait(LIMIT / 3)
            assert process.returncode == 128 + signal.SIGTERM
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
