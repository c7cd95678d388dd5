"""Fixtures: AWS on localhost, the command lines of AWS and GitHub, and projects with a pipeline."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.cloudfront import distribution
from tests.helpers.rendering import load
from tests.helpers.support import Bake, environment, for_own_python, free_ports, run, user_environment
from tests.pipeline.policies import Policy
from tests.pipeline.runner import STAND_INS, Runner

from local.function_url import running
from local.template import Template

START_TIMEOUT = 60.0  # seconds
ISSUER = "https://token.actions.githubusercontent.com"


@pytest.fixture(scope="session")
def tools() -> Path:
    """Install the dependency group `tools` into an environment of its own, and return its `bin` folder."""
    return environment("tools")


@functools.cache
def _session() -> Any:
    # A session caches the models of services, which are slow to read.
    from botocore.session import Session

    return Session()


@dataclass
class Cloud:
    """MiniStack on a port of its own.

    Attributes:
        environment: Variables with which AWS's commands reach it, and record their calls.
        tools: Folder of the `aws` command.
        calls: File with the recorded calls, one a line.
    """

    environment: dict[str, str]
    tools: Path
    calls: Path

    def client(self, service: str) -> Any:
        """Return a botocore client for a service: the `aws` command needs a second to start."""
        from botocore.config import Config

        return _session().create_client(
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=self.environment["AWS_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(proxies={}),
        )

    def stacks(self) -> dict[str, str]:
        """Return the state of each stack."""
        found = self.client("cloudformation").describe_stacks()["Stacks"]
        return {stack["StackName"]: stack["StackStatus"] for stack in found}

    def trust(self, role: str) -> Policy:
        """Return the trust policy of a role."""
        found = self.client("iam").get_role(RoleName=role.rpartition("/")[2])
        policy: Policy = found["Role"]["AssumeRolePolicyDocument"]
        return policy

    def policies(self, role: str) -> list[Policy]:
        """Return the inline and the attached policies of a role."""
        iam, name = self.client("iam"), role.rpartition("/")[2]
        found: list[Policy] = [
            iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
        ]
        for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            arn = policy["PolicyArn"]
            version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            found.append(iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])
        return found


@pytest.fixture(scope="session")
def ministack(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run MiniStack on a free port of the loopback interface, and return the port."""
    [port] = free_ports(1)
    home: Path = tmp_path_factory.mktemp("ministack")
    settings = {"BIND_HOST": "127.0.0.1", "GATEWAY_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0"}
    with open(home / "log", "w") as log:
        process = subprocess.Popen(
            [tools / "ministack"],
            cwd=home,
            env=user_environment(**settings, GATEWAY_PORT=str(port), TMPDIR=str(home)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


ACCOUNTS = itertools.count(100_000_000_001)


@pytest.fixture
def cloud(ministack: int, tools: Path, tmp_path: Path) -> Cloud:
    """An account for one test, with GitHub's OIDC provider, which MiniStack's CloudFormation cannot create."""
    environment = {
        "AWS_ENDPOINT_URL": f"http://localhost:{ministack}",
        "AWS_ACCESS_KEY_ID": str(next(ACCOUNTS)),  # MiniStack uses twelve digits as the account id
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "localhost,127.0.0.1",
        "RECORD_CALLS": str(tmp_path / "calls"),
        "SAM_CLI_POLL_DELAY": "0.2",
    }
    (tmp_path / "calls").touch()
    found = Cloud(environment, tools, tmp_path / "calls")
    found.client("iam").create_open_id_connect_provider(Url=ISSUER, ClientIDList=["sts.amazonaws.com"])
    return found


def stand_in_commands(folder: Path, cloud: Cloud | None = None) -> Path:
    """Lay out a new folder for PATH: the stand-in for `gh`, and `aws` if it is needed."""
    commands = folder / "commands"
    commands.mkdir()
    (commands / "gh").symlink_to(STAND_INS / "gh")
    if cloud is not None:
        (commands / "aws").symlink_to(cloud.tools / "aws")
    return commands


@dataclass
class Project:
    """A generated project in a git repository, with its pipeline set up.

    Attributes:
        folder: The repository.
        runner: Runs its workflows.
        cloud: What they deploy to.
        github: File with the state of the stand-in for `gh`.
    """

    folder: Path
    runner: Runner
    cloud: Cloud
    github: Path
    served: ExitStack = field(default_factory=ExitStack)

    def commit(self) -> None:
        """Commit everything."""
        git = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.com")
        run("git", "add", "--all", cwd=self.folder)
        run(*git, "commit", "--quiet", "--message", "A change", cwd=self.folder)

    def state(self) -> dict[str, Any]:
        """Return the state of `gh`."""
        found: dict[str, Any] = json.loads(self.github.read_text(encoding="utf-8"))
        return found

    def stack(self, environment: str) -> str:
        """Return the name of an environment's stack; previews append the number of the pull request."""
        return self.runner.variables[f"{environment}/STACK_NAME"]

    def set_pull_request(self, state: str) -> None:
        """Open or close the pull request 7 on GitHub."""
        self.github.write_text(json.dumps({**self.state(), "pulls": {"7": state}}), encoding="utf-8")

    def local_urls(self, step: str, workspace: Path) -> dict[str, str]:
        """Return URLs of the deployed build on localhost for the smoke test, since MiniStack's do not stream."""
        if step != "smoke":
            return {}
        template = Template(workspace / ".aws-sam" / "build" / "template.yaml")
        functions = [template.function(name) for name in sorted(template.names, key=lambda name: name[0] != "S")]
        urls = []
        for function in functions:
            if function.has_url:
                url, name = self.served.enter_context(running(function)), function.name.removesuffix("Function")
                if secret := function.environment.get("ORIGIN_SECRET"):
                    source = load("template.yaml", (workspace / "template.yaml").read_text(encoding="utf-8"))
                    front = self.served.enter_context(distribution(source, url, secret))
                    urls.append(f"{name}DistributionUrl={front}")
                    # On localhost the URL adds the secret itself, unless a request has one.
                    url = self.served.enter_context(distribution(source, url, "wrong" * 8))
                urls.append(f"{name}Url={url}")
        return {"URLS": " ".join(urls)}


SetUp = Callable[..., Project]


@pytest.fixture
def set_up(bake: Bake, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    """Generate a project, commit it, and run `make pipeline` for these environments, if any."""
    monkeypatch.setenv("STREAM_INTERVAL", "0.05")
    with ExitStack() as stack:

        def start(environments: str, **answers: str) -> Project:
            folder = for_own_python(shutil.copytree(bake(**answers), tmp_path / "lambda-stream"))
            run("git", "init", "--quiet", "--initial-branch", "main", cwd=folder)
            commands = stand_in_commands(tmp_path, cloud)
            github = tmp_path / "github.json"
            environment = {**cloud.environment, "GH_STATE": str(github)}
            make = ("make", "pipeline", "REPOSITORY=octo-org/lambda-stream", f"ENVIRONMENTS={environments}")
            path = f"{commands}{os.pathsep}{user_environment()['PATH']}"
            here = {**environment, "PATH": path, "PYTHONPATH": str(STAND_INS)}
            variables: dict[str, str] = {}
            if environments:
                run("env", *(f"{name}={value}" for name, value in here.items()), *make, cwd=folder)
                cloud.calls.write_text("")  # only the workflows' calls are of interest
                variables = json.loads(github.read_text(encoding="utf-8"))["variables"]
            runner = Runner(folder, tmp_path / "runs", (commands,), environment, variables, cloud.trust)
            project = Project(folder, runner, cloud, github, stack)
            runner.before = project.local_urls
            project.commit()
            return project

        yield start
