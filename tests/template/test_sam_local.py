"""Every file of `events/` through `sam local invoke`, in Docker, for each way to ship a function; and each example.

Where the engine does not have AWS's images, stand-ins are built from this machine's Python and libraries.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.metadata import distribution
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.support import OWN_ARCHITECTURE, OWN_PYTHON, Bake, for_own_python, run

pytestmark = pytest.mark.slow

# How AWS's images of managed runtimes start: the wrapper gets the command that it replaces.
# https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
MANAGED_BOOTSTRAP = b"""#!/bin/sh
exec ${AWS_LAMBDA_EXEC_WRAPPER:?} /var/lang/bin/python3 /var/runtime/bootstrap.py
"""
TOOLS = ("sh", "readlink", "rm", "cp", "chmod", "mv", "mkdir", "ls")
# What compiled packages expect on manylinux and Amazon Linux.
ALWAYS_THERE = ("libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6")
HELLO = [*map(str, range(1, 11)), "end"]

ProvideImage = Callable[..., None]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Return the engine that SAM builds and runs with."""
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"`sam local invoke` requires a Docker engine: {error}")
    with closing(client):
        yield client


def linked(*programs: Path) -> set[Path]:
    """Return the libraries of this machine that these programs and libraries load."""
    # ldd fails for programs that are not dynamic.
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)}


def stand_in(archive: Path, python: Path | None) -> list[str]:
    """Write a stand-in for one of AWS's images; return its settings.

    It holds a shell, what SAM and the Dockerfile call, the libraries that this machine's Python and compiled packages
    need, and, if one is given, a Python where AWS has its own, with what starts it.
    """
    tools = [Path(shutil.which(tool) or tool) for tool in TOOLS]
    modules = Path(sys.base_prefix, "lib", f"python{OWN_PYTHON}", "lib-dynload").glob("*.so")
    settings = ["ENV PATH=/var/lang/bin:/usr/bin:/bin LAMBDA_TASK_ROOT=/var/task"]
    libraries = linked(*tools, Path(sys.base_prefix, "bin", f"python{OWN_PYTHON}"), *modules)
    [c_library] = [path for path in libraries if path.name == "libc.so.6"]
    libraries |= {path for name in ALWAYS_THERE if (path := c_library.with_name(name)).exists()}
    with tarfile.open(archive, "w") as tar:
        for path in libraries:
            tar.add(path.resolve(), str(path))
        for tool in tools:
            tar.add(tool.resolve(), f"bin/{tool.name}")
        for folder in ("tmp", "var/task", "var/runtime"):
            tar.add(archive.parent, folder, recursive=False)
        if python is not None:
            tar.add(python, "var/lang")
            # pip from .venv, because some Pythons, such as Debian's, have none.
            tar.add(str(distribution("pip").locate_file("pip")), "opt/pip/pip")
            settings.append("ENV PYTHONPATH=/opt/pip")
            bootstrap = tarfile.TarInfo("var/runtime/bootstrap")
            bootstrap.size, bootstrap.mode = len(MANAGED_BOOTSTRAP), 0o755
            tar.addfile(bootstrap, BytesIO(MANAGED_BOOTSTRAP))
    return settings


@pytest.fixture
def provide_image(engine: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvideImage]:
    """Return a function that provides AWS's image of a name: the engine's own, or else a temporary stand-in.

    From then on the engine is that test's alone, since others would use and remove images of the same names.
    """
    import docker

    with ExitStack() as stack:

        def provide(name: str, python: Path | None = None) -> None:
            # The folder that all processes of a run share.
            turn = stack.enter_context((tmp_path_factory.getbasetemp().parent / "engine.lock").open("w"))
            fcntl.flock(turn, fcntl.LOCK_EX)
            try:
                engine.images.get(name)
            except docker.errors.ImageNotFound:
                archive = tmp_path / "base.tar"
                settings = stand_in(archive, python)
                repository, _, tag = name.rpartition(":")
                engine.api.import_image_from_file(str(archive), repository, tag, settings)
                stack.callback(engine.images.remove, name, force=True)

        yield provide


def set_variables(project: Path, **variables: str) -> Path:
    """Add variables to the template, since SAM passes no others to the function; return the project."""
    template = project / "template.yaml"
    text = template.read_text(encoding="utf-8")
    if "        Variables:\n" not in text:
        text = text.replace("      Tracing:", "      Environment:\n        Variables:\n      Tracing:")
    lines = "".join(f'          {name}: "{value}"\n' for name, value in variables.items())
    template.write_text(text.replace("        Variables:\n", f"        Variables:\n{lines}"), encoding="utf-8")
    return project


def invoke(project: Path, event: Path) -> tuple[Any, str]:
    """Return HTTP metadata and body of the response to an event."""
    command = ("sam", "local", "invoke", "StreamFunction", "--skip-pull-image", "--event", event)
    metadata, delimiter, body = run(*command, cwd=project).stdout.partition("\0" * 8)
    assert delimiter, f"{event}: {metadata}"
    return json.loads(metadata), body


def remove_rapid_image(engine: Any, image: str) -> None:
    """Remove the image that SAM derived from an image to invoke functions."""
    repository, _, tag = image.rpartition(":")
    made_of = tag.removesuffix("latest").removesuffix(OWN_ARCHITECTURE)
    engine.images.remove(f"{repository}:{made_of}rapid-{OWN_ARCHITECTURE}", force=True)


def invoke_each_event(project: Path, engine: Any, image: str) -> dict[str, tuple[Any, str]]:
    """Return HTTP metadata and body for each event; remove the image that SAM derives from `image`."""
    answers = {event.stem: invoke(project, event) for event in sorted((project / "events").glob("*.json"))}
    remove_rapid_image(engine, image)
    return answers


def assert_all_are_the_hello_stream(answers: dict[str, tuple[Any, str]]) -> None:
    assert set(answers) == {"get", "post", "rest"}
    for metadata, body in answers.values():
        assert metadata == {"statusCode": 200, "headers": {"content-type": "text/plain; charset=utf-8"}, "cookies": []}
        assert [line.split()[0] for line in body.splitlines()] == HELLO


MANAGED = f"public.ecr.aws/lambda/python:{OWN_PYTHON}-{OWN_ARCHITECTURE}"
PROVIDED = f"public.ecr.aws/lambda/provided:al2023-{OWN_ARCHITECTURE}"


def test_managed_runtime_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    """The managed runtime starts the wrapper, which is the bootstrap."""
    project = for_own_python(bake(architecture=OWN_ARCHITECTURE, front_door="rest-api"))
    set_variables(project, STREAM_INTERVAL="0")
    run("sam", "build", cwd=project)
    provide_image(MANAGED, python_home)
    assert_all_are_the_hello_stream(invoke_each_event(project, engine, MANAGED))


# For each example: an event, and the media type and a part of the response to it.
OF_EXAMPLES = {
    "sse": ("resume", "text/event-stream", "event: "),
    "bedrock": ("chat", "text/event-stream", "stand-in"),
    "agent": ("chat", "text/event-stream", "stand-in"),
    "mcp": ("tools-call", "text/event-stream", '"structuredContent"'),
    "fastapi": ("get", "text/plain", " of 10"),
}


def test_example_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    """One test, because each would create the same images."""
    with ExitStack() as stack:
        for example, (event, media_type, words) in OF_EXAMPLES.items():
            # Compiled packages have to run in the stand-in. SAM provides credentials, with which it would call Bedrock.
            project = for_own_python(bake(architecture=OWN_ARCHITECTURE, example=example))
            set_variables(project, STREAM_INTERVAL="0", LOCAL_STANDIN="1")
            run("sam", "build", cwd=project)
            if example == next(iter(OF_EXAMPLES)):
                provide_image(MANAGED, python_home)
                stack.callback(remove_rapid_image, engine, MANAGED)
            metadata, body = invoke(project, project / "events" / f"{event}.json")
            assert metadata["statusCode"] == 200, example
            assert metadata["headers"]["content-type"].startswith(media_type), example
            assert words in body, example


def test_image_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    project = bake(runtime="container", architecture=OWN_ARCHITECTURE, front_door="rest-api")
    (project / "src" / "app.py").chmod(0o600)
    (project / "src" / "__pycache__").mkdir()
    (project / "src" / "__pycache__" / "stale.cpython-39.pyc").touch()
    set_variables(project, STREAM_INTERVAL="0")
    provide_image("public.ecr.aws/lambda/python:3.13", python_home)
    run("make", "build", cwd=project)
    show = "ls -l /var/task /var/task/__pycache__ /tmp"
    listed = engine.containers.run("streamfunction:latest", entrypoint=["sh", "-c", show], remove=True).decode()
    assert re.search(r"^-rw-r--r-- .* app\.py$", listed, re.MULTILINE)
    assert re.search(r"^-rwxr-xr-x .* bootstrap$", listed, re.MULTILINE)
    assert re.search(r"app\.cpython-3\d+\.pyc$", listed, re.MULTILINE)
    assert "stale" not in listed
    assert "requirements.txt" not in listed.partition("/var/task:")[2].partition("\n\n")[0]
    assert_all_are_the_hello_stream(invoke_each_event(project, engine, "streamfunction:latest"))
    engine.images.remove("streamfunction:latest", force=True)


def test_bundled_interpreter_events(bake: Bake, engine: Any, provide_image: ProvideImage, python_home: Path) -> None:
    project = for_own_python(bake(runtime="provided.al2023", architecture=OWN_ARCHITECTURE, front_door="rest-api"))
    set_variables(project, STREAM_INTERVAL="0")
    run("sam", "build", cwd=project, PYTHON_HOME=str(python_home), UV_OFFLINE="1")
    provide_image(PROVIDED)
    assert_all_are_the_hello_stream(invoke_each_event(project, engine, PROVIDED))
