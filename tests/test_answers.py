"""Bad answers are refused, each with a message of its own, and nothing is written."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cookiecutter.exceptions import FailedHookException, UndefinedVariableInTemplate
from cookiecutter.main import cookiecutter
from cookiecutter.utils import create_env_with_context
from hooks.pre_gen_project import CHOICES, JINJA, RESERVED_SLUGS, problems
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import TemplateError
from tests.support import ROOT, Answers, Bake, defaults, run

OPTIONS: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
NUMBERS = ["", "0", "-1", "0512", "1e3", "1_024", "512.0", " 512", "512 ", "512\n", "+512", "0x200", "५१२", "512MB"]
TEXTS = [
    ("", "must not be empty"),
    ("  ", "must not be empty"),
    ('a "quoted" word', "straight quotes"),
    ("it's", "straight quotes"),
    ("a `command`", "straight quotes"),
    ("two\nlines", "U+000A"),
    ("a trailing newline\n", "U+000A"),
    ("a\ttab", "U+0009"),
    ("a \x1b[31mcolour", "U+001B"),
    ("a \x00 byte", "U+0000"),
    ("a \x85 next line", "U+0085"),
    ("a \u2028 separator", "U+2028"),
    ("a \ud83d surrogate", "U+D83D"),
    ("a {{ cookiecutter }} template", "{{"),
    ("a ${{ secrets.TOKEN }} expression", "{{"),
    ("a {% raw %} block", "{%"),
    ("a {# comment #}", "{#"),
    ("a \u202e turn", "U+202E"),
    ("x" * 257, "and has 257"),
]
BAD_SLUGS = [
    "",
    "../evil",
    "a/b",
    "/tmp/evil",
    ".",
    "..",
    ".hidden",
    "a\\b",
    "Capital",
    "under_score",
    "two words",
    "trailing-",
    "-leading",
    "two--hyphens",
    "1st",
    "newline\n",
    "ünïcode",
    "nul\x00byte",
    "x" * 41,
    "x" * 300,
    *sorted(RESERVED_SLUGS),
]
BAD_ORIGINS = [
    "https://example.com/",
    "https://example.com/path",
    "example.com",
    "ftp://example.com",
    "https://",
    "https://Example.com",
    "https://user@example.com",
    "https://example.com?x",
    "https://example.com:0",
    "https://example.com:65536",
    "https://" + "x" * 64 + ".com",
    "https://example.com,",
    " ",
    "https://*.example.com",
    "https://example.com\n",
    "https://a.com,,https://b.com",
    "*,https://example.com",
    "https://" + "x.com." * 42 + "com",
    ",".join(f"https://a{number}.com" for number in range(101)),
]
BAD = [
    *(("project_slug", slug, "project_slug = ") for slug in BAD_SLUGS),
    *(("memory", number, "from 128 to 10240") for number in [*NUMBERS, "127", "10241", "99999999999"]),
    *(("timeout", number, "from 1 to 900") for number in [*NUMBERS, "901"]),
    *(
        ("region", region, "AWS region")
        for region in ("", "mars-north-1", "us-east-1a", "US-EAST-1", "us-east-1\n", "eu", "eu-central-2", "cn-north-1")
    ),
    *(("cors_origins", origins, "cors_origins = ") for origins in BAD_ORIGINS),
    *((option, text, rule) for option in ("project_name", "description") for text, rule in TEXTS),
    ("project_name", "x" * 65, "and has 65"),
    *((option, value, "must be one of") for option in CHOICES for value in ("", "none", "python3.13\n")),
]
GOOD = [
    ("project_slug", "a"),
    ("project_slug", "my-stream-2"),
    ("project_slug", "x" * 40),
    ("project_name", "Füße 流れ поток 🚀"),
    ("project_name", "👩‍🚀 Tom\u2019s \u201cbest\u201d stream"),
    ("description", "colons: yes, # hashes, - dashes, @ & * ! % | > [x] {y} ~ \\ / $HOME $(id) ; 100 % $ {z}"),
    ("description", "x" * 256),
    ("memory", "128"),
    ("memory", "10240"),
    ("timeout", "1"),
    ("timeout", "900"),
    ("region", "eu-west-3"),
    ("cors_origins", ""),
    ("cors_origins", "*"),
    ("cors_origins", "https://example.com, http://localhost:5173"),
    ("cors_origins", ",".join(f"https://a{number}.com" for number in range(100))),
]


# What cookiecutter raises before a rule is asked: an answer is not among the choices, or is Jinja that fails.
EVALUATED = (ValueError, TemplateError, UndefinedVariableInTemplate)


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(("option", "value", "rule"), BAD)
def test_a_bad_answer_gives_one_message_with_option_value_rule_and_remedy(option: str, value: str, rule: str) -> None:
    found = problems({**defaults(), option: value})
    assert len(found) == 1 or (option == "cors_origins" and len(found) > 0)
    message = found[0]
    assert message.startswith(f"{option} = ")
    assert rule in message
    assert "Try " in message
    assert message.isprintable()


@pytest.mark.parametrize(("option", "value"), GOOD)
def test_a_good_answer_gives_no_message(option: str, value: str) -> None:
    assert problems({**defaults(), option: value}) == []


@pytest.mark.parametrize(("option", "value", "rule"), BAD)
def test_a_bad_answer_leaves_nothing_behind(option: str, value: str, rule: str, tmp_path: Path) -> None:
    configuration, out = tmp_path / "config.yaml", tmp_path / "deep" / "out"
    configuration.write_text(f"replay_dir: {tmp_path / 'replay'}\n")
    out.mkdir(parents=True)
    with pytest.raises((FailedHookException, *EVALUATED)) as refused:
        cookiecutter(
            str(ROOT), no_input=True, extra_context={option: value}, output_dir=str(out), config_file=str(configuration)
        )
    if not any(mark in value for mark in JINJA):
        assert rule in str(refused.value) or option in CHOICES
    written = {path for path in files_below(tmp_path) if tmp_path / "replay" not in (path, *path.parents)}
    assert written == {configuration, tmp_path / "deep", out}
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Lambda Stream", "lambda-stream"),
        ("Füße 流れ поток", "fusse-liu-re-potok"),
        ("🚀", "stream"),
        ("3 Streams", "stream-3-streams"),
        ("CON", "stream-con"),
        ("pytest", "stream-pytest"),
        ("a" * 39 + " bc", "a" * 39),
        ("x" * 64, "x" * 40),
    ],
)
def test_a_name_alone_is_enough(name: str, slug: str, bake: Bake) -> None:
    assert bake(project_name=name).name == slug


def test_all_problems_are_shown_at_once() -> None:
    bad = dict.fromkeys(defaults(), "\n")
    options = [message.partition(" = ")[0] for message in problems({**bad, "cors_origins": "/"})]
    assert set(options) == set(defaults())


@pytest.mark.parametrize("slug", ["../evil", "a/b", "Capital", "x" * 300])
def test_the_command_refuses_with_messages_and_without_a_traceback(slug: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = ["cookiecutter", str(ROOT), "--default-config", "--no-input", "-o", str(out)]
    done = run(*command, f"project_slug={slug}", "memory=0512", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "project_slug = " in done.stdout
    assert 'memory = "0512": must be a whole number of MB from 128 to 10240' in done.stdout
    assert files_below(tmp_path) == {out}


@pytest.mark.parametrize("answers", [{"project_slug": "../evil"}, {"memory": "0512", "description": "two\nlines"}])
def test_replayed_answers_are_refused_by_the_hook(answers: Answers, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    replay = tmp_path / "replay.json"
    context: dict[str, Any] = {**OPTIONS, **defaults(), **answers}
    replay.write_text(json.dumps({"cookiecutter": {**context, "__validated": ""}}), encoding="utf-8")
    done = run("cookiecutter", ROOT, "--default-config", "--replay-file", replay, "-o", out, cwd=tmp_path, check=False)
    assert done.returncode == 1
    for option in answers:
        assert f"{option} = " in done.stderr
    assert files_below(tmp_path) == {out, replay}


def test_an_expression_on_the_command_line_is_refused(tmp_path: Path) -> None:
    # Cookiecutter has evaluated it by then: only the answer as it was given still shows it.
    command = ["cookiecutter", str(ROOT), "--default-config", "--no-input", "description={{ 6 * 7 }}"]
    done = run(*command, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert 'description = "{{ 6 * 7 }}": must not hold {{' in done.stderr
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    ("description", "status"), [("{{ 6 * 7 }}", 1), ("${{ secrets.TOKEN }}", 1), ("Ein Strom 🚀 流", 0)]
)
def test_what_is_typed_at_a_prompt_is_taken_as_it_is(
    description: str, status: int, template: Path, tmp_path: Path
) -> None:
    answers = "\n\n" + description + "\n" * (len(defaults()) - 2)
    done = run("cookiecutter", template, "--default-config", cwd=tmp_path, check=False, answers=answers)
    assert done.returncode == status
    assert ("must not hold {{" in done.stdout) == bool(status)
    generated = tmp_path / "lambda-stream" / "template.yaml"
    assert files_below(tmp_path) == set() if status else f'"{description}"' in generated.read_text(encoding="utf-8")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64) | st.text())
@example("\ufeff")
@example("\ufffe")
@example("\u00a0\u200d\u202e")
def test_a_text_that_is_not_refused_is_the_same_in_every_file(text: str) -> None:
    found = problems({**defaults(), "project_name": text})
    assert all(message.isprintable() for message in found)
    if not found:
        scalar = create_env_with_context({"cookiecutter": OPTIONS}).filters["quoted"](text)
        assert yaml.safe_load(f"key: {scalar}") == {"key": text}
        assert tomllib.loads(f"key = {scalar}") == {"key": text}


def test_a_project_cannot_have_the_name_of_one_of_its_tools(project: Path) -> None:
    configuration = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    tools = {requirement.partition(">=")[0] for requirement in configuration["dependency-groups"]["dev"]}
    assert tools <= RESERVED_SLUGS


def test_the_choices_are_those_of_the_options_file() -> None:
    lists = {option: tuple(value) for option, value in OPTIONS.items() if isinstance(value, list)}
    assert {option: value for option, value in lists.items() if not option.startswith("_")} == CHOICES


@pytest.mark.parametrize(("hook", "literals"), [("pre_gen_project", 2), ("post_gen_project", 1)])
def test_cookiecutter_renders_nothing_of_a_hook_but_the_answers(hook: str, literals: int) -> None:
    source = (ROOT / "hooks" / f"{hook}.py").read_text(encoding="utf-8")
    assert [source.count(mark) for mark in ("{{", "{%", "{#")] == [literals, 0, 0]
    assert len(re.findall(r'r"""\n\{\{ _?cookiecutter (\| default\(\{\}\) )?\| tojson \}\}\n"""', source)) == literals
