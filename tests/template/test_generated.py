"""A generated project passes its own checks, and they fail when it is broken."""

import re
import shutil
from pathlib import Path

import pytest
from hooks.pre_gen_project import CHOICES
from tests.helpers.support import Bake, pytest_of, run

# One line each: what to look for in which file, and what to put in its place. (Those of the template are in
# test_planted_faults.py.)
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
    """The pipeline's tests run the one of the default project."""
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
    """What mypy reads is the Python files, which the example alone chooses, and its settings, with the Python version.

    One after the other, since no two mypys may share a cache.
    """
    for option in ("example", "python_version"):
        for answer in CHOICES[option]:
            run("mypy", "--cache-dir", tmp_path, cwd=bake(**{option: answer}))


def own_tests(project: Path) -> int:
    # The template's first: they find most of what is broken, and take no time.
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
