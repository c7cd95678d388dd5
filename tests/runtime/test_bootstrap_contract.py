"""Contract C4: which interpreter `bootstrap` takes, what its first argument means, and its place in a Lambda layer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.sandbox import BOOTSTRAP, SOURCE, Sandbox
from tests.helpers.scripted_api import event

PYTHON = os.path.realpath(sys.executable)
VARIABLE = "STREAMING_RUNTIME_PYTHON"
HANDLER = """
    import os, sys
    def handler(event, context):
        return [os.environ.get("CHOSEN"), __name__]
    """


def interpreter(path: Path) -> Path:
    """An interpreter that tells its handler the name of the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexport CHOSEN="{path.parent.name}"\nexec "{PYTHON}" "$@"\n')
    path.chmod(0o755)
    return path


CHOICES: dict[str, tuple[dict[str, str | None], bytes]] = {
    "variable": ({VARIABLE: "{task}/named/python3"}, b'["named", "app"]'),
    "package": ({VARIABLE: None}, b'["bin", "app"]'),
    "empty variable": ({VARIABLE: ""}, b'["bin", "app"]'),
    "general variable": ({VARIABLE: None, "PYTHON": "{task}/named/python3"}, b'["bin", "app"]'),
    "missing general variable": ({VARIABLE: None, "PYTHON": "/no/such/python"}, b'["bin", "app"]'),
}


@pytest.mark.own_interpreter
@pytest.mark.parametrize(("variables", "body"), CHOICES.values(), ids=list(CHOICES))
def test_interpreter_choice(sandbox: Sandbox, variables: dict[str, str | None], body: bytes) -> None:
    package = Path(shutil.copytree(SOURCE, sandbox.task / "package"))
    interpreter(package / "python" / "bin" / "python3")
    interpreter(sandbox.task / "named" / "python3")
    environment = {name: value and value.format(task=sandbox.task) for name, value in variables.items()}
    ended = sandbox.run(HANDLER, event(), command=(str(package / "bootstrap"),), environment=environment)
    assert ended.bodies == [body]


@pytest.mark.own_interpreter
def test_interpreter_on_path(sandbox: Sandbox) -> None:
    folder = interpreter(sandbox.task / "on-path" / "python3").parent
    variables = {VARIABLE: None, "PYTHON": "/no/such/python", "PATH": f"{folder}:{os.defpath}"}
    assert sandbox.run(HANDLER, event(), environment=variables).bodies == [b'["on-path", "app"]']


@pytest.mark.parametrize("name", ["python3.handler", "bin/python3.handler"])
def test_first_argument_as_handler(sandbox: Sandbox, name: str) -> None:
    """Only an absolute path is an interpreter, whatever follows it."""
    module = sandbox.task / f"{name.rpartition('.')[0]}.py"
    module.parent.mkdir(exist_ok=True)
    module.write_text("def handler(e, c):\n    return __name__\n")
    ended = sandbox.run("", event(), command=(BOOTSTRAP, name, "/var/runtime/bootstrap.py"))
    assert ended.bodies == [f'"{name.rpartition(".")[0].replace("/", ".")}"'.encode()]


@pytest.mark.own_interpreter
def test_first_argument_as_interpreter(sandbox: Sandbox) -> None:
    chosen = interpreter(sandbox.task / "wrapped" / "python3")
    ended = sandbox.run(HANDLER, event(), command=(BOOTSTRAP, str(chosen), "/var/runtime/bootstrap.py"))
    assert ended.bodies == [b'["wrapped", "app"]']


@pytest.mark.parametrize("named", ["python3", "folder/python3", "./folder/python3"])
@pytest.mark.own_interpreter
def test_wrapper_gets_absolute_interpreter(sandbox: Sandbox, named: str) -> None:
    folder = interpreter(sandbox.task / "folder" / "python3").parent
    variables = {"STREAMING_RUNTIME_EXEC_WRAPPER": BOOTSTRAP, VARIABLE: named, "PATH": f"{folder}:{os.defpath}"}
    assert sandbox.run(HANDLER, event(), environment=variables).bodies == [b'["folder", "app"]']


LAYER_STARTS: dict[str, tuple[str, ...]] = {
    "custom runtime": (),
    "emulator": ("app.handler",),
    "exec wrapper": (PYTHON, "/var/runtime/bootstrap.py"),
}


def layer(task: Path) -> Path:
    """The folder `runtime` as a layer: Lambda extracts its content into /opt."""
    opt = task / "opt"
    # Only projects with url_auth=jwt have front_door.
    shutil.copytree(SOURCE, opt, ignore=shutil.ignore_patterns("__pycache__", "front_door"))
    return opt


@pytest.mark.parametrize("arguments", LAYER_STARTS.values(), ids=list(LAYER_STARTS))
def test_layer(sandbox: Sandbox, arguments: tuple[str, ...]) -> None:
    opt = layer(sandbox.task)
    assert {path.name for path in opt.iterdir()} == {"bootstrap", "streaming_runtime"}
    code = """
        import streaming_runtime, helper
        from streaming_runtime import StreamingResponse
        def handler(event, context):
            return StreamingResponse([*streaming_runtime.__path__, " ", helper.NAME], media_type="text/plain")
        """
    (sandbox.task / "helper.py").write_text("NAME = 'beside the handler'\n")
    ended = sandbox.run(code, event(), command=(str(opt / "bootstrap"), *arguments))
    assert ended.bodies[0].endswith(f"{opt}/streaming_runtime beside the handler".encode())


def _private_mounts() -> bool:
    command = ("unshare", "--mount", "true")
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@pytest.mark.own_interpreter
@pytest.mark.skipif(not _private_mounts(), reason="needs a mount namespace of its own to put the layer at /opt")
def test_layer_at_opt(sandbox: Sandbox) -> None:
    """The very paths of Lambda: /opt/bootstrap and /opt/streaming_runtime."""
    opt = layer(sandbox.task)
    python = Path(PYTHON)
    if python.is_relative_to("/opt"):
        pytest.skip("the interpreter itself lies at /opt")
    code = """
        import streaming_runtime
        def handler(event, context):
            return [*streaming_runtime.__path__]
        """
    script = 'mount --bind "$1" /opt && exec /opt/bootstrap'
    command = ("unshare", "--mount", "sh", "-c", script, "sh", str(opt))
    variables = {"PATH": f"{os.defpath}:/usr/sbin:/sbin", VARIABLE: PYTHON}
    ended = sandbox.run(code, event(), command=command, environment=variables)
    assert ended.bodies == [b'["/opt/streaming_runtime"]'], ended.errors
