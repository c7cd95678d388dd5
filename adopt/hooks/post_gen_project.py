"""Does what `adopt_extension.py` has shown: lays down the folder and edits the template."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

# Cookiecutter puts the answers in here. They are read as data; no answer is ever part of the code.
ANSWERS = r"""
{{ cookiecutter | tojson }}
"""


def main() -> int:
    """Return the exit status: 1 if something came in between."""
    context = json.loads(ANSWERS)
    made = Path.cwd()
    extension = runpy.run_path(str(Path(context["_repo_dir"]) / "adopt_extension.py"))
    module = extension["load_package"](Path(context["_repo_dir"])).job
    answers = module.Answers.from_context(context)
    is_new = made.name == answers.folder
    try:
        done = module.prepare(answers, is_new).run()
    except module.Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 1
    if not is_new:
        # Only cookiecutter needs this one.
        os.chdir(answers.application)
        shutil.rmtree(made)
    print(done, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
