"""The Docker engine, and stand-ins for AWS's images, built from this machine's Python and libraries."""

from __future__ import annotations

import fcntl
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
from tests.helpers.support import OWN_ARCHITECTURE, OWN_PYTHON

MANAGED = f"public.ecr.aws/lambda/python:{OWN_PYTHON}-{OWN_ARCHITECTURE}"
PROVIDED = f"public.ecr.aws/lambda/provided:al2023-{OWN_ARCHITECTURE}"
# How AWS's images of managed runtimes start: the wrapper gets the command that it replaces.
# https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html#runtime-wrapper
MANAGED_BOOTSTRAP = b"""#!/bin/sh
exec ${AWS_LAMBDA_EXEC_WRAPPER:?} /var/lang/bin/python3 /var/runtime/bootstrap.py
"""
TOOLS = ("sh", "readlink", "rm", "cp", "chmod", "mv", "mkdir", "ls")
# What compiled packages expect on manylinux and Amazon Linux.
ALWAYS_THERE = ("libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6")
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


def stand_in(archive: Path, python: Path | None, wheels: Path | None) -> list[str]:
    """Write a stand-in for one of AWS's images; return its settings.

    It holds a shell, what SAM and the Dockerfile call, the libraries that this machine's Python and compiled packages
    need, and, if one is given, a Python where AWS has its own, with what starts it. Its pip installs from a folder of
    wheels, if there is one, because the engine's containers may have no network.
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
            if wheels is not None:
                tar.add(wheels, "opt/wheels")
                settings.append("ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels")
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

        def provide(name: str, python: Path | None = None, wheels: Path | None = None) -> None:
            # The folder that all processes of a run share.
            turn = stack.enter_context((tmp_path_factory.getbasetemp().parent / "engine.lock").open("w"))
            fcntl.flock(turn, fcntl.LOCK_EX)
            try:
                engine.images.get(name)
            except docker.errors.ImageNotFound:
                archive = tmp_path / "base.tar"
                settings = stand_in(archive, python, wheels)
                repository, _, tag = name.rpartition(":")
                engine.api.import_image_from_file(str(archive), repository, tag, settings)
                stack.callback(engine.images.remove, name, force=True)

        yield provide


def remove_rapid_image(engine: Any, image: str) -> None:
    """Remove the image that SAM derived from an image to invoke functions."""
    repository, _, tag = image.rpartition(":")
    made_of = tag.removesuffix("latest").removesuffix(OWN_ARCHITECTURE)
    engine.images.remove(f"{repository}:{made_of}rapid-{OWN_ARCHITECTURE}", force=True)
