"""Leaves the files of the chosen example and pipeline, and says what comes next.

Nothing is installed, fetched or committed here: a failure would delete the project.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

ANSWERS = r"""
{{ cookiecutter | tojson }}
"""

NEXT_STEPS = """
Your project is in {project_slug}/. It needs uv (https://docs.astral.sh/uv/) and, to build and deploy, the SAM CLI.

  cd {project_slug}
  make dev        the function URL on localhost, chunks live
  make check      lint, types, template, tests
  make deploy     the same handler on Lambda, streaming
"""

PUBLIC = """
Anyone on the internet may call what is deployed, and you pay for each call ({reason}).
"""

# What only one answer to an option leaves in the project: option, answer, path.
OPTIONAL_PATHS = (
    ("runtime", "container", "Dockerfile"),
    ("runtime", "container", ".dockerignore"),
    ("runtime", "provided.al2023", "interpreter.sh"),
    ("front_door", "rest-api", "events/rest.json"),
    ("deploy_pipeline", "github-actions", ".github/dependabot.yml"),
    ("deploy_pipeline", "github-actions", ".github/workflows/ci.yml"),
    ("deploy_pipeline", "github-actions", ".github/workflows/deploy.yml"),
    ("deploy_pipeline", "github-actions", ".github/workflows/environment.yml"),
    ("deploy_pipeline", "github-actions", "pipeline/__main__.py"),
    ("deploy_pipeline", "github-actions", "pipeline/oidc.yaml"),
)

# A folder for each example but the first, whose files are in place: they are laid over those.
EXAMPLES = Path("examples")


def choose_example(example: str) -> None:
    """Leaves in the current folder, which is the project's, the files of one example and of no other."""
    chosen = EXAMPLES / example
    if chosen.is_dir():
        shutil.copytree(chosen, ".", dirs_exist_ok=True)
    shutil.rmtree(EXAMPLES)


def remove_what_was_not_chosen(answers: dict[str, Any]) -> None:
    """Leaves in the current folder no path that belongs to another answer."""
    for option, answer, path in OPTIONAL_PATHS:
        if answers[option] != answer:
            Path(path).unlink()
            for folder in list(Path(path).parents)[:-1]:
                if not any(folder.iterdir()):
                    folder.rmdir()


def next_steps(answers: dict[str, Any]) -> str:
    """What to tell whoever has just answered so."""
    text = NEXT_STEPS.format(project_slug=answers["project_slug"])
    for option, answer in (("url_auth", "NONE"), ("front_door", "cloudfront")):
        if answers[option] == answer:
            text += PUBLIC.format(reason=f"{option}: {answer}")
    return text


def will_stay(answers: dict[str, Any], folder: Path) -> bool:
    """Whether `folder` is a project for someone: cruft also makes some to compare, below a temporary folder."""
    by_cruft = "_output_dir" not in answers
    above = folder.parent
    return not (by_cruft and above.name.startswith("tmp") and above.parent == Path(tempfile.gettempdir()).resolve())


if __name__ == "__main__":
    given = json.loads(ANSWERS)
    choose_example(given["example"])
    remove_what_was_not_chosen(given)
    if will_stay(given, Path.cwd()):
        print(next_steps(given))
