"""Leaves the files of the chosen example, and says what comes next.

Nothing is installed, fetched or committed here: a failure would delete the project.
"""

from __future__ import annotations

import json
import shutil
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
Anyone on the internet may call the deployed URL, and you pay for each call (url_auth: NONE).
"""


# A folder for each example but the first, whose files are in place: they are laid over those.
EXAMPLES = Path("examples")


def choose_example(example: str) -> None:
    """Leaves in the current folder, which is the project's, the files of one example and of no other."""
    chosen = EXAMPLES / example
    if chosen.is_dir():
        shutil.copytree(chosen, ".", dirs_exist_ok=True)
    shutil.rmtree(EXAMPLES)


def next_steps(answers: dict[str, Any]) -> str:
    """What to tell whoever has just answered so."""
    text = NEXT_STEPS.format(project_slug=answers["project_slug"])
    return text + PUBLIC if answers["url_auth"] == "NONE" else text


if __name__ == "__main__":
    given = json.loads(ANSWERS)
    choose_example(given["example"])
    print(next_steps(given))
