"""Jinja filters of this template, for the answers, the hooks and the files. `local_extensions.py` loads them."""

from __future__ import annotations

import json
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from slugify import slugify

_RULES = Path(__file__).parent / "hooks" / "pre_gen_project.py"


@cache
def _rules() -> dict[str, Any]:
    """The rules of the pre_gen_project hook of this version."""
    return runpy.run_path(str(_RULES))


# What this version has cookiecutter evaluate beside the files of a project: options, a folder, the hooks' answers.
OWN = frozenset(
    (
        "{{ cookiecutter.project_name | project_slug }}",
        "{{ cookiecutter | validated }}",
        "{{cookiecutter.project_slug}}",
    )
)
OWN_IN_HOOKS = r'r"""\n\{\{ _?cookiecutter (\| default\(\{\}\) )?\| tojson \}\}\n"""'


def refuse_foreign(source: str) -> None:
    """Refuses Jinja that is not this template's own, before it is evaluated.

    Cookiecutter evaluates answers that are given on its command line or through its API, without a sandbox: they could
    run any code of whoever wrote them.
    """
    if source in OWN or not re.search(r"\{[{%#]", re.sub(OWN_IN_HOOKS, "", source)):
        return
    raise FailedHookException(_rules()["refusal"](_rules()["evaluated"](source)))


def quoted(text: str) -> str:
    """The text as a JSON string, which is a scalar of the same value in YAML and in TOML.

    Jinja's own `tojson` escapes what is not ASCII in surrogate pairs: YAML reads these as two broken characters,
    and TOML refuses them. The validated answers hold no control character, so JSON leaves all of theirs as it is.
    """
    return json.dumps(text, ensure_ascii=False)


def project_slug(name: str) -> str:
    """A slug for any name, by the rules of the pre_gen_project hook."""
    slug = slugify(name)
    if not slug[:1].isalpha() or slug in _rules()["RESERVED_SLUGS"]:
        slug = f"stream-{slug}"
    return str(slug)[: _rules()["SLUG_LENGTH"]].strip("-")


def validated(answers: dict[str, Any]) -> str:
    """Nothing; refuses bad answers by the rules of the pre_gen_project hook, while nothing is written.

    Cookiecutter makes the project's folder before it runs the hook. With the slug `../x` or `a/b` it would leave a
    folder behind that no one asked for, with one of 300 characters it would end in a traceback, and whatever the hook
    refuses it shows with a traceback of its own. The hook remains for answers that are replayed, since cookiecutter
    does not evaluate them anew.
    """
    found = _rules()["problems"](answers)
    if found:
        raise FailedHookException(_rules()["refusal"](found))
    return ""


FILTERS = {"project_slug": project_slug, "quoted": quoted, "validated": validated}
