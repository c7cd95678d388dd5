"""`make pipeline`: what it asks GitHub, what it stores there, and what it refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.support import Bake, run
from tests.pipeline.conftest import Cloud, stand_in_commands
from tests.pipeline.test_isolation import PIPELINE


class Hub:
    """The stand-in for GitHub, and its state."""

    def __init__(self, folder: Path) -> None:
        self.commands, self._file = stand_in_commands(folder), folder / "github.json"
        self.environment = {"GH_STATE": str(self._file)}
        self.change(repository="Octo-Org/Named")

    def change(self, **state: Any) -> None:
        self._file.write_text(json.dumps({**self.state(), **state}), encoding="utf-8")

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        return found

    def requests(self, method: str) -> list[str]:
        """Return the paths that were requested by this method."""
        return [call[3] for call in self.state()["calls"] if call[:3] == ["api", "--method", method]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path)
    monkeypatch.setenv("GH_STATE", found.environment["GH_STATE"])
    monkeypatch.setenv("PATH", f"{found.commands}{os.pathsep}{Path(sys.executable).parent}:/usr/bin:/bin")
    return found


@pytest.fixture
def without_gh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIPELINE.shutil, "which", lambda name: None)


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Run `main` without AWS, and collect the repositories that the roles would trust."""
    found: list[Any] = []
    monkeypatch.setattr(PIPELINE, "configuration", lambda: ("named", "us-east-1"))
    monkeypatch.setattr(PIPELINE, "set_up", lambda *arguments: found.append(arguments[4]))
    return found


def test_repository_name_is_asked(hub: Hub, trusted: list[Any]) -> None:
    """Tokens hold the name as GitHub writes it, and IAM compares them exactly."""
    assert PIPELINE.main(["--repository", "octo-org/named"]) == 0
    assert trusted == [PIPELINE.Repository("Octo-Org/Named", "4242", "1001")]


def test_unknown_repository_is_refused(hub: Hub, trusted: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert PIPELINE.main(["--repository", "octo-org/other"]) == 1
    assert "Check that octo-org/other exists" in capsys.readouterr().err
    assert trusted == []


def test_wrong_id_is_refused(hub: Hub, trusted: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert PIPELINE.main(["--repository", "octo-org/named", "--repository-id", "7"]) == 1
    assert "REPOSITORY_ID of Octo-Org/Named is 1001 on GitHub, got 7" in capsys.readouterr().err
    assert trusted == []


@pytest.mark.parametrize("ids", [(), ("--owner-id", "4242", "--repository-id", "1001")], ids=["names", "ids"])
def test_unverified_name_is_explained(
    ids: tuple[str, ...], trusted: list[Any], without_gh: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without gh the name is taken as typed, and a wrong case would lock the workflows out."""
    assert PIPELINE.main(["--repository", "octo-org/named", *ids]) == 0
    message = capsys.readouterr().err
    assert "The roles trust exactly this spelling" in message
    assert ("takes over this name" in message) is not bool(ids)
    assert trusted[0].name == "octo-org/named"


def test_existing_environment_is_kept(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """GitHub's PUT would remove required reviewers from an environment that exists."""
    hub.change(environments=["production"])
    github = PIPELINE.GitHub("Octo-Org/Named")
    for environment in ("production", "staging"):
        for name in ("AWS_REGION", "STACK_NAME"):
            github.set(name, "x", environment)
    assert hub.requests("PUT") == ["repos/Octo-Org/Named/environments/staging"]
    assert hub.state()["variables"].keys() >= {"production/STACK_NAME", "staging/STACK_NAME"}


def test_unreadable_environment_is_kept(hub: Hub) -> None:
    """Only a 404 shows that an environment does not exist."""
    hub.change(environment_error="Resource not accessible by personal access token (HTTP 403)")
    with pytest.raises(PIPELINE.SetUpError, match="could not read the environment production"):
        PIPELINE.GitHub("Octo-Org/Named").set("AWS_REGION", "x", "production")
    assert hub.requests("PUT") == []


def existing(**parameters: str) -> dict[str, Any]:
    return {"Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]}


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (existing(), "not a deployment pipeline"),
        (existing(Repository="octo-org/other"), "belongs to octo-org/other"),
        (existing(Repository="octo-org/named", RepositoryId="7"), "belongs to octo-org/named"),
        (existing(Repository="octo-org/NAMED"), None),
        (existing(Repository="octo-org/before-renaming", RepositoryId="1001"), None),
    ],
    ids=["no pipeline", "other name", "other id", "other case", "renamed"],
)
def test_foreign_stack_is_refused(stack: dict[str, Any], message: str | None) -> None:
    """Two projects of one name in one account would deploy over each other."""
    values = {"Repository": "octo-org/named", "RepositoryId": "1001"}
    if message is None:
        PIPELINE._check_owner("pipeline-named-staging", stack, values)
    else:
        with pytest.raises(PIPELINE.SetUpError, match=message):
            PIPELINE._check_owner("pipeline-named-staging", stack, values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repository", "no-owner"), "REPOSITORY must be owner/name, got 'no-owner'"),
        (("--repository", "a/b", "--environments", "staging qa"), "unknown environment qa: choose from preview, stag"),
    ],
    ids=["repository", "environment"],
)
def test_bad_option_is_refused(
    arguments: tuple[str, ...], message: str, without_gh: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PIPELINE.main(list(arguments)) == 1
    assert message in capsys.readouterr().err


def test_missing_stack_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "samconfig.toml").write_text('[default.global.parameters]\nregion = "us-east-1"\n')
    monkeypatch.setattr(PIPELINE, "PROJECT", tmp_path)
    assert PIPELINE.main(["--repository", "a/b"]) == 1
    assert "samconfig.toml has no 'stack_name'" in capsys.readouterr().err


@pytest.mark.slow
def test_variables_are_set(hub: Hub, cloud: Cloud, bake: Bake) -> None:
    """A stack for each environment, its outputs as variables, and a second run that adds an environment."""
    project = bake(project_slug="named")
    environment = {**cloud.environment, **hub.environment, "PATH": os.environ["PATH"]}
    for name in ("staging", "production"):
        command = ("python", "-m", "pipeline", "--repository", "octo-org/named", "--environments", name)
        done = run("env", *(f"{key}={value}" for key, value in environment.items()), *command, cwd=project)
        assert "The variables are set in Octo-Org/Named." in done.stdout
    variables = hub.state()["variables"]
    [stack] = cloud.client("cloudformation").describe_stacks(StackName="pipeline-named-production")["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    expected = {f"production/{name}": outputs.get(output) for name, output in PIPELINE.VARIABLES.items()}
    expected["production/AWS_REGION"] = "us-east-1"
    expected["production/STACK_NAME"] = PIPELINE.stack_name("production", "named")
    found = {name: value for name, value in variables.items() if name.startswith("production/")}
    assert found == {name: value for name, value in expected.items() if value}
    assert variables["ENVIRONMENTS"] == "staging production"
    assert [(entry["environment"], entry["stack"]) for entry in json.loads(variables["DRIFT"])] == [
        (name, PIPELINE.stack_name(name, "named")) for name in ("staging", "production")
    ]
    trust = cloud.trust(outputs["DeployRoleArn"])["Statement"][0]["Condition"]["StringEquals"]
    assert trust == {
        "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
        "token.actions.githubusercontent.com:sub": [
            "repo:Octo-Org/Named:environment:production",
            "repo:Octo-Org@4242/Named@1001:environment:production",
        ],
        "token.actions.githubusercontent.com:repository_id": "1001",
        "token.actions.githubusercontent.com:ref": "refs/heads/main",
    }
    hub.change(repository="octo-org/other", id=1002)
    command = ("python", "-m", "pipeline", "--repository", "octo-org/other", "--environments", "production")
    done = run("env", *(f"{key}={value}" for key, value in environment.items()), *command, cwd=project, check=False)
    assert done.returncode == 1
    assert "belongs to Octo-Org/Named, not to octo-org/other" in done.stderr
