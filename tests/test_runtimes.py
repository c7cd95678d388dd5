"""The ways to ship a function: the interpreter that goes along with provided.al2023, and the image."""

import hashlib
import json
import platform
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hooks.pre_gen_project import CHOICES
from tests.rendering import load_yaml
from tests.support import TEMPLATE, Bake, run

RELEASE = platform.python_version()
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
# Lambda's name of an architecture, that of Linux, and the number that ELF files have for it.
MACHINES = {"arm64": ("aarch64", 0xB7), "x86_64": ("x86_64", 0x3E)}
OWN = next(name for name, (machine, _) in MACHINES.items() if platform.machine() in (name, machine))
OTHER = next(name for name in MACHINES if name != OWN)
SCRIPT = TEMPLATE / "interpreter.sh"


def elf(architecture: str) -> bytes:
    """As many bytes of a program as say which machine it is for."""
    header = bytearray(b"\x7fELF\x02\x01\x01".ljust(20, b"\0"))
    header[18] = MACHINES[architecture][1]
    return bytes(header)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What looks like Python 3.13 for the architecture that this machine does not have."""
    library = tmp_path / "home" / "lib" / "python3.13"
    library.mkdir(parents=True)
    (library / "os.py").touch()
    (tmp_path / "home" / "bin").mkdir()
    (tmp_path / "home" / "bin" / "python3").write_bytes(elf(OTHER))
    return tmp_path / "home"


def put(
    home: Path | str, cwd: Path, release: str = "3.13.18", architecture: str = OTHER, **more: str
) -> subprocess.CompletedProcess[str]:
    command = ("sh", SCRIPT, release, architecture, "package/python")
    return run(*command, cwd=cwd, check=False, PYTHON_HOME=str(home), **more)


def python_version_of(project: Path) -> str:
    template = load_yaml((project / "template.yaml").read_text(encoding="utf-8"))
    return str(template["Resources"]["StreamFunction"]["Metadata"]["PythonVersion"])


@pytest.mark.slow
def test_the_pinned_releases_are_known_to_uv_for_both_architectures(bake: Bake, tmp_path: Path) -> None:
    command = ("uv", "python", "list", "--all-versions", "--all-arches", "--only-downloads", "--output-format", "json")
    known = {download["key"] for download in json.loads(run(*command, cwd=tmp_path).stdout)}
    for python_version in CHOICES["python_version"]:
        pinned = python_version_of(bake(runtime="provided.al2023", python_version=python_version))
        assert pinned.startswith(f"{python_version}.")
        assert {f"cpython-{pinned}-linux-{machine}-gnu" for machine, _ in MACHINES.values()} <= known


@pytest.mark.parametrize("runtime", CHOICES["runtime"])
def test_only_a_project_of_its_own_kind_has_its_files(runtime: str, bake: Bake) -> None:
    found = {path.name for path in bake(runtime=runtime).iterdir()}
    assert ("interpreter.sh" in found) == (runtime == "provided.al2023")
    assert ({"Dockerfile", ".dockerignore"} <= found) == (runtime == "container")
    assert "examples" not in found


def test_an_interpreter_that_cannot_run_here_is_taken_by_its_files(home: Path, tmp_path: Path) -> None:
    done = put(home, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The interpreter was not tried out, since this machine cannot run it.\n"
    assert (tmp_path / "package" / "python" / "bin" / "python3").read_bytes() == elf(OTHER)


def test_without_a_network_and_without_a_home_both_remedies_are_named(tmp_path: Path) -> None:
    done = put("", tmp_path, UV_OFFLINE="1", UV_PYTHON_DOWNLOADS_JSON_URL="")
    assert done.returncode == 1
    assert "github.com" in done.stderr.partition("There is no Python")[0]  # uv's own reason
    assert f"There is no Python 3.13.18 for {OTHER}: uv could not download it" in done.stderr
    assert "with a network that reaches github.com, or a mirror that UV_PYTHON_INSTALL_MIRROR names" in done.stderr
    assert "Or set PYTHON_HOME to a folder that holds bin/python3 and lib/python3.13: a relocatable" in done.stderr
    assert not (tmp_path / "package").exists()


def test_a_home_that_does_not_suit_is_refused(home: Path, tmp_path: Path) -> None:
    python = home / "bin" / "python3"
    assert f"{home} is no Python 3.12, which template.yaml asks for" in put(home, tmp_path, "3.12.16").stderr
    refused = put(home, tmp_path, architecture=OWN)
    assert refused.returncode == 1
    assert f"{python} is no program for Linux on {OWN}, which template.yaml asks for" in refused.stderr
    python.write_text("#!/bin/sh\nexec python3.13\n")
    assert f"{python} is no program for Linux on {OTHER}" in put(home, tmp_path).stderr
    python.unlink()
    assert f"PYTHON_HOME: there is no {python}" in put(home, tmp_path).stderr
    assert "it must be a release, such as 3.13.18" in put(home, tmp_path, "3.13").stderr
    assert "'riscv64' is neither" in put(home, tmp_path, architecture="riscv64").stderr
    assert not (tmp_path / "package").exists()


@pytest.mark.slow
def test_a_home_that_is_not_relocatable_is_refused(python_home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "home"
    run("cp", "-R", python_home, broken, cwd=tmp_path)
    (broken / "lib" / f"python{VERSION}" / "encodings" / "__init__.py").unlink()
    done = put(broken, tmp_path, RELEASE, OWN)
    assert done.returncode == 1
    assert f"PYTHON_HOME: {broken} is not relocatable: a copy of it answers '" in done.stderr
    assert "encoding" in done.stderr  # what is missing, as Python says it


def test_a_home_that_lacks_a_library_is_refused(home: Path, tmp_path: Path) -> None:
    """A program of this machine whose name of the C library is changed, so that the loader does not find it."""
    program = Path(shutil.which("cat") or "cat").read_bytes()
    (home / "bin" / "python3").write_bytes(program.replace(b"libc.so.6", b"libc.so.x"))
    (home / "bin" / "python3").chmod(0o755)
    done = put(home, tmp_path, architecture=OWN)
    assert done.returncode == 1
    assert f"PYTHON_HOME: {home} lacks a library: " in done.stderr
    assert "libc.so.x" in done.stderr


@pytest.fixture(scope="module")
def downloads(python_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What uv may download, as python-build-standalone offers it: this interpreter, for either architecture."""
    folder = tmp_path_factory.mktemp("downloads")
    offered = {}

    for architecture, (machine, _) in MACHINES.items():
        archive = folder / f"cpython-{machine}.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            if architecture == OWN:
                tar.add(python_home, "python")
            else:
                fake = folder / "python"
                run("cp", "-R", python_home, fake, cwd=folder)
                (fake / "bin" / f"python{VERSION}").write_bytes(elf(architecture))
                tar.add(fake, "python")
        offered[f"cpython-{RELEASE}-linux-{machine}-gnu"] = {
            "name": "cpython",
            "arch": {"family": machine, "variant": None},
            "os": "linux",
            "libc": "gnu",
            **dict(zip(("major", "minor", "patch"), sys.version_info, strict=False)),
            "prerelease": "",
            "url": archive.as_uri(),
            "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "variant": None,
            "build": "20261110",
        }
    (folder / "downloads.json").write_text(json.dumps(offered), encoding="utf-8")
    return folder / "downloads.json"


def project_of(bake: Bake, architecture: str) -> Path:
    """A project with an interpreter of its own: this one."""
    project = bake(runtime="provided.al2023", architecture=architecture)
    template = project / "template.yaml"
    text = template.read_text(encoding="utf-8").replace(python_version_of(project), RELEASE)
    template.write_text(text, encoding="utf-8")
    return project


def assert_compiled(artifact: Path) -> None:
    for source in artifact.rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        # Byte 4 holds the flags of PEP 552: compiled from a hash (1) that is not checked (no 2).
        assert compiled.read_bytes()[4] == 1, source
    assert b"/var/task/app.py" in next((artifact / "__pycache__").glob("app.*.pyc")).read_bytes()


@pytest.mark.slow
def test_a_build_downloads_the_interpreter_once_and_it_serves(bake: Bake, downloads: Path) -> None:
    project = project_of(bake, OWN)
    (project / "src" / "app.py").chmod(0o600)  # as a strict umask leaves it
    done = run("make", "build", cwd=project, UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads))
    artifact = project / ".aws-sam" / "build" / "StreamFunction"
    assert_compiled(artifact)
    assert stat.S_IMODE((artifact / "app.py").stat().st_mode) == 0o644
    found = {str(path.relative_to(artifact / "python")) for path in (artifact / "python").rglob("*") if path.is_file()}
    outside = {path for path in found if not path.startswith(f"lib/python{VERSION}/")}
    assert outside - {f"lib/libpython{VERSION}.so.1.0"} == {"bin/python3"}
    of_library = "test/|idlelib|ensurepip|tkinter|turtle|site-packages|config-|EXTERNALLY-MANAGED"
    unwanted = rf"lib/python{VERSION}/({of_library}|lib-dynload/(_tkinter|_test|xx))"
    assert [path for path in found if re.match(unwanted, path)] == []
    # SAM's archive knows no links.
    assert [path for path in artifact.rglob("*") if path.is_symlink()] == []

    size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file()) // 1000
    with zipfile.ZipFile(project / ".aws-sam" / "build" / "StreamFunction.zip") as archive:
        assert "bootstrap" in archive.namelist()
        zipped = Path(str(archive.filename)).stat().st_size // 1000
    assert done.stdout.endswith(f"The package: {size} KB, zipped {zipped} KB\n")

    probe = ("python", "-m", "local.probe", "--expect-streaming", "--serve", ".aws-sam/build/template.yaml")
    probed = run(*probe, cwd=project, STREAM_INTERVAL="0.05")
    assert len([line for line in probed.stdout.splitlines() if " of 10, " in line]) == 10

    again = ("sh", "interpreter.sh", RELEASE, OWN, "again/python")
    run(*again, cwd=project, UV_OFFLINE="1", UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads))


@pytest.mark.slow
def test_a_build_for_the_other_architecture_holds_its_interpreter(bake: Bake, downloads: Path) -> None:
    project = project_of(bake, OTHER)
    done = run("sam", "build", cwd=project, UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads))
    artifact = project / ".aws-sam" / "build" / "StreamFunction"
    assert "The interpreter was not tried out, since this machine cannot run it." in done.stderr
    assert (artifact / "python" / "bin" / "python3").read_bytes() == elf(OTHER)
    assert_compiled(artifact)  # by this machine's interpreter of the same version


@pytest.mark.slow
def test_a_build_without_network_and_home_fails_and_says_so(bake: Bake) -> None:
    done = run("sam", "build", cwd=bake(runtime="provided.al2023"), check=False, UV_OFFLINE="1", PYTHON_HOME="")
    assert done.returncode == 1
    assert "There is no Python 3.13.18 for arm64: uv could not download it" in done.stderr


@pytest.mark.slow
def test_an_image_without_an_engine_is_refused_with_what_it_takes(bake: Bake, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/docker.sock"
    done = run("make", "build", cwd=bake(runtime="container"), check=False, DOCKER_HOST=nowhere)
    assert done.returncode == 2
    assert "requires a container runtime. Do you have Docker or Finch installed and running?" in done.stderr


def test_a_container_projects_function_is_served_from_its_sources(bake: Bake) -> None:
    project = bake(runtime="container")
    invoked = run("python", "-m", "local", "--event", "events/get.json", cwd=project, STREAM_INTERVAL="0")
    assert [line.split()[0] for line in invoked.stdout.splitlines()] == [*map(str, range(1, 11)), "end"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """The engine that SAM builds and runs with."""
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"there is no Docker engine: {error}")
    with closing(client):
        yield client


def linked(*programs: Path) -> set[Path]:
    """The libraries of this machine that these programs and libraries load."""
    # It fails for what is no dynamic program.
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)}


@contextmanager
def base_image(engine: Any, name: str, folder: Path, python: Path | None = None) -> Iterator[None]:
    """Sees to AWS's image of this name: the one that the engine has, else what is like it for our purpose.

    The likeness holds a shell, what SAM and the Dockerfile call, the libraries that this machine's Python needs, and,
    if one is given, a Python where AWS has its own.
    """
    import docker

    try:
        engine.images.get(name)
    except docker.errors.ImageNotFound:
        pass
    else:
        yield
        return
    tools = [Path(shutil.which(tool) or tool) for tool in ("sh", "readlink", "rm", "cp", "chmod", "mv", "mkdir", "ls")]
    modules = Path(sys.base_prefix, "lib", f"python{VERSION}", "lib-dynload").glob("*.so")
    changes = ["ENV PATH=/var/lang/bin:/usr/bin:/bin LAMBDA_TASK_ROOT=/var/task"]
    with tarfile.open(folder / "base.tar", "w") as tar:
        for path in linked(*tools, Path(sys.base_prefix, "bin", f"python{VERSION}"), *modules):
            tar.add(path.resolve(), str(path))
        for tool in tools:
            tar.add(tool.resolve(), f"bin/{tool.name}")
        for each in ("tmp", "var/task", "var/runtime"):
            tar.add(folder, each, recursive=False)
        if python is not None:
            tar.add(python, "var/lang")
            [pip] = python.glob("lib/python3*/ensurepip/_bundled/pip-*.whl")
            changes.append(f"ENV PYTHONPATH=/var/lang/{pip.relative_to(python)}")
    repository, _, tag = name.rpartition(":")
    engine.api.import_image_from_file(str(folder / "base.tar"), repository, tag, changes)
    try:
        yield
    finally:
        engine.images.remove(name, force=True)


def assert_streams_in_docker(project: Path, engine: Any, image: str) -> None:
    """Invokes it as a user does, and removes the image that SAM makes of `image` for that."""
    command = ("sam", "local", "invoke", "StreamFunction", "--skip-pull-image", "--event", "events/get.json")
    invoked = run(*command, cwd=project)
    repository, _, tag = image.rpartition(":")
    engine.images.remove(f"{repository}:{tag.removesuffix('latest').removesuffix(OWN)}rapid-{OWN}", force=True)
    metadata, _, payload = invoked.stdout.partition("\0" * 8)
    assert json.loads(metadata)["statusCode"] == 200
    assert [line.split()[0] for line in payload.splitlines()] == [*map(str, range(1, 11)), "end"]


@pytest.mark.slow
def test_an_image_is_built_and_streams(bake: Bake, engine: Any, python_home: Path, tmp_path: Path) -> None:
    project = bake(runtime="container", architecture=OWN)
    (project / "src" / "app.py").chmod(0o600)
    (project / "src" / "__pycache__").mkdir()
    (project / "src" / "__pycache__" / "stale.cpython-39.pyc").touch()
    with base_image(engine, "public.ecr.aws/lambda/python:3.13", tmp_path, python_home):
        run("make", "build", cwd=project)
        show = "ls -l /var/task /var/task/__pycache__ /tmp"
        listed = engine.containers.run("streamfunction:latest", entrypoint=["sh", "-c", show], remove=True).decode()
        assert re.search(r"^-rw-r--r-- .* app\.py$", listed, re.MULTILINE)
        assert re.search(r"^-rwxr-xr-x .* bootstrap$", listed, re.MULTILINE)
        assert re.search(r"app\.cpython-3\d+\.pyc$", listed, re.MULTILINE)
        assert "stale" not in listed
        assert "requirements.txt" not in listed.partition("/var/task:")[2].partition("\n\n")[0]
        assert_streams_in_docker(project, engine, "streamfunction:latest")
        engine.images.remove("streamfunction:latest", force=True)


@pytest.mark.slow
def test_a_package_with_its_interpreter_streams_where_there_is_no_python(
    bake: Bake, engine: Any, python_home: Path, tmp_path: Path
) -> None:
    project = project_of(bake, OWN)
    run("sam", "build", cwd=project, PYTHON_HOME=str(python_home), UV_OFFLINE="1")
    image = f"public.ecr.aws/lambda/provided:al2023-{OWN}"
    with base_image(engine, image, tmp_path):
        assert_streams_in_docker(project, engine, image)
