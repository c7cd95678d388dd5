"""`runtime/bootstrap` under Lambda's own Runtime Interface Emulator, which comes with the SAM CLI."""

import http.client
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import samcli
from tests.helpers.support import Bake, free_ports, run, user_environment

MACHINE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
EMULATOR = Path(samcli.__file__).parent / "local" / "rapid" / f"aws-lambda-rie-{MACHINE}"
Emulate = Callable[..., "Emulator"]

FAILING = """
def handler(event, context):
    if event["fail"] == "late":
        yield b"begun"
    raise KeyError("planned")
"""


class Emulator:
    """The emulator as a client sees it."""

    def __init__(self, has_ended: Callable[[], bool], port: int) -> None:
        self._has_ended = has_ended
        self._port = port

    def invoke(self, event: object) -> tuple[int, bytes]:
        """Return status and body of an invocation; wait until the emulator is up."""
        while True:
            with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
                try:
                    connection.request("POST", "/2015-03-31/functions/function/invocations", json.dumps(event))
                except ConnectionRefusedError:
                    assert not self._has_ended(), "the emulator has ended"
                    continue
                response = connection.getresponse()
                return response.status, response.read()


@pytest.fixture
def emulate() -> Iterator[Emulate]:
    """Return a function that starts the emulator with a command to run as the runtime; end all of them."""
    with ExitStack() as stack:

        def start(*command: str | Path, **environment: str) -> Emulator:
            invoke_port, api_port = free_ports(2)
            process = subprocess.Popen(
                [
                    *(EMULATOR, "--runtime-interface-emulator-address", f"127.0.0.1:{invoke_port}"),
                    *("--runtime-api-address", f"127.0.0.1:{api_port}", *command),
                ],
                env=user_environment(STREAM_INTERVAL="0", **environment),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            return Emulator(lambda: process.poll() is not None, invoke_port)

        yield start


def assert_is_the_hello_stream(body: bytes) -> None:
    metadata, delimiter, payload = body.partition(bytes(8))
    headers = {"content-type": "text/plain; charset=utf-8"}
    assert json.loads(metadata) == {"statusCode": 200, "headers": headers, "cookies": []}
    assert delimiter
    assert [line.split()[0] for line in payload.decode().splitlines()] == [*map(str, range(1, 11)), "end"]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        pytest.param(["app.handler"], {}, id="entry point"),
        pytest.param([sys.executable, "/var/runtime/bootstrap.py"], {"_HANDLER": "app.handler"}, id="exec wrapper"),
    ],
)
def test_bootstrap_serves_invocations(
    arguments: list[str], environment: dict[str, str], project: Path, emulate: Emulate
) -> None:
    emulator = emulate(
        project / "runtime" / "bootstrap", *arguments, LAMBDA_TASK_ROOT=str(project / "src"), **environment
    )
    for event in sorted((project / "events").glob("*.json")):
        status, body = emulator.invoke(json.loads(event.read_text(encoding="utf-8")))
        assert status == 200
        assert_is_the_hello_stream(body)


@pytest.mark.parametrize("when", ["early", "late"])
def test_invocation_after_an_error(when: str, project: Path, emulate: Emulate, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    emulator = emulate(project / "runtime" / "bootstrap", "failing.handler", LAMBDA_TASK_ROOT=str(tmp_path))
    for _ in range(2):
        status, body = emulator.invoke({"fail": when})
        assert status == 200  # as Lambda's Invoke reports an error of the function
        if when == "late":
            assert body == b"begun"
        else:
            error = json.loads(body)
            assert (error["errorType"], error["errorMessage"]) == ("KeyError", "'planned'")


def test_long_error_after_first_byte(project: Path, emulate: Emulate, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("def handler(e, c):\n    yield b'begun'\n    raise ValueError('m' * 20_000)\n")
    emulator = emulate(project / "runtime" / "bootstrap", "failing.handler", LAMBDA_TASK_ROOT=str(tmp_path))
    for _ in range(2):
        assert emulator.invoke({}) == (200, b"begun")


@pytest.mark.slow
def test_bundled_interpreter_runs(
    bake: Bake, emulate: Emulate, python_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = bake(runtime="provided.al2023") / "runtime"
    machine = MACHINE.replace("aarch64", "arm64")
    run(
        "sh",
        "../interpreter.sh",
        platform.python_version(),
        machine,
        "python",
        cwd=source,
        PYTHON_HOME=str(python_home),
    )
    (source / "where.py").write_text("import json, sys\nhandler = lambda e, c: [sys.executable, json.__file__]\n")
    monkeypatch.delenv("PYTHON", raising=False)
    emulator = emulate(source / "bootstrap", "where.handler", PATH="/no/such/folder:/usr/bin:/bin")
    status, body = emulator.invoke({})
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/json/__init__.py"
    assert (status, json.loads(body)) == (200, [str(source / "python" / path) for path in ("bin/python3", library)])
