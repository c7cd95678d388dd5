"""The repository's documents and tools say what is so."""

import fcntl
import re
import stat
import subprocess
from pathlib import Path

import pytest
from hooks.pre_gen_project import CHOICES
from tests.helpers.support import OPTIONS, ROOT, TEMPLATE, defaults, run, user_environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONAL = ("cors_origins", "reserved_concurrency")  # whose answer may be empty, and is so by default


def test_the_options_table_is_that_of_the_options_file() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", README, re.MULTILINE)
    shown = {option: default.strip("`") for option, default, _ in rows}
    assert shown == {**defaults(), "project_slug": "from the name", **dict.fromkeys(OPTIONAL, "none")}
    for option, _, text in rows:
        for choice in CHOICES.get(option, ()):
            assert choice in text or choice == OPTIONS[option][0]


def test_the_tree_of_a_project_is_what_is_generated(project: Path) -> None:
    [tree] = re.findall(r"^### What you get\n\n```\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    first, *lines = tree.splitlines()
    parents, named = [""], set(first.split())
    for line in lines:
        name = line.split()[0]
        parents = parents if line.startswith("  ") else [""]
        named.add(parents[-1] + name)
        parents = [name] if name.endswith("/") and not line.startswith("  ") else parents
    assert [path for path in named if not (project / path).exists()] == []
    there = {f"{path.name}/" if path.is_dir() else path.name for path in project.iterdir()}
    assert there - named == {".gitignore"}


def test_every_make_command_that_a_document_names_exists() -> None:
    targets = {
        folder: set(re.findall(r"^([a-z]+):.*## ", (folder / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        for folder in (ROOT, TEMPLATE)
    }
    assert targets[TEMPLATE] == {
        "help",
        "dev",
        "invoke",
        "test",
        "check",
        "format",
        "build",
        "deploy",
        "probe",
        "pipeline",
    }
    documents = {ROOT / "CONTRIBUTING.md": ROOT, ROOT / "README.md": None, TEMPLATE / "README.md": TEMPLATE}
    documents[ROOT / "docs" / "function-url.md"] = None
    documents[ROOT / "docs" / "pipeline.md"] = None
    for document, folder in documents.items():
        named = set(re.findall(r"(?:`|^|&& )make ([a-z]+)", document.read_text(encoding="utf-8"), re.MULTILINE))
        assert named
        assert named <= (targets[folder] if folder else targets[ROOT] | targets[TEMPLATE]), document


def test_make_help_lists_the_commands_of_the_readme() -> None:
    listed = set(re.findall(r"^make (\w+) ", run("make", "help", cwd=ROOT).stdout, re.MULTILINE))
    assert {"demo", "test", "check"} <= listed


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert stat.S_IMODE(script.stat().st_mode) & stat.S_IXUSR
    for command in ("make demo", "make test"):
        assert f"\n{command}\n" in README
        assert f"\n{command}\n" in script.read_text(encoding="utf-8")
        assert f"run: {command}\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        (".", "the options are PYTHON, BENCH_PYTHON and SEED"),
        (
            "{{cookiecutter.project_slug}}",
            "the options are PORT EVENT URL ARGS PYTHON_HOME REPOSITORY ENVIRONMENTS BRANCH OWNER_ID REPOSITORY_ID",
        ),
    ],
)
def test_an_unknown_option_of_make_is_refused(folder: str, known: str) -> None:
    done = run("make", "help", "PROT=3000", cwd=ROOT / folder, check=False)
    assert done.returncode == 2
    assert f"unknown option PROT; {known}" in done.stderr


def test_the_probe_asks_for_its_url() -> None:
    done = run("make", "probe", cwd=TEMPLATE, check=False)
    assert done.returncode == 2
    assert "make probe URL=http://127.0.0.1:3000/" in done.stderr


def test_lint_waits_for_nobody_who_has_locked_where_its_output_goes(tmp_path: Path) -> None:
    """As /dev/null may be for as long as a machine runs; GNU make's --output-sync would wait."""
    with open(tmp_path / "output", "w") as output, open(tmp_path / "output") as locked:
        fcntl.lockf(locked, fcntl.LOCK_SH)
        command = ("make", "--dry-run", "lint")  # which goes into the lesser makes all the same
        subprocess.run(command, cwd=ROOT, env=user_environment(), stdout=output, timeout=60, check=True)
    assert "mypy" in (tmp_path / "output").read_text(encoding="utf-8")
