"""What all tests use: commands as a user runs them, and answers to start from."""

import fcntl
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# The version of the interpreter that runs the tests, and Lambda's name of this machine's architecture.
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
OWN_ARCHITECTURE = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
OPTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
Answers = dict[str, Any]
Bake = Callable[..., Path]


def user_environment(**more: str) -> dict[str, str]:
    """The environment of a user's shell with this repository's tools on its PATH."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "PYTEST_", "AWS_LAMBDA_", "COVERAGE_")) and name != "VIRTUAL_ENV"
    }
    tools = str(Path(sys.executable).parent)
    return {**inherited, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SAM_CLI_TELEMETRY": "0", **more}


def run(
    *command: str | Path, cwd: Path, check: bool = True, answers: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with `answers` as its input; fail with its whole output unless it succeeds or `check` is off."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=user_environment(**more),
        input=answers,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=280,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(f"{command} in {cwd} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def environment(group: str) -> Path:
    """Install a dependency group that conflicts with the SAM CLI into `build/<group>`, and return its `bin` folder."""
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build" / f"{group}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ("uv", "sync", "--quiet", "--locked", "--compile-bytecode", "--only-group", group)
        run(*command, cwd=ROOT, UV_PROJECT_ENVIRONMENT=f"build/{group}")
    return ROOT / "build" / group / "bin"


def path_for(project: Path) -> str:
    """Return a `PATH` whose first Python has the requirements of a project: ours cannot have those of Strands."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if "strands-agents" in (project / "src" / "requirements.txt").read_text(encoding="utf-8"):
        folders.insert(0, str(environment("clients")))
    return os.pathsep.join(folders)


def pytest_of(project: Path, *arguments: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a project's tests as the project would: without other plugins of this environment, which need seconds."""
    command = ("python", "-m", "pytest", "-p", "no:cacheprovider", *arguments)
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": path_for(project), **more}
    return run(*command, cwd=project, check=check, answers="", **own)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that are currently free."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def source_files() -> list[str]:
    """The files of this repository that git tracks or would track, without those that it ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    return sorted({path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()})


def copy_sources(folder: Path) -> Path:
    """Copy this repository as a clone would have it, without the caches that tools leave in a working tree."""
    for path in source_files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """The content of a project's files by path, without git's own files."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def defaults() -> Answers:
    """The answers of a user who only presses Enter."""
    answers = {
        option: value[0] if isinstance(value, list) else value
        for option, value in OPTIONS.items()
        if not option.startswith("_")
    }
    return {**answers, "project_slug": "lambda-stream"}


def for_own_python(project: Path) -> Path:
    """Change a project to the Python version that runs the tests, for a managed and for a bundled interpreter."""
    template = project / "template.yaml"
    text = re.sub(r"Runtime: python3\.\d+", f"Runtime: python{OWN_PYTHON}", template.read_text(encoding="utf-8"))
    text = re.sub(r'PythonVersion: ".+"', f'PythonVersion: "{platform.python_version()}"', text)
    template.write_text(text, encoding="utf-8")
    return project


def relocatable_python(folder: Path) -> Path:
    """Lay out the interpreter that runs the tests as python-build-standalone does, with some files to be removed."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = Path(sys.base_prefix)
    (folder / "bin").mkdir(parents=True)
    shutil.copy(home / "bin" / version, folder / "bin")
    (folder / "bin" / "python3").symlink_to(version)
    left = shutil.ignore_patterns("__pycache__", "test", "idlelib", "config-*", "site-packages", "dist-packages")
    shutil.copytree(home / "lib" / version, folder / "lib" / version, ignore=left)
    for library in (home / "lib").glob(f"lib{version}.so.1.0"):
        shutil.copy(library, folder / "lib")
        (folder / "lib" / f"lib{version}.so").symlink_to(library.name)
    for path in (
        *(
            "bin/pip3",
            "include/Python.h",
            "share/man/man1/python3.1",
            "share/terminfo/x/xterm",
            "lib/pkgconfig/python.pc",
        ),
        *(
            f"lib/lib{version}.a",
            "lib/libtcl9.0.so",
            "lib/libtk9.0.so",
            "lib/tcl9.0/init.tcl",
            "lib/pkgconfig/python.pc",
        ),
        *(f"lib/{version}/{name}" for name in ("EXTERNALLY-MANAGED", "test/regrtest.py", "config-3/python.o")),
        *(f"lib/{version}/{name}" for name in ("idlelib/idle.py", "site-packages/pip/__init__.py")),
        *(f"lib/{version}/lib-dynload/{name}.so" for name in ("_tkinter", "_testcapi", "xxlimited")),
        f"lib/{version}/__pycache__/os.{sys.implementation.cache_tag}.pyc",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder
