"""What a build puts into the package: requirements that suit Lambda, and the same bytes on every machine."""

import base64
import hashlib
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.helpers.support import Bake, files, run

pytestmark = pytest.mark.slow

Build = Callable[..., subprocess.CompletedProcess[str]]
REMEDY = "Use a release that has a wheel, or copy the code into src/."


def wheel(folder: Path, name: str, tag: str = "py3-none-any") -> Path:
    """Make a wheel with a module and a console script."""
    info = f"{name}-1.0.dist-info"
    contents = {
        f"{name}.py": "def main():\n    print('ran')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}={name}:main\n",
    }
    lines = []
    for path, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}\n")
    contents[f"{info}/RECORD"] = "".join(lines) + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
    return folder


def source_tree(folder: Path, name: str) -> Path:
    """Make a project that can be installed from its source alone."""
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.py").write_text("VALUE = 1\n", encoding="utf-8")
    text = f'[project]\nname = "{name}"\nversion = "1.0"\n[build-system]\nrequires = []\nbuild-backend = "none"\n'
    (folder / name / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder / name


@pytest.fixture
def build(project: Path, tmp_path: Path) -> Build:
    """Return a function that builds the default project with these requirements, as `sam build` does."""

    def start(requirements: str, copy: str = "copy", **more: str) -> subprocess.CompletedProcess[str]:
        mine = shutil.copytree(project, tmp_path / copy, dirs_exist_ok=True)
        (mine / "src" / "requirements.txt").write_text(requirements, encoding="utf-8")
        artifact = str(tmp_path / f"{copy} artifact")
        return run("make", "build-StreamFunction", cwd=mine, check=False, ARTIFACTS_DIR=artifact, **more)

    return start


@pytest.mark.parametrize(
    ("requirement", "shown"),
    [
        ("-e {tree}", "-e "),
        ("--editable {tree}", "--editable "),
        ("  -e {tree}", "-e "),
        ("{tree}", "local"),
        ("local @ file://{tree}", "local"),
        ("-r more.txt", "local"),
        ("{tree}/local-1.0.tar.gz", "local"),
        ("alien", "alien"),
    ],
)
def test_requirement_that_lambda_cannot_use(requirement: str, shown: str, build: Build, tmp_path: Path) -> None:
    """An editable, local or source-only one, and one whose wheel is for another platform."""
    tree = source_tree(tmp_path / "libraries", "local")
    run("tar", "-czf", tree / "local-1.0.tar.gz", "local.py", "pyproject.toml", cwd=tree)
    wheel(tmp_path / "wheels", "alien", "cp313-cp313-win_amd64")
    (tmp_path / "copy" / "src").mkdir(parents=True)
    (tmp_path / "copy" / "src" / "more.txt").write_text(f"-e {tree}\n", encoding="utf-8")
    text = requirement.format(tree=tree)
    done = build(f"--no-index\n--find-links {tmp_path}/wheels\n{text}\n")
    assert done.returncode == 2
    assert shown in done.stdout + done.stderr
    assert REMEDY in done.stderr
    assert "for Python 3.13 on aarch64" in done.stderr or "a requirement that Lambda cannot use" in done.stderr
    assert not (tmp_path / "copy artifact").exists()


def test_local_run_refuses_what_the_build_refuses(project: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(project, tmp_path / "copy")
    file = mine / "src" / "requirements.txt"
    wheel(tmp_path / "wheels", "alien", "cp313-cp313-win_amd64")
    for line, shown in (("-e ../library", "'-e ../library'"), ("alien", "`win_amd64`")):
        file.write_text(f"--no-index\n--find-links {tmp_path}/wheels\n{line}\n", encoding="utf-8")
        for command in ("invoke", "test", "dev"):
            done = run("make", command, cwd=mine, check=False)
            assert (done.returncode, done.stdout) == (2, "")
            assert shown in done.stderr
            assert REMEDY in done.stderr
    file.write_text("# none\n", encoding="utf-8")
    assert "10 of 10" in run("make", "invoke", cwd=mine).stdout


class _PrivateIndex(SimpleHTTPRequestHandler):
    """Serves a folder as a package index to those who know the password."""

    def do_GET(self) -> None:
        if self.headers["authorization"] != "Basic " + base64.b64encode(b"me:password").decode():
            self.send_response(401)
            self.send_header("www-authenticate", "Basic")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_local_wheel_and_private_index(build: Build, tmp_path: Path) -> None:
    """Both are in the package, without a path of this machine, a date or a password."""
    wheel(tmp_path / "copy" / "src" / "wheels", "mine")
    wheel(tmp_path / "index" / "private", "private")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_PrivateIndex, directory=str(tmp_path / "index")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        index = f"http://me:password@127.0.0.1:{server.server_port}/"
        done = build(f"--index-url {index}\n./src/wheels/mine-1.0-py3-none-any.whl\nprivate\n")
        wrong = build(f"--index-url {index.replace('password', 'guess')}\nprivate\n", "wrong")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    package = files(tmp_path / "copy artifact")
    assert {"mine.py", "private.py"} <= package.keys()
    assert [path for path in package if path.endswith((".pth", "direct_url.json", "uv_cache.json"))] == []
    for path, content in package.items():
        assert b"password" not in content, path
        assert str(tmp_path).encode() not in content, path
        assert not path.endswith("RECORD") or b"direct_url" not in content, path
    assert wrong.returncode == 2
    assert REMEDY in wrong.stderr


def test_package_is_the_same_on_every_machine(build: Build, tmp_path: Path) -> None:
    """Scripts name no interpreter of the machine, and neither does a hash of them."""
    requirements = f"--no-index\n--find-links {wheel(tmp_path / 'wheels', 'tool')}\ntool\n"
    packages = []
    for copy in ("one", "another-machine"):
        home = tmp_path / copy / "a folder for Python" if copy == "one" else tmp_path / "py"
        run("uv", "venv", "--quiet", "--no-project", home, cwd=tmp_path)
        done = build(requirements, copy, VIRTUAL_ENV=str(home), UV_PYTHON=str(home / "bin" / "python"))
        assert done.returncode == 0, done.stderr
        packages.append(files(tmp_path / f"{copy} artifact"))
    assert packages[0] == packages[1]
    script = packages[0]["bin/tool"]
    assert script.startswith(b"#!/usr/bin/env python3\n")
    assert os.access(tmp_path / "one artifact" / "bin" / "tool", os.X_OK)
    assert b"bin/tool" not in packages[0]["tool-1.0.dist-info/RECORD"]
    shown = run(tmp_path / "one artifact" / "bin" / "tool", cwd=tmp_path, PYTHONPATH=str(tmp_path / "one artifact"))
    assert shown.stdout == "ran\n"
    assert [path for path, content in packages[0].items() if str(tmp_path).encode() in content] == []


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda path: path.chmod(0o644), "runtime/bootstrap is not executable: chmod +x runtime/bootstrap"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
            "runtime/bootstrap has Windows line endings, with which Lambda cannot start it: git add --renormalize . && "
            "rm runtime/bootstrap && git checkout runtime/bootstrap",
        ),
    ],
    ids=["mode", "line endings"],
)
def test_bootstrap_that_lambda_cannot_start(
    change: Callable[[Path], object], remedy: str, build: Build, project: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(project, tmp_path / "copy")
    change(mine / "runtime" / "bootstrap")
    artifact = str(tmp_path / "artifact")
    done = run("make", "build-StreamFunction", cwd=mine, check=False, ARTIFACTS_DIR=artifact)
    assert done.returncode == 2
    assert remedy in done.stderr
    assert not (tmp_path / "artifact").exists()


def test_git_keeps_unix_line_endings(bake: Bake, tmp_path: Path) -> None:
    """A checkout on Windows, where git would convert them, and the remedy for one from before."""
    mine = shutil.copytree(bake(), tmp_path / "mine")
    run("git", "init", "--quiet", cwd=mine)
    run("git", "config", "core.autocrlf", "true", cwd=mine)
    run("git", "add", "--all", cwd=mine)
    bootstrap = mine / "runtime" / "bootstrap"
    intact = bootstrap.read_bytes()
    bootstrap.unlink()
    run("git", "checkout", "runtime/bootstrap", cwd=mine)
    assert bootstrap.read_bytes() == intact
    bootstrap.write_bytes(intact.replace(b"\n", b"\r\n"))
    run("sh", "-c", "git add --renormalize . && rm runtime/bootstrap && git checkout runtime/bootstrap", cwd=mine)
    assert bootstrap.read_bytes() == intact
