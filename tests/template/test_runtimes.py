"""The ways to package a function: the build of each, and above all the bundled interpreter."""

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
from pathlib import Path

import pytest
from hooks.pre_gen_project import CHOICES
from tests.helpers.rendering import load_yaml
from tests.helpers.support import OWN_ARCHITECTURE, OWN_PYTHON, TEMPLATE, Bake, for_own_python, run

RELEASE = platform.python_version()
# Lambda's name of an architecture, that of Linux, and the number that ELF files have for it.
MACHINES = {"arm64": ("aarch64", 0xB7), "x86_64": ("x86_64", 0x3E)}
OTHER = next(name for name in MACHINES if name != OWN_ARCHITECTURE)
SCRIPT = TEMPLATE / "interpreter.sh"


def elf(architecture: str) -> bytes:
    """Return the first bytes of a program, which name its machine."""
    header = bytearray(b"\x7fELF\x02\x01\x01".ljust(20, b"\0"))
    header[18] = MACHINES[architecture][1]
    return bytes(header)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder that looks like Python 3.13 for the other architecture."""
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
def test_uv_knows_pinned_releases(bake: Bake, tmp_path: Path) -> None:
    command = ("uv", "python", "list", "--all-versions", "--all-arches", "--only-downloads", "--output-format", "json")
    known = {download["key"] for download in json.loads(run(*command, cwd=tmp_path).stdout)}
    for python_version in CHOICES["python_version"]:
        pinned = python_version_of(bake(runtime="provided.al2023", python_version=python_version))
        assert pinned.startswith(f"{python_version}.")
        assert {f"cpython-{pinned}-linux-{machine}-gnu" for machine, _ in MACHINES.values()} <= known


@pytest.mark.parametrize("runtime", CHOICES["runtime"])
def test_files_of_each_runtime(runtime: str, bake: Bake) -> None:
    found = {path.name for path in bake(runtime=runtime).iterdir()}
    assert ("interpreter.sh" in found) == (runtime == "provided.al2023")
    assert ({"Dockerfile", ".dockerignore"} <= found) == (runtime == "container")
    assert "examples" not in found


def test_foreign_interpreter_is_accepted(home: Path, tmp_path: Path) -> None:
    done = put(home, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The interpreter was not tested, because this machine cannot run it.\n"
    assert (tmp_path / "package" / "python" / "bin" / "python3").read_bytes() == elf(OTHER)


def test_no_network_and_no_home(tmp_path: Path) -> None:
    done = put("", tmp_path, UV_OFFLINE="1", UV_PYTHON_DOWNLOADS_JSON_URL="")
    assert done.returncode == 1
    assert "github.com" in done.stderr.partition("Python 3.13.18 for ")[0]  # uv's own reason
    assert f"Python 3.13.18 for {OTHER} is missing: uv could not download it" in done.stderr
    assert "Build with access to github.com or to the mirror that UV_PYTHON_INSTALL_MIRROR names" in done.stderr
    assert "Or set PYTHON_HOME to a folder with bin/python3 and lib/python3.13: a relocatable" in done.stderr
    assert not (tmp_path / "package").exists()


def test_unsuitable_home_is_refused(home: Path, tmp_path: Path) -> None:
    python = home / "bin" / "python3"
    assert f"{home} is not Python 3.12, which template.yaml requires" in put(home, tmp_path, "3.12.16").stderr
    refused = put(home, tmp_path, architecture=OWN_ARCHITECTURE)
    assert refused.returncode == 1
    assert f"{python} is not for Linux on {OWN_ARCHITECTURE}, which template.yaml requires" in refused.stderr
    python.write_text("#!/bin/sh\nexec python3.13\n")
    assert f"{python} is not for Linux on {OTHER}" in put(home, tmp_path).stderr
    python.unlink()
    assert f"PYTHON_HOME: {python} does not exist" in put(home, tmp_path).stderr
    assert "must be a release such as 3.13.18, got '3.13'" in put(home, tmp_path, "3.13").stderr
    assert "got 'riscv64'" in put(home, tmp_path, architecture="riscv64").stderr
    assert not (tmp_path / "package").exists()


@pytest.mark.slow
def test_fixed_home_is_refused(python_home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "home"
    run("cp", "-R", python_home, broken, cwd=tmp_path)
    (broken / "lib" / f"python{OWN_PYTHON}" / "encodings" / "__init__.py").unlink()
    done = put(broken, tmp_path, RELEASE, OWN_ARCHITECTURE)
    assert done.returncode == 1
    assert f"PYTHON_HOME: {broken} is not relocatable: a copy of it printed '" in done.stderr
    assert "encoding" in done.stderr  # Python names what is missing


def test_home_without_library_is_refused(home: Path, tmp_path: Path) -> None:
    """A program of this machine with a changed name of the C library, which the loader does not find."""
    program = Path(shutil.which("cat") or "cat").read_bytes()
    (home / "bin" / "python3").write_bytes(program.replace(b"libc.so.6", b"libc.so.x"))
    (home / "bin" / "python3").chmod(0o755)
    done = put(home, tmp_path, architecture=OWN_ARCHITECTURE)
    assert done.returncode == 1
    assert f"PYTHON_HOME: {home} lacks a library: " in done.stderr
    assert "libc.so.x" in done.stderr


@pytest.fixture(scope="module")
def downloads(python_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return uv's list of downloads: this interpreter in python-build-standalone's layout, for both architectures."""
    folder = tmp_path_factory.mktemp("downloads")
    offered = {}

    for architecture, (machine, _) in MACHINES.items():
        archive = folder / f"cpython-{machine}.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            if architecture == OWN_ARCHITECTURE:
                tar.add(python_home, "python")
            else:
                fake = folder / "python"
                run("cp", "-R", python_home, fake, cwd=folder)
                (fake / "bin" / f"python{OWN_PYTHON}").write_bytes(elf(architecture))
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


def assert_compiled(artifact: Path) -> None:
    for source in artifact.rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        # Byte 4 holds the flags of PEP 552: compiled from a hash (1) that is not checked (no 2).
        assert compiled.read_bytes()[4] == 1, source
    assert b"/var/task/app.py" in next((artifact / "__pycache__").glob("app.*.pyc")).read_bytes()


@pytest.mark.slow
def test_build_downloads_interpreter_once(bake: Bake, downloads: Path) -> None:
    project = for_own_python(bake(runtime="provided.al2023", architecture=OWN_ARCHITECTURE))
    (project / "src" / "app.py").chmod(0o600)  # as a strict umask leaves it
    done = run("make", "build", cwd=project, UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads))
    artifact = project / ".aws-sam" / "build" / "StreamFunction"
    assert_compiled(artifact)
    assert stat.S_IMODE((artifact / "app.py").stat().st_mode) == 0o644
    found = {str(path.relative_to(artifact / "python")) for path in (artifact / "python").rglob("*") if path.is_file()}
    outside = {path for path in found if not path.startswith(f"lib/python{OWN_PYTHON}/")}
    assert outside - {f"lib/libpython{OWN_PYTHON}.so.1.0"} == {"bin/python3"}
    of_library = "test/|idlelib|ensurepip|tkinter|turtle|site-packages|config-|EXTERNALLY-MANAGED"
    unwanted = rf"lib/python{OWN_PYTHON}/({of_library}|lib-dynload/(_tkinter|_test|xx))"
    assert [path for path in found if re.match(unwanted, path)] == []
    # SAM's archive does not support links.
    assert [path for path in artifact.rglob("*") if path.is_symlink()] == []

    size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file()) // 1000
    with zipfile.ZipFile(project / ".aws-sam" / "build" / "StreamFunction.zip") as archive:
        assert "bootstrap" in archive.namelist()
        zipped = Path(str(archive.filename)).stat().st_size // 1000
    assert done.stdout.endswith(f"Package size: {size} KB ({zipped} KB zipped)\n")

    probe = ("python", "-m", "local.probe", "--expect-streaming", "--serve", ".aws-sam/build/template.yaml")
    probed = run(*probe, cwd=project, STREAM_INTERVAL="0.05")
    assert len([line for line in probed.stdout.splitlines() if " of 10, " in line]) == 10

    again = ("sh", "interpreter.sh", RELEASE, OWN_ARCHITECTURE, "again/python")
    run(*again, cwd=project, UV_OFFLINE="1", UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads))


@pytest.mark.slow
def test_build_for_other_architecture(bake: Bake, downloads: Path) -> None:
    project = for_own_python(bake(runtime="provided.al2023", architecture=OTHER))
    done = run("sam", "build", cwd=project, UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads))
    artifact = project / ".aws-sam" / "build" / "StreamFunction"
    assert "The interpreter was not tested, because this machine cannot run it." in done.stderr
    assert (artifact / "python" / "bin" / "python3").read_bytes() == elf(OTHER)
    assert_compiled(artifact)  # by this machine's interpreter of the same version


@pytest.mark.slow
def test_build_without_network_fails(bake: Bake) -> None:
    done = run("sam", "build", cwd=bake(runtime="provided.al2023"), check=False, UV_OFFLINE="1", PYTHON_HOME="")
    assert done.returncode == 1
    assert "Python 3.13.18 for arm64 is missing: uv could not download it" in done.stderr


@pytest.mark.slow
def test_image_without_engine_fails(bake: Bake, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/docker.sock"
    done = run("make", "build", cwd=bake(runtime="container"), check=False, DOCKER_HOST=nowhere)
    assert done.returncode == 2
    assert "requires a container runtime. Do you have Docker or Finch installed and running?" in done.stderr


def test_container_project_runs_locally(bake: Bake) -> None:
    project = bake(runtime="container")
    invoked = run("python", "-m", "local", "--event", "events/get.json", cwd=project, STREAM_INTERVAL="0")
    assert [line.split()[0] for line in invoked.stdout.splitlines()] == [*map(str, range(1, 11)), "end"]
