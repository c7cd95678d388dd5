"""A generated project passes its own checks, and they fail when something is broken."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from hooks.pre_gen_project import CHOICES
from tests.helpers.support import ROOT, Bake, path_for, pytest_of, run

# File, text to replace, and replacement. (test_planted_faults.py has the faults of template.yaml.)
BREAKAGES = {
    "the stream": ("src/app.py", "yield ", "yield  'x' + "),
    "the end marker": ("src/app.py", '    yield "end\\n"\n', ""),
    "chunks held back": (
        "runtime/streaming_runtime/invocation.py",
        "        for item in iterator:",
        "        for item in list(iterator):",
    ),
}


@pytest.mark.slow
def test_make_check_passes(bake: Bake) -> None:
    """The pipeline's tests run `make check` of the default project."""
    project = bake(url_auth="NONE", cors_origins="*", python_version="3.14")
    done = run("make", "check", cwd=project)
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout
    assert "is a valid SAM Template" in done.stdout
    invoked = run("make", "invoke", "EVENT=events/post.json", cwd=project, STREAM_INTERVAL="0")
    assert [line.split()[0] for line in invoked.stdout.splitlines()] == [*map(str, range(1, 11)), "end"]
    assert "event" not in invoked.stdout
    assert "POST /upload  200  first byte " in invoked.stderr


def test_build_output_is_not_linted(bake: Bake) -> None:
    project = bake()
    built = project / ".aws-sam" / "build" / "StreamFunction"
    built.mkdir(parents=True)
    (built / "package.py").write_text("import os, sys\n", encoding="utf-8")
    run("ruff", "check", ".", cwd=project)
    run("ruff", "format", "--check", ".", cwd=project)


@pytest.mark.slow
def test_types_of_examples_and_pythons(bake: Bake, tmp_path: Path) -> None:
    """mypy depends on the Python files, which only the example changes, and on the Python version in its settings.

    One after the other, because two processes of mypy cannot share a cache.
    """
    project = tmp_path / "project"  # always the same folder, so that the cache has the files that are the same
    for option in ("example", "python_version"):
        for answer in CHOICES[option]:
            shutil.rmtree(project, ignore_errors=True)
            # Each Python version can be had with this runtime, which changes no Python file.
            shutil.copytree(bake(**{option: answer, "runtime": "provided.al2023"}), project)
            run("mypy", "--cache-dir", tmp_path / "cache", cwd=project, PATH=path_for(project))


def paste(project: Path, code: str) -> Path:
    (project / "src" / "app.py").write_text(code, encoding="utf-8")
    return project


@pytest.mark.slow
def test_readme_sample_passes_make_check(bake: Bake) -> None:
    """As pasted: untyped, and in the place of the example that the project's tests are for."""
    [sample] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "def handler(event, context):" in sample
    done = run("make", "check", cwd=paste(bake(), sample))
    assert "src/app.py has a handler of your own; test it in tests/test_app.py" in done.stdout
    assert re.search(r"\d+ passed, 3 skipped", done.stdout)


# Ordinary code of a user, and whether a project's linter and type checker accept it.
USER_CODE = {
    "untyped": ("def handler(event, context):\n    return {}\n", True),
    "builtin names": ("def find(id, type):\n    return id, type\n", True),
    "long line": (f'TEXT = "{"x" * 130}"\n', True),
    "capitals": ("def lambdaHandler(Event, ctx):\n    return Event\n", True),
    "undefined name": ("def handler(event, context):\n    return evnt\n", False),
    "unused import": ("import os\n", False),
    "wrong argument": (
        "from streaming_runtime import StreamingResponse\n\n\n"
        'def handler(event, context):\n    return StreamingResponse("text", status_code="200")\n',
        False,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("code", USER_CODE)
def test_lint_of_user_code(code: str, project: Path, tmp_path: Path) -> None:
    source, accepted = USER_CODE[code]
    mine = paste(shutil.copytree(project, tmp_path / "mine"), source)
    commands = [("ruff", "check", "--no-cache", "."), ("mypy", "--cache-dir", str(tmp_path / "cache"), "src")]
    assert all(run(*command, cwd=mine, check=False).returncode == 0 for command in commands) == accepted


def test_tools_find_the_runtime(project: Path) -> None:
    """Editors, mypy, ruff and pytest all search both folders, without set-up by hand."""
    tools = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    folders = {"src", "runtime"}
    assert set(tools["pyright"]["extraPaths"]) == set(tools["mypy"]["mypy_path"]) == folders
    assert set(tools["ruff"]["src"]) == set(tools["pytest"]["ini_options"]["pythonpath"]) == {".", *folders}


def own_tests(project: Path) -> int:
    # The template's first: they are fast, and find most breakages.
    files = sorted(map(str, (project / "tests").glob("test_*.py")), reverse=True)
    return pytest_of(project, "-q", "-x", *files, check=False).returncode


@pytest.mark.slow
def test_intact_project_passes(project: Path) -> None:
    assert own_tests(project) == 0


@pytest.mark.slow
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_line_fails_own_tests(breakage: str, project: Path, tmp_path: Path) -> None:
    file, line, replacement = BREAKAGES[breakage]
    broken = shutil.copytree(project, tmp_path / "broken")
    text = (broken / file).read_text(encoding="utf-8")
    assert line in text
    (broken / file).write_text(text.replace(line, replacement, 1), encoding="utf-8")
    assert own_tests(broken) == 1
