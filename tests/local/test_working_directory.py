"""One working directory wherever a function's code runs: the folder of the code, as on Lambda.

There it is /var/task: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html (LAMBDA_TASK_ROOT).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.support import TEMPLATE, user_environment
from tests.local.conftest import TIMEOUT

# Paths of an application are often relative, as in StaticFiles(directory="shop/static").
APP = """
import os
from pathlib import Path

PAGE = Path("shop/static/page.html").read_text()

def handler(event, context):
    return {"statusCode": 200, "body": PAGE + os.getcwd()}
"""
TESTS = """
import os
import urllib.request

import app


def test_import():
    assert app.PAGE == "page"
    assert os.getcwd() == os.path.dirname(app.__file__)


def test_served(serve):
    with urllib.request.urlopen(serve(), timeout=60) as response:
        assert response.read().decode() == "page" + os.getcwd()
"""
FUNCTION = "{Type: AWS::Serverless::Function, Properties: {CodeUri: src/, Handler: app.handler}}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose application reads a file by a relative path."""
    (tmp_path / "src" / "shop" / "static").mkdir(parents=True)
    (tmp_path / "src" / "shop" / "static" / "page.html").write_text("page", encoding="utf-8")
    (tmp_path / "src" / "app.py").write_text(APP, encoding="utf-8")
    for name in ("local", "runtime"):
        (tmp_path / name).symlink_to(TEMPLATE / name)
    (tmp_path / "tests").mkdir()
    shutil.copy(TEMPLATE / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_app.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "template.yaml").write_text(f"Resources: {{StreamFunction: {FUNCTION}}}\n", encoding="utf-8")
    options = 'testpaths = ["tests"]\npythonpath = [".", "src", "runtime"]\n'
    (tmp_path / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{options}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [
        (".", ()),
        ("tests", ("test_app.py",)),
        ("..", ("{project}/tests",)),
        ("src", ("../tests/test_app.py::test_import",)),
    ],
    ids=["project", "tests", "above", "code"],
)
def test_tests_run_in_code_folder(project: Path, folder: str, arguments: tuple[str, ...]) -> None:
    named = [argument.format(project=project) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(project / "pyproject.toml"), *named],
        cwd=project / folder,
        env=user_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout


def test_event_runs_in_code_folder(project: Path) -> None:
    (project / "event.json").write_text("{}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "local", "--event", "event.json"],
        cwd=project,
        env=user_environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"page{project / 'src'}"), done.stderr
