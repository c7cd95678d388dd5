"""`python -m local` as a user runs it: a process of its own, ended by a signal."""

from __future__ import annotations

import contextlib
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
from tests.helpers.support import TEMPLATE
from tests.local.conftest import PATIENCE, Fifo

STREAM_FUNCTION = """
Resources:
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: src/, Handler: served.handler, Timeout: 60}
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a handler that answers its version and its process id."""
    shutil.copytree(TEMPLATE / "runtime", tmp_path / "runtime")
    (tmp_path / "src").mkdir()
    (tmp_path / "template.yaml").write_text(STREAM_FUNCTION, encoding="utf-8")
    write_version(tmp_path, 1)
    return tmp_path


def write_version(project: Path, version: int) -> None:
    """Changes the handler."""
    source = f"import os\ndef handler(event, context):\n    return [{version}, os.getpid()]\n"
    (project / "src" / "served.py").write_text(source, encoding="utf-8")


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Runs `python -m local` in the project's folder; what still runs after the test is killed."""
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
    """The URL that the command prints first."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"StreamFunction \(served\.handler\) streams at (http://127\.0\.0\.1:\d+/)\n", line)
    assert found, line
    while not process.stdout.readline().startswith("Ctrl-C ends it."):
        pass
    return found[1]


def ask(url: str) -> tuple[int, int]:
    """Version and process id of the handler that answers."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        version, pid = json.load(response)
        return version, pid


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_functions_process_without_a_traceback(start: Start, signal_number: int) -> None:
    process = start("--port", "0")
    _, pid = ask(url_of(process))
    process.send_signal(signal_number)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    assert re.fullmatch(r"GET /  200  first byte \d+ ms  1 chunk  \d+ bytes  \d\.\d\d s\n", output)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_signal_ends_it_while_a_response_streams(start: Start, project: Path) -> None:
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
    with urllib.request.urlopen(url_of(process), timeout=PATIENCE) as response:
        pid = int(response.read1())
        for _ in range(3):  # as someone does who is impatient
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    gate.close()
    assert (process.returncode, output, errors) == (0, "", "")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_change_in_the_code_takes_effect_with_the_next_request(start: Start, project: Path) -> None:
    process = start("--port", "0")
    url = url_of(process)
    first, old_pid = ask(url)  # once there is an answer, the folder is watched
    write_version(project, 2)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("GET /  200 ")
    assert process.stdout.readline() == "The code has changed.\n"
    second, new_pid = ask(url)
    assert (first, second) == (1, 2)
    assert new_pid != old_pid
    with pytest.raises(ProcessLookupError):
        os.kill(old_pid, 0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of another process is read from /proc")
def test_memory_does_not_grow_with_a_response_of_200_mb(start: Start, project: Path) -> None:
    (project / "src" / "served.py").write_text(
        "def handler(event, context):\n    return (bytes(1 << 20) for _ in range(int(event['rawPath'][1:])))\n",
        encoding="utf-8",
    )
    process = start("--port", "0")
    url = url_of(process)

    def peak_after(megabytes: int) -> int:
        size = 0
        with urllib.request.urlopen(f"{url}{megabytes}", timeout=PATIENCE) as response:
            while data := response.read(65536):
                size += len(data)
        assert size == megabytes << 20
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1])

    before = peak_after(20)
    assert peak_after(200) - before < 16 << 10  # KiB


def test_a_port_in_use_is_refused_with_a_remedy(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--port", str(port))
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(f"local: cannot listen on 127.0.0.1:{port}: ")
    assert errors.endswith("; give another PORT\n")
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "70000"), "local: cannot listen on 127.0.0.1:70000: "),
        (("--host", "host.invalid"), "local: cannot listen on host.invalid:3000: "),
        (("--host", "..."), "local: cannot listen on ...:3000: "),
        (("--template", "other.yaml"), "local: no template at other.yaml: run this in the project's folder"),
        (("--function", "Other"), "local: template.yaml has no AWS::Serverless::Function called Other"),
    ],
    ids=["port", "host", "no host at all", "template", "function"],
)
def test_what_cannot_be_served_is_refused_in_one_line(start: Start, arguments: tuple[str, ...], message: str) -> None:
    process = start(*arguments)
    output, errors = process.communicate(timeout=PATIENCE)
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
    """What the command prints, up to and with a line that begins like this."""
    assert process.stdout is not None
    lines: list[str] = []
    while not (line := process.stdout.readline()).startswith(start):
        assert line, lines
        lines.append(line.rstrip("\n"))
    return [*lines, line.rstrip("\n")]


@pytest.mark.slow
def test_what_is_not_as_on_lambda_is_pointed_out(start: Start, project: Path) -> None:
    bare = lines_until(start("--port", "0", "--no-inspector"), "Ctrl-C")
    assert bare[1] == "The template has no AWS::Lambda::Url for StreamFunction: on Lambda it has none."
    text = WITH_URL.replace("RESPONSE_STREAM", "BUFFERED") + "  Other: {Type: AWS::Serverless::Function}\n"
    (project / "template.yaml").write_text(text, encoding="utf-8")
    buffered = lines_until(start("--port", "0", "--no-inspector"), "Ctrl-C")
    assert buffered[1:3] == [
        "InvokeMode is not RESPONSE_STREAM: a response is held back until it is whole, as on Lambda.",
        "Not served: Other; --function names another one.",
    ]
    (project / "template.yaml").write_text(WITH_URL, encoding="utf-8")
    good = lines_until(start("--port", "0", "--no-inspector"), "Ctrl-C")
    assert len(good) == 2


@pytest.mark.slow
def test_the_template_reserves_how_many_invocations_run_at_once_unless_the_command_line_says_so(
    start: Start, project: Path
) -> None:
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
        with urllib.request.urlopen(url, timeout=PATIENCE) as first:
            assert first.read1() == b"first"
            try:
                second = urllib.request.urlopen(url, timeout=PATIENCE)
            except urllib.error.HTTPError as error:
                second = error
            assert second.status == status
            gate.write(b"12")
            second.close()
    gate.close()


@pytest.mark.slow
def test_a_change_in_the_template_takes_effect_and_a_broken_one_is_told_and_left_out(
    start: Start, project: Path
) -> None:
    process = start("--port", "0", "--no-inspector")
    url = url_of(process)
    ask(url)
    template = project / "template.yaml"
    (project / "src" / "other.py").write_text("def handler(event, context):\n    return [7, 0]\n", encoding="utf-8")
    lines_until(process, "The code has changed.")
    template.write_text("Resources: [", encoding="utf-8")
    lines_until(process, "The template has changed, but cannot be used: cannot read")
    assert ask(url)[0] == 1
    # As editors do it: another file takes its place.
    (project / "new.yaml").write_text(WITH_URL.replace("served", "other"), encoding="utf-8")
    (project / "new.yaml").rename(template)
    lines_until(process, "The template has changed.")
    assert ask(url)[0] == 7


@pytest.mark.slow
def test_a_change_in_the_requirements_is_told_to_take_effect_later(start: Start, project: Path) -> None:
    process = start("--port", "0", "--no-inspector")
    ask(url_of(process))
    (project / "src" / "requirements.txt").write_text("jinja2\n", encoding="utf-8")
    lines_until(process, "So have its requirements: they are installed when this is started anew.")


@pytest.mark.slow
def test_a_syntax_error_while_editing_is_told_and_gone_when_it_is_mended(start: Start, project: Path) -> None:
    process = start("--port", "0", "--no-inspector")
    url = url_of(process)
    ask(url)
    (project / "src" / "served.py").write_text("def handler(", encoding="utf-8")
    lines_until(process, "The code has changed.")
    with pytest.raises(urllib.error.HTTPError, match="502"):
        ask(url)
    assert "Syntax error in module 'served'" in "\n".join(lines_until(process, "GET /  502 "))
    write_version(project, 3)
    lines_until(process, "The code has changed.")
    assert ask(url)[0] == 3


def port_before_a_free_one() -> int:
    """A free port whose next one is free too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError), socket.create_server(("127.0.0.1", port + 1)):
                return port


@pytest.mark.slow
def test_the_inspector_is_on_the_next_port_or_on_another_free_one(start: Start) -> None:
    port = port_before_a_free_one()
    assert lines_until(start("--port", str(port)), "Inspector at ")[-1] == f"Inspector at http://127.0.0.1:{port + 1}/"
    with urllib.request.urlopen(f"http://127.0.0.1:{port + 1}/", timeout=PATIENCE) as response:
        assert b"<title>" in response.read()
    port = port_before_a_free_one()
    with socket.create_server(("127.0.0.1", port + 1)):
        line = lines_until(start("--port", str(port)), "Inspector at ")[-1]
        assert re.fullmatch(r"Inspector at http://127\.0\.0\.1:\d+/", line)
        assert not line.endswith(f":{port + 1}/")
        refused = start("--port", "0", "--inspector-port", str(port + 1))
        _, errors = refused.communicate(timeout=PATIENCE)
    assert refused.returncode == 1
    assert errors.startswith(f"local: cannot listen on 127.0.0.1:{port + 1}: ")
    assert errors.endswith("; give another --inspector-port\n")


def test_the_url_is_on_loopback_unless_told_otherwise(start: Start) -> None:
    host = url_of(start("--port", "0", "--no-inspector"))
    assert host.startswith("http://127.0.0.1:")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", int(host.rstrip("/").rpartition(":")[2])), 5)
    other = lines_until(start("--port", "0", "--no-inspector", "--host", "127.0.0.2"), "Ctrl-C")[0]
    assert "streams at http://127.0.0.2:" in other
    assert ask(other.rpartition(" ")[2])[0] == 1


@pytest.mark.parametrize("text", ["-1", "many", ""])
def test_a_concurrency_that_is_none_is_refused(start: Start, text: str) -> None:
    process = start("--concurrency", text)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "--concurrency: not a number from 0 on: " in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that cannot be written to")
def test_a_response_that_cannot_be_written_is_told(project: Path) -> None:
    (project / "event.json").write_text("{}", encoding="utf-8")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "local", "--event", "event.json"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(TEMPLATE)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
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


def test_an_event_is_served_once_and_its_stream_printed(start: Start, project: Path) -> None:
    (project / "src" / "served.py").write_text(STREAM, encoding="utf-8")
    (project / "event.json").write_text('{"name": "zw\u00f6lf"}', encoding="utf-8")
    process = start("--event", "event.json")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "one zw\u00f6lf")
    log, status, content_type, summary = errors.splitlines()
    assert (log, status, content_type) == ("a line for the log", "200 OK", "content-type: application/octet-stream")
    assert summary.startswith("event  200  first byte ")


def test_an_event_that_fails_gives_a_status_that_says_so(start: Start, project: Path) -> None:
    (project / "src" / "served.py").write_text(STREAM, encoding="utf-8")
    (project / "event.json").write_text('{"fail": true}', encoding="utf-8")
    process = start("--event", "event.json")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert "[ERROR] ValueError: no" in errors
    assert errors.splitlines()[-1].startswith("event  502  no body  0 chunks  0 bytes ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory: 'event.json'"), ("{", "event.json is not JSON: Expecting property name")],
    ids=["missing", "no JSON"],
)
def test_an_event_that_cannot_be_read_is_refused(
    start: Start, project: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (project / "event.json").write_text(content, encoding="utf-8")
    process = start("--event", "event.json")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert message in errors


@pytest.mark.slow
def test_colours_are_for_a_terminal_only(start: Start, project: Path) -> None:
    (project / "event.json").write_text("{}", encoding="utf-8")
    piped = start("--event", "event.json", TERM="xterm-256color")
    assert "\x1b" not in "".join(piped.communicate(timeout=PATIENCE))
    forced = start("--event", "event.json", TERM="xterm-256color", FORCE_COLOR="1")
    output, errors = forced.communicate(timeout=PATIENCE)
    assert "\x1b[" not in output
    assert "\x1b[32mevent  200" in errors


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_single_invocation_and_its_process_without_a_traceback(
    start: Start, project: Path, signal_number: int
) -> None:
    (project / "src" / "served.py").write_text(
        "import os, time\ndef handler(event, context):\n    yield b'%8d' % os.getpid()\n    time.sleep(60)\n",
        encoding="utf-8",
    )
    (project / "event.json").write_text("{}", encoding="utf-8")
    process = start("--event", "event.json")
    assert process.stdout is not None
    pid = int(process.stdout.read(8))
    process.send_signal(signal_number)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (130, "")
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_it_goes_on_when_nobody_reads_what_it_prints(start: Start) -> None:
    process = start("--port", "0")
    url = url_of(process)
    assert process.stdout is not None
    process.stdout.close()
    assert [ask(url)[0] for _ in range(3)] == [1, 1, 1]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_what_is_printed_of_a_request_cannot_steer_the_terminal(start: Start) -> None:
    process = start("--port", "0", "--no-inspector")
    ask(url_of(process) + "%1b%5b31m")
    assert lines_until(process, "GET ")[-1].startswith("GET /%1b%5b31m  200 ")
