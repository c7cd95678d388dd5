"""The region and the credentials of a function on localhost: the shell's, the profile's, then `samconfig.toml`'s."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.support import TEMPLATE
from tests.local.conftest import Serve

from local.aws import AwsConfig, CredentialsError, credentials, find_aws_config
from local.template import Template, TemplateError

# https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/serverless-sam-cli-config.html
SAM = """
[default.global.parameters]
region = "eu-south-1"
stack_name = "a"
"""
SAM_PROFILE = SAM + 'profile = "sam"\n'
SAM_DEPLOY = SAM_PROFILE + '[default.deploy.parameters]\nregion = "eu-south-2"\nresolve_s3 = true\n'
CONFIG = """
[default]
region = eu-north-1
[profile shell]
region = eu-central-1
[profile sam]
region = eu-central-2
[profile bare]
[profile process]
credential_process = echo '{"Version": 1, "AccessKeyId": "p", "SecretAccessKey": "q"}'
[profile broken]
credential_process = false
"""
CREDENTIALS = """
[default]
aws_access_key_id = default-id
aws_secret_access_key = default-secret
[shell]
aws_access_key_id = shell-id
aws_secret_access_key = shell-secret
aws_session_token = shell-token
[sam]
aws_access_key_id = sam-id
aws_secret_access_key = sam-secret
"""
Configure = Callable[..., Path]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write AWS's files and `samconfig.toml`, and return the project's folder."""

    def write(sam: str = "", config: str = CONFIG, profiles: str = CREDENTIALS, **shell: str) -> Path:
        project = tmp_path / "project"
        project.mkdir(exist_ok=True)
        for name, variable, text in (
            ("config", "AWS_CONFIG_FILE", config),
            ("credentials", "AWS_SHARED_CREDENTIALS_FILE", profiles),
        ):
            if text:
                (tmp_path / name).write_text(text, encoding="utf-8")
            monkeypatch.setenv(variable, str(tmp_path / name))
        if sam:
            (project / "samconfig.toml").write_text(sam, encoding="utf-8")
        for variable, value in shell.items():
            monkeypatch.setenv(variable, value)
        return project

    return write


REGIONS = {
    "both variables": ({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b", "AWS_PROFILE": "shell"}, SAM, CONFIG, "a"),
    "one variable": ({"AWS_DEFAULT_REGION": "b", "AWS_PROFILE": "shell"}, SAM, CONFIG, "b"),
    "empty variables": ({"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "", "", "us-east-1"),
    "profile of the shell": ({"AWS_PROFILE": "shell"}, SAM_PROFILE, CONFIG, "eu-central-1"),
    "profile in its other variable": ({"AWS_DEFAULT_PROFILE": "shell"}, SAM_PROFILE, CONFIG, "eu-central-1"),
    "profile of samconfig.toml": ({}, SAM_PROFILE, CONFIG, "eu-central-2"),
    "default profile": ({}, SAM, CONFIG, "eu-north-1"),
    "profile without region": ({"AWS_PROFILE": "bare"}, SAM, CONFIG, "eu-south-1"),
    "missing profile": ({"AWS_PROFILE": "nobody"}, SAM, CONFIG, "eu-south-1"),
    "samconfig.toml": ({}, SAM, "", "eu-south-1"),
    "samconfig.toml for deploy": ({"AWS_PROFILE": "bare"}, SAM_DEPLOY, CONFIG, "eu-south-2"),
    "nothing": ({}, "", "", "us-east-1"),
    "odd samconfig.toml": ({}, "default = 1", "", "us-east-1"),
}


@pytest.mark.parametrize(("shell", "sam", "config", "region"), REGIONS.values(), ids=REGIONS.keys())
def test_region(configure: Configure, shell: dict[str, str], sam: str, config: str, region: str) -> None:
    assert find_aws_config(configure(sam, config, **shell)).region == region


def test_profile_of_shell_wins(configure: Configure) -> None:
    assert find_aws_config(configure(SAM_PROFILE)).profile == "sam"
    assert find_aws_config(configure(SAM_PROFILE, AWS_PROFILE="shell")).profile is None


def test_built_template_uses_samconfig_of_project(configure: Configure) -> None:
    built = configure(SAM, "") / ".aws-sam" / "build"
    assert find_aws_config(built).region == "eu-south-1"


def key(name: str, token: str = "") -> dict[str, str]:
    found = {"AWS_ACCESS_KEY_ID": f"{name}-id", "AWS_SECRET_ACCESS_KEY": f"{name}-secret"}
    return {**found, "AWS_SESSION_TOKEN": token} if token else found


CASES: dict[str, tuple[dict[str, str], str | None, dict[str, str]]] = {
    "keys of the shell": ({"AWS_ACCESS_KEY_ID": "a", "AWS_PROFILE": "shell"}, "sam", {}),
    "profile of the shell": ({"AWS_PROFILE": "shell"}, None, key("shell", "shell-token")),
    "named profile": ({}, "sam", key("sam")),
    "default profile": ({}, None, key("default")),
    "process": ({}, "process", {"AWS_ACCESS_KEY_ID": "p", "AWS_SECRET_ACCESS_KEY": "q"}),
    "profile without keys": ({"AWS_PROFILE": "bare"}, None, {}),
}


@pytest.mark.parametrize(("shell", "profile", "expected"), CASES.values(), ids=CASES.keys())
def test_credentials(
    configure: Configure, shell: dict[str, str], profile: str | None, expected: dict[str, str]
) -> None:
    configure(**shell)
    assert credentials(profile) == expected


def test_no_credentials_without_files(configure: Configure) -> None:
    configure(config="", profiles="")
    assert credentials(None) == {}


@pytest.mark.parametrize("profile", ["nobody", "broken"])
def test_unusable_profile(configure: Configure, profile: str) -> None:
    configure()
    with pytest.raises(CredentialsError):
        credentials(profile)


HANDLER = """
    def handler(event, context):
        names = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE")
        return [os.environ.get(name) for name in names]
    """


def test_function_gets_profile(serve: Serve, configure: Configure) -> None:
    configure(AWS_PROFILE="shell")
    served = serve(HANDLER, url={"aws": AwsConfig("eu-central-1")})
    region = "eu-central-1"
    assert json.loads(served.get()[1]) == [region, region, "shell-id", "shell-token", None]


def test_function_runs_without_credentials(serve: Serve, configure: Configure) -> None:
    configure(AWS_PROFILE="nobody")
    served = serve(HANDLER)
    assert json.loads(served.get()[1])[2:] == [None, None, "nobody"]
    assert served.log == "No AWS credentials: The config profile (nobody) could not be found\n"


def test_template_has_region_of_samconfig(configure: Configure) -> None:
    project = configure(SAM, "")
    (project / "src").symlink_to(TEMPLATE / "src")
    (project / "runtime").symlink_to(TEMPLATE / "runtime")
    properties = "{CodeUri: src, Environment: {Variables: {REGION: !Ref AWS::Region}}}"
    (project / "template.yaml").write_text(
        f"Resources: {{F: {{Type: AWS::Serverless::Function, Properties: {properties}}}}}", encoding="utf-8"
    )
    function = Template(project / "template.yaml").function("F")
    assert (function.aws.region, function.environment) == ("eu-south-1", {"REGION": "eu-south-1"})
    (project / "samconfig.toml").write_text("[", encoding="utf-8")
    with pytest.raises(TemplateError, match=r"cannot read samconfig.toml beside .*template.yaml: "):
        Template(project / "template.yaml")
