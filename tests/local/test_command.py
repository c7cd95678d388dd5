"""`python -m local` as a user runs it: in a process of its own, stopped by a signal."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.helpers.gates import Fifo
from tests.helpers.support import TEMPLATE
from tests.local.conftest import TIMEOUT

STREAM_FUNCTION = """
Resources:
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: src/, Handler: served.handler, Timeout: 60}
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a handler that returns its version and its process ID."""
    shutil.copytree(TEMPLATE / "runtime", tmp_path / "runtime")
    (tmp_path / "src").mkdir()
    (tmp_path / "template.yaml").write_text(STREAM_FUNCTION, encoding="utf-8")
    write_version(tmp_path, 1)
    return tmp_path


def write_version(project: Path, version: int) -> None:
    """Change the handler."""
    source = f"import os\ndef handler(event, context):\n    return [{version}, os.getpid()]\n"
    (project / "src" / "served.py").write_text(source, encoding="utf-8")


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Run `python -m local` in the project's folder; kill what still runs after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "local", *arguments],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(TEMPLATE), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    """Return the URL that the command prints first."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"StreamFunction \(served\.handler\) streams at (http://127\.0\.0\.1:\d+/)\n", line)
    assert found, line
    while not process.stdout.readline().startswith("Press Ctrl-C"):
        pass
    return found[1]


def ask(url: str) -> tuple[int, int]:
    """Return version and process ID of the handler that answers."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        version, pid = json.load(response)
        return version, pid


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_server(start: Start, signal_number: int) -> None:
    process = start("--port", "0")
    _, pid = ask(url_of(process))
    process.send_signal(signal_number)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (0, "")
    assert re.fullmatch(r"GET /  200  first byte \d+ ms  1 chunk  \d+ bytes  \d\.\d\d s\n", output)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_signal_stops_streaming_server(start: Start, project: Path) -> None:
    gate = Fifo(project / "gate")
    (project / "src" / "served.py").write_text(
        "import os, signal\n"
        "def handler(event, context):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    yield b'%8d' % os.getpid()\n"
        "    open(os.environ['GATE'], 'rb', buffering=0).read(1)\n",
        encoding="utf-8",
    )
    process = start("--port", "0", GATE=str(gate.path))
    with urllib.request.urlopen(url_of(process), timeout=TIMEOUT) as response:
        pid = int(response.read1())
        for _ in range(3):  # as an impatient user does
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=TIMEOUT)
    gate.close()
    assert (process.returncode, output, errors) == (0, "", "")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_code_change_reloads(start: Start, project: Path) -> None:
    process = start("--port", "0")
    url = url_of(process)
    first, old_pid = ask(url)  # by the time of the response, the folder is watched
    write_version(project, 2)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("GET /  200 ")
    assert process.stdout.readline() == "The code changed.\n"
    second, new_pid = ask(url)
    assert (first, second) == (1, 2)
    assert new_pid != old_pid
    with pytest.raises(ProcessLookupError):
        os.kill(old_pid, 0)


def test_request_right_after_saving(start: Start, project: Path) -> None:
    """Code and template: no watcher is faster than the request that follows."""
    url = url_of(start("--port", "0", "--no-inspector"))
    for version in range(2, 6):
        write_version(project, version)
        assert ask(url)[0] == version
    (project / "src" / "other.py").write_text("def handler(event, context):\n    return [7, 0]\n", encoding="utf-8")
    (project / "template.yaml").write_text(WITH_URL.replace("served", "other"), encoding="utf-8")
    assert ask(url)[0] == 7


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of another process is read from /proc")
def test_memory_constant_for_200_mb(start: Start, project: Path) -> None:
    (project / "src" / "served.py").write_text(
        "def handler(event, context):\n    return (bytes(1 << 20) for _ in range(int(event['rawPath'][1:])))\n",
        encoding="utf-8",
    )
    process = start("--port", "0")
    url = url_of(process)

    def peak_after(megabytes: int) -> int:
        size = 0
        with urllib.request.urlopen(f"{url}{megabytes}", timeout=TIMEOUT) as response:
            while data := response.read(65536):
                size += len(data)
        assert size == megabytes << 20
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1])

    before = peak_after(20)
    assert peak_after(200) - before < 16 << 10  # KiB


def test_port_in_use(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--port", str(port))
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(f"local: cannot listen on 127.0.0.1:{port}: ")
    assert errors.endswith(". Choose another port with PORT or --port\n")
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "70000"), "local: cannot listen on 127.0.0.1:70000: "),
        (("--host", "host.invalid"), "local: cannot listen on host.invalid:3000: "),
        (("--host", "..."), "local: cannot listen on ...:3000: "),
        (("--template", "other.yaml"), "local: other.yaml does not exist. Run this in the project's folder"),
        (("--function", "Other"), "local: template.yaml has no AWS::Serverless::Function named 'Other'"),
    ],
    ids=["port", "host", "invalid host", "template", "function"],
)
def test_unusable_option_is_one_line(start: Start, arguments: tuple[str, ...], message: str) -> None:
    process = start(*arguments)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1


WITH_URL = """
Resources:
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: src/, Handler: served.handler, Timeout: 60, ReservedConcurrentExecutions: 1}
  StreamUrl:
    Type: AWS::Lambda::Url
    Properties: {TargetFunctionArn: !GetAtt StreamFunction.Arn, InvokeMode: RESPONSE_STREAM}
"""


def lines_until(process: subprocess.Popen[str], start: str) -> list[str]:
    """Return what the command prints, up to and including a line that begins with `start`."""
    assert process.stdout is not None
    lines: list[str] = []
    while not (line := process.stdout.readline()).startswith(start):
        assert line, "\n".join(lines)
        lines.append(line.rstrip("\n"))
    return [*lines, line.rstrip("\n")]


@pytest.mark.slow
def test_differences_from_lambda_shown(start: Start, project: Path) -> None:
    bare = lines_until(start("--port", "0", "--no-inspector"), "Press Ctrl-C")
    assert bare[1] == "The template defines no AWS::Lambda::Url for StreamFunction. On Lambda it will have no URL."
    text = WITH_URL.replace("RESPONSE_STREAM", "BUFFERED") + "  Other: {Type: AWS::Serverless::Function}\n"
    (project / "template.yaml").write_text(text, encoding="utf-8")
    buffered = lines_until(start("--port", "0", "--no-inspector"), "Press Ctrl-C")
    assert buffered[1:3] == [
        "InvokeMode is not RESPONSE_STREAM: a response is sent when it is complete, as on Lambda.",
        "Not served: Other. Choose another function with --function.",
    ]
    (project / "template.yaml").write_text(WITH_URL, encoding="utf-8")
    good = lines_until(start("--port", "0", "--no-inspector"), "Press Ctrl-C")
    assert len(good) == 2


@pytest.mark.slow
def test_reserved_concurrency_and_option(start: Start, project: Path) -> None:
    (project / "template.yaml").write_text(WITH_URL, encoding="utf-8")
    (project / "src" / "served.py").write_text(
        "import os\n"
        "def handler(event, context):\n"
        "    yield b'first'\n"
        "    open(os.environ['GATE'], 'rb', buffering=0).read(1)\n",
        encoding="utf-8",
    )
    gate = Fifo(project / "gate")
    for arguments, status in (((), 429), (("--concurrency", "2"), 200)):
        url = url_of(start("--port", "0", *arguments, GATE=str(gate.path)))
        with urllib.request.urlopen(url, timeout=TIMEOUT) as first:
            assert first.read1() == b"first"
            try:
                second = urllib.request.urlopen(url, timeout=TIMEOUT)
            except urllib.error.HTTPError as error:
                second = error
            assert second.status == status
            gate.write(b"12")
            second.close()
    gate.close()


@pytest.mark.slow
def test_template_change_reloads(start: Start, project: Path) -> None:
    process = start("--port", "0", "--no-inspector")
    url = url_of(process)
    ask(url)
    template = project / "template.yaml"
    (project / "src" / "other.py").write_text("def handler(event, context):\n    return [7, 0]\n", encoding="utf-8")
    lines_until(process, "The code changed.")
    template.write_text("Resources: [", encoding="utf-8")
    lines_until(process, "The template changed, but is ignored: cannot read")
    assert ask(url)[0] == 1
    # Replace the file, as editors do.
    (project / "new.yaml").write_text(WITH_URL.replace("served", "other"), encoding="utf-8")
    (project / "new.yaml").rename(template)
    lines_until(process, "The template changed.")
    assert ask(url)[0] == 7


@pytest.mark.slow
def test_requirements_change_needs_restart(start: Start, project: Path) -> None:
    process = start("--port", "0", "--no-inspector")
    ask(url_of(process))
    (project / "src" / "requirements.txt").write_text("jinja2\n", encoding="utf-8")
    lines_until(process, "requirements.txt changed. Restart `make dev` to install it.")


@pytest.mark.slow
def test_syntax_error_until_fixed(start: Start, project: Path) -> None:
    process = start("--port", "0", "--no-inspector")
    url = url_of(process)
    ask(url)
    (project / "src" / "served.py").write_text("def handler(", encoding="utf-8")
    lines_until(process, "The code changed.")
    with pytest.raises(urllib.error.HTTPError, match="502"):
        ask(url)
    assert "Syntax error in module 'served'" in "\n".join(lines_until(process, "GET /  502 "))
    write_version(project, 3)
    lines_until(process, "The code changed.")
    assert ask(url)[0] == 3


def port_before_a_free_one() -> int:
    """Return a free port that is followed by another free port."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", port + 1)):
                return port


@pytest.mark.slow
def test_inspector_port(start: Start) -> None:
    port = port_before_a_free_one()
    assert lines_until(start("--port", str(port)), "Inspector at ")[-1] == f"Inspector at http://127.0.0.1:{port + 1}/"
    with urllib.request.urlopen(f"http://127.0.0.1:{port + 1}/", timeout=TIMEOUT) as response:
        assert b"<title>" in response.read()
    port = port_before_a_free_one()
    with socket.create_server(("127.0.0.1", port + 1)):
        line = lines_until(start("--port", str(port)), "Inspector at ")[-1]
        assert re.fullmatch(r"Inspector at http://127\.0\.0\.1:\d+/", line)
        assert not line.endswith(f":{port + 1}/")
        refused = start("--port", "0", "--inspector-port", str(port + 1))
        _, errors = refused.communicate(timeout=TIMEOUT)
    assert refused.returncode == 1
    assert errors.startswith(f"local: cannot listen on 127.0.0.1:{port + 1}: ")
    assert errors.endswith(". Choose another port with --inspector-port\n")


def test_url_listens_on_loopback(start: Start) -> None:
    host = url_of(start("--port", "0", "--no-inspector"))
    assert host.startswith("http://127.0.0.1:")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", int(host.rstrip("/").rpartition(":")[2])), 5)
    other = lines_until(start("--port", "0", "--no-inspector", "--host", "127.0.0.2"), "Press Ctrl-C")[0]
    assert "streams at http://127.0.0.2:" in other
    assert ask(other.rpartition(" ")[2])[0] == 1


@pytest.mark.parametrize(
    ("arguments", "host", "status"),
    [
        ((), "function.example", 403),
        (("--allow-host", "other.example", "--allow-host", "function.example"), "function.example", 200),
        (("--host", "0.0.0.0"), "0.0.0.0", 200),
        (("--host", "0.0.0.0"), "function.example", 403),
    ],
    ids=["default", "allowed", "any address", "any address, other name"],
)
def test_allowed_hosts(start: Start, arguments: tuple[str, ...], host: str, status: int) -> None:
    process = start("--port", "0", "--no-inspector", *arguments)
    lines = lines_until(process, "Press Ctrl-C")
    warning = "Requests must name this machine as localhost, 0.0.0.0. Allow another name with --allow-host."
    assert (warning in lines) == ("--host" in arguments)
    port = int(lines[0].rstrip("/").rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    connection.request("GET", "/", headers={"Host": f"{host}:{port}"})
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.status == status
    printed = lines_until(process, "GET /")[-1]
    assert ("To allow it, use --allow-host function.example" in printed) == (status == 403)


@pytest.mark.parametrize("text", ["-1", "many", ""])
def test_invalid_concurrency(start: Start, text: str) -> None:
    process = start("--concurrency", text)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    assert "--concurrency: must be a whole number of at least 0, got " in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that cannot be written to")
def test_output_write_error(project: Path) -> None:
    (project / "event.json").write_text("{}", encoding="utf-8")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "local", "--event", "event.json"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(TEMPLATE)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 1
    assert "local: cannot write the response: [Errno 28]" in done.stderr
    assert "Traceback" not in done.stderr


STREAM = """
import sys
def handler(event, context):
    print("a line for the log")
    if event.get("fail"):
        raise ValueError("no")
    yield b"one "
    sys.stdout.flush()
    yield event["name"].encode()
"""


def test_event_streams_to_stdout(start: Start, project: Path) -> None:
    (project / "src" / "served.py").write_text(STREAM, encoding="utf-8")
    (project / "event.json").write_text('{"name": "zw\u00f6lf"}', encoding="utf-8")
    process = start("--event", "event.json")
    output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (0, "one zw\u00f6lf")
    log, status, content_type, summary = errors.splitlines()
    assert (log, status, content_type) == ("a line for the log", "200 OK", "content-type: application/octet-stream")
    assert summary.startswith("event  200  first byte ")


def test_failed_event_exit_status(start: Start, project: Path) -> None:
    (project / "src" / "served.py").write_text(STREAM, encoding="utf-8")
    (project / "event.json").write_text('{"fail": true}', encoding="utf-8")
    process = start("--event", "event.json")
    output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (1, "")
    assert "[ERROR] ValueError: no" in errors
    assert errors.splitlines()[-1].startswith("event  502  no body  0 chunks  0 bytes ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory: 'event.json'"), ("{", "event.json is not JSON: Expecting property name")],
    ids=["missing", "not JSON"],
)
def test_unreadable_event(start: Start, project: Path, content: str | None, message: str) -> None:
    if content is not None:
        (project / "event.json").write_text(content, encoding="utf-8")
    process = start("--event", "event.json")
    output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert message in errors


@pytest.mark.slow
def test_colours_on_terminal_only(start: Start, project: Path) -> None:
    (project / "event.json").write_text("{}", encoding="utf-8")
    piped = start("--event", "event.json", TERM="xterm-256color")
    assert "\x1b" not in "".join(piped.communicate(timeout=TIMEOUT))
    forced = start("--event", "event.json", TERM="xterm-256color", FORCE_COLOR="1")
    output, errors = forced.communicate(timeout=TIMEOUT)
    assert "\x1b[" not in output
    assert "\x1b[32mevent  200" in errors


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_single_invocation(start: Start, project: Path, signal_number: int) -> None:
    (project / "src" / "served.py").write_text(
        "import os, time\ndef handler(event, context):\n    yield b'%8d' % os.getpid()\n    time.sleep(60)\n",
        encoding="utf-8",
    )
    (project / "event.json").write_text("{}", encoding="utf-8")
    process = start("--event", "event.json")
    assert process.stdout is not None
    pid = int(process.stdout.read(8))
    process.send_signal(signal_number)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (130, "")
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_closed_stdout_is_ignored(start: Start) -> None:
    process = start("--port", "0")
    url = url_of(process)
    assert process.stdout is not None
    process.stdout.close()
    assert [ask(url)[0] for _ in range(3)] == [1, 1, 1]
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_request_line_is_escaped(start: Start) -> None:
    process = start("--port", "0", "--no-inspector")
    ask(url_of(process) + "%1b%5b31m")
    assert lines_until(process, "GET ")[-1].startswith("GET /%1b%5b31m  200 ")
