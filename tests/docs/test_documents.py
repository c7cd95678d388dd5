"""What the documents claim has a test and a source, and what they tell a reader to type is run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.helpers.combinations import pairwise
from tests.helpers.documents import DOCUMENTS, FENCE, PAGES, commands, document, readme, table_rows
from tests.helpers.support import ROOT, TEMPLATE, run, source_files
from tests.pipeline.test_user_commands import ELSEWHERE, VARIANTS

BEHAVIOURS = table_rows(document("docs/function-url.md"))
CONFIDENCE = re.compile(r"chosen|\[(documented|recorded)\]\(https://[^)\s]+\)(, \[recorded\]\(https://[^)\s]+\))?")


def test_behaviours_are_unique() -> None:
    names = [row[0] for row in BEHAVIOURS]
    assert len(names) >= 25
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", BEHAVIOURS, ids=lambda row: row[0])
def test_behaviour_has_source_and_tests(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row)
    assert CONFIDENCE.fullmatch(row[2])
    tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[4])
    assert ", ".join(f"`{file}::{name}`" for file, name in tests) == row[4]
    for file, name in tests:
        module = ast.parse((ROOT / "tests" / "local" / file).read_text(encoding="utf-8"))
        assert name in [node.name for node in module.body if isinstance(node, ast.FunctionDef)], (file, name)


TEMPLATE_ADDRESS = "gh:org/lambda-stream-template"
README = "tests/pipeline/test_user_commands.py"
# The test that runs each command of a document. Those of docs/upgrading.md and docs/pipeline.md are read from there by
# their own tests, and so are those of a project's README.
ADOPTED = "tests/adopt/test_adoption.py"
RUN_BY = {
    f"cookiecutter {TEMPLATE_ADDRESS}": "tests/template/test_upgrades.py",
    f"cookiecutter {TEMPLATE_ADDRESS} --checkout <tag>": "tests/template/test_upgrades.py",
    f"sam init --location {TEMPLATE_ADDRESS}": "tests/template/test_upgrades.py",
    "cd lambda-stream && make dev": README,
    "make deploy": README,
    "make build": README,
    "PYTHON_HOME=/opt/python3.13 make build": README,
    "python -m local.probe --serve .aws-sam/build/template.yaml": "tests/template/test_runtimes.py",
    "python -m drift.limits": "tests/docs/test_aws_limits.py",
    "python -m benchmarks.applications": "tests/benchmarks/test_benchmarks.py",
    "python -m benchmarks.examples": "tests/benchmarks/test_benchmarks.py",
    "python -m benchmarks.scale": "tests/benchmarks/test_benchmarks.py",
    "uv python install": "tests/template/test_runtimes.py",
    "cd my-sam-app": ADOPTED,
    f"cookiecutter {TEMPLATE_ADDRESS} --directory adopt function=HelloFunction": ADOPTED,
    f"cookiecutter {TEMPLATE_ADDRESS} --directory adopt function=HelloFunction undo=yes": ADOPTED,
    "make -C streaming dev": "tests/adopt/test_starters.py",
    "sam build": "tests/adopt/test_starters.py",
    "sam local invoke": "tests/template/test_sam_local.py",
    "sam remote invoke": README,
    "sam validate --lint": "tests/template/test_generated.py",
    "make new FUNCTION=Admin": "tests/template/test_new_function.py",
    "make new FUNCTION=OrderEvents KIND=plain": "tests/template/test_new_function.py",
    "curl --no-buffer --fail-with-body https://YOUR-URL/lines": "tests/local/test_clients.py",
    "make proxy URL=…": README,
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "apt-get install chromium": ".ci/run",
    f"git grep -lF {TEMPLATE_ADDRESS[3:]} | xargs perl -pi -e 's|{TEMPLATE_ADDRESS[3:]}|owner/name|g'": (
        "tests/docs/test_repository.py"
    ),
    "uv tool install cookiecutter": "tests/docs/test_documents.py",
    "uv tool install aws-sam-cli": "tests/docs/test_documents.py",
}
# Commands that no test can run: this one downloads an image from Docker Hub.
NOT_RUN = {"docker run --privileged --rm tonistiigi/binfmt --install arm64"}


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in ("docs/upgrading.md", "docs/pipeline.md")])
def test_document_commands_are_run(path: str) -> None:
    assert commands(document(path)) <= RUN_BY.keys() | NOT_RUN


def test_run_commands_are_documented() -> None:
    assert set().union(*(commands(document(path)) for path in DOCUMENTS)) >= RUN_BY.keys() | NOT_RUN
    assert [path for path in RUN_BY.values() if not (ROOT / path).is_file()] == []


def test_project_commands_are_run() -> None:
    run_there = set().union(*(commands(readme(answers)) for answers in VARIANTS.values()))
    for answers in pairwise():
        assert commands(readme(answers)) <= run_there, answers
    assert {command.strip() for command in ELSEWHERE} <= run_there


@pytest.mark.slow
@pytest.mark.parametrize("command", ["uv tool install cookiecutter", "uv tool install aws-sam-cli"])
def test_tools_install_as_documented(command: str, tmp_path: Path) -> None:
    folders = {"UV_TOOL_DIR": "tools", "UV_TOOL_BIN_DIR": "bin"}
    environment = [f"{name}={tmp_path / path}" for name, path in folders.items()]
    run("env", *environment, *command.split(), cwd=tmp_path)
    program = "sam" if command.endswith("cli") else "cookiecutter"
    assert re.search(r"version|Cookiecutter", run(tmp_path / "bin" / program, "--version", cwd=tmp_path).stdout)


LINKED = (*map(ROOT.joinpath, (*DOCUMENTS, "CHANGELOG.md")), TEMPLATE / "README.md", *PAGES)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes for the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_resolve(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", document("docs/index.md")))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_named_test_paths_exist(path: str) -> None:
    known = {*source_files(), *(f"{parent}/" for file in source_files() for parent in Path(file).parents)}
    named = re.findall(r"`((?:\{\{[\w.]+\}\}/)?(?:[\w-]+/)*tests/[\w/.]*)`", document(path))
    assert [name for name in named if name not in known and f"{name}/" not in known] == []


def test_performance_table_matches_chart() -> None:
    chart, values = {}, []
    for text in re.findall(r">([^<>\n]+)</text>", (ROOT / "benchmarks" / "chart.svg").read_text(encoding="utf-8")):
        if re.fullmatch(r"[\d.,]+ \D+", text):
            values.append(text)
        elif title := re.fullmatch(r"(.+) \((?:less|more) is better\)", text):
            chart[title[1]], values = values, []
    rows = table_rows(document("docs/performance.md"))
    assert {row[0]: [cell for cell in row[1:] if cell != "-"] for row in rows} == chart


@pytest.mark.parametrize("folder", [ROOT, TEMPLATE], ids=["template", "project"])
def test_guide_for_agents(folder: Path) -> None:
    """It is short, and the paths that it names exist or are made by commands."""
    text = (folder / "AGENTS.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    made = {".aws-sam/", ".venv/", ".venv", "uv.lock"} if folder == TEMPLATE else {".venv"}
    paths = set(re.findall(r"`((?:[.\w{}-]+/)+[.\w]*|[\w.]+\.(?:md|toml|yaml|lock|py))`", text)) - made
    found = {path for path in paths if (folder / path).exists() or (folder / "src" / path).exists()}
    assert paths - found <= {"runtime/streaming_runtime/", "local/", "tests/test_app.py", "template.yaml"}
