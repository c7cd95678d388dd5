"""A rehearsal of the day that AWS streams from managed Python: the documented lines change, and nothing else.

The stand-in for AWS's client is `tests/helpers/managed_client.py`, that for Lambda is the local URL.
"""

import dataclasses
import http.client
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.helpers import managed_client
from tests.helpers.gates import Fifo
from tests.helpers.infrastructure import assert_clean
from tests.helpers.support import TEMPLATE, Bake, files, pytest_of, run

from local.function_url import running
from local.probe import probe
from local.template import load_function

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
# A function that waits for a byte before each chunk, and says which client runs it.
GATED = """
import os
import sys
from pathlib import Path

from streaming_runtime import StreamingResponse

def handler(event, context):
    headers = {"x-path": event["rawPath"], "x-client": Path(sys.argv[0]).name}
    return StreamingResponse(chunks(), 201, headers, "text/plain", ["a=1", "b=2"])

def chunks():
    with open(os.environ["GATE"], "rb", buffering=0) as gate:
        while (byte := gate.read(1)) != b".":
            yield b"chunk " + byte
    yield "text"
"""
CLIENTS = ("__main__.py", "managed_client.py")


def documented_edit() -> dict[str, tuple[str, str]]:
    """Return what `docs/runtime.md` says to change: for each file the lines to replace, and those in their place."""
    text = (TEMPLATE / "docs" / "runtime.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```diff\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    parts = re.findall(r"^--- (\S+)\n((?:-(?!-).*\n)+)((?:\+.*\n)*)", block, re.MULTILINE)
    assert "".join(f"--- {file}\n{old}{new}" for file, old, new in parts) == block
    return {file: (re.sub(r"(?m)^-", "", old), re.sub(r"(?m)^\+", "", new)) for file, old, new in parts}


def edit(project: Path, *paths: str) -> None:
    for path in paths:
        old, new = documented_edit()[path]
        text = (project / path).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (project / path).write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def project(bake: Bake, tmp_path: Path) -> Path:
    return shutil.copytree(bake(), tmp_path / "project")


@contextmanager
def served(project: Path, folder: Path, handler: str = "app.handler", **variables: str) -> Iterator[str]:
    """Serve a package as Lambda's managed Python starts it: with the wrapper, if the template names one."""
    package = folder / "package"
    shutil.rmtree(package, ignore_errors=True)
    for part in ("src", "runtime"):
        shutil.copytree(project / part, package, dirs_exist_ok=True)
    (package / "gated.py").write_text(GATED, encoding="utf-8")
    function = load_function(project / "template.yaml", "StreamFunction")
    function = dataclasses.replace(function, streams=True, plain=False)  # as after the edit of local/template.py
    wrapper = function.environment.get("AWS_LAMBDA_EXEC_WRAPPER", "").replace("/var/task", str(package))
    start = folder / "bootstrap"
    start.write_text(f"#!/bin/sh\nexec {wrapper} {sys.executable} {managed_client.__file__}\n", encoding="utf-8")
    start.chmod(0o755)
    environment = {**function.environment, **variables}
    changed = dataclasses.replace(
        function, code=package, bootstrap=start, handler=handler, timeout=60, environment=environment
    )
    with running(changed) as url:
        yield url


def gated_response(url: str, gate: Fifo) -> tuple[int, dict[str, list[str]], str]:
    """Return status, headers and client of a response whose chunks arrived one by one."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        connection.request("GET", "/some/path")
        gate.write(b"1")
        response = connection.getresponse()
        assert response.read1() == b"chunk 1"
        for byte in (b"2", b"3"):
            gate.write(byte)
            assert response.read1() == b"chunk " + byte
        gate.write(b".")
        assert response.read() == b"text"
        names = {name.lower() for name in response.headers} - {
            "date",
            "x-client",
            "x-amzn-requestid",
            "x-amzn-trace-id",
        }
        headers = {name: response.headers.get_all(name) or [] for name in names}
        return response.status, headers, response.headers["x-client"]


def test_both_clients_send_the_same(project: Path, tmp_path: Path) -> None:
    found = []
    with closing(Fifo(tmp_path / "gate")) as gate:
        for client in CLIENTS:
            with served(project, tmp_path, STREAM_INTERVAL="0.05") as url:
                result = probe(url)
            lines = b"".join(data for _, data in result.chunks).decode().splitlines()
            assert [line.split()[0] for line in lines] == [*map(str, range(1, 11)), "end"]
            assert (result.status, result.streamed) == (200, True)
            with served(project, tmp_path, "gated.handler", GATE=str(gate.path)) as url:
                status, headers, own = gated_response(url, gate)
            assert own == client
            found.append((status, headers))
            if client == CLIENTS[0]:
                edit(project, *documented_edit())
    assert found[0] == found[1]
    assert found[0][1]["set-cookie"] == ["a=1", "b=2"]


def test_project_stays_whole_after_the_edit(project: Path, bake: Bake) -> None:
    edit(project, *documented_edit())
    before, after = files(bake()), files(project)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == {
        "local/template.py",
        "template.yaml",
        "tests/test_template.py",
    }
    done = pytest_of(project)  # the local URL among them
    assert " passed" in done.stdout
    run("ruff", "check", "--no-cache", ".", cwd=project)
    run("ruff", "format", "--no-cache", "--check", ".", cwd=project)
    assert_clean(project, "us-east-1")


@pytest.mark.parametrize(
    ("path", "message"),
    [("template.yaml", "set AWS_LAMBDA_EXEC_WRAPPER: /var/"), ("tests/test_template.py", "remove AWS_LAMBDA_EXEC")],
)
def test_half_of_the_edit_is_noticed(path: str, message: str, project: Path) -> None:
    edit(project, path)
    done = pytest_of(project, "tests/test_template.py", "-k", "entry_point", check=False)
    assert done.returncode == 1
    assert message in done.stdout
