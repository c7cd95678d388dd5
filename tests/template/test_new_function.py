"""`make new`: a further function that follows the first one, for each way to ship and to serve it."""

import difflib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.infrastructure import linted
from tests.helpers.rendering import load_yaml
from tests.helpers.support import Answers, Bake, pytest_of, run

from local.new import Names, NewFunctionError, add_function

PROJECTS: dict[str, Answers] = {
    "defaults": {},
    "public with everything": {
        "url_auth": "NONE",
        "cors_origins": "https://example.com",
        "deployment": "canary",
        "observability": "full",
        "example": "bedrock",
        "reserved_concurrency": "10",
    },
    "OS-only runtime without a pipeline": {"runtime": "provided.al2023", "deploy_pipeline": "none", "example": "sse"},
    "image with tokens": {"runtime": "container", "url_auth": "jwt"},
    "REST API with tokens": {
        "front_door": "rest-api",
        "observability": "full",
        "url_auth": "jwt",
        "example": "fastapi",
    },
    "CloudFront": {"front_door": "cloudfront", "url_auth": "NONE", "deployment": "canary", "example": "mcp"},
    "image behind CloudFront": {"front_door": "cloudfront", "url_auth": "NONE", "runtime": "container"},
}


def new(project: Path, *arguments: str, check: bool = True) -> Any:
    return run("python", "-m", "local.new", *arguments, cwd=project, check=check)


@pytest.mark.slow
@pytest.mark.parametrize("answers", PROJECTS.values(), ids=PROJECTS.keys())
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_new_functions_pass_every_rule(answers: Answers, bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(**answers), tmp_path / "project")
    before = (project / "template.yaml").read_text(encoding="utf-8")
    shown = new(project, "Admin").stdout + new(project, "OrderEvents", "--kind", "plain").stdout
    after = (project / "template.yaml").read_text(encoding="utf-8")
    changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if not line.startswith(" ")]
    assert {line[0] for line in changes} <= {"+", "?"}
    assert sorted(line[2:] for line in changes if line[2:].strip()) == sorted(added_lines(shown))
    assert linted(after, "us-east-1") == []
    resources = load_yaml(after)["Resources"]
    worker = resources["OrderEventsFunction"]
    assert worker["Properties"]["Runtime"].startswith("python3.")
    assert "AWS_LAMBDA_EXEC_WRAPPER" not in str(worker)
    assert not [name for name in resources if name.startswith("OrderEvents") and "Url" in name]
    admin = resources["AdminFunction"]
    assert "Policies" not in admin["Properties"]
    assert resources["AdminUrl"]["Properties"]["InvokeMode"] == "RESPONSE_STREAM"
    # The new URL is as closed as the first one, but not behind the distribution.
    tokens = answers.get("url_auth") == "jwt"
    for text in ("front_door.entry.handler", "'FRONT_DOOR_HANDLER': 'app.handler'", "JWT_ISSUER", "JWT_AUDIENCE"):
        assert (text in str(admin)) == tokens
    assert "ORIGIN_SECRET" not in str(admin)
    assert ("The function itself checks it" in shown) == tokens
    alarms = [name for name, of in resources.items() if of["Type"] == "AWS::CloudWatch::Alarm"]
    of_stream = {name.removeprefix("Stream") for name in alarms if name.startswith("Stream")}
    assert {name.removeprefix("Admin") for name in alarms if name.startswith("Admin")} == of_stream - {"ApiAlarm"}
    pytest_of(project, "-q", "tests", "-k", "not test_app.py or test_events")


def added_lines(shown: str) -> list[str]:
    """Return the lines of the template that two runs show as added."""
    parts = re.split(r"^--- ", shown, flags=re.MULTILINE)
    text = "".join(part for part in parts if part.startswith("a/template.yaml"))
    return [line for line in re.findall(r"^\+(?!\+\+ )(.*)$", text, re.MULTILINE) if line.strip()]


@pytest.mark.slow
def test_new_functions_pass_make_check_and_build(bake: Bake, tmp_path: Path) -> None:
    project = shutil.copytree(bake(), tmp_path / "project")
    run("make", "new", "FUNCTION=Admin", cwd=project)
    run("make", "new", "FUNCTION=OrderEvents", "KIND=plain", cwd=project)
    done = run("make", "check", cwd=project)
    assert "skipped" not in done.stdout
    assert done.stdout.count("Success: no issues found") == 3
    built = run("make", "build", cwd=project)
    assert len(re.findall(r"^\[\w+] Package size: ", built.stdout, re.MULTILINE)) == 3
    invoked = run("make", "invoke", "EVENT=events/admin.json", "FUNCTION=AdminFunction", cwd=project)
    assert invoked.stdout == "1 of 3\n2 of 3\n3 of 3\n"


@pytest.mark.parametrize(
    ("text", "prefix", "folder"),
    [
        ("Admin", "Admin", "admin"),
        ("AdminFunction", "Admin", "admin"),
        ("OrderEvents", "OrderEvents", "order_events"),
        ("HTTPProxy2", "HTTPProxy2", "http_proxy2"),
        ("Class", "Class", "class_"),
    ],
)
def test_names(text: str, prefix: str, folder: str) -> None:
    assert Names.of(text) == Names(prefix, folder)


@pytest.mark.parametrize("text", ["admin", "", "Function", "Order-Events", "A", "Größe", "A" * 50])
def test_unusable_name(text: str) -> None:
    with pytest.raises(NewFunctionError, match="FUNCTION must be letters and digits, such as Admin or OrderEvents"):
        Names.of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: [", "cannot read template.yaml: "),
        ("Outputs:\n  A: 1\n", "template.yaml has no Resources"),
        ("Resources: {F: {Type: AWS::Serverless::Function}}\n", "no function in block style"),
        ("Resources:\n  T:\n    Type: AWS::SNS::Topic\n", "no function in block style"),
    ],
)
def test_unusable_template(text: str, message: str) -> None:
    with pytest.raises(NewFunctionError, match=message):
        add_function(text, Names.of("Admin"), streams=True)


def test_existing_names_are_refused(project: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(project, tmp_path / "mine")
    text = (mine / "template.yaml").read_text(encoding="utf-8")
    taken = text.replace("  StreamUrl:\n", "  AdminLogs:\n    Type: AWS::SNS::Topic\n\n  StreamUrl:\n", 1)
    for name, message in (("Stream", "has a StreamFunction already"), ("Admin", "has AdminLogs already")):
        with pytest.raises(NewFunctionError, match=message):
            add_function(taken, Names.of(name), streams=True)
    (mine / "events" / "admin.json").touch()
    done = new(mine, "Admin", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "make new: events/admin.json exists already. Choose another name with FUNCTION=…\n"
    assert (mine / "template.yaml").read_text(encoding="utf-8") == text
    assert not (mine / "admin").exists()


def test_line_ends_and_own_changes_are_kept(project: Path) -> None:
    """A user's template: Windows line ends, no outputs, other names, comments between and at the end."""
    text = (project / "template.yaml").read_text(encoding="utf-8")
    text = text[: text.index("\nOutputs:")].replace("StreamFunction", "ChatFunction") + "\n# the end\n"
    after = add_function(text.replace("\n", "\r\n"), Names.of("Admin"), streams=True)
    assert after.count("\r\n") == after.count("\n")
    found = load_yaml(after)
    assert found["Outputs"] == {
        "AdminUrl": {"Description": "URL of AdminFunction", "Value": {"GetAtt": "AdminUrl.FunctionUrl"}}
    }
    assert list(found["Resources"])[-3:] == ["AdminFunction", "AdminLogs", "AdminUrl"]
    assert after.endswith("# the end\r\n")
