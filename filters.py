"""Jinja filters of this template, and its checks of a run of cookiecutter. `local_extensions.py` loads this file.

That happens each time that cookiecutter makes a Jinja environment: before it asks, before it writes, and for each hook.
"""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from slugify import slugify

_HERE = Path(__file__).parent


@cache
def _load(path: str) -> dict[str, Any]:
    """Return what this version's file defines; an import would return the older version's in `cruft update`."""
    return runpy.run_path(str(_HERE / path))


def _rules() -> dict[str, Any]:
    return _load("hooks/pre_gen_project.py")


def _run() -> Any:
    """Return the run of cookiecutter that this is called in."""
    return _load("questions.py")["Run"]()


# This version's Jinja outside the files of a project: in options, the name of its folder, and the hooks' answers.
OWN = frozenset(
    (
        "{{ cookiecutter.project_name | project_slug }}",
        "{{ cookiecutter | validated }}",
        "{{cookiecutter.project_slug}}",
    )
)
OWN_IN_HOOKS = r'r"""\n\{\{ _?cookiecutter (\| default\(\{\}\) |\| aws_limits )?\| tojson \}\}\n"""'


def refuse_foreign(source: str) -> None:
    """Refuse Jinja that is not this template's own, before it is evaluated.

    Cookiecutter evaluates the answers of its command line and its API without a sandbox: they could run any code.
    """
    if source in OWN or not re.search(r"\{[{%#]", re.sub(OWN_IN_HOOKS, "", source)):
        return
    raise FailedHookException(_rules()["refusal"](_rules()["evaluated"](source)))


def quoted(text: str) -> str:
    """Return the text as a JSON string, which is a scalar of the same value in YAML and in TOML.

    Jinja's own `tojson` escapes characters outside ASCII as surrogate pairs: YAML reads these as two broken characters,
    and TOML refuses them. Validated answers contain no control characters, so JSON keeps their characters unchanged.
    """
    return json.dumps(text, ensure_ascii=False)


def project_slug(name: str) -> str:
    """Turn any name into a slug that the rules of the pre_gen_project hook accept."""
    slug = slugify(name)
    if not slug[:1].isalpha() or slug in _rules()["RESERVED_SLUGS"]:
        slug = f"stream-{slug}"
    return str(slug)[: _rules()["SLUG_LENGTH"]].strip("-")


def validated(answers: dict[str, Any]) -> str:
    """Refuse bad answers by the rules of the pre_gen_project hook, while nothing is written; return an empty text.

    Cookiecutter makes the project's folder before it runs the hook. With the slug `../x` or `a/b` it would leave a
    folder behind, with one of 300 characters it would end in a traceback, and a refusal by the hook is printed with a
    traceback too. The hook is still needed for replayed answers, which cookiecutter does not evaluate again.
    """
    found = _rules()["find_problems"](answers)
    if found:
        wrong = {problem.option for problem in found}
        lines = [_rules()["refusal"]([problem.message for problem in found])]
        if command := _run().command(answers, wrong):
            lines += ["", f"To repeat this run, correct {', '.join(sorted(wrong))} in this command:", f"  {command}"]
        raise FailedHookException("\n".join(lines))
    return ""


def aws_limits(_answers: dict[str, Any]) -> dict[str, Any]:
    """Return what AWS allows, as `local/aws_limits.toml` of a project has it."""
    return _aws_limits()


@cache
def _aws_limits() -> dict[str, Any]:
    path = _HERE / "{{cookiecutter.project_slug}}" / "local" / "aws_limits.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


# Files of a project that only work with the line endings of Unix.
UNIX_FILES = ("Makefile", "interpreter.sh", "runtime/bootstrap")


def check_line_endings(template: Path) -> None:
    """Refuse a template that was copied with Windows line endings."""
    for path in (template / "{{cookiecutter.project_slug}}" / name for name in UNIX_FILES):
        if path.exists() and b"\r" in path.read_bytes():
            raise FailedHookException(
                f"Nothing was generated: {path} has Windows line endings, with which a project cannot work. Get the "
                "template again with git 2.10 or later, which keeps them out, or generate from its address."
            )


def check_run() -> None:
    """Refuse answers that cookiecutter drops or ignores, and to generate over another project."""
    check_line_endings(_HERE)
    run = _run()
    if problems := [*run.problems()]:
        raise FailedHookException(_rules()["refusal"](problems))
    if reason := run.foreign_project():
        raise FailedHookException(f"Nothing was generated: {reason}.")


FILTERS = {"aws_limits": aws_limits, "project_slug": project_slug, "quoted": quoted, "validated": validated}

_load("questions.py")["Questions"]().install()
check_run()
