"""The README, the options table and the repository's commands agree with the files that they describe."""

import fcntl
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hooks.pre_gen_project import CHOICES, problems
from tests.helpers.combinations import pairwise, product
from tests.helpers.documents import DOCUMENTS, document, table_rows
from tests.helpers.support import (
    OPTIONS,
    OWN_PYTHON,
    ROOT,
    TEMPLATE,
    Bake,
    copy_sources,
    defaults,
    pytest_of,
    run,
    user_environment,
)
from tests.template.test_planted_faults import FAULTS

README = document("README.md")
OPTION_ROWS = {row[0].strip("`"): row for row in table_rows(document("docs/options.md"))}
OPTIONAL = ("cors_origins", "reserved_concurrency")  # the answer may be empty, and is by default
MODULE_FOLDERS = {"the runtime": TEMPLATE / "runtime" / "streaming_runtime", "`local`": TEMPLATE / "local"}


def test_options_table_lists_the_options() -> None:
    assert list(OPTION_ROWS) == list(defaults())


@pytest.mark.parametrize("option", defaults())
def test_options_table_row(option: str) -> None:
    expected = {**defaults(), "project_slug": "from the name", **dict.fromkeys(OPTIONAL, "none")}
    _, default, text = OPTION_ROWS[option]
    assert default.strip("`") == expected[option]
    assert [choice for choice in CHOICES.get(option, ()) if choice not in text and choice != OPTIONS[option][0]] == []


@pytest.mark.slow
def test_counts_in_documents_are_right() -> None:
    verification = document("docs/verification.md")
    assert f" {sum(not problems(answers) for answers in product()):,} combinations" in verification
    assert f"| {len(pairwise())} of them, which contain every pair" in verification
    assert f"| {len(FAULTS)} planted faults" in verification
    texts = [path.read_text(encoding="utf-8") for path in (TEMPLATE / "tests").glob("test_template*.py")]
    rules = sum(len(re.findall(r"^def test_", text, re.MULTILINE)) for text in texts)
    assert re.findall(r"(\d+) rules", README) == [str(rules)] * 2


def test_project_tree_is_complete(project: Path) -> None:
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
    assert there - named <= {".gitattributes", ".gitignore"}


@pytest.mark.parametrize("part", MODULE_FOLDERS)
def test_architecture_lists_the_modules(part: str) -> None:
    section = document("docs/architecture.md").partition(f"\n## The layers of {part}\n")[2]
    listed = [row[1].strip("`") for row in table_rows(section)]
    assert sorted(listed) == sorted(path.stem for path in MODULE_FOLDERS[part].glob("*.py"))


def test_demo_transcript_has_the_probes_form(project: Path) -> None:
    """It is what `make demo` printed once; another run differs in its numbers and the length of the bars."""

    def form(text: str) -> str:
        numbers = re.sub(r"[\d.]+", "0", re.sub(r" +", " ", text))
        return re.sub(r"━+", "━", numbers).strip()

    [transcript] = re.findall(r"^```\n(GET .*?)```", README, re.DOTALL | re.MULTILINE)
    command = ("python", "-m", "local.probe", "--expect-streaming", "--serve", "template.yaml")
    assert form(run(*command, cwd=project, STREAM_INTERVAL="0.05").stdout) == form(transcript)
    chunks = transcript.partition("\n\n")[0]
    sizes = [int(size) for size in re.findall(r"^ +[\d.]+ s +(\d+) bytes ", chunks, re.MULTILINE)]
    assert f"\n{sum(sizes)} bytes in {len(sizes)} chunks, " in transcript


@pytest.mark.slow
def test_readme_handler_passes_checks(bake: Bake, tmp_path: Path) -> None:
    """Pasted over `src/app.py`, the README's handler passes what `make check` runs there."""
    [handler] = re.findall(r"^```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    project = shutil.copytree(bake(), tmp_path / "project")
    (project / "src" / "app.py").write_text(handler, encoding="utf-8")
    for command in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
        run(*command, cwd=project)
    pytest_of(project)


MAKE_TARGETS = {
    folder: set(re.findall(r"^([a-z]+):.*## ", (folder / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for folder in (ROOT, TEMPLATE)
}


def named_targets(text: str) -> set[str]:
    return set(re.findall(r"(?:`|^|&& )make ([a-z]+)", text, re.MULTILINE))


def test_make_targets_of_a_project() -> None:
    project = {
        "help",
        "dev",
        "invoke",
        "imports",
        "new",
        "test",
        "check",
        "format",
        "build",
        "deploy",
        "probe",
        "proxy",
        "load",
        "pipeline",
    }
    assert MAKE_TARGETS[TEMPLATE] == project


@pytest.mark.parametrize("path", DOCUMENTS)
def test_named_make_targets_exist(path: str) -> None:
    ours = MAKE_TARGETS[ROOT] if path == "CONTRIBUTING.md" else MAKE_TARGETS[ROOT] | MAKE_TARGETS[TEMPLATE]
    assert named_targets(document(path)) <= ours


@pytest.mark.parametrize("path", ["README.md", *sorted(f"docs/{path.name}" for path in TEMPLATE.glob("docs/*.md"))])
def test_named_project_targets_exist(path: str) -> None:
    assert named_targets((TEMPLATE / path).read_text(encoding="utf-8")) <= MAKE_TARGETS[TEMPLATE]


def test_make_help_lists_commands() -> None:
    listed = set(re.findall(r"^make (\w+) ", run("make", "help", cwd=ROOT).stdout, re.MULTILINE))
    assert {"demo", "test", "check"} <= listed


def test_ci_runs_readme_commands() -> None:
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
            "the options are PORT EVENT URL CONCURRENCY DURATION ARGS "
            "PYTHON_HOME REPOSITORY ENVIRONMENTS BRANCH OWNER_ID REPOSITORY_ID",
        ),
    ],
)
def test_unknown_make_option_is_refused(folder: str, known: str) -> None:
    done = run("make", "help", "PROT=3000", cwd=ROOT / folder, check=False)
    assert done.returncode == 2
    assert f"unknown option PROT; {known}" in done.stderr


def test_missing_python_is_named() -> None:
    done = run("make", "demo", "PYTHON=python3.99", cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "this machine has no python3.99 that runs; name another Python" in done.stderr


def test_python_of_the_shell_is_ignored() -> None:
    run("make", "--dry-run", "demo", cwd=ROOT, PYTHON="python3.99")


def test_python_other_than_that_of_venv(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "other").write_text("#!/bin/sh\necho 3.99\n", encoding="utf-8")
    (tmp_path / "other").chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    done = run("make", "demo", "PYTHON=./other", cwd=tmp_path, check=False)
    assert f".venv has Python {OWN_PYTHON}, not 3.99; run make clean first" in done.stderr


def test_address_of_the_repository(tmp_path: Path) -> None:
    """It is the same everywhere, and one command replaces it everywhere."""
    copy = copy_sources(tmp_path / "copy")
    run("git", "init", "--quiet", cwd=copy)
    run("git", "add", "--all", cwd=copy)
    [command] = re.findall(r"^git grep .*", document("CONTRIBUTING.md"), re.MULTILINE)
    run("sh", "-c", command, cwd=copy)
    assert run("git", "grep", "-F", "org/lambda-stream-template", cwd=copy, check=False).stdout == ""
    named = run("git", "grep", "-hoE", r"(gh:|github\.com/)[a-z]+/(lambda-stream-template|name)\b", cwd=copy).stdout
    assert set(named.split()) == {"gh:owner/name", "github.com/owner/name"}


def test_probe_requires_url(bake: Bake) -> None:
    done = run("make", "probe", cwd=bake(), check=False)
    assert done.returncode == 2
    assert "make probe URL=http://127.0.0.1:3000/" in done.stderr


def test_lint_ignores_a_lock_on_its_output(tmp_path: Path) -> None:
    """Such a lock on /dev/null may last as long as the machine runs, and GNU make's --output-sync would wait for it."""
    with open(tmp_path / "output", "w") as output, open(tmp_path / "output") as locked:
        fcntl.lockf(locked, fcntl.LOCK_SH)
        command = ("make", "--dry-run", "lint")  # a dry run also enters the makes that this one starts
        subprocess.run(command, cwd=ROOT, env=user_environment(), stdout=output, timeout=60, check=True)
    assert "mypy" in (tmp_path / "output").read_text(encoding="utf-8")
