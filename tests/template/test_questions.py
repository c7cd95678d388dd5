"""What cookiecutter asks on a terminal, how a run is repeated, and what it must not drop or overwrite."""

import json
import os
import pty
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cookiecutter import prompt
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from cookiecutter.utils import work_in
from tests.helpers.rendering import load_yaml
from tests.helpers.support import OPTIONS, Answers, Bake, defaults, files, run, user_environment

# The order of the questions, and those that only some answers lead to.
ALWAYS = (
    *("project_name", "project_slug", "description", "region", "example", "runtime", "python_version"),
    *("architecture", "front_door", "observability", "deployment", "deploy_pipeline"),
    "url_auth",
)
SOMETIMES = {"bedrock_model": {"example": "bedrock"}}


def prompt_of(option: str) -> str:
    text = OPTIONS["__prompts__"][option]
    return str(text["__prompt__"] if isinstance(text, dict) else text)


def typed(answers: Answers) -> str:
    """Return what to type for these answers, with Enter for the others."""
    lines = []
    for option in OPTIONS["__prompts__"]:
        asked = option in ALWAYS or option in SOMETIMES
        if option in SOMETIMES:
            [(earlier, answer)] = SOMETIMES[option].items()
            given = {**defaults(), **answers}[earlier]
            asked = given in ("agent", answer)
        if asked:
            answer = answers.get(option, "")
            lines.append(str(OPTIONS[option].index(answer) + 1) if answer and option in choices() else answer)
    return "".join(f"{line}\n" for line in lines)


def choices() -> list[str]:
    return [option for option, default in OPTIONS.items() if isinstance(default, list)]


def on_a_terminal(command: list[str], keys: str, folder: Path) -> tuple[int, str]:
    """Run a command on a pseudo-terminal with these keys typed; return its status and what it showed."""
    terminal, end = pty.openpty()
    # On a dumb terminal rich uses 80 columns unless both sizes are set.
    environment = user_environment(TERM="dumb", COLUMNS="300", LINES="100", HOME=str(folder))
    environment.pop("COOKIECUTTER_CONFIG", None)
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=end, stdout=end, stderr=end)
    os.close(end)
    os.write(terminal, keys.encode())
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # Linux raises EIO when the other end is closed.
        pass
    os.close(terminal)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "left_out"),
    [
        ({}, ["bedrock_model"]),
        ({"example": "bedrock"}, []),
        ({"example": "agent"}, []),
        ({"front_door": "cloudfront"}, ["bedrock_model"]),
        ({"example": "bedrock", "front_door": "cloudfront", "url_auth": "jwt"}, []),
    ],
    ids=str,
)
def test_questions_on_a_terminal(answers: Answers, left_out: list[str], template: Path, tmp_path: Path) -> None:
    status, shown = on_a_terminal(["cookiecutter", str(template)], typed(answers), tmp_path)
    assert status == 0, shown
    prompts = {prompt_of(option): option for option in OPTIONS["__prompts__"]}
    asked = re.findall(rf"\[(\d+)/(\d+)\] ({'|'.join(map(re.escape, prompts))})", shown)
    expected = [option for option in defaults() if (option in ALWAYS or option in SOMETIMES) and option not in left_out]
    assert [prompts[text] for _, _, text in asked] == expected
    assert [int(number) for number, _, _ in asked] == [*range(1, len(expected) + 1)]
    assert asked[-1][1] == str(len(expected))
    assert len(expected) <= 14
    assert "  " + ", ".join(BY_NAME) in shown  # before the first question


# The options that are not asked: an answer of each, and what it leaves in the template.
BY_NAME = {
    "jwt_issuer": "https://example.com",
    "jwt_audience": "other",
    "cors_origins": "https://example.com",
    "cors_credentials": "yes",
    "memory": "1024",
    "timeout": "30",
    "cold_start": "snapstart",
    "reserved_concurrency": "7",
    "log_retention": "365",
}


def check_named(project: Path) -> None:
    resources = load_yaml((project / "template.yaml").read_text(encoding="utf-8"))["Resources"]
    function = resources["StreamFunction"]["Properties"]
    assert (function["MemorySize"], function["Timeout"], function["ReservedConcurrentExecutions"]) == (1024, 30, 7)
    assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert resources["StreamLogs"]["Properties"]["RetentionInDays"] == 365
    cors = resources["StreamUrl"]["Properties"]["Cors"]
    assert (cors["AllowOrigins"], cors["AllowCredentials"]) == (["https://example.com"], True)


@pytest.mark.slow
def test_unasked_options_by_name(template: Path, tmp_path: Path) -> None:
    """They are set by name, on a terminal and without one, by a configuration file, and by a replay."""
    assert BY_NAME.keys() == OPTIONS.keys() - {*ALWAYS, *SOMETIMES} - {key for key in OPTIONS if key.startswith("_")}
    named = [f"{option}={answer}" for option, answer in BY_NAME.items()]
    status, shown = on_a_terminal(["cookiecutter", str(template), *named], typed({}), tmp_path)
    assert status == 0, shown
    check_named(tmp_path / "lambda-stream")
    run("cookiecutter", template, "--replay", "-o", "replayed", cwd=tmp_path, HOME=str(tmp_path))
    check_named(tmp_path / "replayed" / "lambda-stream")
    (tmp_path / "answers.yaml").write_text(yaml.safe_dump({"default_context": BY_NAME}), encoding="utf-8")
    configured = ("--no-input", "--config-file", "answers.yaml", "-o", "configured")
    run("cookiecutter", template, *configured, cwd=tmp_path)
    check_named(tmp_path / "configured" / "lambda-stream")


def test_other_templates_are_asked_in_full(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrappers of this template, which stay in the process, change no other template's questions."""
    cookiecutter(str(template), no_input=True, default_config=True, output_dir=str(tmp_path))
    asked = []

    def ask(text: str, default: str) -> str:
        asked.append(text)
        return default

    monkeypatch.setattr(prompt.Prompt, "ask", ask)
    context = {"cookiecutter": {"memory": "1", "__prompts__": {"memory": "Memory"}}}
    assert prompt.prompt_for_config(context) == {"memory": "1"}
    assert asked == ["  [dim][1/1][/] Memory"]


def repeated(shown: str) -> str:
    [command] = re.findall(r"in this command:\n  (.*)\n", shown)
    return str(command)


@pytest.mark.slow
def test_refusal_repeats_all_answers(template: Path, tmp_path: Path) -> None:
    """After a mistake at the last questions, the command that is printed makes the project once it is corrected."""
    answers = {
        "project_name": "Tom\u2019s \U0001f680 $HOME; 100 %",
        "description": 'It "streams" & $(more)',
        "region": "eu-west-1",
        "front_door": "rest-api",
        "deployment": "canary",
    }
    status, shown = on_a_terminal(
        ["cookiecutter", str(template), "--output-dir", "a folder", "memory=0512"], typed(answers), tmp_path
    )
    assert status == 1
    assert "To repeat this run, correct description, memory in this command:" in shown
    command = repeated(shown)
    assert re.search(r"'description=It \"streams\" & \$\(more\)' memory=0512$", command)
    assert not (tmp_path / "a folder").exists()
    corrected = command.replace('"streams"', "streams").replace("memory=0512", "memory=512")
    run("sh", "-c", corrected, cwd=tmp_path, HOME=str(tmp_path))
    [project] = (tmp_path / "a folder").iterdir()
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {answers['project_name']}\n\nIt streams & $(more)\n")
    text = (project / "template.yaml").read_text(encoding="utf-8")
    assert "StreamApi" in text
    assert "AutoPublishAlias" in text
    assert 'region = "eu-west-1"' in (project / "samconfig.toml").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["sam", "cruft"])
def test_refusal_of_other_programs(program: str, template: Path, tmp_path: Path) -> None:
    command = {"sam": ["sam", "init", "--location"], "cruft": ["cruft", "create"]}[program]
    source = template
    if program == "cruft":
        source = tmp_path / "origin"
        run("git", "clone", "--quiet", *repository(template, tmp_path), str(source), cwd=tmp_path)
    keys = typed({"description": "it's"})
    status, shown = on_a_terminal([*command, str(source)], keys, tmp_path)
    assert status == 1
    corrected = re.findall(r"((?:sam init|cruft create) .*--extra-context .*)$", shown, re.MULTILINE)[0].strip()
    run("sh", "-c", corrected.replace("""it'"'"'s""", "it is"), cwd=tmp_path, HOME=str(tmp_path))
    assert "\nit is\n" in (tmp_path / "lambda-stream" / "README.md").read_text(encoding="utf-8")


def repository(template: Path, folder: Path) -> Iterator[str]:
    """Make a repository of the template; yield its path."""
    copy = folder / "repository"
    run("cp", "-R", template, copy, cwd=folder)
    identity = ("-c", "user.name=A Maintainer", "-c", "user.email=maintainer@example.com")
    run("git", "init", "-q", cwd=copy)
    run("git", "add", "--all", cwd=copy)
    run("git", *identity, "commit", "-q", "-m", "all", cwd=copy)
    yield str(copy)


# Lines of a configuration file's `default_context`, and what the refusal says; cookiecutter would drop the first and
# all that follow it, or read something other than was written.
DROPPED = [
    ("cors_credentials: no", '`cors_credentials` must be one of "no", "yes", got false. Write it in quotes'),
    (
        "python_version: 3.12",
        '`python_version` must be one of "3.13", "3.14", "3.12", "3.15", got 3.12. Write it in quotes',
    ),
    ('python_version: "3.11"', '`python_version` must be one of "3.13", "3.14", "3.12", "3.15", got "3.11"'),
    ("example: [sse]", '`example` must be one of "hello", "sse", "fastapi", "bedrock", "agent", "mcp", got ["sse"]'),
    ("description:", "`description` must be text, got null. Write it in quotes"),
    ("description: yes", "`description` must be text, got true. Write it in quotes"),
    ("description: [a, b]", '`description` must be text, got ["a", "b"]. Write it in quotes'),
    ("description: {a: b}", '`description` must be text, got {"a": "b"}. Write it in quotes'),
    ("description: 2026-11-30", '`description` must be text, got "2026-11-30". Write it in quotes'),
    ("project_name: 1.10", "`project_name` must be text, got 1.1. Write it in quotes"),
    ("project_name: 12:30", "`project_name` must be text, got 750. Write it in quotes"),
    ("cors_origins: no", "`cors_origins` must be text, got false. Write it in quotes"),
    ("memroy: 1024", "`memroy` is not an option of this template. Did you mean memory?"),
    ("colour: blue", "`colour` is not an option of this template. The options are project_name, "),
]


@pytest.fixture
def siblings(bake: Bake, tmp_path: Path) -> Path:
    """Return a folder with two edited projects: mine/ and lambda-stream/."""
    for slug in ("mine", "lambda-stream"):
        shutil.copytree(bake(project_slug=slug), tmp_path / slug)
        (tmp_path / slug / "src" / "app.py").write_text(f"# {slug}\n", encoding="utf-8")
    return tmp_path


def refused(template: Path, start: Path, **arguments: Any) -> str:
    """Generate from a folder, as the command does; return why that was refused, or an empty text."""
    with work_in(start):
        try:
            cookiecutter(str(template), no_input=not arguments.get("replay"), **arguments)
        except FailedHookException as failure:
            return str(failure)
    return ""


@pytest.mark.filterwarnings("ignore:Invalid default received")  # all that cookiecutter says of it
@pytest.mark.parametrize(("line", "message"), DROPPED)
def test_answer_that_would_be_dropped(line: str, message: str, template: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.yaml").write_text(f"default_context:\n  {line}\n  timeout: 30\n", encoding="utf-8")
    assert f"\n  {message}" in refused(template, tmp_path, config_file="answers.yaml")
    assert {path.name for path in tmp_path.iterdir()} == {"answers.yaml"}


@pytest.mark.slow
def test_dropped_name_overwrites_no_sibling(template: Path, siblings: Path) -> None:
    before = files(siblings / "lambda-stream")
    answers = "default_context:\n  cors_credentials: no\n  project_name: Mine\n"
    (siblings / "mine" / "answers.yaml").write_text(answers, encoding="utf-8")
    command = ("cookiecutter", "--no-input", "--overwrite-if-exists", "-o", "..", "--config-file", "answers.yaml")
    done = run(*command, template, cwd=siblings / "mine", check=False)
    assert done.returncode == 1
    assert "`cors_credentials` must be one of" in done.stdout
    assert "Traceback" not in done.stderr
    assert files(siblings / "lambda-stream") == before


@pytest.mark.slow
def test_home_configuration_of_other_templates(template: Path, tmp_path: Path) -> None:
    """Answers for other templates are ignored there, but not a misspelt option."""
    configuration = tmp_path / ".cookiecutterrc"
    configuration.write_text("default_context:\n  full_name: Me\n  email: me@example.com\n", encoding="utf-8")
    command = ["env", "-u", "COOKIECUTTER_CONFIG", "cookiecutter", str(template), "--no-input"]
    run(*command, cwd=tmp_path, HOME=str(tmp_path))
    configuration.write_text("default_context:\n  regoin: eu-west-1\n", encoding="utf-8")
    done = run(*command, "project_slug=other", cwd=tmp_path, check=False, HOME=str(tmp_path))
    assert "`regoin` is not an option of this template. Did you mean region?" in done.stdout
    assert not (tmp_path / "other").exists()


# Where a run starts, what it is given, and the project that it may generate over, if any.
OVERWRITES = [
    ("mine", {}, None),
    ("lambda-stream", {}, "lambda-stream"),
    ("mine", {"project_slug": "lambda-stream"}, "lambda-stream"),
    ("mine", {"project_name": "Lambda Stream"}, "lambda-stream"),
    ("mine", {"project_name": "Mine"}, "mine"),
    (".", {}, None),
    (".", {"project_slug": "mine"}, "mine"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "given", "target"), OVERWRITES)
def test_overwriting_needs_the_name(
    start: str, given: Answers, target: str | None, template: Path, siblings: Path
) -> None:
    before = {slug: files(siblings / slug) for slug in ("mine", "lambda-stream")}
    where: Answers = {"output_dir": str(siblings), "overwrite_if_exists": True, "default_config": True}
    reason = refused(template, siblings / start, extra_context=given, **where)
    changed = [slug for slug, content in before.items() if files(siblings / slug) != content]
    assert changed == ([target] if target else [])
    assert bool(reason) == (target is None)
    assert not reason or "add the answer project_slug=lambda-stream." in reason


@pytest.mark.slow
def test_replay_overwrites_no_sibling(template: Path, siblings: Path) -> None:
    """The latest replay is that of lambda-stream/, and mine/ is where it is replayed."""
    (siblings / "rc").write_text(f"replay_dir: {siblings / 'replay'}\n", encoding="utf-8")
    again: Answers = {"config_file": str(siblings / "rc"), "output_dir": str(siblings)}
    before = files(siblings / "lambda-stream")
    assert refused(template, siblings, **{**again, "output_dir": str(siblings / "elsewhere")}) == ""
    again |= {"replay": True, "overwrite_if_exists": True}
    reason = refused(template, siblings / "mine", **again)
    assert "holds a project, and its name was not among the answers" in reason
    assert files(siblings / "lambda-stream") == before
    assert refused(template, siblings / "lambda-stream", **again) == ""
    assert files(siblings / "lambda-stream") != before


@pytest.mark.slow
def test_folder_of_another_project(template: Path, siblings: Path) -> None:
    """A folder whose project has another name is not generated over, even if the folder is named."""
    path = siblings / "mine" / "pyproject.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('"mine"', '"theirs"'), encoding="utf-8")
    before = files(siblings / "mine")
    given: Answers = {"extra_context": {"project_slug": "mine"}, "overwrite_if_exists": True, "default_config": True}
    assert "holds the project 'theirs'" in refused(template, siblings, output_dir=str(siblings), **given)
    assert files(siblings / "mine") == before


@pytest.mark.parametrize(
    ("option", "meant"), [("memroy", "Did you mean memory?"), ("x", "The options are project_name")]
)
def test_unknown_option_on_command_line(option: str, meant: str, template: Path, tmp_path: Path) -> None:
    done = run("cookiecutter", template, "--default-config", "--no-input", f"{option}=1", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert f"  `{option}` is not an option of this template. {meant}" in done.stdout
    assert [*tmp_path.iterdir()] == []


def test_unprintable_answers_in_the_command(template: Path, tmp_path: Path) -> None:
    """Escape sequences reach no terminal, and everything else that was given is in the command."""
    named = ["description=a \x1b[31mred\u2028 word"]
    status, shown = on_a_terminal(["cookiecutter", str(template), *named], typed({}), tmp_path)
    assert status == 1
    shown = shown.partition("These answers cannot work")[2]  # cookiecutter shows each default as it was given
    assert "\x1b" not in shown
    assert "'description=a \ufffd[31mred\ufffd word'" in repeated(shown)
    assert json.dumps("a \x1b[31mred\u2028 word") in shown
