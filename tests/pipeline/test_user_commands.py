"""The commands of a project's README, as they stand there and in its order, by someone who has AWS on localhost.

Stand-ins: MiniStack for AWS, whose URLs do not stream, so that `$URL` is that of `make dev`; `gh`; a bare repository
in the place of GitHub's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.documents import document, readme, scripts
from tests.helpers.support import OWN_ARCHITECTURE, Answers, Bake, for_own_python, free_ports, run, user_environment
from tests.pipeline.conftest import Cloud
from tests.pipeline.runner import STAND_INS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOCAL = "http://127.0.0.1:3000"
ALONE = {"deploy_pipeline": "none"}
# Between them, every command that a README may have.
VARIANTS: dict[str, Answers] = {
    "hello": {"observability": "full"},
    "sse": {**ALONE, "example": "sse"},
    "bedrock": {**ALONE, "example": "bedrock", "front_door": "cloudfront"},
    "mcp": {**ALONE, "example": "mcp"},
    "public": {**ALONE, "url_auth": "NONE"},
    "interpreter": {**ALONE, "runtime": "provided.al2023", "architecture": OWN_ARCHITECTURE},
    "api": {**ALONE, "front_door": "rest-api"},
    "cloudfront": {**ALONE, "front_door": "cloudfront"},
}


# What other tests run.
ELSEWHERE = {
    "sam local invoke\n": "test_sam_local.py",
    "sam local invoke StreamFunction --event events/get.json\n": "test_sam_local.py",
    "uv tool install aws-sam-cli\n": "test_documents.py",
}


def new_scripts(variant: str) -> list[str]:
    """What this README has its reader type, but for what one before it or another test has."""
    before = list(VARIANTS)[: list(VARIANTS).index(variant)]
    known = {script for name in before for script in scripts(readme(VARIANTS[name]))} | ELSEWHERE.keys()
    return [script for script in scripts(readme(VARIANTS[variant])) if script not in known]


@dataclass
class Shell:
    """A user's shell in a project, with `make dev` in another one."""

    project: Path
    cloud: Cloud
    environment: dict[str, Any]
    url: str

    def __call__(self, script: str, answers: str = "") -> str:
        """Runs commands until one fails, which fails the test; gives what they print."""
        script = (
            script.replace(LOCAL, self.url)
            .replace("URL=…", f"URL={self.url}/")
            .replace("/opt/python", self.environment["PYTHON_HOME"])
        )
        done = run("bash", "-ec", script, cwd=self.project, answers=answers, **self.environment)
        return done.stdout + done.stderr

    def follow(self, command: str, until: str) -> None:
        """Runs a command that ends with Ctrl-C, until it prints something."""
        with self.start(command) as process:
            assert any(until in line for line in process.stdout or ()), f"{command} ended without {until}"
            os.killpg(process.pid, signal.SIGINT)

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-ec", f"exec {command}"],
            cwd=self.project,
            env=user_environment(**self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def output(self, name: str) -> str:
        """An output of the stack that is deployed."""
        [stack] = self.cloud.client("cloudformation").describe_stacks(StackName="lambda-stream")["Stacks"]
        return str(next(output["OutputValue"] for output in stack["Outputs"] if output["OutputKey"] == name))


@pytest.fixture
def shell(bake: Bake, cloud: Cloud, python_home: Path, tmp_path: Path) -> Iterator[Callable[[str], Shell]]:
    with ExitStack() as stack:

        def start(variant: str) -> Shell:
            project = for_own_python(shutil.copytree(bake(**VARIANTS[variant]), tmp_path / "lambda-stream"))
            commands = tmp_path / "commands"
            commands.mkdir()
            (commands / "aws").symlink_to(cloud.tools / "aws")
            (commands / "gh").symlink_to(STAND_INS / "gh")
            hub = tmp_path / "hub" / "owner" / "name.git"
            run("git", "init", "--quiet", "--bare", hub, cwd=tmp_path)
            (tmp_path / "gitconfig").write_text(
                f"[user]\nname = A User\nemail = user@example.com\n[init]\ndefaultBranch = main\n"
                f'[url "file://{tmp_path}/hub/"]\npushInsteadOf = git@github.com:\n'
            )
            port, another = free_ports(2)
            url = f"http://127.0.0.1:{port}"
            environment = {
                **cloud.environment,
                "AWS_SESSION_TOKEN": "testing",
                "ENVIRONMENTS": "staging",
                "GH_STATE": str(tmp_path / "github.json"),
                "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
                "LOCAL_STANDIN": "1",
                "PORT": str(port),
                "PATH": f"{commands}{os.pathsep}{user_environment()['PATH']}",
                "PYTHON_HOME": str(python_home),
                "STREAM_INTERVAL": "0.05",
                "URL": f"{url}/",
            }
            found = Shell(project, cloud, environment, url)
            dev = stack.enter_context(found.start("make dev ARGS=--no-inspector"))
            stack.callback(os.killpg, dev.pid, signal.SIGINT)
            assert any(url in line for line in dev.stdout or ())
            environment["PORT"] = str(another)
            return found

        yield start


def log(shell: Shell, message: str) -> None:
    """Writes a line to the function's log, as Lambda would."""
    logs: Any = shell.cloud.client("logs")
    where = {"logGroupName": "/aws/lambda/lambda-stream", "logStreamName": "2026/11/26/[1]0"}
    logs.create_log_stream(**where)
    logs.put_log_events(**where, logEvents=[{"timestamp": 1_800_000_000_000, "message": message}])


# What a response has in it.
EXPECTED = {
    "hello": "10 of 10|streamed",
    "sse": "event: ",
    "bedrock": "stand-in|streamed",
    "mcp": "structuredContent",
    "public": "10 of 10",
    "interpreter": "",
    "api": "10 of 10",
    "cloudfront": "10 of 10",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_readmes_commands_work_in_its_order(variant: str, shell: Callable[[str], Shell]) -> None:
    here = shell(variant)
    for script in new_scripts(variant):
        match script.split()[:3]:
            case ["make", "dev"]:
                pass  # it runs already
            case ["make", "dev", "ARGS=--limits"]:
                here.follow(script, "http://127.0.0.1:")
            case ["make", "check", _]:
                assert "Successfully created/updated stack - lambda-stream" in here(script, "y\n")
            case ["git", "init", _]:
                assert "They are set." in here(script)
            case ["sam", "delete", _]:
                assert "does not exist" in here(script, "y\ny\n")
            case ["sam", "logs", _]:
                log(here, "a line of the log")
                here.follow(script, "a line of the log")
            case ["aws", "sns", _]:
                here.environment["STREAM_ALARMS"] = here.output("StreamAlarms")
                assert "SubscriptionArn" in here(script)
            case ["curl", *_] | ["make", "invoke" | "probe", _] | ['body=\'{"one":' | 'body=\'{"messages":', *_]:
                printed = here(script)
                assert re.search(EXPECTED[variant], printed), printed
            case _:
                here(script)


def test_the_documents_ways_to_set_the_pipeline_up(shell: Callable[[str], Shell]) -> None:
    here = shell("hello")
    here("git init --quiet && git remote add origin git@github.com:owner/name.git")
    for script in scripts(document("docs/pipeline.md")):
        for command in filter(None, script.splitlines()):
            assert "They are set." in here(command.replace("…", "7")), command


def test_a_function_with_its_interpreter_is_deployed_invoked_and_deleted(shell: Callable[[str], Shell]) -> None:
    """MiniStack runs its `bootstrap`, so what the invocation shows is our runtime's; that it streams does not show."""
    here = shell("interpreter")
    here("make deploy", "y\n")
    assert "lambda-stream" in here.cloud.stacks()
    shown = here("sam remote invoke StreamFunction --event-file events/get.json")
    assert re.findall(r"(\d+) of 10, ", shown) == [str(number) for number in range(1, 11)]
    assert shown.count("statusCode") == 1
    assert "Deleted successfully" in here("sam delete", "y\ny\ny\n")
    assert "lambda-stream" not in here.cloud.stacks()
