"""What the documents claim has a test, and names a source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.helpers.combinations import pairwise
from tests.helpers.documents import DOCUMENTS, commands, document, readme
from tests.helpers.support import ROOT, run
from tests.pipeline.test_user_commands import ELSEWHERE, VARIANTS

BEHAVIOURS = ROOT / "docs" / "function-url.md"
SURE = re.compile(r"chosen|\[(documented|recorded)\]\(https://[^)\s]+\)(, \[recorded\]\(https://[^)\s]+\))?")


def rows() -> list[list[str]]:
    """The cells of the table's rows, without its head."""
    text = BEHAVIOURS.read_text(encoding="utf-8").partition("## What it costs")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_has_as_many_behaviours_as_it_should_and_each_only_once() -> None:
    names = [row[0] for row in rows()]
    assert len(names) >= 25
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_behaviour_has_a_source_and_tests_that_there_are(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row)
    assert SURE.fullmatch(row[2])
    tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[4])
    assert ", ".join(f"`{file}::{name}`" for file, name in tests) == row[4]
    for file, name in tests:
        module = ast.parse((ROOT / "tests" / "local" / file).read_text(encoding="utf-8"))
        assert name in [node.name for node in module.body if isinstance(node, ast.FunctionDef)], (file, name)


TEMPLATE = "gh:org/lambda-stream-template"
README = "tests/pipeline/test_user_commands.py"
# What runs the commands of a document; those of docs/upgrading.md and docs/pipeline.md are taken from there as they
# stand, and so are those of a project's README.
RUN_BY = {
    f"cookiecutter {TEMPLATE}": "tests/template/test_upgrades.py",
    f"cookiecutter {TEMPLATE} --checkout <tag>": "tests/template/test_upgrades.py",
    f"sam init --location {TEMPLATE}": "tests/template/test_upgrades.py",
    "cd lambda-stream && make dev": README,
    "make deploy": README,
    "make build": README,
    "PYTHON_HOME=/opt/python3.13 make build": README,
    "python -m local.probe --serve .aws-sam/build/template.yaml": "tests/template/test_runtimes.py",
    "python -m local": "tests/template/test_runtimes.py",
    "uv python install": "tests/template/test_runtimes.py",
    "sam local invoke": "tests/template/test_sam_local.py",
    "sam remote invoke": README,
    "sam validate --lint": "tests/template/test_generated.py",
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "apt-get install chromium": ".ci/run",
    "pipx install cookiecutter": "tests/docs/test_documents.py",
    "uv tool install cookiecutter": "tests/docs/test_documents.py",
    "uv tool install aws-sam-cli": "tests/docs/test_documents.py",
}
# What nothing here can run: it takes an image from Docker Hub.
NOT_RUN = {"docker run --privileged --rm tonistiigi/binfmt --install arm64"}


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in ("docs/upgrading.md", "docs/pipeline.md")])
def test_every_command_of_a_document_is_run(path: str) -> None:
    assert commands(document(path)) <= RUN_BY.keys() | NOT_RUN


def test_every_command_that_is_run_is_in_a_document() -> None:
    assert set().union(*(commands(document(path)) for path in DOCUMENTS)) >= RUN_BY.keys() | NOT_RUN
    assert [path for path in RUN_BY.values() if not (ROOT / path).is_file()] == []


def test_every_command_of_every_projects_readme_is_run() -> None:
    run_there = set().union(*(commands(readme(answers)) for answers in VARIANTS.values()))
    for answers in pairwise():
        assert commands(readme(answers)) <= run_there, answers
    assert {command.strip() for command in ELSEWHERE} <= run_there


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["pipx install cookiecutter", "uv tool install cookiecutter", "uv tool install aws-sam-cli"]
)
def test_the_tools_are_installed_as_the_documents_say(command: str, tmp_path: Path) -> None:
    folders = {"UV_TOOL_DIR": "tools", "UV_TOOL_BIN_DIR": "bin", "PIPX_HOME": "home", "PIPX_BIN_DIR": "bin"}
    environment = [f"{name}={tmp_path / path}" for name, path in folders.items()]
    if command.startswith("pipx"):
        command = f"uvx {command}"  # pipx itself comes from a distribution's package
    run("env", *environment, *command.split(), cwd=tmp_path)
    program = "sam" if command.endswith("cli") else "cookiecutter"
    assert re.search(r"version|Cookiecutter", run(tmp_path / "bin" / program, "--version", cwd=tmp_path).stdout)
