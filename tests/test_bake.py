"""What is generated: exactly these files, with every answer where it belongs and nowhere else."""

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hooks.pre_gen_project import CHOICES
from tests.support import ROOT, Bake, defaults, run, source_files

from local.function import TemplateLoader

TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
MOST_FILES = 52  # 45, and the pipeline's 7


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def template_of(project: Path) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load((project / "template.yaml").read_text(encoding="utf-8"), TemplateLoader)
    return template


EXAMPLES = ("sse", "fastapi", "bedrock", "mcp")


def of_template() -> tuple[set[str], set[str]]:
    """The template's files in their place, and those of the examples."""
    paths = {path.partition("/")[2] for path in source_files() if path.startswith(TEMPLATE.name)}
    examples = {path for path in paths if path.startswith("examples/")}
    return paths - examples, examples


def test_the_files_are_those_of_the_template_and_no_others(project: Path) -> None:
    assert set(files(project)) == of_template()[0]
    assert len(files(project)) <= MOST_FILES


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_lays_its_files_over_those_and_leaves_no_other(example: str, project: Path, bake: Bake) -> None:
    own = {
        path.removeprefix(f"examples/{example}/"): (TEMPLATE / path).read_bytes()
        for path in of_template()[1]
        if path.startswith(f"examples/{example}/")
    }
    found, default = files(bake(example=example)), files(project)
    assert found.keys() == default.keys() | own.keys()
    assert {path: found[path] for path in own} == own
    changed = {path for path in default if found[path] != default[path]}
    beside = {"README.md"}
    if example == "bedrock":
        beside.add("template.yaml")
    if example != "fastapi":  # whose stream the pipeline's smoke test finds where it finds that of hello
        beside.add("pyproject.toml")
    assert changed - own.keys() == beside
    assert {"src/app.py", "tests/test_app.py"} <= own.keys()
    assert len(own.keys() - default.keys()) <= 2  # a page and an event


def test_the_examples_are_those_of_the_options_file() -> None:
    assert {path.name for path in (TEMPLATE / "examples").iterdir()} | {"hello"} == set(CHOICES["example"])


def test_bedrocks_function_may_call_its_model_and_nothing_else(bake: Bake, project: Path) -> None:
    properties = template_of(bake(example="bedrock"))["Resources"]["StreamFunction"]["Properties"]
    model = properties["Environment"]["Variables"]["MODEL_ID"]
    [statement] = properties["Policies"][0]["Statement"]
    assert statement["Action"] == "bedrock:InvokeModelWithResponseStream"
    assert [resource["Sub"].rpartition("/")[2] for resource in statement["Resource"]] == [
        model,
        model.removeprefix("global."),
    ]
    assert "Policies" not in template_of(project)["Resources"]["StreamFunction"]["Properties"]


def test_modes_are_kept(project: Path) -> None:
    executable = [path for path in files(project) if (project / path).stat().st_mode & stat.S_IXUSR]
    assert executable == ["src/bootstrap"]
    assert stat.S_IMODE((project / "src/bootstrap").stat().st_mode) == 0o755


def test_nothing_of_jinja_is_left(project: Path) -> None:
    marks = (b"{{", b"{%", b"{#", b"cookiecutter")
    rendered = {path: content for path, content in files(project).items() if not path.endswith(".yml")}
    assert [path for path, content in rendered.items() for mark in marks if mark in content] == []


def test_python_shell_and_make_are_copied_as_they_are(project: Path) -> None:
    copied = {
        path: content for path, content in files(project).items() if path.endswith((".py", "bootstrap", "Makefile"))
    }
    assert copied == {path: (TEMPLATE / path).read_bytes() for path in copied}
    assert len(copied) > 10


def test_two_projects_of_the_same_answers_are_equal_to_the_byte(project: Path, bake: Bake) -> None:
    assert files(bake()) == files(project)


def test_every_file_ends_with_one_newline_and_has_no_blanks_at_line_ends(bake: Bake) -> None:
    for path, content in files(bake(url_auth="NONE", cors_origins="https://example.com")).items():
        assert not content or (content.endswith(b"\n") and not content.endswith(b"\n\n")), path
        assert path == "Makefile" or not [line for line in content.split(b"\n") if line != line.rstrip()], path


@pytest.mark.slow
def test_sam_init_and_the_command_line_generate_the_same(project: Path, template: Path, tmp_path: Path) -> None:
    run("cookiecutter", template, "--default-config", "--no-input", "-o", tmp_path / "a", cwd=tmp_path)
    run("sam", "init", "--location", template, "--no-input", "--output-dir", tmp_path / "b", cwd=tmp_path)
    for out in (tmp_path / "a", tmp_path / "b"):
        assert [path.name for path in out.iterdir()] == ["lambda-stream"]
        assert files(out / "lambda-stream") == files(project)


@pytest.mark.slow
def test_sam_init_with_a_name_uses_it_for_the_project(template: Path, tmp_path: Path) -> None:
    run("sam", "init", "--location", template, "--no-input", "--name", "my-stream", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my-stream"]
    configuration = tomllib.loads((tmp_path / "my-stream" / "samconfig.toml").read_text(encoding="utf-8"))
    assert configuration["default"]["global"]["parameters"]["stack_name"] == "my-stream"


def test_the_next_steps_are_shown_and_a_public_url_is_pointed_out(template: Path, tmp_path: Path) -> None:
    command = ["cookiecutter", str(template), "--default-config", "--no-input", "-o", str(tmp_path)]
    private = run(*command, cwd=tmp_path).stdout
    assert "cd lambda-stream\n  make dev " in private
    assert "Anyone on the internet" not in private
    public = run(*command, "project_slug=open", "url_auth=NONE", cwd=tmp_path).stdout
    assert "cd open\n" in public
    assert "Anyone on the internet may call the deployed URL" in public


@pytest.mark.parametrize(
    ("option", "value", "path"),
    [
        ("python_version", "3.14", "Properties.Runtime=python3.14"),
        ("architecture", "x86_64", "Properties.Architectures=['x86_64']"),
        ("memory", "1024", "Properties.MemorySize=1024"),
        ("timeout", "30", "Properties.Timeout=30"),
    ],
)
def test_an_answer_reaches_the_function(option: str, value: str, path: str, project: Path, bake: Bake) -> None:
    key, _, expected = path.partition("=")

    def actual(of: Path) -> str:
        part = template_of(of)["Resources"]["StreamFunction"]
        for name in key.split("."):
            part = part[name]
        return str(part)

    assert actual(bake(**{option: value})) == expected != actual(project)


def test_python_version_reaches_the_tools(bake: Bake) -> None:
    configuration = tomllib.loads((bake(python_version="3.12") / "pyproject.toml").read_text(encoding="utf-8"))
    assert configuration["tool"]["mypy"]["python_version"] == "3.12"


def test_slug_and_region_reach_the_deployment(bake: Bake) -> None:
    project = bake(project_slug="other-stream", region="eu-west-1")
    assert project.name == "other-stream"
    samconfig = tomllib.loads((project / "samconfig.toml").read_text(encoding="utf-8"))
    assert samconfig["default"] == {
        "global": {"parameters": {"stack_name": "other-stream", "region": "eu-west-1"}},
        "validate": {"parameters": {"lint": True}},
        "deploy": {"parameters": {"capabilities": "CAPABILITY_IAM", "confirm_changeset": True, "resolve_s3": True}},
    }


def test_the_function_and_its_url_stream(project: Path) -> None:
    template = template_of(project)
    function, url = template["Resources"]["StreamFunction"], template["Resources"]["StreamUrl"]
    assert function["Type"] == "AWS::Serverless::Function"
    assert function["Metadata"] == {"BuildMethod": "makefile", "ContextPath": ".", "WorkingDirectory": "."}
    assert function["Properties"]["Handler"] == "app.handler"
    assert function["Properties"]["Environment"] == {"Variables": {"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/bootstrap"}}
    assert url == {
        "Type": "AWS::Lambda::Url",
        "Properties": {
            "TargetFunctionArn": {"GetAtt": "StreamFunction.Arn"},
            "AuthType": "AWS_IAM",
            "InvokeMode": "RESPONSE_STREAM",
        },
    }


def test_only_a_public_url_has_permissions(project: Path, bake: Bake) -> None:
    private, public = template_of(project)["Resources"], template_of(bake(url_auth="NONE"))["Resources"]
    assert private["StreamUrl"]["Properties"]["AuthType"] == "AWS_IAM"
    assert public["StreamUrl"]["Properties"]["AuthType"] == "NONE"
    assert [name for name, value in private.items() if value["Type"] == "AWS::Lambda::Permission"] == []
    assert [value["Properties"] for value in public.values() if value["Type"] == "AWS::Lambda::Permission"] == [
        {
            "Action": "lambda:InvokeFunctionUrl",
            "FunctionName": {"Ref": "StreamFunction"},
            "Principal": "*",
            "FunctionUrlAuthType": "NONE",
        },
        {
            "Action": "lambda:InvokeFunction",
            "FunctionName": {"Ref": "StreamFunction"},
            "Principal": "*",
            "InvokedViaFunctionUrl": True,
        },
    ]


@pytest.mark.parametrize(
    ("answer", "origins"),
    [("*", ["*"]), ("https://example.com, http://localhost:5173", ["https://example.com", "http://localhost:5173"])],
)
def test_cors_is_there_where_origins_are_named(answer: str, origins: list[str], project: Path, bake: Bake) -> None:
    assert "Cors" not in template_of(project)["Resources"]["StreamUrl"]["Properties"]
    cors = template_of(bake(cors_origins=answer))["Resources"]["StreamUrl"]["Properties"]["Cors"]
    assert cors == {"AllowOrigins": origins, "AllowMethods": ["*"], "AllowHeaders": ["*"], "MaxAge": 3600}


@pytest.mark.parametrize(
    "text",
    [
        "Füße 流れ поток 🚀",
        "👩‍🚀 Tom\u2019s \u201cbest\u201d stream",
        "a: b # c - [d] & *e !f % \\n \\u0041 <i> $(id) ${HOME} }}",
    ],
)
def test_free_text_survives_in_every_file(text: str, bake: Bake) -> None:
    project = bake(project_name=text, project_slug="text", description=text)
    assert template_of(project)["Description"] == text
    assert tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["description"] == text
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {text}\n\n{text}\n")


def test_the_events_are_those_of_function_urls_but_for_the_plain_one(project: Path) -> None:
    events = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (project / "events").iterdir()}
    assert set(events) == {"get", "plain", "post"}
    assert "requestContext" not in events.pop("plain")
    assert {event["version"] for event in events.values()} == {"2.0"}
    assert events["post"]["isBase64Encoded"] is True
    assert events["post"]["cookies"] == ["session=abc123", "theme=dark"]
    assert events["post"]["queryStringParameters"] == {"name": "a b", "tag": "x,y"}


def test_the_tools_of_projects_and_of_the_template_check_alike(project: Path) -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    theirs = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert theirs["tool"]["ruff"]["lint"] == ours["tool"]["ruff"]["lint"]
    assert theirs["tool"]["ruff"]["line-length"] == ours["tool"]["ruff"]["line-length"]

    # So that what is tested here with these tools is what a project installs.
    def bounds(configuration: dict[str, Any]) -> dict[str, str]:
        return dict(re.split("[>=]=", requirement) for requirement in configuration["dependency-groups"]["dev"])

    assert bounds(theirs).items() <= bounds(ours).items()


def test_every_option_has_a_prompt_and_a_default() -> None:
    options = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    assert set(options["__prompts__"]) == set(defaults())
