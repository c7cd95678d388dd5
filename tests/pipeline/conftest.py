"""AWS on localhost, its command line, and GitHub's: what the workflows are run with."""

from __future__ import annotations

import fcntl
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
from tests.helpers.support import ROOT, Bake, free_ports, run, user_environment
from tests.pipeline.policies import Policy
from tests.pipeline.runner import STAND_INS, Runner

from local.function_url import running
from local.template import load_function

PATIENCE = 60.0  # seconds until what does not start is given up
ISSUER = "https://token.actions.githubusercontent.com"


@pytest.fixture(scope="session")
def tools() -> Path:
    """The commands of the dependency group `tools`, in an environment of their own."""
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build" / "tools.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ("uv", "sync", "--quiet", "--locked", "--compile-bytecode", "--only-group", "tools")
        run(*command, cwd=ROOT, UV_PROJECT_ENVIRONMENT="build/tools")
    return ROOT / "build" / "tools" / "bin"


@functools.cache
def _session() -> Any:
    # It keeps the models of the services that it has read.
    from botocore.session import Session

    return Session()


@dataclass
class Cloud:
    """MiniStack on a port of its own.

    Attributes:
        environment: With these variables the commands of AWS reach it, and write down what they call.
        tools: Folder of the `aws` command.
        calls: File with what was called, a line each.
    """

    environment: dict[str, str]
    tools: Path
    calls: Path

    def client(self, service: str) -> Any:
        """botocore's client for a service. To start the `aws` command takes a second."""
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
        """State of each stack that there is."""
        found = self.client("cloudformation").describe_stacks()["Stacks"]
        return {stack["StackName"]: stack["StackStatus"] for stack in found}

    def trust(self, role: str) -> Policy:
        """The trust policy of a role."""
        found = self.client("iam").get_role(RoleName=role.rpartition("/")[2])
        policy: Policy = found["Role"]["AssumeRolePolicyDocument"]
        return policy

    def policies(self, role: str) -> list[Policy]:
        """The policies of a role: its own, and those that are attached to it."""
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
    """MiniStack on a free port of the loopback interface; gives the port."""
    [port] = free_ports(1)
    home: Path = tmp_path_factory.mktemp("ministack")
    only_here = {"BIND_HOST": "127.0.0.1", "GATEWAY_HOST": "127.0.0.1", "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0"}
    with open(home / "log", "w") as log:
        process = subprocess.Popen(
            [tools / "ministack"],
            cwd=home,
            env=user_environment(**only_here, GATEWAY_PORT=str(port), TMPDIR=str(home)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        given_up = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < given_up, (home / "log").read_text()
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
    """An account of its own, with GitHub's provider, which MiniStack's CloudFormation cannot make."""
    environment = {
        "AWS_ENDPOINT_URL": f"http://localhost:{ministack}",
        "AWS_ACCESS_KEY_ID": str(next(ACCOUNTS)),  # MiniStack takes twelve digits for the account
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


@dataclass
class Project:
    """A generated project in a git repository, whose pipeline is set up.

    Attributes:
        folder: The repository.
        runner: Runs its workflows.
        cloud: What they deploy to.
        github: File with what the stand-in for `gh` keeps.
    """

    folder: Path
    runner: Runner
    cloud: Cloud
    github: Path
    served: ExitStack = field(default_factory=ExitStack)

    def commit(self) -> None:
        """Commits everything."""
        git = ("git", "-c", "user.name=Test", "-c", "user.email=test@example.com")
        run("git", "add", "--all", cwd=self.folder)
        run(*git, "commit", "--quiet", "--message", "A change", cwd=self.folder)

    def state(self) -> dict[str, Any]:
        """What `gh` was told."""
        found: dict[str, Any] = json.loads(self.github.read_text(encoding="utf-8"))
        return found

    def local_urls(self, step: str, workspace: Path) -> dict[str, str]:
        """For the smoke test, URLs on localhost of the very build that was deployed: MiniStack's do not stream."""
        if step != "smoke":
            return {}
        function = load_function(workspace / ".aws-sam" / "build" / "template.yaml", "StreamFunction")
        return {"URLS": self.served.enter_context(running(function))}


SetUp = Callable[..., Project]


@pytest.fixture
def set_up(bake: Bake, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetUp]:
    """Generates a project, commits it, and runs `make pipeline` on it for the environments, if there are any."""
    monkeypatch.setenv("STREAM_INTERVAL", "0.05")
    with ExitStack() as stack:

        def start(environments: str, **answers: str) -> Project:
            folder = tmp_path / "lambda-stream"
            shutil.copytree(bake(**answers), folder)
            run("git", "init", "--quiet", "--initial-branch", "main", cwd=folder)
            commands = tmp_path / "commands"
            commands.mkdir()
            (commands / "aws").symlink_to(cloud.tools / "aws")
            (commands / "gh").symlink_to(STAND_INS / "gh")
            github = tmp_path / "github.json"
            environment = {**cloud.environment, "GH_STATE": str(github)}
            make = ("make", "pipeline", "REPOSITORY=octo-org/lambda-stream", f"ENVIRONMENTS={environments}")
            path = f"{commands}{os.pathsep}{user_environment()['PATH']}"
            here = {**environment, "PATH": path, "PYTHONPATH": str(STAND_INS)}
            variables: dict[str, str] = {}
            if environments:
                run("env", *(f"{name}={value}" for name, value in here.items()), *make, cwd=folder)
                cloud.calls.write_text("")  # those were the user's, not the pipeline's
                variables = json.loads(github.read_text(encoding="utf-8"))["variables"]
            runner = Runner(folder, tmp_path / "runs", (commands,), environment, variables, cloud.trust)
            project = Project(folder, runner, cloud, github, stack)
            runner.before = project.local_urls
            project.commit()
            return project

        yield start
