"""The Jinja extension of this template: it decides what to do while nothing is written yet.

Cookiecutter calls `workspace` for the name of the folder that it is about to make. That is the only moment at which it
knows the application's folder, has written nothing, and ends with a plain message where something is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

# What of this template cookiecutter evaluates as Jinja.
_OWN = "{{workspace(cookiecutter)}}"
_OWN_IN_HOOK = r'r"""\n\{\{ cookiecutter \| tojson \}\}\n"""'


class Adopt(Extension):
    """Provides `workspace`, and evaluates no other Jinja than this template's own."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["workspace"] = workspace

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Refuse answers that would be evaluated: on the command line they could run any code."""
        own = source == _OWN or not re.search(r"\{[{%#]", re.sub(_OWN_IN_HOOK, "", source))
        if name is None and not own:
            raise FailedHookException(
                f"An answer must not hold {{{{, {{% or {{#, got {source[:80]!r}. Nothing was changed."
            )
        return source


def workspace(context: dict[str, Any]) -> str:
    """Show what is to be done, ask where somebody can answer, and return the name of the folder to make.

    Raises:
        FailedHookException: It cannot be done, or the user does not want it.
    """
    # The hook runs in another folder, where a relative path to a checkout would lead elsewhere.
    context["_repo_dir"] = str(Path(context["_repo_dir"]).resolve())
    job_module = load_package(Path(__file__).parent).job
    options = _command_line()
    try:
        answers = job_module.Answers.from_context(context)
        if options.get("accept_hooks") == "no":
            raise job_module.Refusal("The work is done by this template's hooks. Run it without --accept-hooks no")
        job = job_module.prepare(answers)
    except job_module.Refusal as refusal:
        raise FailedHookException(f"{refusal}\nNothing was changed.") from None
    _say(job.summary)
    asks = options and not (options.get("no_input") or options.get("replay") or options.get("replay_file"))
    if asks and not job.is_empty and not click.confirm("Do this?", default=True):
        raise FailedHookException("Nothing was changed.")
    name: str = job_module.workspace_name(answers, job)
    return name


def load_package(folder: Path) -> ModuleType:
    """Import `adopting` from this folder, under a name of its own: a process may load two versions of it."""
    name = "adopting_" + re.sub(r"\W", "_", str(folder.resolve()))
    if name not in sys.modules:
        init = folder / "adopting" / "__init__.py"
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[name] = package
        spec.loader.exec_module(package)
        importlib.import_module(f"{name}.job")
    return sys.modules[name]


def _command_line() -> dict[str, Any]:
    """Return the options of cookiecutter's command; nothing where something else called it."""
    current = click.get_current_context(silent=True)
    is_cookiecutter = current is not None and {"extra_context", "accept_hooks"} <= {*current.params}
    return current.params if current is not None and is_cookiecutter else {}


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
