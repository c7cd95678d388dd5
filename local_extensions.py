"""Jinja filters of this template; cookiecutter loads them for the answers, the hooks and the files."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension
from slugify import slugify

_RULES = Path(__file__).parent / "hooks" / "pre_gen_project.py"


class Scalars(Extension):
    """Adds `quoted`: a text as a JSON string, which is a scalar of the same value in YAML and in TOML.

    Jinja's own `tojson` escapes what is not ASCII in surrogate pairs: YAML reads these as two broken characters,
    and TOML refuses them. The validated answers hold no control character, so JSON leaves all of theirs as it is.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)


class Answers(Extension):
    """Adds `project_slug`, which derives a slug from any name, and `validated`, which refuses bad answers.

    Both go by the rules of the pre_gen_project hook. `validated` does so while nothing is written: cookiecutter
    makes the project's folder before it runs the hook. With the slug `../x` or `a/b` it would leave a folder behind
    that no one asked for, with one of 300 characters it would end in a traceback, and whatever the hook refuses it
    shows with a traceback of its own. The hook remains for answers that are replayed, since cookiecutter does not
    evaluate them anew.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.filters["project_slug"] = _project_slug
        environment.filters["validated"] = _validated


def _project_slug(name: str) -> str:
    rules = runpy.run_path(str(_RULES))
    slug = slugify(name)
    if not slug[:1].isalpha() or slug in rules["RESERVED_SLUGS"]:
        slug = f"stream-{slug}"
    return str(slug)[: rules["SLUG_LENGTH"]].strip("-")


def _validated(answers: dict[str, Any]) -> str:
    rules = runpy.run_path(str(_RULES))
    found = rules["problems"](answers)
    if found:
        raise FailedHookException(rules["refusal"](found))
    return ""
