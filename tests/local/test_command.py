"""`python -m local` as a user runs it: a process of its own, ended by a signal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.local.conftest import PATIENCE, PROJECT, Fifo

TEMPLATE = """
Resources:
  StreamFunction:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: src/, Handler: served.handler, Timeout: 60}
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a handler that answers its version and its process id."""
    shutil.copytree(PROJECT / "src", tmp_path / "src")
    (tmp_path / "template.yaml").write_text(TEMPLATE, encoding="utf-8")
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
            env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
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
    assert process.stdout.readline().startswith("Ctrl-C ends it.")
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
    assert (process.returncode, output, errors) == (0, "", "")
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
    assert process.stdout.readline() == "The code has changed.\n"
    second, new_pid = ask(url)
    assert (first, second) == (1, 2)
    assert new_pid != old_pid
    with pytest.raises(ProcessLookupError):
        os.kill(old_pid, 0)


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
