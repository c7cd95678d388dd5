"""Which questions cookiecutter asks, and what a run of it was given.

Cookiecutter asks for every option, drops answers of a configuration file that it cannot use, and ignores options that
it does not know. A template cannot configure any of that, so this file wraps the two functions that ask, and reads the
arguments of the run from the frames of cookiecutter's own functions. With a version of cookiecutter that has other
functions every option is asked, and the rules in `hooks/pre_gen_project.py` still hold.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
import sys
import tomllib
import unicodedata
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

from cookiecutter import prompt

Answers = dict[str, Any]

OPTIONS: Answers = {
    option: default
    for option, default in json.loads(Path(__file__).with_name("cookiecutter.json").read_text(encoding="utf-8")).items()
    if not option.startswith("_")
}
# These keep their default unless they are given by name, in a configuration file or in a replay.
NOT_ASKED = (
    "jwt_issuer",
    "jwt_audience",
    "cors_origins",
    "cors_credentials",
    "memory",
    "timeout",
    "cold_start",
    "reserved_concurrency",
    "log_retention",
)
# These may also come as numbers, as YAML reads 512.
NUMERIC = ("memory", "timeout", "reserved_concurrency", "log_retention")
# Options that an earlier answer makes pointless: option, earlier option, and whether its answer leaves a choice.
CONDITIONS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "bedrock_model": ("example", lambda example: example in ("agent", "bedrock")),
}
INTRODUCTION = f"""
Press Enter to accept a default. These options keep theirs unless you set them by name, as in memory=1024:
  {", ".join(NOT_ASKED)}
"""
# What `sam init` adds to the options that its user sets.
ADDED_BY_SAM = ("architectures",)
# What an answer must not contain. In the command to repeat a run it is replaced, so that a terminal shows the rest.
UNPRINTABLE = ("Cc", "Cn", "Co", "Cs", "Zl", "Zp")


class Questions:
    """The questions of one run.

    Attributes:
        answers: The answers so far.
    """

    def __init__(self) -> None:
        self.answers: Answers = {}

    def install(self) -> None:
        """Wrap the functions of cookiecutter that ask, in the place of an earlier run's wrappers."""
        for name in ("read_user_variable", "read_user_choice"):
            if ask := getattr(prompt, name, None):
                original: Callable[..., Any] = getattr(ask, "__wrapped__", ask)
                setattr(prompt, name, self._wrap(original))

    def _wrap(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(ask)
        def asked(name: str, default: Any, prompts: Any = None, *prefix: str) -> Any:  # none before cookiecutter 2.3
            # Other templates have other prompts.
            if not isinstance(prompts, dict) or prompts.keys() != OPTIONS.keys() or name not in OPTIONS:
                return ask(name, default, prompts, *prefix)
            if not self._applies(name):
                answer = default[0] if isinstance(default, list) else default
            else:
                if not any(map(self._applies, self.answers)):
                    print(INTRODUCTION)
                answer = ask(name, default, prompts, *(self._numbered(name, text) for text in prefix))
            self.answers[name] = answer
            return answer

        return asked

    def _applies(self, name: str) -> bool:
        if name not in CONDITIONS:
            return name not in NOT_ASKED
        earlier, leaves_choice = CONDITIONS[name]
        return leaves_choice(str(self.answers.get(earlier, OPTIONS[earlier][0])))

    def _numbered(self, name: str, prefix: str) -> str:
        applicable = [option for option in OPTIONS if self._applies(option)]
        return re.sub(r"\[\d+/\d+\]", f"[{applicable.index(name) + 1}/{len(applicable)}]", prefix)


class Run:
    """The arguments of the run that these functions are called in.

    Attributes:
        program: `cookiecutter`, `sam` or `cruft`; empty if none of them runs.
        arguments: The arguments of its function, by name.
        generation: Those of the function that writes the files, if it is about to start.
        configuration: The answers of the configuration file.
        extra: The answers given by name.
    """

    def __init__(self) -> None:
        self.program = ""
        self.arguments: Answers = {}
        self.generation: Answers = {}
        configuration: Any = {}
        in_hook = False
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            place = (frame.f_globals.get("__name__"), frame.f_code.co_name)
            in_hook = in_hook or place[0] == "cookiecutter.hooks"
            if place == ("cookiecutter.generate", "generate_files") and not in_hook:
                self.generation = frame.f_locals
            elif place[1] in ("cookiecutter", "generate_cookiecutter_context") and "config_dict" in frame.f_locals:
                configuration = frame.f_locals["config_dict"]
            if place in (("cookiecutter.main", "cookiecutter"), ("cruft._commands.create", "create")):
                self.program = str(place[0]).partition(".")[0]
                self.arguments = frame.f_locals
            elif str(place[0]).startswith("samcli.lib.init"):
                self.program = "sam"
            frame = frame.f_back
        self.replays = bool(self.arguments.get("replay"))
        self.configuration: Answers = {} if self.replays else dict(configuration.get("default_context") or {})
        self.extra: Answers = dict(self.arguments.get("extra_context") or {})

    def problems(self) -> Iterator[str]:
        """Yield a message for each answer that cookiecutter drops or ignores."""
        if not self.program:
            return
        explicit = self.arguments.get("config_file")
        for given, strict in ((self.configuration, bool(explicit)), (self.extra, True)):
            for name, value in given.items():
                if name in OPTIONS:
                    yield from _unusable(name, value)
                elif not name.startswith("_") and (self.program, name) not in [("sam", of) for of in ADDED_BY_SAM]:
                    # The configuration file in a user's home has answers for other templates too.
                    similar = difflib.get_close_matches(name, OPTIONS, 1, 0.8)
                    if strict or similar:
                        meant = f"Did you mean {similar[0]}?" if similar else f"The options are {', '.join(OPTIONS)}"
                        yield f"`{name}` is not an option of this template. {meant}"

    def foreign_project(self) -> str:
        """Return why the project must not be generated over the folder that exists; nothing if it may."""
        if not self.generation.get("overwrite_if_exists") or not self.program:
            return ""
        answers = self.generation["context"]["cookiecutter"]
        slug = str(answers.get("project_slug"))
        folder = Path(self.generation["output_dir"], slug)
        if not re.fullmatch(r"[a-z0-9-]+", slug) or not folder.is_dir() or not any(folder.iterdir()):
            return ""
        try:
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
            owner = str(project.get("name", slug))
        except (OSError, ValueError):
            owner = slug
        if owner != slug:
            return f"{folder} holds the project {owner!r}. Generate elsewhere with --output-dir, or rename the folder"
        named = {"project_name", "project_slug"} & {*self.configuration, *self.extra}
        typed = not self.arguments.get("no_input") and not self.replays
        from_file = self.replays and not isinstance(self.arguments["replay"], bool)
        if named or typed or from_file or folder.resolve() == Path.cwd():
            return ""
        return (
            f"{folder} holds a project, and its name was not among the answers. To generate over it, either run the "
            f"command in that folder with --output-dir .., or add the answer project_slug={slug}"
        )

    def command(self, answers: Answers, wrong: set[str]) -> str:
        """Return the command that repeats an interactive run with the answers that are wrong last; else nothing."""
        arguments = self.arguments
        if not self.program or arguments.get("no_input") or self.replays:
            return ""
        given = {
            option: _printable(str(answers.get(option)))
            for option, default in OPTIONS.items()
            if option in wrong
            or option in self.configuration
            or answers.get(option) != (default[0] if isinstance(default, list) else default)
        }
        ordered = {option: given[option] for option in sorted(given, key=lambda option: option in wrong)}
        template = str(arguments.get("template") or arguments.get("template_git_url"))
        command = {"sam": ["sam", "init", "--location"], "cruft": ["cruft", "create"]}.get(self.program, [self.program])
        command += [template, "--no-input"]
        for name in ("checkout", "directory", "output_dir", "config_file"):
            if arguments.get(name) and (name, str(arguments[name])) != ("output_dir", "."):
                command += [f"--{name.replace('_', '-')}", str(arguments[name])]
        for name in ("default_config", "overwrite_if_exists", "skip_if_file_exists", "keep_project_on_failure"):
            if arguments.get(name) and self.program != "sam":
                command.append(f"--{name.replace('_', '-')}")
        if self.program == "cookiecutter":
            command += [f"{option}={answer}" for option, answer in ordered.items()]
        else:
            command += ["--extra-context", json.dumps(ordered, ensure_ascii=False)]
        return shlex.join(command)


def _unusable(option: str, value: Any) -> Iterator[str]:
    """Yield a message if cookiecutter would drop this answer, or YAML read it as something other than was written."""
    default = OPTIONS[option]
    if isinstance(default, list):
        if not isinstance(value, str) or value not in default:
            choices = ", ".join(json.dumps(choice) for choice in default)
            yield f"`{option}` must be one of {choices}, got {_shown(value)}. Write it in quotes in a YAML file"
    elif not isinstance(value, str) and not (type(value) is int and option in NUMERIC):
        yield f"`{option}` must be text, got {_shown(value)}. Write it in quotes in a YAML file"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else text[:80] + "…"


def _printable(text: str) -> str:
    return "".join("\ufffd" if unicodedata.category(char) in UNPRINTABLE else char for char in text)
