"""`python -m benchmarks.examples`: from the start of an example as built to the first byte of its first answer.

The `bedrock`, `mcp` and `agent` examples are generated from this clone, and with `--against FOLDER` from another one,
built by their own Makefile for this machine, and started in turns. Bedrock is a server on localhost. The processor time
of the function is beside the time that passed, because other work on the machine hardly affects it; it needs Linux.
Exit status: 2 if an example could not be built or did not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .process import end, use_processor

_ROOT = Path(__file__).parent.parent
_PROJECT = _ROOT / "{{cookiecutter.project_slug}}"
_BEDROCK = _PROJECT / "examples" / "chat" / "tests"  # has bedrock_server.py
_OURS, _AGAINST = "ours", "against"
_ANSWER = "Measured."
_PATIENCE = 60  # seconds for an answer
_SERVE = f"""
import json, sys, time
sys.path.insert(0, sys.argv[1])
from bedrock_server import answer, bedrock_server, text
with bedrock_server() as server:
    server.answers = [answer(text({_ANSWER!r}))]
    print(json.dumps(server.environment), flush=True)
    sys.stdin.read()
"""
_CHAT = {
    "version": "2.0",
    "rawPath": "/chat",
    "rawQueryString": "",
    "headers": {"content-type": "application/json", "host": "example.lambda-url.us-east-1.on.aws"},
    "requestContext": {
        "http": {"method": "POST", "path": "/chat", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": ""},
        "domainName": "example.lambda-url.us-east-1.on.aws",
        "requestId": "1",
    },
    "body": json.dumps({"messages": [{"role": "user", "text": "Why?"}]}),
    "isBase64Encoded": False,
}
# What the first answer of each example contains.
EXAMPLES = {"bedrock": _ANSWER, "mcp": "notifications/progress", "agent": _ANSWER}


class Failed(Exception):
    """An example could not be built or did not answer."""


class Taken(NamedTuple):
    """What the first answer took, in milliseconds. The processor time is None where the system does not report it."""

    passed: float
    processor: float | None


def main(arguments: list[str] | None = None) -> int:
    """Print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.examples", description="Measure examples as built.")
    parser.add_argument("--against", metavar="FOLDER", type=Path, help="compare with the examples of another clone")
    parser.add_argument("--rounds", metavar="N", type=int, default=11, help="starts of each that count (default: 11)")
    parser.add_argument("--python", default="3.13", help="interpreter, or its version, for the functions")
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help=f"of {', '.join(EXAMPLES)} (default: all)")
    options = parser.parse_args(arguments)
    if unknown := set(options.examples) - EXAMPLES.keys():
        parser.error(f"no such example: {', '.join(sorted(unknown))}")
    clones = {_OURS: _ROOT, **({_AGAINST: options.against} if options.against else {})}
    try:
        with tempfile.TemporaryDirectory() as folder, _bedrock() as bedrock:
            python = Path(_output("uv", "python", "find", "--no-project", options.python, cwd=Path(folder)))
            for example in options.examples or EXAMPLES:
                packages = {
                    name: _built(clone, example, python, Path(folder) / name / example)
                    for name, clone in clones.items()
                }
                print(summary(example, _measure(example, packages, python, bedrock, options.rounds)), flush=True)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 2
    return 0


def _built(clone: Path, example: str, python: Path, folder: Path) -> Path:
    """Generate and build an example from the files of a clone that git knows. Return the folder of the package."""
    template, package = folder / "template", folder / "package"
    listed = _output("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=clone)
    for name in filter(None, listed.split("\0")):
        if (clone / name).is_file():
            (template / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(clone / name, template / name)
    answers = {
        "project_slug": "measured",
        "example": example,
        "python_version": _output(str(python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])", cwd=folder),
        "architecture": "x86_64" if platform.machine() == "x86_64" else "arm64",
    }
    command = [sys.executable, "-m", "cookiecutter", "--default-config", "--no-input", "-o", str(folder), str(template)]
    _output(*command, *(f"{name}={value}" for name, value in answers.items()), cwd=folder)
    # The build compiles with the Python of that version which it finds first.
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "ARTIFACTS_DIR": str(package)}
    _output("make", "build-StreamFunction", cwd=folder / "measured", **variables)
    return package


def _output(*command: str, cwd: Path, **variables: str) -> str:
    """Run a command, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command[:6])} exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


@contextmanager
def _bedrock() -> Iterator[dict[str, str]]:
    """Run Bedrock on localhost in a process of its own, and yield the function's variables for it."""
    command = [sys.executable, "-c", _SERVE, str(_BEDROCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.communicate()  # closes its input, which ends it


def _measure(
    example: str, packages: dict[str, Path], python: Path, bedrock: dict[str, str], rounds: int
) -> dict[str, list[Taken]]:
    """Start the packages in turns."""
    if example == "mcp":
        event = json.loads((_PROJECT / "examples" / "mcp" / "events" / "tools-call.json").read_bytes())
    else:
        event = _CHAT
    taken: dict[str, list[Taken]] = {name: [] for name in packages}
    for round_ in range(rounds + 1):
        for name, package in packages.items():
            once = _first_answer(package, python, bedrock, json.dumps(event).encode(), EXAMPLES[example].encode())
            if round_:  # the first round fills the system's file cache
                taken[name].append(once)
    return taken


def _first_answer(package: Path, python: Path, bedrock: dict[str, str], event: bytes, answer: bytes) -> Taken:
    """Start a function, and return what it took until the first piece with `answer` arrived."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        environment = {
            **bedrock,
            "PATH": os.environ["PATH"],
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "HOME": "/tmp",
            "PYTHONDONTWRITEBYTECODE": "1",
            "STREAMING_RUNTIME_PYTHON": str(python),
            "PYTHON": str(python),  # for a runtime from before that variable, with --against
            "LAMBDA_TASK_ROOT": str(package),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{listener.getsockname()[1]}",
            "AWS_LAMBDA_FUNCTION_NAME": "measured",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "_HANDLER": "app.handler",
        }
        use_processor(1)  # which the new process inherits
        started = time.perf_counter()
        process = subprocess.Popen(
            [package / "bootstrap"],
            cwd=package,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        use_processor(0)
        stack.callback(end, process)
        received = b""
        connections: list[socket.socket] = []
        while answer not in received:
            ready, _, _ = select.select([listener, *connections], [], [], _PATIENCE)
            if not ready:
                raise Failed(f"{package}: no answer within {_PATIENCE} seconds, but {received[-2000:]!r}")
            for each in ready:
                if each is listener:
                    connections.append(stack.enter_context(listener.accept()[0]))
                    continue
                data = each.recv(65536)
                if not data:
                    connections.remove(each)
                elif data.startswith(b"GET "):
                    each.sendall(_invocation(event))
                else:
                    if b"/error HTTP/1.1" in data:
                        raise Failed(f"{package}: {data.decode('latin-1')}")
                    if b"100-continue" in data:
                        each.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    received += data
        passed = time.perf_counter() - started
        return Taken(passed * 1000, _processor(process.pid))


def _invocation(event: bytes) -> bytes:
    lines = (
        "HTTP/1.1 200 OK",
        "Content-Type: application/json",
        f"Content-Length: {len(event)}",
        "Lambda-Runtime-Aws-Request-Id: 1",
        f"Lambda-Runtime-Deadline-Ms: {int(time.time() + 2 * _PATIENCE) * 1000}",
        "Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:123456789012:function:measured",
        "\r\n",
    )
    return "\r\n".join(lines).encode() + event


def _processor(pid: int) -> float | None:
    """Return the processor time of a process in milliseconds."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6
    except FileNotFoundError:
        return None


def summary(example: str, taken: dict[str, list[Taken]]) -> str:
    """Return the medians of an example, and their ratios to those of the other clone."""
    parts = [f"{example:8}"]
    for what, values in (
        ("first byte", {name: [once.passed for once in series] for name, series in taken.items()}),
        ("processor", {name: _known([once.processor for once in series]) for name, series in taken.items()}),
    ):
        if not all(values.values()):
            continue
        medians = {name: median(series) for name, series in values.items()}
        part = f"{what} {medians[_OURS]:,.0f} ms"
        if _AGAINST in medians:
            part += f", against {medians[_AGAINST]:,.0f} ms, ratio {medians[_OURS] / medians[_AGAINST]:.2f}"
        parts.append(part)
    return "  ".join(parts)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


if __name__ == "__main__":
    sys.exit(main())
