"""Every valid combination of answers renders valid files, and every valid pair a project that passes its checks."""

import itertools
import math
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter
from hooks.post_gen_project import OPTIONAL_PATHS, REQUIREMENTS, SHARED
from hooks.pre_gen_project import AWS, CHOICES, TEXT_LENGTHS, find_problems, problems
from tests.helpers.combinations import (
    ALONE,
    BOUND,
    OPTIONS,
    PAIRED,
    SINGLE,
    command,
    name,
    pairs,
    pairwise,
    possible,
    product,
)
from tests.helpers.infrastructure import assert_clean
from tests.helpers.rendering import RENDERED, check_template, check_text, load, render, source
from tests.helpers.support import TEMPLATE, Answers, defaults, pytest_of, run, source_files

# example with front_door and url_auth; runtime with cold_start and python_version; cors_origins with cors_credentials;
# observability, deployment, deploy_pipeline, bedrock_model.
COUNTED_BY_HAND = (6 * 3 * 3 - 4) * (3 * 2 * 4 - 2 - 4) * (3 * 2 - 2) * 3 * 2 * 2 * 2
COMBINATIONS = pairwise()
# Paths that only some answers keep in a project.
ONLY = {path: [chosen for chosen, of in OPTIONAL_PATHS if of == path] for _, path in OPTIONAL_PATHS}


@contextmanager
def named(answers: Answers) -> Iterator[None]:
    """Add the answers to a failure in this context."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(f"These are the answers; to get the project:\n  {command(answers)}")
        raise


@pytest.mark.slow
def test_valid_combinations_count() -> None:
    valid: dict[tuple[Any, ...], set[bool]] = {}
    total = count = 0
    for answers in product():
        found = find_problems(answers)
        assert {problem.option for problem in found} <= set(BOUND)
        valid.setdefault(tuple(answers[option] for option in BOUND), set()).add(not found)
        total, count = total + 1, count + (not found)
    assert total == math.prod(len(of) for option, of in PAIRED.items() if option not in ALONE)
    assert count == COUNTED_BY_HAND
    assert all(len(decided) == 1 for decided in valid.values())
    assert {option: PAIRED[option] for option in CHOICES} == CHOICES


def test_every_option_is_combined() -> None:
    assert PAIRED.keys() | SINGLE.keys() | TEXT_LENGTHS.keys() | {"project_slug"} == defaults().keys()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", CHOICES["runtime"])
def test_all_combinations_render(runtime: str) -> None:
    # Generating all combinations would take an hour. Only the four files that
    # depend on answers are rendered, once for each combination of the options that they name.
    seen: set[str] = set()
    used = {file: set(re.findall(r"cookiecutter\.(\w+)", source(file))) for file in RENDERED}
    rendered: set[tuple[Any, ...]] = set()
    for answers in product(runtime=runtime):
        if not possible({option: answers[option] for option in BOUND}):
            continue
        for file in RENDERED:
            key = (file, *(answers[option] for option in sorted(used[file])))
            if key in rendered:
                continue
            rendered.add(key)
            text = render(file, answers)
            if text not in seen:
                seen.add(text)
                with named(answers):
                    check_text(file, text)
                    loaded = load(file, text)
                    if file == "template.yaml":
                        check_template(loaded, answers)
    assert len(seen) > 1000


def test_pairwise_set_is_complete() -> None:
    every = {
        frozenset({(one, first), (other, second)})
        for (one, firsts), (other, seconds) in itertools.combinations(OPTIONS.items(), 2)
        for first, second in itertools.product(firsts, seconds)
    }
    impossible = [
        {("cors_credentials", "yes"), ("cors_origins", "")},
        {("cors_credentials", "yes"), ("cors_origins", "*")},
        {("front_door", "rest-api"), ("timeout", str(AWS["timeout"]["most"]))},
        {("cold_start", "snapstart"), ("runtime", "provided.al2023")},
        {("runtime", "managed"), ("python_version", "3.15")},
    ]
    held = {
        frozenset(pair)
        for answers in COMBINATIONS
        for pair in itertools.combinations({option: answers[option] for option in OPTIONS}.items(), 2)
    }
    assert held == {frozenset(pair.items()) for pair in pairs()} == every - {frozenset(pair) for pair in impossible}
    for answers in COMBINATIONS:
        assert problems(answers) == []
    assert len(COMBINATIONS) <= 30


@pytest.mark.parametrize("answers", COMBINATIONS, ids=name)
def test_pairwise_combination_renders(answers: Answers) -> None:
    with named(answers):
        for file in RENDERED:
            text = render(file, answers)
            check_text(file, text)
            loaded = load(file, text)
            if file == "template.yaml":
                check_template(loaded, answers)


def baked(template: Path, answers: Answers, folder: Path) -> dict[str, tuple[int, bytes]]:
    """Generate a project in the folder; return modes and contents of its files."""
    project = Path(
        cookiecutter(str(template), no_input=True, extra_context=answers, output_dir=str(folder), default_config=True)
    )
    return {
        str(path.relative_to(project)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in project.rglob("*")
        if path.is_file()
    }


def expected(answers: Answers) -> dict[str, tuple[int, bytes]]:
    """Return what the template says that they are: files of the chosen example before others, rendered or verbatim.

    Only the requirements of the function are longer, by those of other answers.
    """
    paths = [path.partition("/")[2] for path in source_files() if path.startswith(f"{TEMPLATE.name}/")]
    sources = {path: path for path in paths if not path.startswith("examples/")}
    for example in filter(None, (SHARED.get(answers["example"]), answers["example"])):
        folder = f"examples/{example}/"
        sources |= {path.removeprefix(folder): path for path in paths if path.startswith(folder)}
    for path, alternatives in ONLY.items():
        if not any(chosen.items() <= answers.items() for chosen in alternatives):
            del sources[path]
    more = "".join(lines for option, answer, lines in REQUIREMENTS if answers[option] == answer).encode()
    return {
        path: (
            stat.S_IMODE((TEMPLATE / source).stat().st_mode),
            render(path, answers).encode()
            if path in RENDERED
            else (TEMPLATE / source).read_bytes() + (more if path == "src/requirements.txt" else b""),
        )
        for path, source in sources.items()
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("index", range(len(COMBINATIONS)), ids=lambda index: name(COMBINATIONS[index]))
def test_combination_passes_own_checks(index: int, template: Path, tmp_path: Path) -> None:
    answers = COMBINATIONS[index]
    with named(answers):
        # Exactly these files, each verbatim or rendered.
        assert baked(template, answers, tmp_path) == expected(answers)

        project = tmp_path / answers["project_slug"]
        run("ruff", "check", "--no-cache", ".", cwd=project)
        run("ruff", "format", "--no-cache", "--check", ".", cwd=project)
        assert_clean(project, answers["region"])
        done = pytest_of(project)
        assert " passed" in done.stdout
        assert "skipped" not in done.stdout
